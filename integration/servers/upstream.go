package servers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/rutter-project/rutter/integration/cluster"
)

// Programs are upstream's, built from their Go modules.
type Programs struct{ APIServer, Etcd string }

// release is what kube-apiserver says of itself.
const release = "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"

// Build makes upstream's programs in the folder out, at the versions that the module in
// the folder module pins. The Go tool knows what of it is up to date.
func Build(ctx context.Context, module, out string) (Programs, error) {
	out, err := filepath.Abs(out)
	if err != nil {
		return Programs{}, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return Programs{}, err
	}
	p := Programs{APIServer: filepath.Join(out, "kube-apiserver"), Etcd: filepath.Join(out, "etcd")}
	for file, pkg := range map[string]string{p.APIServer: "k8s.io/kubernetes/cmd/kube-apiserver", p.Etcd: "go.etcd.io/etcd/server/v3"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", release, "-o", file, pkg)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return Programs{}, fmt.Errorf("build %s: %w\n%s", pkg, err, text)
		}
	}
	return p, nil
}

// StartUpstream starts etcd and kube-apiserver with the settings that Rutter has too:
// client certificates, RBAC and Node authorization, NodeRestriction, the same ranges;
// the rest is upstream's default. Etcd syncs to disk, and is spoken to without TLS,
// which is cheaper than what is recommended.
func StartUpstream(ctx context.Context, programs Programs) (*Server, error) {
	return start(ctx, "kube-apiserver", func(s *Server) error {
		ports, err := cluster.FreePorts(3)
		if err != nil {
			return err
		}
		certs, err := writeCertificates(s.dir)
		if err != nil {
			return err
		}
		s.kubeconfig = filepath.Join(s.dir, "admin.kubeconfig")
		if err := writeKubeconfig(s.kubeconfig, fmt.Sprintf("https://127.0.0.1:%d", ports[2]), certs); err != nil {
			return err
		}
		client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
		s.commands = []command{
			{program: programs.Etcd, log: filepath.Join(s.dir, "etcd.txt"), args: []string{
				"--data-dir", filepath.Join(s.dir, "etcd"), "--log-level", "error",
				"--listen-client-urls", client, "--advertise-client-urls", client,
				"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
				"--quota-backend-bytes", "8589934592",
			}},
			{program: programs.APIServer, log: filepath.Join(s.dir, "kube-apiserver.txt"), args: []string{
				"--etcd-servers", client, "--bind-address", "127.0.0.1", "--secure-port", strconv.Itoa(ports[2]), "--cert-dir", s.dir,
				"--tls-cert-file", certs.serving.cert, "--tls-private-key-file", certs.serving.key, "--client-ca-file", certs.ca.cert,
				"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
				"--service-account-key-file", certs.tokens.cert, "--service-account-signing-key-file", certs.tokens.key,
				"--requestheader-client-ca-file", certs.ca.cert, "--requestheader-allowed-names", "front-proxy",
				"--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
				"--requestheader-extra-headers-prefix", "X-Remote-Extra-",
				"--proxy-client-cert-file", certs.admin.cert, "--proxy-client-key-file", certs.admin.key,
				"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
				"--service-cluster-ip-range", "10.96.0.0/16", "--allow-privileged",
			}},
		}
		return nil
	})
}

func writeKubeconfig(file, url string, certs certificates) error {
	c := clientcmdapi.NewConfig()
	c.Clusters["upstream"] = &clientcmdapi.Cluster{Server: url, CertificateAuthority: certs.ca.cert}
	c.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificate: certs.admin.cert, ClientKey: certs.admin.key}
	c.Contexts["admin"] = &clientcmdapi.Context{Cluster: "upstream", AuthInfo: "admin"}
	c.CurrentContext = "admin"
	return clientcmd.WriteToFile(*c, file)
}
