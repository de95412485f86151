package nodeagent_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

func TestRunToCompletion(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("once", "echo=hello", "err=world", "env", "write=/dev/termination-log=bye", "exit=0")
	n.create(p)
	got := n.await(p, "succeeded", phase(corev1.PodSucceeded))
	s := got.Status.ContainerStatuses[0]
	require.NotNil(t, s.State.Terminated)
	require.Equal(t, "Completed", s.State.Terminated.Reason)
	require.Equal(t, "bye", s.State.Terminated.Message)
	require.Contains(t, s.ImageID, "@sha256:")
	out := n.logs(p, "")
	require.Contains(t, out, "hello\n")
	require.Contains(t, out, "world\n")
	require.Contains(t, out, "FROM_IMAGE=yes\n")
	require.Contains(t, out, "HOSTNAME=once\n")
}
