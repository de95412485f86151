package certfile

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/rutter-project/rutter/apiserver/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// tale is what was told of a change.
type tale struct {
	name string
	err  error
}

type follower interface {
	Follow(context.Context, func(string, error))
}

// follow returns what is told of f until the test ends.
func follow(t *testing.T, f follower) <-chan tale {
	tales, done := make(chan tale, 100), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		f.Follow(ctx, func(name string, err error) { tales <- tale{name, err} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return tales
}

func next(t *testing.T, tales <-chan tale) error {
	t.Helper()
	select {
	case told := <-tales:
		require.Equal(t, "test", told.name)
		return told.err
	case <-time.After(patience):
		require.FailNow(t, "nothing was told")
		return nil
	}
}

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.Load(t.TempDir(), "test")
	require.NoError(t, err)
	return a
}

// issued are the contents of a new pair of files.
func issued(t *testing.T, a *pki.Authority, name string) (cert, key []byte) {
	t.Helper()
	files, err := a.Issue(pki.Leaf{Name: name, CommonName: name, Server: true})
	require.NoError(t, err)
	return contents(t, files.CertFile), contents(t, files.KeyFile)
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

// replace puts a file in another's place, as careful programs do.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	write(t, path+".new", data)
	require.NoError(t, os.Rename(path+".new", path))
}

func TestPair(t *testing.T) {
	a, dir := authority(t), t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	put := func(with func(*testing.T, string, []byte), name string) {
		c, k := issued(t, a, name)
		with(t, cert, c)
		with(t, key, k)
	}
	_, err := LoadPair("test", cert, key)
	require.ErrorIs(t, err, os.ErrNotExist)
	put(write, "first")
	p, err := LoadPair("test", cert, key)
	require.NoError(t, err)
	is := func(want string) { t.Helper(); require.Equal(t, want, p.Certificate().Leaf.Subject.CommonName) }
	is("first")
	tales := follow(t, p)
	// becomes waits: between the two files they don't fit, which is told if it takes long.
	becomes := func(want string) {
		t.Helper()
		for p.Certificate().Leaf.Subject.CommonName != want {
			_ = next(t, tales)
		}
	}
	put(replace, "second")
	becomes("second")
	put(write, "third")
	becomes("third")
	c, k := p.PEM()
	require.Equal(t, contents(t, cert), c)
	require.Equal(t, contents(t, key), k)

	for name, spoil := range map[string]func(){
		"key of another":     func() { _, k := issued(t, a, "other"); replace(t, key, k) },
		"certificate cut":    func() { c := contents(t, cert); replace(t, cert, c[:len(c)/2]) },
		"end of a chain cut": func() { c := contents(t, cert); replace(t, cert, append(c, c[:len(c)/2]...)) },
		"empty":              func() { replace(t, key, nil) },
		"gone":               func() { require.NoError(t, os.Remove(key)) },
	} {
		spoil()
		for next(t, tales) == nil {
			t.Logf("%s: the change before was told", name)
		}
		is("third")
		put(replace, "fourth")
		becomes("fourth")
		put(replace, "third")
		becomes("third")
	}
}

// TestWhatIsWrongIsToldOnce: files are looked at again and again.
func TestWhatIsWrongIsToldOnce(t *testing.T) {
	a, dir := authority(t), t.TempDir()
	path := filepath.Join(dir, "ca.crt")
	write(t, path, a.CAPEM())
	b, err := LoadBundle("test", path, a.Certificate())
	require.NoError(t, err)
	var tales []error
	look := func() { b.reload(t.Context(), func(_ string, err error) { tales = append(tales, err) }) }
	look()
	require.Empty(t, tales)
	write(t, path, []byte("nonsense"))
	look()
	look()
	require.Len(t, tales, 1)
	write(t, path, []byte("other nonsense"))
	look()
	look()
	require.Len(t, tales, 2, "%v", tales)
	write(t, path, a.CAPEM())
	look()
	require.Len(t, tales, 2, "what is in force was put back: %v", tales)
	write(t, path, []byte("nonsense"))
	look()
	require.Len(t, tales, 3, "%v", tales)
}

// TestLinks: a directory's files are often links that all change at once.
func TestLinks(t *testing.T) {
	a, dir := authority(t), t.TempDir()
	for _, version := range []string{"one", "two"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		c, k := issued(t, a, version)
		write(t, filepath.Join(dir, version, "tls.crt"), c)
		write(t, filepath.Join(dir, version, "tls.key"), k)
	}
	require.NoError(t, os.Symlink("one", filepath.Join(dir, "now")))
	for _, name := range []string{"tls.crt", "tls.key"} {
		require.NoError(t, os.Symlink(filepath.Join("now", name), filepath.Join(dir, name)))
	}
	p, err := LoadPair("test", filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	require.NoError(t, err)
	tales := follow(t, p)
	require.NoError(t, os.Symlink("two", filepath.Join(dir, "next")))
	require.NoError(t, os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "now")))
	require.NoError(t, next(t, tales))
	require.Equal(t, "two", p.Certificate().Leaf.Subject.CommonName)
}

type listener chan struct{}

func (l listener) Enqueue() { l <- struct{}{} }

func TestBundle(t *testing.T) {
	own, other := authority(t), authority(t)
	path := filepath.Join(t.TempDir(), "ca.crt")
	write(t, path, own.CAPEM())
	b, err := LoadBundle("test", path, own.Certificate())
	require.NoError(t, err)
	told := make(listener, 10)
	b.AddListener(told)
	believes := func(a *pki.Authority) bool {
		files, err := a.Issue(pki.Leaf{Name: "client", CommonName: "client", Client: true})
		require.NoError(t, err)
		p, err := LoadPair("client", files.CertFile, files.KeyFile)
		require.NoError(t, err)
		options, ok := b.VerifyOptions()
		require.True(t, ok)
		_, err = p.Certificate().Leaf.Verify(options)
		return err == nil
	}
	require.False(t, believes(other))
	tales := follow(t, b)
	both := append(other.CAPEM(), own.CAPEM()...)
	replace(t, path, both)
	require.NoError(t, next(t, tales))
	<-told
	require.True(t, believes(other))
	require.True(t, believes(own))
	require.Equal(t, both, b.CurrentCABundleContent())

	replace(t, path, other.CAPEM())
	require.ErrorIs(t, next(t, tales), errWithoutOwn)
	require.True(t, believes(own))
	replace(t, path, both[:len(both)-40])
	require.ErrorIs(t, next(t, tales), errCutOff)
	require.True(t, believes(own))

	replace(t, path, own.CAPEM())
	require.NoError(t, next(t, tales))
	<-told
	require.False(t, believes(other), "it was taken away")
	require.True(t, believes(own))
}

func FuzzBundle(f *testing.F) {
	dir := f.TempDir()
	a, err := pki.Load(dir, "test")
	require.NoError(f, err)
	f.Add(a.CAPEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		pool, err := makePool(data, a.Certificate())
		if err != nil {
			require.Nil(t, pool)
			return
		}
		_, err = a.Certificate().Verify(x509.VerifyOptions{Roots: pool})
		require.NoError(t, err)
	})
}
