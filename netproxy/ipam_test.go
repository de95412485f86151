package netproxy

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

func openTest(t *testing.T, dir string, cidrs ...string) *ipam {
	t.Helper()
	var ps []netip.Prefix
	for _, c := range cidrs {
		ps = append(ps, netip.MustParsePrefix(c))
	}
	m, err := openIPAM(dir, ps, zerolog.Nop())
	require.NoError(t, err)
	return m
}

func TestIPAMGivesEachAddressOnce(t *testing.T) {
	m := openTest(t, t.TempDir(), "10.244.3.0/28", "fd44::/64")
	seen := map[netip.Addr]bool{}
	for i := range 12 { // .3 to .14
		l, err := m.acquire(string(rune('a'+i)), "ns", "p")
		require.NoError(t, err)
		require.Len(t, l.IPs, 2)
		for _, ip := range l.IPs {
			require.False(t, seen[ip], ip)
			seen[ip] = true
		}
	}
	for _, reserved := range []string{"10.244.3.0", "10.244.3.1", "10.244.3.2", "10.244.3.15", "fd44::1", "fd44::2"} {
		require.False(t, seen[netip.MustParseAddr(reserved)], reserved)
	}
	_, err := m.acquire("z", "ns", "p")
	require.ErrorContains(t, err, "no address left in 10.244.3.0/28 for pod ns/p")
	require.NoError(t, m.release("c"))
	l, err := m.acquire("z", "ns", "p")
	require.NoError(t, err)
	require.Equal(t, netip.MustParseAddr("10.244.3.5"), l.IPs[0])
}

func TestIPAMRemembersAcrossProcesses(t *testing.T) {
	dir := t.TempDir()
	m := openTest(t, dir, "10.244.3.0/24")
	a, err := m.acquire("a", "ns", "p")
	require.NoError(t, err)
	b, err := m.acquire("b", "ns", "q")
	require.NoError(t, err)
	require.NoError(t, m.release("b"))
	// What a crash may leave.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "torn.json"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "c.json.tmp"), []byte("{"), 0o600))
	m = openTest(t, dir, "10.244.3.0/24")
	again, err := m.acquire("a", "ns", "p")
	require.NoError(t, err)
	require.Equal(t, a, again)
	_, held := m.get("b")
	require.False(t, held)
	_ = b
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1)
}

func TestIPAMRefusesNamesThatAreNoUIDs(t *testing.T) {
	m := openTest(t, t.TempDir(), "10.244.3.0/24")
	for _, uid := range []string{"", "..", "a/b", "../x"} {
		_, err := m.acquire(uid, "ns", "p")
		require.Error(t, err, uid)
	}
}

func FuzzReadLease(f *testing.F) {
	f.Add([]byte(`{"uid":"u","ips":["10.0.0.1"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "u.json")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		l, err := readLease(path)
		if err == nil && (l.UID != "u" || len(l.IPs) == 0) {
			t.Fatalf("%q read as a lease", data)
		}
	})
}
