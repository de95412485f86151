package apiserver_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/apiserver"
)

const admissionHead = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n"

const podSecurity = `  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline}
    exemptions: {namespaces: [spared]}
`

func TestPluginsGoByTheAdmissionFile(t *testing.T) {
	path := writeFile(t, "admission.yaml", admissionHead+"plugins:\n- name: PodSecurity\n"+podSecurity)
	c := alone(t, func(cfg *apiserver.Config) { cfg.Access.AdmissionFile = path })
	for _, ns := range []string{"bound", "spared"} {
		_, err := c.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = c.client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	loose := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "loose"}, Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	_, err := c.client.CoreV1().Pods("bound").Create(t.Context(), loose, metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, `violates PodSecurity "baseline:latest"`)
	_, err = c.client.CoreV1().Pods("spared").Create(t.Context(), loose, metav1.CreateOptions{})
	require.NoError(t, err)
}

func TestBadAdmissionFilesAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"another kind":   {authenticationHead, "it is no AdmissionConfiguration"},
		"unknown field":  {admissionHead + "plugin: []\n", `unknown field "plugin"`},
		"unknown plugin": {admissionHead + "plugins: [{name: PodSecurty}]\n", `plugins[0].name: Invalid value: "PodSecurty"`},
		"twice":          {admissionHead + "plugins: [{name: ResourceQuota, configuration: {}}, {name: ResourceQuota, configuration: {}}]\n", "plugins[1].name: Duplicate"},
		"missing file":   {admissionHead + "plugins: [{name: PodSecurity, path: nowhere.yaml}]\n", "plugins[0].path"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, "admission.yaml", c.file)
			err := apiserver.AccessConfig{AdmissionFile: path}.Validate()
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, c.want)
		})
	}
	// What a plugin's own configuration says, the plugin checks.
	path := writeFile(t, "admission.yaml", admissionHead+"plugins:\n- name: PodSecurity\n  configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: lax}}\n")
	_, stop, err := startAlone(func(cfg *apiserver.Config) { cfg.Access.AdmissionFile = path })
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "enforce: must be one of privileged")
	require.Nil(t, stop)
}
