package apiserver_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/bus"
)

// bundles is what upstream's default roles let every service account watch.
const bundles = "h.certificates%2Ek8s%2Eio.clustertrustbundles.*.>"

// TestBusGrantsFollowRBAC is invariant 9: the bus opens what the API lets one watch, no
// more, and asks again.
func TestBusGrantsFollowRBAC(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	token := c.token(t, ns, nil)
	grant, err := c.server.Authorize(t.Context(), bus.Credentials{Token: token})
	require.NoError(t, err)
	require.Equal(t, []string{bundles}, grant.Filters)

	subject := rbacv1.Subject{Kind: "ServiceAccount", Namespace: ns, Name: "default"}
	_, err = c.client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "watch"}, APIGroups: []string{""}, Resources: []string{"pods", "pods/log"}},
		{Verbs: []string{"watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"settings"}},
		{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"secrets"}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = c.client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "pods"},
		Subjects: []rbacv1.Subject{subject}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pods"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	// A binding to nothing takes nothing away.
	_, err = c.client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "dangling"},
		Subjects: []rbacv1.Subject{subject}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "absent"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	want := []string{bundles, "h._.configmaps." + ns + ".settings", "h._.pods." + ns + ".>"}
	slices.Sort(want)
	grants := func(want []string) func() error {
		return func() error {
			grant, err := c.server.Authorize(t.Context(), bus.Credentials{Token: token})
			if err == nil && !slices.Equal(grant.Filters, want) {
				err = fmt.Errorf("granted %v to %s", grant.Filters, grant.User)
			}
			if err == nil && (grant.User != "system:serviceaccount:"+ns+":default" || time.Until(grant.Expires) > 10*time.Minute) {
				err = errors.New("wrong user or life of the grant")
			}
			return err
		}
	}
	eventually(t, grants(want))

	_, err = c.client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "all"},
		Subjects: []rbacv1.Subject{subject}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	eventually(t, grants([]string{"h.*.*." + ns + ".>", bundles}))
	require.NoError(t, c.client.RbacV1().RoleBindings(ns).Delete(t.Context(), "all", metav1.DeleteOptions{}))
	eventually(t, grants(want))
}
