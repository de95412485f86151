package servers

import (
	"context"
	"path/filepath"
	"strconv"

	"github.com/rutter-project/rutter/integration/cluster"
)

// StartRutter starts the program on a data directory of its own: etcd, bus and API
// server in one process. flags are further ones of "rutter up".
func StartRutter(ctx context.Context, program string, flags ...string) (*Server, error) {
	return start(ctx, "Rutter", func(s *Server) error {
		ports, err := cluster.FreePorts(3)
		if err != nil {
			return err
		}
		if program, err = filepath.Abs(program); err != nil {
			return err
		}
		data := filepath.Join(s.dir, "data")
		s.kubeconfig = filepath.Join(data, "admin.kubeconfig")
		s.commands = []command{{program: program, log: filepath.Join(s.dir, "rutter.txt"), args: append([]string{
			"up", "--api-only", "--data-dir", data, "--run-dir", filepath.Join(s.dir, "run"),
			"--api-port", strconv.Itoa(ports[0]), "--bus-port", strconv.Itoa(ports[1]), "--node-port", strconv.Itoa(ports[2]),
		}, flags...)}}
		return nil
	})
}
