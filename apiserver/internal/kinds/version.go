package kinds

import (
	goruntime "runtime"

	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/deprecation"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

// Upstream is the Kubernetes release whose semantics are served; it is the version of
// the k8s.io/kubernetes module in go.mod.
const Upstream = "v1.37.2"

// Version is what /version answers.
func Version() apiversion.Info {
	return apiversion.Info{
		Major: "1", Minor: "37", GitVersion: Upstream + "+rutter",
		EmulationMajor: "1", EmulationMinor: "37", MinCompatibilityMajor: "1", MinCompatibilityMinor: "36",
		GoVersion: goruntime.Version(), Compiler: goruntime.Compiler, Platform: goruntime.GOOS + "/" + goruntime.GOARCH,
	}
}

// Deprecation is what clients that use a kind are warned of; nil for most.
func Deprecation(gvk schema.GroupVersionKind) []string {
	obj, err := legacyscheme.Scheme.New(gvk)
	if err != nil {
		return nil // a kind without a Go type of its own is not deprecated
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if major, minor, err := deprecation.MajorMinor(Version()); err == nil && deprecation.IsDeprecated(obj, major, minor) {
		return []string{deprecation.WarningMessage(obj)}
	}
	return nil
}
