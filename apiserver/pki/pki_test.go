package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func load(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Load(dir, "test")
	require.NoError(t, err)
	return a
}

var leaf = Leaf{Name: "leaf", CommonName: "user", Organizations: []string{"a", "b"}, Hosts: []string{"localhost", "127.0.0.1", "::1"}, Client: true, Server: true}

// issued issues the leaf and reads what is in its file.
func issued(t *testing.T, a *Authority, l Leaf) *x509.Certificate {
	t.Helper()
	pair, err := a.Issue(l)
	require.NoError(t, err)
	loaded, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	require.NoError(t, err, "certificate and key belong together")
	return loaded.Leaf
}

func TestIssue(t *testing.T) {
	a := load(t, t.TempDir())
	cert := issued(t, a, leaf)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		_, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}})
		require.NoError(t, err)
	}
	for _, host := range leaf.Hosts {
		require.NoError(t, cert.VerifyHostname(host))
	}
	require.Equal(t, "user", cert.Subject.CommonName)
	require.Equal(t, []string{"a", "b"}, cert.Subject.Organization)
	require.False(t, cert.IsCA)
	require.WithinRange(t, cert.NotBefore, time.Now().Add(-skew-time.Minute), time.Now())
	require.WithinRange(t, cert.NotAfter, time.Now().Add(leafLife-time.Minute), time.Now().Add(leafLife))

	other := issued(t, a, Leaf{Name: "client", CommonName: "c", Client: true})
	_, err := other.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	require.Error(t, err, "a client's certificate serves nothing")
}

func TestIssueRenews(t *testing.T) {
	changed := func(change func(*Leaf)) func(*testing.T, *Authority, Pair) Leaf {
		return func(*testing.T, *Authority, Pair) Leaf { l := leaf; change(&l); return l }
	}
	same := func(t *testing.T, do func(t *testing.T, a *Authority, p Pair)) func(*testing.T, *Authority, Pair) Leaf {
		return func(t *testing.T, a *Authority, p Pair) Leaf { do(t, a, p); return leaf }
	}
	for name, tc := range map[string]struct {
		before func(*testing.T, *Authority, Pair) Leaf
		renew  bool
	}{
		"still good":       {before: changed(func(*Leaf) {})},
		"another user":     {changed(func(l *Leaf) { l.CommonName = "other" }), true},
		"another group":    {changed(func(l *Leaf) { l.Organizations = []string{"a"} }), true},
		"another name":     {changed(func(l *Leaf) { l.Hosts = []string{"localhost2", "127.0.0.1", "::1"} }), true},
		"another address":  {changed(func(l *Leaf) { l.Hosts = []string{"localhost", "127.0.0.2", "::1"} }), true},
		"no longer server": {changed(func(l *Leaf) { l.Server = false }), true},
		"no longer client": {changed(func(l *Leaf) { l.Client = false }), true},
		"key missing":      {same(t, func(t *testing.T, _ *Authority, p Pair) { require.NoError(t, os.Remove(p.KeyFile)) }), true},
		"half written": {same(t, func(t *testing.T, _ *Authority, p Pair) {
			require.NoError(t, os.Truncate(p.CertFile, 100))
		}), true},
		// A crash between the two renames leaves a new key with the old certificate.
		"mismatched key": {same(t, func(t *testing.T, a *Authority, p Pair) {
			other, err := a.Issue(Leaf{Name: "other", CommonName: "user", Client: true})
			require.NoError(t, err)
			require.NoError(t, os.Rename(other.KeyFile, p.KeyFile))
		}), true},
		"near its end": {same(t, func(t *testing.T, a *Authority, p Pair) { age(t, a, p, leafLife/3-time.Hour) }), true},
		"not yet near": {same(t, func(t *testing.T, a *Authority, p Pair) { age(t, a, p, leafLife/3+time.Hour) }), false},
		"another authority": {same(t, func(t *testing.T, _ *Authority, p Pair) {
			stranger, err := load(t, t.TempDir()).Issue(leaf)
			require.NoError(t, err)
			require.NoError(t, os.Rename(stranger.CertFile, p.CertFile))
			require.NoError(t, os.Rename(stranger.KeyFile, p.KeyFile))
		}), true},
	} {
		t.Run(name, func(t *testing.T) {
			a := load(t, t.TempDir())
			pair, err := a.Issue(leaf)
			require.NoError(t, err)
			want := tc.before(t, a, pair)
			before, _ := os.ReadFile(pair.CertFile)
			cert := issued(t, a, want)
			after, err := os.ReadFile(pair.CertFile)
			require.NoError(t, err)
			require.Equal(t, tc.renew, string(before) != string(after))
			require.NoError(t, cert.CheckSignatureFrom(a.cert))
			require.Equal(t, want.CommonName, cert.Subject.CommonName)
		})
	}
}

// age replaces the leaf's certificate by one with so much time left.
func age(t *testing.T, a *Authority, p Pair, left time.Duration) {
	t.Helper()
	key, err := readKey(p.KeyFile)
	require.NoError(t, err)
	template, err := a.template(leaf)
	require.NoError(t, err)
	template.NotAfter = time.Now().Add(left)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(p.CertFile, certPEM(der), 0o644))
}

func TestLoadTwiceIsOneAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "pki")
	first := load(t, dir)
	cert := issued(t, first, leaf)
	second := load(t, dir)
	require.Equal(t, first.CAPEM(), second.CAPEM())
	require.Equal(t, cert.Raw, issued(t, second, leaf).Raw)
	key, err := first.SigningKey("sa")
	require.NoError(t, err)
	again, err := second.SigningKey("sa")
	require.NoError(t, err)
	require.True(t, key.Equal(again))
}

// A crash while the authority is made leaves a key without a certificate; the next
// start makes both again.
func TestLoadAfterCrash(t *testing.T) {
	dir := t.TempDir()
	load(t, dir)
	require.NoError(t, os.Remove(filepath.Join(dir, "ca.crt")))
	issued(t, load(t, dir), leaf)
}

func TestLoadRefusesWhatIsBroken(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"certificate is no PEM": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("x"), 0o644))
		}, "ca.crt: no PEM block"},
		"key is no PEM": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.key"), []byte("x"), 0o600))
		}, "ca.key: no PEM block"},
		"key is of another": {func(t *testing.T, dir string) {
			other := t.TempDir()
			load(t, other)
			require.NoError(t, os.Rename(filepath.Join(other, "ca.key"), filepath.Join(dir, "ca.key")))
		}, "ca.key is not the key of ca.crt"},
		// Making a new authority here would cut off every node and client silently.
		"key lost": {func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "ca.key"))) }, "ca.key"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			load(t, dir)
			tc.damage(t, dir)
			before, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
			require.NoError(t, err)
			_, err = Load(dir, "test")
			require.ErrorContains(t, err, tc.want)
			after, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
			require.NoError(t, err)
			require.Equal(t, before, after)
		})
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a := load(t, dir)
	issued(t, a, leaf)
	_, err := a.SigningKey("sa")
	require.NoError(t, err)
	want := map[string]fs.FileMode{"ca.crt": 0o644, "ca.key": 0o600, "leaf.crt": 0o644, "leaf.key": 0o600, "sa.key": 0o600}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	got := map[string]fs.FileMode{}
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		got[e.Name()] = info.Mode().Perm()
	}
	require.Equal(t, want, got, "and no temporary file is left")
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
}

func TestSignRequest(t *testing.T) {
	a := load(t, t.TempDir())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{"readers"}}}, key)
	require.NoError(t, err)
	asked, err := x509.ParseCertificateRequest(der)
	require.NoError(t, err)
	for name, c := range map[string]struct{ life, want time.Duration }{
		"short":                    {10 * time.Minute, 10 * time.Minute},
		"long":                     {24 * time.Hour, 24*time.Hour - skew},
		"longer than the CA lives": {2 * caLife, caLife},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			signed, err := a.SignRequest(asked, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, c.life)
			require.NoError(t, err)
			cert, err := parseCert(signed)
			require.NoError(t, err)
			require.WithinDuration(t, now.Add(c.want), cert.NotAfter, time.Minute)
			require.WithinDuration(t, now.Add(-skew), cert.NotBefore, time.Minute)
			require.Equal(t, x509.KeyUsageDigitalSignature, cert.KeyUsage, "what was asked for and no more")
			require.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, cert.ExtKeyUsage)
			require.Equal(t, "jane", cert.Subject.CommonName)
			require.False(t, cert.IsCA)
			require.NoError(t, cert.CheckSignatureFrom(a.cert))
		})
	}
}

func TestHandshake(t *testing.T) {
	a := load(t, t.TempDir())
	pair, err := a.Issue(leaf)
	require.NoError(t, err)
	cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		roots *x509.CertPool
		fails bool
	}{
		"own":     {roots: a.Pool()},
		"foreign": {load(t, t.TempDir()).Pool(), true},
	} {
		t.Run(name, func(t *testing.T) {
			there, here := net.Pipe()
			defer there.Close()
			defer here.Close()
			done := make(chan error, 1)
			go func() {
				done <- tls.Server(there, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.Pool()}).Handshake()
			}()
			err := tls.Client(here, &tls.Config{RootCAs: tc.roots, ServerName: "localhost", Certificates: []tls.Certificate{cert}}).Handshake()
			if tc.fails {
				require.Error(t, err)
				here.Close()
			} else {
				require.NoError(t, err)
			}
			<-done
		})
	}
}
