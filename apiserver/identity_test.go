package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/apiserver"
	"github.com/rutter-project/rutter/bus"
)

// issuer is an OpenID Connect provider with one key.
type issuer struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	i := &issuer{key: key}
	point, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	encode := base64.RawURLEncoding.EncodeToString
	answers := map[string]any{
		"/.well-known/openid-configuration": map[string]string{},
		"/keys": map[string]any{"keys": []any{map[string]string{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k",
			"x": encode(point[1:33]), "y": encode(point[33:])}}},
	}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answers[r.URL.Path])
	}))
	answers["/.well-known/openid-configuration"] = map[string]string{"issuer": i.URL, "jwks_uri": i.URL + "/keys"}
	t.Cleanup(i.Close)
	return i
}

// sign makes a token of the claims, for audience rutter and an hour.
func (i *issuer) sign(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": i.URL, "aud": "rutter", "exp": time.Now().Add(time.Hour).Unix()}
	for name, value := range claims {
		all[name] = value
	}
	body, err := json.Marshal(all)
	require.NoError(t, err)
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + encode(body)
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, digest[:])
	require.NoError(t, err)
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + encode(signature)
}

// entry is the issuer in an AuthenticationConfiguration.
func (i *issuer) entry(prefix string) string {
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}))
	return fmt.Sprintf(`- issuer:
    url: %s
    audiences: [rutter]
    certificateAuthority: |
      %s
  claimValidationRules:
  - expression: 'claims.tenant == "ours"'
    message: only our tenant
  claimMappings:
    username: {expression: '"%s" + claims.sub'}
    groups: {claim: roles, prefix: "%s"}
`, i.URL, strings.ReplaceAll(strings.TrimSpace(certificate), "\n", "\n      "), prefix, prefix)
}

const authenticationHead = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"

// whoIs asks the server whom it takes the bearer for.
func whoIs(t *testing.T, c *cluster, token string) (authenticationv1.UserInfo, error) {
	t.Helper()
	got, err := clientOf(t, c.withToken(token)).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return got.Status.UserInfo, nil
}

func TestIssuersOfTheAuthenticationFile(t *testing.T) {
	first, second, third := newIssuer(t), newIssuer(t), newIssuer(t)
	anonymous := "anonymous: {enabled: true, conditions: [{path: /livez}]}\n"
	path := writeFile(t, "authentication.yaml", authenticationHead+anonymous+"jwt:\n"+first.entry("a:")+second.entry("b:"))
	c := alone(t, func(cfg *apiserver.Config) { cfg.Access.AuthenticationFile = path })
	claims := map[string]any{"sub": "ada", "tenant": "ours", "roles": []string{"ops"}}
	known := func(i *issuer, want string) {
		eventually(t, func() error {
			who, err := whoIs(t, c, i.sign(t, claims))
			if err == nil && who.Username != want+"ada" {
				return fmt.Errorf("taken for %q", who.Username)
			}
			return err
		})
	}
	known(first, "a:")
	known(second, "b:")
	who, err := whoIs(t, c, first.sign(t, claims))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"a:ops", "system:authenticated"}, who.Groups)

	for name, change := range map[string]map[string]any{
		"other tenant":   {"sub": "ada", "tenant": "theirs", "roles": []string{}},
		"other audience": {"sub": "ada", "tenant": "ours", "roles": []string{}, "aud": "vault"},
		"expired":        {"sub": "ada", "tenant": "ours", "roles": []string{}, "exp": time.Now().Add(-time.Hour).Unix()},
		"other's key":    {"sub": "ada", "tenant": "ours", "roles": []string{}, "iss": second.URL},
		"unknown issuer": {"sub": "ada", "tenant": "ours", "roles": []string{}, "iss": third.URL},
	} {
		_, err := whoIs(t, c, first.sign(t, change))
		require.True(t, apierrors.IsUnauthorized(err), "%s: %v", name, err)
	}
	require.Equal(t, 200, send(t, c.withToken(""), "GET", "/livez", "").status)
	require.Equal(t, 401, send(t, c.withToken(""), "GET", "/version", "").status, "the file's paths take the place of the default's")

	require.NoError(t, os.WriteFile(path, []byte(authenticationHead+anonymous+"jwt:\n"+third.entry("c:")), 0o600))
	known(third, "c:")
	_, err = whoIs(t, c, first.sign(t, claims))
	require.True(t, apierrors.IsUnauthorized(err), "%v", err)
	require.NoError(t, os.WriteFile(path, []byte("nonsense"), 0o600))
	known(third, "c:")
}

func TestAccessFilesAreRefusedByField(t *testing.T) {
	const authorizationHead = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n"
	for name, tc := range map[string]struct{ authentication, authorization, want string }{
		"issuer without TLS": {authentication: authenticationHead + "jwt: [{issuer: {url: \"http://x\", audiences: [a]}, claimMappings: {username: {expression: claims.sub}}}]", want: "jwt[0].issuer.url"},
		"the cluster's own":  {authentication: authenticationHead + "jwt: [{issuer: {url: \"" + apiserver.Issuer + "\", audiences: [a]}, claimMappings: {username: {expression: claims.sub}}}]", want: "jwt[0].issuer.url"},
		"bad CEL":            {authentication: authenticationHead + "jwt: [{issuer: {url: \"https://x\", audiences: [a]}, claimMappings: {username: {expression: \"claims.\"}}}]", want: "jwt[0].claimMappings.username.expression"},
		"unknown field":      {authentication: authenticationHead + "jwts: []", want: `unknown field "jwts"`},
		"other kind":         {authentication: authorizationHead + "authorizers: [{type: RBAC, name: rbac}]", want: "no AuthenticationConfiguration"},
		"no authorizers":     {authorization: authorizationHead, want: "authorizers: Required value"},
		"unknown authorizer": {authorization: authorizationHead + "authorizers: [{type: Luck, name: luck}]", want: "authorizers[0].type"},
		"bare webhook":       {authorization: authorizationHead + "authorizers: [{type: Webhook, name: w}]", want: "authorizers[0].webhook"},
	} {
		t.Run(name, func(t *testing.T) {
			access := apiserver.DefaultConfig().Access
			if tc.authentication != "" {
				access.AuthenticationFile = writeFile(t, "f.yaml", tc.authentication)
			} else {
				access.AuthorizationFile = writeFile(t, "f.yaml", tc.authorization)
			}
			err := access.Validate()
			require.ErrorContains(t, err, tc.want)
			require.ErrorContains(t, err, access.AuthenticationFile+access.AuthorizationFile)
		})
	}
}

func TestBootstrapTokens(t *testing.T) {
	c := alone(t, func(cfg *apiserver.Config) { cfg.Access.BootstrapTokens = true })
	add := func(id string, change map[string]string) {
		data := map[string]string{"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:workers"}
		for k, v := range change {
			data[k] = v
		}
		_, err := c.client.CoreV1().Secrets("kube-system").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id},
			Type: corev1.SecretTypeBootstrapToken, StringData: data}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	add("expird", map[string]string{"expiration": time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)})
	add("nologi", map[string]string{"usage-bootstrap-authentication": "false"})
	add("abcdef", map[string]string{"expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	eventually(t, func() error { // the last one made is known: so are the others
		_, err := whoIs(t, c, "abcdef.0123456789abcdef")
		return err
	})
	who, err := whoIs(t, c, "abcdef.0123456789abcdef")
	require.NoError(t, err)
	require.Equal(t, "system:bootstrap:abcdef", who.Username)
	require.ElementsMatch(t, []string{"system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"}, who.Groups)
	for _, token := range []string{"abcdef.fedcba9876543210", "expird.0123456789abcdef", "nologi.0123456789abcdef", "nobody.0123456789abcdef"} {
		_, err := whoIs(t, c, token)
		require.True(t, apierrors.IsUnauthorized(err), "%s: %v", token, err)
	}
	require.NoError(t, c.client.CoreV1().Secrets("kube-system").Delete(t.Context(), "bootstrap-token-abcdef", metav1.DeleteOptions{}))
	eventually(t, func() error {
		if _, err := whoIs(t, c, "abcdef.0123456789abcdef"); !apierrors.IsUnauthorized(err) {
			return errors.New("the token outlives its Secret")
		}
		return nil
	})
}

// TestAuthorizationFile: a webhook before RBAC that denies, allows, or has no opinion.
func TestAuthorizationFile(t *testing.T) {
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if json.NewDecoder(r.Body).Decode(&review) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: review.Spec.User == "friend", Denied: review.Spec.User == "foe", Reason: "the hook says so"}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer hook.Close()
	path := writeFile(t, "authorization.yaml", `apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: hook
  webhook:
    timeout: 3s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    authorizedTTL: 1s
    unauthorizedTTL: 1s
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: `+hookConfig(t, hook)+`}
    matchConditions:
    - expression: has(request.resourceAttributes)
    - expression: 'request.resourceAttributes.resource != "services"'
- {type: Node, name: node}
- {type: RBAC, name: rbac}
`)
	c := alone(t, func(cfg *apiserver.Config) { cfg.Access.AuthorizationFile = path })
	pods := func(user string, groups ...string) error {
		_, err := c.as(t, user, groups...).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return err
	}
	require.NoError(t, pods("friend"))
	require.ErrorContains(t, pods("foe"), "the hook says so")
	require.True(t, apierrors.IsForbidden(pods("stranger")), "no opinion, and RBAC has no rule")
	require.NoError(t, pods("foe", "system:masters"), "system:masters is asked of nobody")
	_, err := c.as(t, "friend").CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "the match conditions leave Services to RBAC: %v", err)

	_, err = c.server.Authorize(t.Context(), bus.Credentials{Token: c.token(t, c.namespace(t), nil)})
	require.ErrorContains(t, err, "--authorization-config")

	hook.Close()
	err = pods("stranger-still")
	require.True(t, apierrors.IsInternalError(err), "failure policy Deny, before RBAC is asked: %v", err)
}
