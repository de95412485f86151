package aggregation

import (
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func rule(resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{resource}}
}

func part(name, label string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}, Rules: rules}
}

func sum(name, label string) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name},
		AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{label: "true"}}}}}
}

func TestRulesOf(t *testing.T) {
	view := sum("view", "to-view")
	all := []*rbacv1.ClusterRole{
		view,
		part("b", "to-view", rule("pods"), rule("services")),
		part("a", "to-view", rule("pods")),
		part("c", "to-edit", rule("secrets")),
	}
	require.Equal(t, []rbacv1.PolicyRule{rule("pods"), rule("services")}, rulesOf(view, all), "each rule once, others' not at all")
	require.Equal(t, []rbacv1.PolicyRule{}, rulesOf(sum("none", "to-none"), all), "an empty sum is no nil: the API shows []")
}

func TestSumsFollowTheirParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, sum("view", "to-view"))
		fakeapi.Put(s, part("a", "to-view", rule("pods")))
		c, err := New(s.Client(), s, zerolog.Nop())
		require.NoError(t, err)
		fakeapi.Start(t, s, c)
		rules := func() []rbacv1.PolicyRule { return fakeapi.Get[*rbacv1.ClusterRole](s, "", "view").Rules }
		require.Equal(t, []rbacv1.PolicyRule{rule("pods")}, rules())

		added := fakeapi.Put(s, part("b", "to-view", rule("widgets")))
		fakeapi.Settle()
		require.Equal(t, []rbacv1.PolicyRule{rule("pods"), rule("widgets")}, rules())
		writes := s.Writes()
		require.NotEmpty(t, writes[len(writes)-1].Cause)

		fakeapi.Drop(s, added)
		fakeapi.Settle()
		require.Equal(t, []rbacv1.PolicyRule{rule("pods")}, rules())
	})
}
