package env

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}
	for in, want := range map[string]string{
		"":              "",
		"plain":         "plain",
		"$(A)":          "1",
		"x$(A)y$(A)":    "x1y1",
		"$(B)":          "$(A)",
		"$(EMPTY)":      "",
		"$(NONE)":       "$(NONE)",
		"$$(A)":         "$(A)",
		"$$$(A)":        "$1",
		"$":             "$",
		"a$":            "a$",
		"$(A":           "$(A",
		"$A":            "$A",
		"$$":            "$",
		"$()":           "$()",
		"cost $5 $(A)!": "cost $5 1!",
	} {
		require.Equal(t, want, Expand(in, values), "%q", in)
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A) $$(B) $")
	f.Fuzz(func(t *testing.T, s string) {
		out := Expand(s, map[string]string{})
		require.LessOrEqual(t, len(out), len(s), "without values nothing grows")
	})
}

// objects is a Lookup in memory.
type objects struct {
	maps    map[string]map[string]string
	secrets map[string]map[string][]byte
}

func (o objects) ConfigMap(name string) (*corev1.ConfigMap, bool, error) {
	d, ok := o.maps[name]
	return &corev1.ConfigMap{Data: d}, ok, nil
}

func (o objects) Secret(name string) (*corev1.Secret, bool, error) {
	d, ok := o.secrets[name]
	return &corev1.Secret{Data: d}, ok, nil
}

func TestResolve(t *testing.T) {
	look := objects{map[string]map[string]string{"cm": {"B": "from map", "A": "from map"}}, map[string]map[string][]byte{"s": {"k": []byte("hidden")}}}
	yes := true
	ref := corev1.LocalObjectReference{Name: "cm"}
	none := corev1.LocalObjectReference{Name: "none"}
	for name, tc := range map[string]struct {
		c    corev1.Container
		want []string
		err  string
	}{
		"order and replacement": {corev1.Container{
			EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref}}},
			Env:     []corev1.EnvVar{{Name: "A", Value: "own"}, {Name: "C", Value: "$(A)/$(B)"}, {Name: "A", Value: "again $(A)"}},
		}, []string{"A=again own", "B=from map", "C=own/from map"}, ""},
		"missing map":     {corev1.Container{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: none}}}}, nil, `configmap "none" not found`},
		"optional map":    {corev1.Container{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: none, Optional: &yes}}}}, []string{}, ""},
		"secret":          {corev1.Container{EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}}}}, []string{"P_k=hidden"}, ""},
		"missing key":     {corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "Z"}}}}}, nil, `variable X: key "Z" in configmap "cm" not found`},
		"optional key":    {corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "Z", Optional: &yes}}}}}, []string{}, ""},
		"unknown source":  {corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{}}}}, nil, "not supported"},
		"unknown field":   {corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.secret"}}}}}, nil, "does not exist"},
		"label by name":   {corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}}}}}, []string{"X=web"}, ""},
		"other container": {corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "gone", Resource: "limits.cpu"}}}}}, nil, `container "gone" not found`},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}}
			got, err := Resolve(pod, &tc.c, nil, Facts{}, look)
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestField(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "n", Namespace: "ns", UID: "u", Labels: map[string]string{"b": "2", "a": `1"`}, Annotations: map[string]string{"k/x": "v"}},
		Spec: corev1.PodSpec{NodeName: "node", ServiceAccountName: "sa"}}
	facts := Facts{HostIP: "h", HostIPs: []string{"h", "h6"}, PodIPs: []string{"p", "p6"}}
	for path, want := range map[string]string{
		"metadata.name": "n", "metadata.namespace": "ns", "metadata.uid": "u", "spec.nodeName": "node", "spec.serviceAccountName": "sa",
		"status.hostIP": "h", "status.hostIPs": "h,h6", "status.podIP": "p", "status.podIPs": "p,p6",
		"metadata.labels": "a=\"1\\\"\"\nb=\"2\"", "metadata.annotations['k/x']": "v", "metadata.labels['none']": "",
	} {
		got, err := Field(pod, path, facts)
		require.NoError(t, err)
		require.Equal(t, want, got, path)
	}
}

func TestResource(t *testing.T) {
	c := &corev1.Container{Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")}, Limits: corev1.ResourceList{"memory": resource.MustParse("1500Ki")}}}
	node := corev1.ResourceList{"cpu": resource.MustParse("4")}
	for name, tc := range map[string]struct{ what, divisor, want string }{
		"rounded up":  {"requests.cpu", "0", "1"},
		"milli":       {"requests.cpu", "1m", "250"},
		"mebibytes":   {"limits.memory", "1Mi", "2"},
		"bytes":       {"limits.memory", "0", "1536000"},
		"of the node": {"limits.cpu", "1", "4"},
		"unset":       {"requests.memory", "1", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Resource(c, &corev1.ResourceFieldSelector{Resource: tc.what, Divisor: resource.MustParse(tc.divisor)}, node)
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
	_, err := Resource(c, &corev1.ResourceFieldSelector{Resource: "wishes.cpu"}, node)
	require.Error(t, err)
}

func TestServices(t *testing.T) {
	svc := func(ns, name, ip string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "web-ui", Port: 80, Protocol: "TCP"}, {Port: 53, Protocol: "UDP"}}}}
	}
	all := []*corev1.Service{svc("a", "my-svc", "10.0.0.1"), svc("b", "other", "10.0.0.2"), svc("default", "kubernetes", "10.0.0.3"), svc("a", "headless", "None")}
	values := map[string]string{}
	for _, v := range Services(all, "a", true) {
		values[v.Name] = v.Value
	}
	require.Equal(t, "10.0.0.1", values["MY_SVC_SERVICE_HOST"])
	require.Equal(t, "80", values["MY_SVC_SERVICE_PORT"])
	require.Equal(t, "80", values["MY_SVC_SERVICE_PORT_WEB_UI"])
	require.Equal(t, "tcp://10.0.0.1:80", values["MY_SVC_PORT"])
	require.Equal(t, "udp", values["MY_SVC_PORT_53_UDP_PROTO"])
	require.Equal(t, "10.0.0.3", values["KUBERNETES_SERVICE_HOST"])
	require.NotContains(t, values, "OTHER_SERVICE_HOST")
	require.NotContains(t, values, "HEADLESS_SERVICE_HOST")
	require.Len(t, Services(all, "a", false), len(serviceVars(all[2])), "without links only the API server")
}
