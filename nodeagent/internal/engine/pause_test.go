package engine

import (
	"bytes"
	"debug/elf"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPauseProgramIsAnELFFile(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		b, err := pauseProgram(arch)
		require.NoError(t, err)
		f, err := elf.NewFile(bytes.NewReader(b))
		require.NoError(t, err)
		require.Equal(t, machine, f.Machine)
		require.Equal(t, uint64(len(b)), f.Progs[0].Filesz)
		require.Equal(t, uint64(loadAddress+headerSize), f.Entry)
		require.Equal(t, byte(1), b[len(b)-32], "the action to ignore is the last thing in it")
	}
	_, err := pauseProgram("pdp11")
	require.Error(t, err)
}
