package bpf_test

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/bpf"
)

// load loads the programs with small tables, with no pins: they go with the test.
func load(t *testing.T) *bpf.NetproxyObjects {
	t.Helper()
	spec, err := bpf.LoadNetproxy()
	require.NoError(t, err)
	for _, m := range spec.Maps {
		if m.MaxEntries > 1024 {
			m.MaxEntries = 1024
		}
	}
	objs := new(bpf.NetproxyObjects)
	err = spec.LoadAndAssign(objs, nil)
	if ve := (*ebpf.VerifierError)(nil); errors.As(err, &ve) {
		t.Fatalf("%+v", ve)
	}
	require.NoError(t, err)
	t.Cleanup(func() { objs.Close() })
	return objs
}

func TestProgramsPassTheVerifier(t *testing.T) {
	load(t)
}
