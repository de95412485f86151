package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/env"
)

// Source reads what volumes are made of. A missing object is reported by
// found, not by err.
type Source interface {
	ConfigMap(ctx context.Context, namespace, name string) (obj *corev1.ConfigMap, found bool, err error)
	Secret(ctx context.Context, namespace, name string) (obj *corev1.Secret, found bool, err error)
	// TrustBundles returns all cluster trust bundles.
	TrustBundles(ctx context.Context) ([]certificatesv1.ClusterTrustBundle, error)
	// Certificate returns the certificate of a podCertificate source of a volume.
	Certificate(ctx context.Context, pod *corev1.Pod, volume string, source int, p *corev1.PodCertificateProjection) (Certificate, error)
	// Token returns a service account token for the pod and when to replace it.
	Token(ctx context.Context, pod *corev1.Pod, audience string, ttl time.Duration) (token string, refresh time.Time, err error)
}

// content is the payload of a volume and when it must be made again; a zero
// time means only when an object changes.
type content struct {
	files   Payload
	refresh time.Time
	stale   []error // why some of it is older than it should be
}

func (c *content) add(p string, f File) error {
	if err := checkPath(p); err != nil {
		return err
	}
	c.files[p] = f
	return nil
}

func (c *content) refreshBy(t time.Time) {
	if !t.IsZero() && (c.refresh.IsZero() || t.Before(c.refresh)) {
		c.refresh = t
	}
}

// payload computes the content of a volume made from the API; ok is false for
// other kinds of volumes.
func payload(ctx context.Context, src Source, pod *corev1.Pod, facts env.Facts, v *corev1.Volume) (c content, ok bool, err error) {
	b := &builder{ctx: ctx, src: src, pod: pod, facts: facts, c: content{files: Payload{}}}
	switch {
	case v.ConfigMap != nil:
		b.mode = mode(v.ConfigMap.DefaultMode)
		err = b.configMap(v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional)
	case v.Secret != nil:
		b.mode = mode(v.Secret.DefaultMode)
		err = b.secret(v.Secret.SecretName, v.Secret.Items, v.Secret.Optional)
	case v.DownwardAPI != nil:
		b.mode = mode(v.DownwardAPI.DefaultMode)
		err = b.downward(v.DownwardAPI.Items)
	case v.Projected != nil:
		b.mode = mode(v.Projected.DefaultMode)
		err = b.projected(v.Name, v.Projected.Sources)
	default:
		return content{}, false, nil
	}
	return b.c, true, err
}

type builder struct {
	ctx   context.Context
	src   Source
	pod   *corev1.Pod
	facts env.Facts
	mode  fs.FileMode
	c     content
}

func mode(m *int32) fs.FileMode {
	if m == nil {
		return 0o644
	}
	return fs.FileMode(*m).Perm()
}

func (b *builder) itemMode(m *int32) fs.FileMode {
	if m == nil {
		return b.mode
	}
	return mode(m)
}

func isTrue(p *bool) bool { return p != nil && *p }

func (b *builder) configMap(name string, items []corev1.KeyToPath, optional *bool) error {
	cm, ok, err := b.src.ConfigMap(b.ctx, b.pod.Namespace, name)
	if err != nil {
		return err
	}
	if !ok {
		if isTrue(optional) {
			return nil
		}
		return fmt.Errorf("configmap %q %w", name, env.ErrMissing)
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return b.keys(fmt.Sprintf("configmap %q", name), data, items, optional)
}

func (b *builder) secret(name string, items []corev1.KeyToPath, optional *bool) error {
	s, ok, err := b.src.Secret(b.ctx, b.pod.Namespace, name)
	if err != nil {
		return err
	}
	if !ok {
		if isTrue(optional) {
			return nil
		}
		return fmt.Errorf("secret %q %w", name, env.ErrMissing)
	}
	return b.keys(fmt.Sprintf("secret %q", name), s.Data, items, optional)
}

func (b *builder) keys(what string, data map[string][]byte, items []corev1.KeyToPath, optional *bool) error {
	if len(items) == 0 {
		for k, v := range data {
			if err := b.c.add(k, File{Data: v, Mode: b.mode}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if isTrue(optional) {
				continue
			}
			return fmt.Errorf("key %q in %s %w", item.Key, what, env.ErrMissing)
		}
		if err := b.c.add(path.Clean(item.Path), File{Data: v, Mode: b.itemMode(item.Mode)}); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) downward(items []corev1.DownwardAPIVolumeFile) error {
	for _, item := range items {
		value, err := b.downwardValue(item)
		if err != nil {
			return err
		}
		if err := b.c.add(path.Clean(item.Path), File{Data: []byte(value), Mode: b.itemMode(item.Mode)}); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) downwardValue(item corev1.DownwardAPIVolumeFile) (string, error) {
	switch {
	case item.FieldRef != nil:
		return env.Field(b.pod, item.FieldRef.FieldPath, b.facts)
	case item.ResourceFieldRef != nil:
		c := env.FindContainer(b.pod, item.ResourceFieldRef.ContainerName)
		if c == nil {
			return "", fmt.Errorf("container %q %w", item.ResourceFieldRef.ContainerName, env.ErrMissing)
		}
		return env.Resource(c, item.ResourceFieldRef, b.facts.Allocatable)
	default:
		return "", errors.New("item names neither a field nor a resource")
	}
}

func (b *builder) projected(volume string, sources []corev1.VolumeProjection) error {
	for i := range sources {
		s := &sources[i]
		var err error
		switch {
		case s.ConfigMap != nil:
			err = b.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
		case s.Secret != nil:
			err = b.secret(s.Secret.Name, s.Secret.Items, s.Secret.Optional)
		case s.DownwardAPI != nil:
			err = b.downward(s.DownwardAPI.Items)
		case s.ServiceAccountToken != nil:
			err = b.token(s.ServiceAccountToken)
		case s.ClusterTrustBundle != nil:
			err = b.trustBundle(s.ClusterTrustBundle)
		case s.PodCertificate != nil:
			err = b.certificate(volume, i, s.PodCertificate)
		default:
			err = &UnsupportedError{"this projected source"}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const defaultTokenTTL = time.Hour

func (b *builder) token(p *corev1.ServiceAccountTokenProjection) error {
	ttl := defaultTokenTTL
	if p.ExpirationSeconds != nil {
		ttl = time.Duration(*p.ExpirationSeconds) * time.Second
	}
	token, refresh, err := b.src.Token(b.ctx, b.pod, p.Audience, ttl)
	if err != nil {
		return fmt.Errorf("get service account token: %w", err)
	}
	b.c.refreshBy(refresh)
	f := File{Data: []byte(token), Mode: 0o600}
	sc := b.pod.Spec.SecurityContext
	switch uid, all := commonUser(b.pod); {
	case sc != nil && sc.FSGroup != nil:
		f.Mode = 0o600 // the group is given read access when it is written
	case all:
		f.UID = &uid
	default:
		f.Mode = 0o644
	}
	return b.c.add(path.Clean(p.Path), f)
}

// commonUser returns the user that all containers of a pod run as, if there is one.
func commonUser(pod *corev1.Pod) (uid int64, ok bool) {
	first := true
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			var user *int64
			if sc := pod.Spec.SecurityContext; sc != nil {
				user = sc.RunAsUser
			}
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				user = sc.RunAsUser
			}
			if user == nil || !first && *user != uid {
				return 0, false
			}
			uid, first = *user, false
		}
	}
	return uid, !first
}

// UnsupportedError tells that this node agent can not make a volume.
type UnsupportedError struct{ What string }

func (e *UnsupportedError) Error() string {
	return e.What + " is not supported by this node agent"
}
