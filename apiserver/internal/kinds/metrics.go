package kinds

import (
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	authenticationmetrics "k8s.io/apiserver/pkg/server/options/authenticationconfig/metrics"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// RegisterMetrics makes upstream's code count uses of tokens and what else its program
// registers by itself.
func RegisterMetrics() {
	serviceaccount.RegisterMetrics()
	authenticationmetrics.RegisterMetrics()
	validation.RegisterMetrics()
}
