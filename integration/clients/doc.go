// Package clients is a module of its own in which programs that others wrote for Kubernetes
// meet a running Rutter: client-go with its informers and leader election,
// controller-runtime's example operators, and Helm's SDK. TestClients of the folder above
// starts the cluster and runs these tests with KUBECONFIG set, and with IMAGE, the test
// image that the cluster can pull, and KUBECTL, the path of kubectl.
//
// It is apart so that what these programs need is not needed to build Rutter.
package clients
