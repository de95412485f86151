package apiserver_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/apiserver/etcd"
	"github.com/rutter-project/rutter/apiserver/internal/bootstrap"
	"github.com/rutter-project/rutter/schemas"
)

// bootstrapConfig is that of the fixture's servers.
func (c *cluster) bootstrapConfig() bootstrap.Config {
	return bootstrap.Config{ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"), DNS: netip.MustParseAddr("10.96.0.10"),
		Address: netip.MustParseAddr("192.0.2.1"), Port: c.server.Address().Port()}
}

func TestBootstrapTwiceChangesNothing(t *testing.T) {
	e, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir(), NoSync: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	dir := t.TempDir()
	c := &cluster{etcd: e.Client(), sealFile: filepath.Join(dir, "seal.key")}
	stop, err := c.start(filepath.Join(dir, "pki"), "test")
	defer func() { require.NoError(t, stop()) }()
	require.NoError(t, err)

	eventually(t, func() error { // what it writes when it serves already: allocations, its Lease
		leases, err := c.client.CoordinationV1().Leases("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: "apiserver.kubernetes.io/identity"})
		if ready := c.send(t, "GET", "/readyz", ""); err != nil || ready.status != http.StatusOK || len(leases.Items) == 0 {
			return fmt.Errorf("ready: %d, leases: %v, %w", ready.status, leases, err)
		}
		return nil
	})
	before := c.revision(t)
	require.NoError(t, bootstrap.Run(t.Context(), c.client, c.bootstrapConfig()))
	changed, err := c.etcd.Get(t.Context(), schemas.RegistryPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithMinModRev(before+1))
	require.NoError(t, err)
	require.Empty(t, changed.Kvs)
	require.Equal(t, before, c.revision(t))

	// What an operator changed stays; what is missing comes back.
	roles := c.client.RbacV1().ClusterRoles()
	_, err = roles.Patch(t.Context(), "system:discovery", types.MergePatchType, []byte(`{"metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"false"}},"rules":[]}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.NoError(t, roles.Delete(t.Context(), "system:monitoring", metav1.DeleteOptions{}))
	require.NoError(t, bootstrap.Run(t.Context(), c.client, c.bootstrapConfig()))
	kept, err := roles.Get(t.Context(), "system:discovery", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, []rbacv1.PolicyRule(nil), kept.Rules)
	_, err = roles.Get(t.Context(), "system:monitoring", metav1.GetOptions{})
	require.NoError(t, err)
}

func TestBootstrapFollowsTheServer(t *testing.T) {
	c := server(t)
	cfg := c.bootstrapConfig()
	cfg.Address, cfg.Port = netip.MustParseAddr("192.0.2.9"), 7443
	require.NoError(t, bootstrap.Run(t.Context(), c.client, cfg))
	defer func() { require.NoError(t, bootstrap.Run(t.Context(), c.client, c.bootstrapConfig())) }()
	slice, err := c.client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.9"}, slice.Endpoints[0].Addresses)
	require.Equal(t, int32(7443), *slice.Ports[0].Port)
	service, err := c.client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "10.96.0.1", service.Spec.ClusterIP)
	require.Equal(t, 7443, service.Spec.Ports[0].TargetPort.IntValue())
	dns, err := c.client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "10.96.0.10", dns.Spec.ClusterIP)
}

func TestBootstrapRefusesAnotherRange(t *testing.T) {
	c := server(t)
	cfg := c.bootstrapConfig()
	cfg.ServiceCIDR, cfg.DNS = netip.MustParsePrefix("10.97.0.0/16"), netip.MustParseAddr("10.97.0.10")
	require.ErrorContains(t, bootstrap.Run(t.Context(), c.client, cfg), "the cluster was made with [10.96.0.0/16], the configuration says 10.97.0.0/16")
}
