package standalone

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/rutter-project/rutter/apiserver/pki"
	"github.com/rutter-project/rutter/apiserver/wholefile"
)

// writeKubeconfig writes the administrator's kubeconfig (0600).
func (c Config) writeKubeconfig(ca *pki.Authority) error {
	admin, err := ca.Issue(pki.Leaf{Name: "admin", CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})
	if err != nil {
		return err
	}
	cert, err := os.ReadFile(admin.CertFile)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(admin.KeyFile)
	if err != nil {
		return err
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[c.Name] = &clientcmdapi.Cluster{Server: fmt.Sprintf("https://127.0.0.1:%d", c.APIPort), CertificateAuthorityData: ca.CAPEM()}
	cfg.AuthInfos[c.Name+"-admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	cfg.Contexts[c.Name] = &clientcmdapi.Context{Cluster: c.Name, AuthInfo: c.Name + "-admin"}
	cfg.CurrentContext = c.Name
	return replaceKubeconfig(c.Kubeconfig(), cfg)
}

// MergeKubeconfig adds the cluster's context to the kubeconfig at path, replacing an
// older one of the same name and nothing else. The current context changes only if
// there was none.
func (c Config) MergeKubeconfig(path string) error {
	own, err := clientcmd.LoadFromFile(c.Kubeconfig())
	if err != nil {
		return fmt.Errorf("kubeconfig of the cluster: %w", err)
	}
	return AddToKubeconfig(path, own, func(*clientcmdapi.Config) error { return nil })
}

// AddToKubeconfig adds what own holds to the kubeconfig at path, if allow lets it add to
// what is there. The current context changes only if there was none.
func AddToKubeconfig(path string, own *clientcmdapi.Config, allow func(there *clientcmdapi.Config) error) error {
	merged, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		merged, err = clientcmdapi.NewConfig(), nil
	}
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	if err := allow(merged); err != nil {
		return fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	maps.Copy(merged.Clusters, own.Clusters)
	maps.Copy(merged.AuthInfos, own.AuthInfos)
	maps.Copy(merged.Contexts, own.Contexts)
	if merged.CurrentContext == "" {
		merged.CurrentContext = own.CurrentContext
	}
	return replaceKubeconfig(path, merged)
}

// replaceKubeconfig writes the file as a whole, readable by its owner only.
func replaceKubeconfig(path string, cfg *clientcmdapi.Config) error {
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// A link stays one: what it leads to is replaced.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return wholefile.Write(path, data, 0o600)
}
