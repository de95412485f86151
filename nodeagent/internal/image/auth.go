// Package image makes container images present.
package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
)

// Credential opens one registry, or a part of it.
type Credential struct {
	Username, Password string
	match              string // host[:port][/path], host may hold globs
}

// Keyring is a set of credentials, the most specific first.
type Keyring []Credential

type authEntry struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"`
}

// ParseSecret reads the credentials of an image pull secret of either type.
func ParseSecret(s *corev1.Secret) (Keyring, error) {
	if data, ok := s.Data[corev1.DockerConfigJsonKey]; ok && s.Type == corev1.SecretTypeDockerConfigJson {
		var cfg struct {
			Auths map[string]authEntry `json:"auths"`
		}
		if err := json.Unmarshal(data, &cfg); err != nil {
			return nil, fmt.Errorf("parse secret %s: %w", s.Name, errNotConfig)
		}
		return keyring(cfg.Auths)
	}
	if data, ok := s.Data[corev1.DockerConfigKey]; ok && s.Type == corev1.SecretTypeDockercfg {
		var auths map[string]authEntry
		if err := json.Unmarshal(data, &auths); err != nil {
			return nil, fmt.Errorf("parse secret %s: %w", s.Name, errNotConfig)
		}
		return keyring(auths)
	}
	return nil, fmt.Errorf("secret %s of type %s holds no registry credentials", s.Name, s.Type)
}

// errNotConfig hides the parser's words: they could quote the secret.
var errNotConfig = fmt.Errorf("not a docker configuration")

func keyring(auths map[string]authEntry) (Keyring, error) {
	var out Keyring
	for server, a := range auths {
		if a.Auth != "" {
			raw, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("credentials of %s: not base64", server)
			}
			user, pass, ok := strings.Cut(string(raw), ":")
			if !ok {
				return nil, fmt.Errorf("credentials of %s: no colon", server)
			}
			a.Username, a.Password = user, strings.TrimRight(pass, "\x00")
		}
		out = append(out, Credential{Username: a.Username, Password: a.Password, match: normalServer(server)})
	}
	out.sort()
	return out, nil
}

func (k Keyring) sort() {
	sort.Slice(k, func(i, j int) bool {
		if len(k[i].match) != len(k[j].match) {
			return len(k[i].match) > len(k[j].match)
		}
		return k[i].match < k[j].match
	})
}

// normalServer strips scheme and API version, and writes Docker Hub's names as one.
func normalServer(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	s = strings.TrimSuffix(s, "/")
	for _, v := range []string{"/v1", "/v2"} {
		s = strings.TrimSuffix(s, v)
	}
	host, rest, more := strings.Cut(s, "/")
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = "docker.io"
	}
	if more {
		return host + "/" + rest
	}
	return host
}

// For returns the credentials that fit an image.
func (k Keyring) For(ref reference.Named) Keyring {
	host, repo := reference.Domain(ref), reference.Path(ref)
	var out Keyring
	for _, c := range k {
		wantHost, wantPath, _ := strings.Cut(c.match, "/")
		if matchHost(wantHost, host) && (wantPath == "" || repo == wantPath || strings.HasPrefix(repo, wantPath+"/")) {
			out = append(out, c)
		}
	}
	return out
}

// matchHost compares label by label, so that a star never spans a dot.
func matchHost(pattern, host string) bool {
	want, got := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], got[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
