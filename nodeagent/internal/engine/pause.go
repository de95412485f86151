package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
)

// A process id namespace lives as long as its first process. Pods that share
// one get a process that does nothing but be there: it ignores SIGCHLD, so the
// kernel takes away orphans, and waits for ever. It is written in machine code
// here because nothing else is sure to be on the node.

// loadAddress is where the program is loaded.
const loadAddress = 0x400000

// headerSize is that of an ELF file with one program header.
const headerSize = 64 + 56

// pauseCode returns the instructions and where in them the struct sigaction
// {SIG_IGN} begins.
func pauseCode(arch string) (code []byte, machine uint16, err error) {
	const act = 40 // offset of the struct
	switch arch {
	case "amd64":
		code = []byte{
			0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
			0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
			0xbe, 0, 0, 0, 0, // mov esi, act
			0x31, 0xd2, // xor edx, edx
			0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
			0x0f, 0x05, // syscall
			0xb8, 34, 0, 0, 0, // again: mov eax, pause
			0x0f, 0x05, // syscall
			0xeb, 0xf7, // jmp again
		}
		binary.LittleEndian.PutUint32(code[11:], loadAddress+headerSize+act)
		code = append(code, make([]byte, act-len(code))...)
		return appendIgnore(code), 62, nil
	case "arm64":
		mov := func(reg, value uint32) uint32 { return 0xd2800000 | value<<5 | reg }
		words := []uint32{
			mov(8, 134), mov(0, 17), 0, mov(2, 0), mov(3, 8), 0xd4000001, // rt_sigaction(SIGCHLD, act, 0, 8)
			mov(0, 0), mov(1, 0), mov(2, 0), mov(3, 0), mov(8, 73), 0xd4000001, // again: ppoll(0, 0, 0, 0)
			0x14000000 | (0x3ffffff & uint32(0xfffffffa)), // b again
			0, // alignment
		}
		words[2] = 0x10000001 | uint32(len(words)*4-8)/4<<5 // adr x1, act
		for _, w := range words {
			code = binary.LittleEndian.AppendUint32(code, w)
		}
		return appendIgnore(code), 183, nil
	default:
		return nil, 0, fmt.Errorf("a shared process id namespace is not supported on %s", arch)
	}
}

func appendIgnore(code []byte) []byte {
	code = binary.LittleEndian.AppendUint64(code, 1) // SIG_IGN
	return append(code, make([]byte, 24)...)
}

// pauseProgram is the whole ELF file.
func pauseProgram(arch string) ([]byte, error) {
	code, machine, err := pauseCode(arch)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	b = le.AppendUint16(b, 2) // executable
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, loadAddress+headerSize) // entry
	b = le.AppendUint64(b, 64)                     // program headers
	b = le.AppendUint64(b, 0)                      // no sections
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 64, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	size := uint64(headerSize + len(code))
	b = le.AppendUint32(b, 1) // load
	b = le.AppendUint32(b, 5) // readable, executable
	for _, v := range []uint64{0, loadAddress, loadAddress, size, size, 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...), nil
}

// Pause makes a process that only holds a process id namespace, or finds it,
// and returns its id. Its root file system is made at root.
func (e *Engine) Pause(ctx context.Context, id, root string, labels map[string]string, spec []oci.SpecOpts) (pid uint32, err error) {
	ctx = e.Context(ctx)
	if c, err := e.client.LoadContainer(ctx, id); err == nil {
		if task, err := c.Task(ctx, nil); err == nil {
			if s, err := task.Status(ctx); err == nil && s.Status == containerd.Running {
				return task.Pid(), nil
			}
		}
		if err := e.Remove(ctx, id); err != nil {
			return 0, err
		}
	} else if !errdefs.IsNotFound(err) {
		return 0, fmt.Errorf("load pause container: %w", err)
	}
	program, err := pauseProgram(runtime.GOARCH)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(root, "pause"), program, 0o755); err != nil {
		return 0, err
	}
	spec = append(spec, oci.WithRootFSPath(root), oci.WithProcessArgs("/pause"), oci.WithRootFSReadonly(),
		oci.WithCapabilities(nil), oci.WithNoNewPrivileges, oci.WithUIDGID(65535, 65535))
	c, err := e.client.NewContainer(ctx, id, containerd.WithContainerLabels(labels),
		containerd.WithRuntime(runtimeName, &options.Options{}), containerd.WithNewSpec(spec...))
	if err != nil {
		return 0, fmt.Errorf("create pause container: %w", err)
	}
	task, err := c.NewTask(ctx, cio.NullIO)
	if err != nil {
		return 0, fmt.Errorf("create pause process: %w", err)
	}
	if err := task.Start(ctx); err != nil {
		return 0, fmt.Errorf("start pause process: %w", err)
	}
	return task.Pid(), nil
}
