package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rutter-project/rutter/integration/cluster"
)

// TestCertificatesOnRequest walks the way of a new user and of a new node: ask, be approved
// by a person or by a role, and log in with what was signed; over a kill.
func TestCertificatesOnRequest(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	jane := newRequest(t, c, "jane", "kubernetes.io/kube-apiserver-client", pkix.Name{CommonName: "jane", Organization: []string{"readers"}}, "client auth", "expirationSeconds: 3600")
	mallory := newRequest(t, c, "mallory", "kubernetes.io/kube-apiserver-client", pkix.Name{CommonName: "mallory"}, "client auth", "")
	node := newRequest(t, c, "node", "kubernetes.io/kube-apiserver-client-kubelet", pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}, `digital signature", "client auth`, "")
	c.Kubectl("create", "clusterrolebinding", "ask", "--clusterrole=system:node-bootstrapper", "--group=system:bootstrappers")
	node.create("--as=boot", "--as-group=system:bootstrappers")
	jane.create()
	mallory.create()
	c.Kubectl("certificate", "approve", "jane")
	c.Kubectl("certificate", "deny", "mallory")
	c.Kill()
	c.Start()
	jane.wantUser("jane", "readers")
	if out := c.Kubectl("get", "csr", "mallory"); !strings.Contains(out, "Denied") {
		t.Errorf("denied request: %s", out)
	}
	if out := c.Kubectl("get", "csr", "node"); !strings.Contains(out, "Pending") {
		t.Errorf("a node that may not: %s", out)
	}
	c.Kubectl("create", "clusterrolebinding", "boot", "--clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient", "--group=system:bootstrappers")
	node.wantUser("system:node:n1", "system:nodes")
	verify(t, c)
}

// request is a CertificateSigningRequest and its key.
type request struct {
	t    *testing.T
	c    *cluster.Cluster
	name string
	yaml string
	key  string // path
}

func newRequest(t *testing.T, c *cluster.Cluster, name, signer string, subject pkix.Name, usages, more string) request {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name+".key")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	return request{t, c, name, fmt.Sprintf("apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: %s}\nspec:\n  request: %s\n  signerName: %s\n  usages: [\"%s\"]\n  %s\n", name, asked, signer, usages, more), path}
}

func (r request) create(flags ...string) {
	r.t.Helper()
	if out, err := r.c.TryKubectl(r.yaml, append(flags, "create", "-f", "-")...); err != nil {
		r.t.Fatalf("create request %s: %v\n%s", r.name, err, out)
	}
}

// wantUser waits for the certificate and logs in with it.
func (r request) wantUser(user, group string) {
	r.t.Helper()
	r.c.Kubectl("wait", "--for=jsonpath={.status.certificate}", "--timeout=180s", "csr/"+r.name)
	encoded := r.c.Kubectl("get", "csr", r.name, "-o", "jsonpath={.status.certificate}")
	certificate, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.t.TempDir(), r.name+".crt")
	if err := os.WriteFile(path, certificate, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.c.Kubectl("config", "set-credentials", r.name, "--client-certificate="+path, "--client-key="+r.key, "--embed-certs")
	out := r.c.Kubectl("--user="+r.name, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
	if !strings.HasPrefix(out, user+" ") || !strings.Contains(out, `"`+group+`"`) {
		r.t.Errorf("the certificate of %s is taken for %s", r.name, out)
	}
}

// TestTokensOfSecrets: a Secret of the type for tokens is given one, which logs in for as
// long as Secret and account are there.
func TestTokensOfSecrets(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	c.Kubectl("create", "serviceaccount", "builder")
	c.Apply("apiVersion: v1\nkind: Secret\nmetadata: {name: builder-token, annotations: {kubernetes.io/service-account.name: builder}}\ntype: kubernetes.io/service-account-token\n")
	c.Kubectl("wait", "--for=jsonpath={.data.token}", "--timeout=60s", "secret/builder-token")
	field := func(name string) string {
		value, err := base64.StdEncoding.DecodeString(c.Kubectl("get", "secret", "builder-token", "-o", `go-template={{index .data "`+name+`"}}`))
		if err != nil {
			t.Fatal(err)
		}
		return string(value)
	}
	token := field("token")
	if field("namespace") != "default" || !strings.HasPrefix(field("ca.crt"), "-----BEGIN CERTIFICATE-----") {
		t.Errorf("the Secret lacks namespace or CA: %s", c.Kubectl("describe", "secret", "builder-token"))
	}
	c.Kubectl("config", "set-credentials", "builder", "--token="+token)
	if who := c.Kubectl("--user=builder", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"); who != "system:serviceaccount:default:builder" {
		t.Errorf("the token is taken for %s", who)
	}
	c.Kubectl("delete", "serviceaccount", "builder")
	c.Kubectl("wait", "--for=delete", "--timeout=60s", "secret/builder-token")
	if out, err := c.TryKubectl("", "--user=builder", "auth", "whoami"); err == nil {
		t.Errorf("the token outlives its account: %s", out)
	}
	if out := c.Kubectl("get", "clustertrustbundles", "-o", "jsonpath={.items[*].spec.signerName}"); out != "kubernetes.io/kube-apiserver-serving" {
		t.Errorf("trust bundles of signers %q", out)
	}
}
