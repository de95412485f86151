package nodeagent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestValidate(t *testing.T) {
	good := DefaultConfig()
	good.NodeName, good.CertFile, good.KeyFile = "node-1", "c", "k"
	require.NoError(t, good.Validate())
	for want, spoil := range map[string]func(*Config){
		"nodeName":        func(c *Config) { c.NodeName = "No Name" },
		"dataDir":         func(c *Config) { c.DataDir = "here" },
		"runDir":          func(c *Config) { c.RunDir = "" },
		"logDir":          func(c *Config) { c.LogDir = "x" },
		"cgroupRoot":      func(c *Config) { c.CgroupRoot = "x" },
		"longer than 107": func(c *Config) { c.RunDir = "/" + string(make([]byte, 100)) },
		"listen":          func(c *Config) { c.Listen = "nowhere" },
		"certFile":        func(c *Config) { c.CertFile = "" },
		"maxPods":         func(c *Config) { c.MaxPods = 0 },
		"podPidsLimit":    func(c *Config) { c.PodPidsLimit = -1 },
		"logMaxSize":      func(c *Config) { c.LogMaxSize = 1 },
		"logMaxFiles":     func(c *Config) { c.LogMaxFiles = 1 },
		"leaseDuration":   func(c *Config) { c.LeaseDuration = time.Second },
		"backoffMax":      func(c *Config) { c.BackoffMax = time.Second },
		"streamTimeout":   func(c *Config) { c.StreamTimeout = 0 },
		"snapshotter":     func(c *Config) { c.Snapshotter = "" },
		"clusterDNS":      func(c *Config) { c.ClusterDNS = []string{"dns"} },
	} {
		c := good
		spoil(&c)
		require.ErrorContains(t, c.Validate(), want)
	}
}

func TestParseStat(t *testing.T) {
	busy, err := parseStat([]byte("cpu  100 2 30 4000 5 6 7 8 0 0\ncpu0 1\n"))
	require.NoError(t, err)
	require.Equal(t, 1530*time.Millisecond, busy)
	for _, bad := range []string{"", "cpu 1 2", "cpu a b c d e f g h", "mem 1 2 3 4 5 6 7 8"} {
		_, err := parseStat([]byte(bad))
		require.Error(t, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("cpu  100 2 30 4000 5 6 7 8 0 0\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStat(b) })
}
