package kinds

import (
	goruntime "runtime"

	apiversion "k8s.io/apimachinery/pkg/version"
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
