package standalone

import (
	"bytes"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/rutter-project/rutter/apiserver/pki"
)

func testConfig(t *testing.T) Config {
	t.Helper()
	c := DefaultConfig()
	c.DataDir, c.RunDir = filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "run")
	c.NodeName, c.NoNode = "node-1", true
	return c
}

func TestValidate(t *testing.T) {
	require.NoError(t, DefaultConfig().Validate())
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"relative data": {func(c *Config) { c.DataDir = "data" }, `--data-dir "data" is not an absolute path`},
		"relative run":  {func(c *Config) { c.RunDir = "run" }, `--run-dir "run" is not an absolute path`},
		"node":          {func(c *Config) { c.NodeName = "Node_1" }, `--node-name "Node_1" is not a DNS name: lower case letters, digits, '-' and '.'`},
		"name":          {func(c *Config) { c.Name = "-" }, `--name "-" is not a DNS name`},
		"api and node":  {func(c *Config) { c.APIOnly, c.NoNode = true, false }, "--api-only runs no node; leave out the node as well"},
		"same ports":    {func(c *Config) { c.BusPort = c.APIPort }, "--api-port, --bus-port and --node-port must differ"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfig(t)
			tc.change(&c)
			require.EqualError(t, c.Validate(), tc.want)
			require.EqualError(t, New(c, NewProgress(&bytes.Buffer{})).Run(t.Context(), nil), tc.want)
		})
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer l.Close()
	c := testConfig(t)
	c.APIPort = netip.MustParseAddrPort(l.Addr().String()).Port()
	c.BusPort = 0
	port := strconv.Itoa(int(c.APIPort))
	require.EqualError(t, c.checkPorts(), "port "+port+" can't be used (listen tcp :"+port+": bind: address already in use); end what listens there or choose another with --api-port")
}

func TestLock(t *testing.T) {
	c := testConfig(t)
	pid, err := c.readPID()
	require.NoError(t, err)
	require.Zero(t, pid)
	require.NoDirExists(t, c.DataDir, "asking must make nothing")

	_, err = c.lock()
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, os.MkdirAll(c.DataDir, 0o700))
	lock, err := c.lock()
	require.NoError(t, err)
	require.NoError(t, notePID(lock))
	pid, err = c.readPID()
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), pid)
	_, err = c.lock()
	require.EqualError(t, err, "another rutter runs on "+c.DataDir+"; stop it first, or give another --data-dir")
	require.ErrorIs(t, Purge(t.Context(), c), errLocked)

	require.NoError(t, lock.Close())
	pid, err = c.readPID()
	require.NoError(t, err)
	require.Zero(t, pid, "the note of a process that ended means nothing")
	running, err := Stop(t.Context(), c)
	require.NoError(t, err)
	require.False(t, running)
}

func TestPurge(t *testing.T) {
	c := testConfig(t)
	require.NoError(t, Purge(t.Context(), c), "nothing there is nothing to do")
	require.NoError(t, os.MkdirAll(filepath.Join(c.DataDir, "etcd"), 0o700))
	require.NoError(t, os.MkdirAll(c.RunDir, 0o700))
	require.NoError(t, Purge(t.Context(), c))
	require.NoDirExists(t, c.DataDir)
	require.NoDirExists(t, c.RunDir)
}

// started has written its kubeconfig, as up does.
func started(t *testing.T) Config {
	t.Helper()
	c := testConfig(t)
	ca, err := pki.Load(c.pkiDir(), c.Name)
	require.NoError(t, err)
	require.NoError(t, c.writeKubeconfig(ca))
	return c
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Mode().Perm()
}

func TestKubeconfig(t *testing.T) {
	c := started(t)
	require.Equal(t, fs.FileMode(0o600), mode(t, c.Kubeconfig()))
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	require.NoError(t, err)
	require.Equal(t, "https://127.0.0.1:6443", config.Host)
	require.NotEmpty(t, config.CAData)
	require.NotEmpty(t, config.KeyData)
}

func TestMergeKeepsOthers(t *testing.T) {
	c := started(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	mine := clientcmdapi.NewConfig()
	mine.Clusters["prod"] = &clientcmdapi.Cluster{Server: "https://prod", CertificateAuthority: "relative/ca.crt"}
	mine.AuthInfos["me"] = &clientcmdapi.AuthInfo{Token: "t"}
	mine.Contexts["prod"] = &clientcmdapi.Context{Cluster: "prod", AuthInfo: "me", Namespace: "n"}
	mine.Clusters["rutter"] = &clientcmdapi.Cluster{Server: "https://old"}
	mine.CurrentContext = "prod"
	require.NoError(t, clientcmd.WriteToFile(*mine, path))
	require.NoError(t, os.Chmod(path, 0o644))

	for range 2 { // again changes nothing more
		require.NoError(t, c.MergeKubeconfig(path))
		got, err := clientcmd.LoadFromFile(path)
		require.NoError(t, err)
		require.Equal(t, "prod", got.CurrentContext)
		require.Equal(t, "https://prod", got.Clusters["prod"].Server)
		require.Equal(t, "relative/ca.crt", got.Clusters["prod"].CertificateAuthority)
		require.Equal(t, "t", got.AuthInfos["me"].Token)
		require.Equal(t, "n", got.Contexts["prod"].Namespace)
		require.Equal(t, "https://127.0.0.1:6443", got.Clusters["rutter"].Server)
		require.Equal(t, "rutter-admin", got.Contexts["rutter"].AuthInfo)
		require.Len(t, got.Contexts, 2)
		require.Equal(t, fs.FileMode(0o600), mode(t, path))
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file is left")
}

func TestMergeIntoNothing(t *testing.T) {
	c := started(t)
	path := filepath.Join(t.TempDir(), ".kube", "config")
	require.NoError(t, c.MergeKubeconfig(path))
	got, err := clientcmd.LoadFromFile(path)
	require.NoError(t, err)
	require.Equal(t, "rutter", got.CurrentContext)
	require.Equal(t, fs.FileMode(0o600), mode(t, path))
	require.Equal(t, fs.FileMode(0o700), mode(t, filepath.Dir(path)))
}

func TestMergeIntoWhatIsBroken(t *testing.T) {
	c := started(t)
	path := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(path, []byte("{{"), 0o600))
	require.ErrorContains(t, c.MergeKubeconfig(path), "kubeconfig "+path)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "{{", string(data), "it is left as it was")
	require.ErrorContains(t, testConfig(t).MergeKubeconfig(path), "kubeconfig of the cluster")
}

func TestMergeFollowsLinks(t *testing.T) {
	c := started(t)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "real"), 0o700))
	link := filepath.Join(dir, "config")
	require.NoError(t, os.Symlink(filepath.Join("real", "config"), link))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "real", "config"), nil, 0o600))
	require.NoError(t, c.MergeKubeconfig(link))
	info, err := os.Lstat(link)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&fs.ModeSymlink, "the link is still one")
	got, err := clientcmd.LoadFromFile(filepath.Join(dir, "real", "config"))
	require.NoError(t, err)
	require.Contains(t, got.Contexts, "rutter")
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out)
	p.Done("etcd")
	require.Regexp(t, regexp.MustCompile(`^  etcd {43}\s+\d+m?s\n$`), out.String())
}
