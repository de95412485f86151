// Package helm tests that Helm's SDK manages releases on Rutter, hooks included.
package helm

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart"
	"helm.sh/helm/v4/pkg/chart/loader"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	namespace = "helm-shop"
	name      = "soup"
	// patience is for what a loaded machine may take; nothing is measured here.
	patience = 2 * time.Minute
)

// helm is Helm on the cluster, at present or at an instant.
func helm(t *testing.T, instant string) *action.Configuration {
	t.Helper()
	path := os.Getenv("KUBECONFIG")
	require.NotEmpty(t, path, "KUBECONFIG names the cluster; `go test ./integration -run Clients` starts one")
	flags, ns := genericclioptions.NewConfigFlags(true), namespace
	flags.KubeConfig, flags.Namespace = &path, &ns
	if instant != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", path)
		require.NoError(t, err)
		server := cfg.Host + "/at/" + instant
		flags.APIServer = &server
	}
	cfg := action.NewConfiguration()
	require.NoError(t, cfg.Init(flags, namespace, "secret"))
	return cfg
}

// shop is the world as the test looks at it, past Helm.
type shop struct {
	t       *testing.T
	client  *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
}

func newShop(t *testing.T) *shop {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	require.NoError(t, err)
	return &shop{t, kubernetes.NewForConfigOrDie(cfg), dynamic.NewForConfigOrDie(cfg)}
}

func (s *shop) greeting() string {
	s.t.Helper()
	m, err := s.client.CoreV1().ConfigMaps(namespace).Get(s.t.Context(), name+"-settings", metav1.GetOptions{})
	require.NoError(s.t, err)
	menu, err := s.dynamic.Resource(menus).Namespace(namespace).Get(s.t.Context(), name, metav1.GetOptions{})
	require.NoError(s.t, err)
	require.Equal(s.t, m.Data["greeting"], menu.Object["spec"].(map[string]any)["soup"], "the custom resource goes with the rest")
	return m.Data["greeting"]
}

// ready is how many replicas of the newest template are.
func (s *shop) ready() int32 {
	s.t.Helper()
	d, err := s.client.AppsV1().Deployments(namespace).Get(s.t.Context(), name, metav1.GetOptions{})
	require.NoError(s.t, err)
	require.Equal(s.t, d.Generation, d.Status.ObservedGeneration)
	return min(d.Status.UpdatedReplicas, d.Status.ReadyReplicas)
}

func (s *shop) resourceVersion() string {
	s.t.Helper()
	list, err := s.client.CoreV1().ConfigMaps(namespace).List(s.t.Context(), metav1.ListOptions{})
	require.NoError(s.t, err)
	return list.ResourceVersion
}

var menus = schema.GroupVersionResource{Group: "shop.test", Version: "v1", Resource: "menus"}

func values(greeting string, replicas int) map[string]any {
	return map[string]any{"image": os.Getenv("IMAGE") + ":v1", "greeting": greeting, "replicas": replicas}
}

// releases lists revision and status of all revisions that an instant knows.
func releases(t *testing.T, cfg *action.Configuration) (out []string) {
	t.Helper()
	list := action.NewList(cfg)
	list.StateMask = action.ListAll
	found, err := list.Run()
	require.NoError(t, err)
	for _, r := range found {
		out = append(out, describe(t, r))
	}
	return out
}

func describe(t *testing.T, r release.Releaser) string {
	t.Helper()
	a, err := release.NewAccessor(r)
	require.NoError(t, err)
	return fmt.Sprintf("%s.v%d %s", a.Name(), a.Version(), a.Status())
}

// TestRelease takes one release through its whole life.
func TestRelease(t *testing.T) {
	s, cfg := newShop(t), helm(t, "")
	c, err := loader.Load("testdata/shop")
	require.NoError(t, err)

	install(t, cfg, c)
	require.Equal(t, "hello", s.greeting())
	require.EqualValues(t, 1, s.ready())
	prepared, err := s.client.CoreV1().Pods(namespace).Get(t.Context(), name+"-prepare", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, "Succeeded", prepared.Status.Phase, "the hook had ended before the release was made")
	installed := s.resourceVersion()

	upgrade := func(greeting string, replicas int) error {
		u := action.NewUpgrade(cfg)
		u.Namespace, u.Timeout, u.WaitStrategy = namespace, patience, kube.StatusWatcherStrategy
		_, err := u.Run(name, c, values(greeting, replicas))
		return err
	}
	require.NoError(t, upgrade("moin", 2))
	require.Equal(t, "moin", s.greeting())
	require.EqualValues(t, 2, s.ready())
	hook, err := s.client.CoreV1().ConfigMaps(namespace).Get(t.Context(), name+"-upgraded", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "2", hook.Data["to"])

	require.ErrorContains(t, upgrade("broken", -1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0")
	back := action.NewRollback(cfg)
	back.Version, back.Timeout, back.WaitStrategy = 1, patience, kube.StatusWatcherStrategy
	require.NoError(t, back.Run(name))
	require.Equal(t, "hello", s.greeting())
	require.EqualValues(t, 1, s.ready())
	_, err = s.client.CoreV1().Pods(namespace).Get(t.Context(), name+"-rolled-back", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "hook-succeeded removes the hook: %v", err)

	testing := action.NewReleaseTesting(cfg)
	testing.Namespace, testing.Timeout = namespace, patience
	_, shutdown, err := testing.Run(name)
	require.NoError(t, err)
	require.NoError(t, shutdown())

	history, err := action.NewHistory(cfg).Run(name)
	require.NoError(t, err)
	var told []string
	for _, r := range history {
		told = append(told, describe(t, r))
	}
	require.Equal(t, []string{"soup.v1 superseded", "soup.v2 superseded", "soup.v3 failed", "soup.v4 deployed"}, told)
	require.Equal(t, []string{"soup.v4 deployed"}, releases(t, cfg))
	require.Equal(t, []string{"soup.v1 deployed"}, releases(t, helm(t, "rev-"+installed)), "what Helm tells of the instant after the install")

	uninstall(t, s, cfg)
	require.Empty(t, releases(t, cfg))
	require.Equal(t, []string{"soup.v1 deployed"}, releases(t, helm(t, "rev-"+installed)), "the past keeps what was uninstalled")
}

func install(t *testing.T, cfg *action.Configuration, c chart.Charter) {
	t.Helper()
	i := action.NewInstall(cfg)
	i.ReleaseName, i.Namespace, i.CreateNamespace = name, namespace, true
	i.Timeout, i.WaitStrategy = patience, kube.StatusWatcherStrategy
	r, err := i.Run(c, values("hello", 1))
	require.NoError(t, err)
	require.Equal(t, "soup.v1 deployed", describe(t, r))
	a, err := release.NewAccessor(r)
	require.NoError(t, err)
	require.Equal(t, "soup says hello.\n", a.Notes())
}

func uninstall(t *testing.T, s *shop, cfg *action.Configuration) {
	t.Helper()
	u := action.NewUninstall(cfg)
	u.Timeout, u.WaitStrategy = patience, kube.StatusWatcherStrategy
	_, err := u.Run(name)
	require.NoError(t, err)
	_, err = s.client.AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	_, err = s.client.CoreV1().ConfigMaps(namespace).Get(t.Context(), name+"-gone", metav1.GetOptions{})
	require.NoError(t, err, "the post-delete hook came last")
}
