package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/env"
)

func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		if e.Name()[0] == '.' {
			continue
		}
		root := filepath.Join(dir, e.Name())
		resolved, err := filepath.EvalSymlinks(root)
		require.NoError(t, err)
		require.NoError(t, filepath.WalkDir(resolved, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				data, err := os.ReadFile(p)
				require.NoError(t, err)
				rel, _ := filepath.Rel(resolved, p)
				out[filepath.Join(e.Name(), rel)] = string(data)
			}
			return err
		}))
	}
	return out
}

func TestWriteReplacesAsAWhole(t *testing.T) {
	dir := t.TempDir()
	changed, err := Write(dir, Payload{"a": {Data: []byte("1"), Mode: 0o644}, "d/e": {Data: []byte("2"), Mode: 0o400}}, nil)
	require.NoError(t, err)
	require.True(t, changed)
	require.Equal(t, map[string]string{"a": "1", "d/e": "2"}, list(t, dir))
	before, err := os.Readlink(filepath.Join(dir, dataLink))
	require.NoError(t, err)

	changed, err = Write(dir, Payload{"a": {Data: []byte("1"), Mode: 0o644}, "d/e": {Data: []byte("2"), Mode: 0o400}}, nil)
	require.NoError(t, err)
	require.False(t, changed, "the same content is not written again")

	open, err := os.Open(filepath.Join(dir, "a"))
	require.NoError(t, err)
	changed, err = Write(dir, Payload{"a": {Data: []byte("3"), Mode: 0o644}, "f": {Data: []byte("4"), Mode: 0o644}}, nil)
	require.NoError(t, err)
	require.True(t, changed)
	require.Equal(t, map[string]string{"a": "3", "f": "4"}, list(t, dir))
	data := make([]byte, 1)
	_, err = open.Read(data)
	require.NoError(t, err)
	require.Equal(t, "1", string(data), "who has the old file open keeps it")
	require.NoError(t, open.Close())
	require.NoDirExists(t, filepath.Join(dir, before), "the old generation is removed")
	info, err := os.Stat(filepath.Join(dir, "a"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o644), info.Mode().Perm())
}

func TestWriteSurvivesItsInterruption(t *testing.T) {
	dir := t.TempDir()
	_, err := Write(dir, Payload{"a": {Data: []byte("1"), Mode: 0o644}}, nil)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "..gen_half"), 0o755))
	require.NoError(t, os.Symlink("..gen_half", filepath.Join(dir, newLink)))
	_, err = Write(dir, Payload{"a": {Data: []byte("2"), Mode: 0o644}}, nil)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "2"}, list(t, dir))
	require.NoDirExists(t, filepath.Join(dir, "..gen_half"))
}

func TestPathsStayInside(t *testing.T) {
	for _, bad := range []string{"", "/a", "../a", "a/../../b", "..", "..data", "a//b", "./a"} {
		_, err := Write(t.TempDir(), Payload{bad: {}}, nil)
		require.ErrorIs(t, err, errPath, "%q", bad)
	}
}

// fakeSource is a Source in memory.
type fakeSource struct {
	maps    map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
	bundles []certificatesv1.ClusterTrustBundle
	err     error

	certificates map[string]Certificate // by volume/source
}

func (o fakeSource) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, bool, error) {
	cm, ok := o.maps[name]
	return cm, ok, o.err
}

func (o fakeSource) Secret(_ context.Context, _, name string) (*corev1.Secret, bool, error) {
	s, ok := o.secrets[name]
	return s, ok, o.err
}

func (o fakeSource) TrustBundles(context.Context) ([]certificatesv1.ClusterTrustBundle, error) {
	return o.bundles, o.err
}

func (o fakeSource) Certificate(_ context.Context, _ *corev1.Pod, volume string, source int, _ *corev1.PodCertificateProjection) (Certificate, error) {
	return o.certificates[volume+"/"+strconv.Itoa(source)], o.err
}

var refresh = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (o fakeSource) Token(_ context.Context, pod *corev1.Pod, audience string, ttl time.Duration) (string, time.Time, error) {
	return pod.Name + "/" + audience + "/" + ttl.String(), refresh, o.err
}

func TestPayload(t *testing.T) {
	src := fakeSource{
		maps:    map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"k": "v"}, BinaryData: map[string][]byte{"b": {0}}}},
		secrets: map[string]*corev1.Secret{"s": {Data: map[string][]byte{"k": []byte("hidden")}}},
	}
	yes, mode, user := true, int32(0o400), int64(7)
	named := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	for name, tc := range map[string]struct {
		volume corev1.VolumeSource
		want   Payload
		err    error
	}{
		"config map": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: named("cm")}},
			Payload{"k": {Data: []byte("v"), Mode: 0o644}, "b": {Data: []byte{0}, Mode: 0o644}}, nil},
		"items": {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &mode, Items: []corev1.KeyToPath{{Key: "k", Path: "dir/file"}}}},
			Payload{"dir/file": {Data: []byte("hidden"), Mode: 0o400}}, nil},
		"missing":     {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: named("no")}}, nil, env.ErrMissing},
		"optional":    {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: named("no"), Optional: &yes}}, Payload{}, nil},
		"missing key": {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: []corev1.KeyToPath{{Key: "no", Path: "x"}}}}, nil, env.ErrMissing},
		"outside":     {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: []corev1.KeyToPath{{Key: "k", Path: "../x"}}}}, nil, errPath},
		"downward": {corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "n", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
			Payload{"n": {Data: []byte("pod"), Mode: 0o644}}, nil},
		"token": {corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "vault"}}, {ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: named("cm"), Items: []corev1.KeyToPath{{Key: "k", Path: "ca"}}}}}}},
			Payload{"token": {Data: []byte("pod/vault/1h0m0s"), Mode: 0o600, UID: &user}, "ca": {Data: []byte("v"), Mode: 0o644}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{SecurityContext: &corev1.SecurityContext{RunAsUser: &user}}}}}
			c, ok, err := payload(t.Context(), src, pod, env.Facts{}, &corev1.Volume{VolumeSource: tc.volume})
			require.True(t, ok)
			require.ErrorIs(t, err, tc.err)
			if tc.err == nil {
				require.Equal(t, tc.want, c.files)
				require.Equal(t, name == "token", c.refresh.Equal(refresh))
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	for name, v := range map[string]corev1.VolumeSource{
		"claim":     {PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}},
		"csi":       {CSI: &corev1.CSIVolumeSource{}},
		"image":     {Image: &corev1.ImageVolumeSource{}},
		"nfs":       {NFS: &corev1.NFSVolumeSource{}},
		"medium":    {EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumHugePages}},
		"no source": {Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := NewSet(Dirs{dir, dir}, fakeSource{})
			_, _, err := s.Setup(t.Context(), &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: v}}}}, env.Facts{})
			var unsupported *UnsupportedError
			require.ErrorAs(t, err, &unsupported)
			require.Contains(t, err.Error(), `volume "v"`)
		})
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, tc := range map[string]struct {
		path string
		kind corev1.HostPathType
		ok   bool
	}{
		"unset, absent":      {dir + "/no", corev1.HostPathUnset, true},
		"directory":          {dir, corev1.HostPathDirectory, true},
		"directory is file":  {file, corev1.HostPathDirectory, false},
		"directory absent":   {dir + "/no", corev1.HostPathDirectory, false},
		"directory made":     {dir + "/made/deep", corev1.HostPathDirectoryOrCreate, true},
		"file":               {file, corev1.HostPathFile, true},
		"file made":          {dir + "/made-file", corev1.HostPathFileOrCreate, true},
		"file is directory":  {dir, corev1.HostPathFileOrCreate, false},
		"socket is file":     {file, corev1.HostPathSocket, false},
		"character device":   {"/dev/null", corev1.HostPathCharDev, true},
		"block is character": {"/dev/null", corev1.HostPathBlockDev, false},
		"unknown":            {dir, "Portal", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := hostPath(&corev1.HostPathVolumeSource{Path: tc.path, Type: &tc.kind})
			require.Equal(t, tc.ok, err == nil, "%v", err)
		})
	}
}

func TestSubPathNeverLeaves(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.Symlink("/etc", filepath.Join(root, "out")))
	require.NoError(t, os.Symlink("in", filepath.Join(root, "alias")))
	for name, tc := range map[string]struct {
		path string
		ok   bool
	}{
		"made": {"in/deep", true}, "again": {"in/deep", true}, "link inside": {"alias", true},
		"link outside": {"out", false}, "below link outside": {"out/x", false}, "dots": {"in/../../x", false},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "link inside" {
				require.NoError(t, os.MkdirAll(filepath.Join(root, "in"), 0o755))
			}
			fd, err := openInside(root, tc.path)
			require.Equal(t, tc.ok, err == nil, "%v", err)
			if err == nil {
				require.NoError(t, os.NewFile(uintptr(fd), "x").Close())
			}
		})
	}
}

func TestErrorsOfTheAPIAreKept(t *testing.T) {
	away := errors.New("away")
	dir := t.TempDir()
	s := NewSet(Dirs{dir, dir}, fakeSource{err: away})
	_, _, err := s.Setup(t.Context(), &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}}}}}, env.Facts{})
	require.ErrorIs(t, err, away)
}
