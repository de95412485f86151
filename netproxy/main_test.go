package netproxy_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/rutter-project/rutter/netproxy/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Main()
	goleak.VerifyTestMain(m)
}
