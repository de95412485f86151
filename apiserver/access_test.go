package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/apiserver/pki"
)

func TestAnonymousSeesHealthAndVersionOnly(t *testing.T) {
	c := server(t)
	nobody := c.withToken("")
	eventually(t, func() error { // the last step of the start comes after everything is served
		if a := send(t, nobody, "GET", "/livez", ""); a.status != 200 {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	})
	for path, want := range map[string]int{
		"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200,
		"/": 401, "/api": 401, "/api/v1/pods": 401, "/metrics": 401, "/openapi/v2": 401, "/debug/pprof/": 401,
		"/.well-known/openid-configuration": 401, "/healthz/etcd": 401,
	} {
		require.Equal(t, want, send(t, nobody, "GET", path, "").status, path)
	}
	a := send(t, nobody, "GET", "/api/v1/pods", "")
	require.Equal(t, metav1.StatusReasonUnauthorized, a.apiStatus(t).Reason)
	require.Equal(t, 401, send(t, c.withToken("nonsense"), "GET", "/api", "").status)
	require.Equal(t, 401, send(t, c.withToken("nonsense"), "GET", "/version", "").status, "wrong credentials are not none")
}

func TestForeignCertificateIsRefused(t *testing.T) {
	c := server(t)
	ca, err := pki.Load(t.TempDir(), "test")
	require.NoError(t, err)
	pair, err := ca.Issue(pki.Leaf{Name: "admin", CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})
	require.NoError(t, err)
	config := &rest.Config{Host: c.config.Host, TLSClientConfig: rest.TLSClientConfig{CAFile: c.ca.CAFile(), CertFile: pair.CertFile, KeyFile: pair.KeyFile}}
	require.Equal(t, 401, send(t, config, "GET", "/api", "").status)

	serving, err := c.ca.Issue(pki.Leaf{Name: "not-a-client", CommonName: "admin", Organizations: []string{"system:masters"}, Server: true})
	require.NoError(t, err)
	config.CertFile, config.KeyFile = serving.CertFile, serving.KeyFile
	require.Equal(t, 401, send(t, config, "GET", "/api", "").status, "a serving certificate is no client's")
}

func TestDenialSaysWhoAndWhat(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	_, err := c.as(t, "alice").CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.EqualError(t, err, fmt.Sprintf(`pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace %q`, ns))
	_, err = c.as(t, "alice").CoreV1().Nodes().Get(t.Context(), "n", metav1.GetOptions{})
	require.EqualError(t, err, `nodes "n" is forbidden: User "alice" cannot get resource "nodes" in API group "" at the cluster scope`)
}

func TestImpersonation(t *testing.T) {
	c := server(t)
	who, err := c.as(t, "alice", "team").AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, "alice", who.Status.UserInfo.Username)
	require.ElementsMatch(t, []string{"team", "system:authenticated"}, who.Status.UserInfo.Groups)

	alice, err := c.access(pki.Leaf{Name: "alice", CommonName: "alice", Client: true})
	require.NoError(t, err)
	alice.Impersonate.UserName = "admin"
	_, err = clientOf(t, alice).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, `"alice" cannot impersonate`)
}

func TestRBACFollowsItsObjects(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	// Not "view": a controller fills that.
	_, err := c.client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "bob"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "bob"}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:aggregate-to-view"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	bob := c.as(t, "bob")
	eventually(t, func() error {
		_, err := bob.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		return err
	})
	_, err = bob.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	_, err = bob.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("m", nil), metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)

	// Nobody gives what he has not got.
	_, err = c.as(t, "bob").RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "more"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "bob"}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}}, metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)

	require.NoError(t, c.client.RbacV1().RoleBindings(ns).Delete(t.Context(), "bob", metav1.DeleteOptions{}))
	eventually(t, func() error {
		_, err := bob.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		if err == nil {
			return errors.New("still allowed")
		}
		return nil
	})
}

func TestReviews(t *testing.T) {
	c := server(t)
	for name, tc := range map[string]struct {
		user, verb string
		groups     []string
		want       bool
	}{
		"nobody": {user: "alice", verb: "get"},
		"master": {user: "root", groups: []string{"system:masters"}, verb: "get", want: true},
	} {
		got, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: tc.user, Groups: tc.groups, ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: tc.verb, Resource: "pods", Namespace: "default"}}}, metav1.CreateOptions{})
		require.NoError(t, err)
		require.Equal(t, tc.want, got.Status.Allowed, name)
	}
	self, err := c.as(t, "alice", "system:authenticated").AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/version"}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.True(t, self.Status.Allowed)
	rules, err := c.as(t, "alice", "system:authenticated").AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, rules.Status.ResourceRules)
}

func (c *cluster) nodeClient(t *testing.T, name string) *kubernetes.Clientset {
	t.Helper()
	config, err := c.access(pki.Leaf{Name: "node-" + name, CommonName: "system:node:" + name, Organizations: []string{"system:nodes"}, Client: true})
	require.NoError(t, err)
	return clientOf(t, config)
}

func secretVolume(name string) corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}
}

func TestNodeReadsOnlyWhatItsPodsNeed(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	for _, name := range []string{"mine", "other"} {
		_, err := c.client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	c.pod(t, ns, "mine", "auth-1", secretVolume("mine"))
	c.pod(t, ns, "other", "auth-2", secretVolume("other"))
	node := c.nodeClient(t, "auth-1")
	eventually(t, func() error {
		got, err := node.CoreV1().Secrets(ns).Get(t.Context(), "mine", metav1.GetOptions{})
		if err == nil && string(got.Data["k"]) != "v" {
			return fmt.Errorf("secret holds %q", got.Data["k"])
		}
		return err
	})
	_, err := node.CoreV1().Secrets(ns).Get(t.Context(), "other", metav1.GetOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "no relationship found between node 'auth-1' and this object")
	_, err = node.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)

	now := int64(0)
	require.NoError(t, c.client.CoreV1().Pods(ns).Delete(t.Context(), "mine", metav1.DeleteOptions{GracePeriodSeconds: &now}))
	eventually(t, func() error {
		if _, err := node.CoreV1().Secrets(ns).Get(t.Context(), "mine", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			return fmt.Errorf("may still read the secret: %w", err)
		}
		return nil
	})
}

func TestNodeRestriction(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	node := c.nodeClient(t, "restricted")
	made, err := node.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "restricted"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.client.CoreV1().Nodes().Delete(context.WithoutCancel(t.Context()), "restricted", metav1.DeleteOptions{}))
	})
	require.Equal(t, "node.kubernetes.io/not-ready", made.Spec.Taints[0].Key, "a new node is tainted until it is ready")
	_, err = node.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "stranger"}}, metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	_, err = node.CoreV1().Nodes().Patch(t.Context(), "restricted", types.MergePatchType, []byte(`{"metadata":{"labels":{"node-restriction.kubernetes.io/a":"b"}}}`), metav1.PatchOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	_, err = node.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "restricted",
		Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	require.ErrorContains(t, err, "can only create mirror pods")

	c.pod(t, ns, "far", "elsewhere")
	_, err = node.CoreV1().Pods(ns).Patch(t.Context(), "far", types.MergePatchType, []byte(`{"status":{"phase":"Failed"}}`), metav1.PatchOptions{}, "status")
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	c.pod(t, ns, "near", "restricted")
	eventually(t, func() error {
		_, err := node.CoreV1().Pods(ns).Patch(t.Context(), "near", types.MergePatchType, []byte(`{"status":{"phase":"Running"}}`), metav1.PatchOptions{}, "status")
		return err
	})
}

// token asks for a token of the namespace's default service account.
func (c *cluster) token(t *testing.T, ns string, bound *authenticationv1.BoundObjectReference) string {
	t.Helper()
	hour := int64(3600)
	got, err := c.client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour, BoundObjectRef: bound}}, metav1.CreateOptions{})
	require.NoError(t, err)
	return got.Status.Token
}

func TestBoundTokenDiesWithItsPod(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	p := c.pod(t, ns, "p", "")
	require.Equal(t, "default", p.Spec.ServiceAccountName)
	token := c.token(t, ns, &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p", UID: p.UID})
	client := clientOf(t, c.withToken(token))
	who, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, "system:serviceaccount:"+ns+":default", who.Status.UserInfo.Username)
	require.Equal(t, authenticationv1.ExtraValue{"p"}, who.Status.UserInfo.Extra["authentication.kubernetes.io/pod-name"])

	review := func() *authenticationv1.TokenReview {
		got, err := c.client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		require.NoError(t, err)
		return got
	}
	require.True(t, review().Status.Authenticated)
	require.Equal(t, []string{apiserver.Issuer}, review().Status.Audiences)

	now := int64(0)
	require.NoError(t, c.client.CoreV1().Pods(ns).Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: &now}))
	eventually(t, func() error {
		_, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("the token still lives: %w", err)
		}
		return nil
	})
	require.False(t, review().Status.Authenticated)
	_, err = c.client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p", UID: p.UID}}}, metav1.CreateOptions{})
	require.Error(t, err)
}

func TestTokenForOthersIsRefused(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	got, err := c.client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, 401, send(t, c.withToken(got.Status.Token), "GET", "/api", "").status)
	good := c.token(t, ns, nil)
	require.Equal(t, 200, send(t, c.withToken(good), "GET", "/api", "").status)
	head, tail, _ := strings.Cut(good, ".")
	require.Equal(t, 401, send(t, c.withToken(head+".x"+tail), "GET", "/api", "").status, "altered")
}

func TestIssuerDiscovery(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	token := c.token(t, ns, nil)
	var doc struct {
		Issuer string   `json:"issuer"`
		Keys   string   `json:"jwks_uri"`
		Algs   []string `json:"id_token_signing_alg_values_supported"`
	}
	a := send(t, c.withToken(token), "GET", "/.well-known/openid-configuration", "")
	require.Equal(t, 200, a.status, "%s", a.body)
	require.NoError(t, json.Unmarshal(a.body, &doc))
	require.Equal(t, apiserver.Issuer, doc.Issuer)
	require.Equal(t, []string{"ES256"}, doc.Algs)
	require.True(t, strings.HasSuffix(doc.Keys, "/openid/v1/jwks"), doc.Keys)
	require.Contains(t, doc.Keys, "192.0.2.1")

	var set struct {
		Keys []struct{ Kid, Kty, Crv, X, Y string }
	}
	a = send(t, c.withToken(token), "GET", "/openid/v1/jwks", "")
	require.Equal(t, 200, a.status)
	require.NoError(t, json.Unmarshal(a.body, &set))
	require.Len(t, set.Keys, 1)
	raw := []byte{4} // uncompressed
	for _, coordinate := range []string{set.Keys[0].X, set.Keys[0].Y} {
		number, err := base64.RawURLEncoding.DecodeString(coordinate)
		require.NoError(t, err)
		raw = append(raw, number...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	require.NoError(t, err)
	at := strings.LastIndex(token, ".")
	signature, err := base64.RawURLEncoding.DecodeString(token[at+1:])
	require.NoError(t, err)
	require.Len(t, signature, 64)
	digest := sha256.Sum256([]byte(token[:at]))
	require.True(t, ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])),
		"the published key must verify the tokens")
}

func TestHealth(t *testing.T) {
	c := server(t)
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/healthz":                              {200, "ok"},
		"/healthz/":                             {404, "404 page not found\n"},
		"/readyz/etcd":                          {200, "ok"},
		"/readyz/etcd?verbose":                  {200, "[+]etcd ok\nreadyz check passed\n"},
		"/readyz/etcd?verbose&exclude=etcd":     {200, "[+]etcd excluded: ok\nreadyz check passed\n"},
		"/readyz/shutdown":                      {200, "ok"},
		"/livez/shutdown":                       {404, "404 page not found\n"},
		"/livez/nothing":                        {404, "404 page not found\n"},
		"/livez/poststarthook/nothing":          {404, "404 page not found\n"},
		"/healthz?exclude=etcd&exclude=nothing": {200, "ok"},
	} {
		a := c.send(t, "GET", path, "")
		require.Equal(t, want.status, a.status, path)
		require.Equal(t, want.body, string(a.body), path)
	}
}

// Probes and upstream's tests ask for what kube-apiserver does at start by its names.
func TestHealthNamesWhatKubeAPIServerDoesAtStart(t *testing.T) {
	c := server(t)
	for _, name := range []string{
		"start-apiserver-admission-initializer", "generic-apiserver-start-informers", "start-apiextensions-informers", "start-apiextensions-controllers",
		"crd-informer-synced", "bootstrap-controller", "start-system-namespaces-controller", "rbac/bootstrap-roles", "scheduling/bootstrap-system-priority-classes",
		"start-cluster-authentication-info-controller", "start-kube-aggregator-informers", "apiservice-registration-controller",
		"apiservice-status-local-available-controller", "apiservice-status-remote-available-controller", "kube-apiserver-autoregistration",
		"apiservice-openapi-controller", "storage-readiness", "start-service-ip-repair-controllers",
	} {
		for _, root := range []string{"/healthz", "/livez", "/readyz"} {
			require.Eventually(t, func() bool {
				return c.send(t, "GET", root+"/poststarthook/"+name, "").status == 200
			}, time.Minute, 20*time.Millisecond, name)
		}
	}
	require.Eventually(t, func() bool { return c.send(t, "GET", "/readyz/autoregister-completion", "").status == 200 }, time.Minute, 20*time.Millisecond)
	results := string(c.send(t, "GET", "/metrics/slis", "").body)
	for _, result := range []string{`kubernetes_healthcheck{name="etcd",type="livez"} 1`, `kubernetes_healthcheck{name="informer-sync",type="readyz"} 1`} {
		require.Contains(t, results, result)
	}
	require.NotContains(t, results, `kubernetes_healthcheck{name="informer-sync",type="livez"}`)
}

func TestMetricsAndProfilesNeedPermission(t *testing.T) {
	c := server(t)
	alice, err := c.access(pki.Leaf{Name: "alice", CommonName: "alice", Client: true})
	require.NoError(t, err)
	for _, path := range []string{"/metrics", "/metrics/slis", "/debug/api_priority_and_fairness/dump_queues", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline"} {
		require.Equal(t, 403, send(t, alice, "GET", path, "").status, path)
		require.Equal(t, 200, c.send(t, "GET", path, "").status, path)
	}
	a := c.send(t, "GET", "/metrics", "")
	for _, name := range []string{"go_goroutines", "apiserver_admission_controller_admission_duration_seconds", "apiserver_flowcontrol_current_executing_requests", "apiserver_request_total", "etcd_"} {
		require.Contains(t, string(a.body), name)
	}
	require.Contains(t, string(c.send(t, "GET", "/version", "").body), `"gitVersion": "v1.37.`)
}

func TestDefaultAdmissionActs(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	p := c.pod(t, ns, "p", "")
	require.Len(t, p.Spec.Tolerations, 2, "DefaultTolerationSeconds")
	require.Equal(t, int32(0), *p.Spec.Priority, "Priority")
	require.Len(t, p.Spec.Volumes, 1, "ServiceAccount")
	require.NotNil(t, p.Spec.Volumes[0].Projected)

	_, err := c.client.CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	eventually(t, func() error { // PodSecurity
		_, err := c.client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "loose"},
			Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{DryRun: []string{"All"}})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "restricted:latest"`) {
			return fmt.Errorf("allowed: %w", err)
		}
		return nil
	})

	claim, err := c.client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}, Resources: corev1.VolumeResourceRequirements{Requests: oneGiB()}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"kubernetes.io/pvc-protection"}, claim.Finalizers, "StorageObjectInUseProtection")
}

func TestServiceAddresses(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	services := c.client.CoreV1().Services(ns)
	make := func(name, ip string) (*corev1.Service, error) {
		return services.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	}
	first, err := make("first", "")
	require.NoError(t, err)
	require.Regexp(t, `^10\.96\.`, first.Spec.ClusterIP)
	require.GreaterOrEqual(t, first.Spec.Ports[0].NodePort, int32(30000))
	_, err = make("same", first.Spec.ClusterIP)
	require.True(t, apierrors.IsInvalid(err), "%v", err)
	require.ErrorContains(t, err, "already allocated")
	_, err = make("outside", "192.0.2.7")
	require.True(t, apierrors.IsInvalid(err), "%v", err)
	require.NoError(t, services.Delete(t.Context(), "first", metav1.DeleteOptions{}))
	again, err := make("again", first.Spec.ClusterIP)
	require.NoError(t, err)
	require.Equal(t, first.Spec.ClusterIP, again.Spec.ClusterIP)
}

// TestReviewOfNoToken: a token that is no credential at all is nobody's.
func TestReviewOfNoToken(t *testing.T) {
	c := server(t)
	for _, token := range []string{" ", "  a", "\t"} {
		review, err := c.client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		require.NoError(t, err, "%q", token)
		require.False(t, review.Status.Authenticated, "%q", token)
	}
}

// TestTokenOfPodOutlivesItsRefresh: clients that read a pod's token only once go on
// working after the hour that the kubelet asks for, and are counted.
func TestTokenOfPodOutlivesItsRefresh(t *testing.T) {
	c := server(t)
	ns := c.namespace(t)
	c.pod(t, ns, "p", "")
	life := func(seconds int64, bound *authenticationv1.BoundObjectReference) (told, holds time.Duration) {
		got, err := c.client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds, BoundObjectRef: bound}}, metav1.CreateOptions{})
		require.NoError(t, err)
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(got.Status.Token, ".")[1])
		require.NoError(t, err)
		var claims struct{ Exp, Iat int64 }
		require.NoError(t, json.Unmarshal(payload, &claims))
		return time.Duration(got.Status.ExpirationTimestamp.Unix()-claims.Iat) * time.Second, time.Duration(claims.Exp-claims.Iat) * time.Second
	}
	pod := &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p"}
	told, holds := life(3607, pod)
	require.Equal(t, 3607*time.Second, told)
	require.Equal(t, 365*24*time.Hour, holds)
	_, holds = life(3600, pod)
	require.Equal(t, time.Hour, holds)
	_, holds = life(3607, nil)
	require.Equal(t, 3607*time.Second, holds)
}
