package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

var began = time.Date(2026, 1, 2, 15, 4, 0, 0, time.UTC)

func change(rev int64, kind schemas.EventType, key, object string) schemas.Event {
	k, err := schemas.ParseKey(key)
	if err != nil {
		panic(err)
	}
	return schemas.Event{Rev: rev, Cnt: 1, Type: kind, Key: k, Object: []byte(object), Seq: uint64(rev), Epoch: "c.1",
		Header: schemas.Header{V: 1, Time: began.Add(time.Duration(rev) * time.Second), Verb: "update", User: "alice"}}
}

const (
	password = "aHVudGVyMg=="
	secret   = `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"db","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"` + password + `","kubernetes.io/service-account.name":"web"},"managedFields":[{"f":"` + password + `"}]},"type":"Opaque","data":{"p":"` + password + `"},"stringData":{"p":"` + password + `"},"sealed":"` + password + `"}`
)

func header() Header {
	return Header{Rutter: "test", Made: began, Cluster: "c.1", From: Instant{Rev: 10, Time: began}, To: Instant{Rev: 20, Time: began.Add(time.Minute)}, Redacted: []string{Redacted}}
}

// story is a bundle of two objects and four events, one of them a gap.
func story(t testing.TB) []byte {
	t.Helper()
	w, err := NewWriter()
	require.NoError(t, err)
	require.NoError(t, w.Object(change(5, schemas.Added, "core/configmaps/shop/a", `{"metadata":{"name":"a"}}`)))
	require.NoError(t, w.Object(change(6, schemas.Added, "core/secrets/shop/db", secret)))
	require.NoError(t, w.Object(change(7, schemas.Added, "core/secrets/shop/odd", password)))
	require.NoError(t, w.Event(change(11, schemas.Modified, "core/secrets/shop/db", secret)))
	require.NoError(t, w.Event(change(12, schemas.Modified, "core/configmaps/shop/a", `{"metadata":{"name":"a"},"data":{"x":"y"}}`)))
	require.NoError(t, w.Event(schemas.Event{Rev: 15, Cnt: 1, Type: schemas.Gap, PrevRev: 12, Resync: 15, Object: []byte(`{"reason":"lost"}`)}))
	require.NoError(t, w.Event(change(20, schemas.Deleted, "core/secrets/shop/db", secret)))
	var file bytes.Buffer
	_, err = w.WriteTo(&file, header())
	require.NoError(t, err)
	return file.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	b, err := Read(story(t))
	require.NoError(t, err)
	require.Equal(t, header().From, b.Header.From)
	require.Equal(t, 2, b.Header.Objects())
	require.Equal(t, 4, b.Header.Events())
	require.Equal(t, 1, b.Header.Gaps)
	require.Equal(t, change(12, schemas.Modified, "core/configmaps/shop/a", `{"metadata":{"name":"a"},"data":{"x":"y"}}`), b.Events[1])
	require.Equal(t, schemas.Gap, b.Events[2].Type)
	require.JSONEq(t, `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"db","annotations":{"kubernetes.io/service-account.name":"web"}},"type":"Opaque"}`, string(b.State[1].Object))
}

// endless is a file that never ends, and counts what is read of it.
type endless struct {
	begin io.Reader
	n     int64
}

func (e *endless) Read(p []byte) (int, error) {
	n, err := e.begin.Read(p)
	if errors.Is(err, io.EOF) {
		clear(p)
		n, err = len(p), nil
	}
	e.n += int64(n)
	return n, err
}

func TestNoMoreIsReadThanItTakes(t *testing.T) {
	whole := story(t)
	b, size, err := ReadFrom(iotest.OneByteReader(bytes.NewReader(whole)))
	require.NoError(t, err)
	require.EqualValues(t, len(whole), size)
	want, err := Read(whole)
	require.NoError(t, err)
	require.Equal(t, want, b)
	for name, tc := range map[string]struct {
		begin []byte
		want  string
	}{
		"nothing":           {nil, "it does not begin with"},
		"a header's begin":  {whole[:60], "has no end"},
		"a whole bundle":    {whole, "follows its end"},
		"half of a section": {whole[:len(whole)-200], "is altered"},
	} {
		file := &endless{begin: bytes.NewReader(tc.begin)}
		_, _, err := ReadFrom(file)
		require.ErrorContains(t, err, tc.want, name)
		require.LessOrEqual(t, file.n, int64(2<<20), name)
	}
	_, _, err = ReadFrom(bytes.NewReader(whole[:len(whole)-1]))
	require.ErrorContains(t, err, "cut off in its last line")
	_, _, err = ReadFrom(iotest.ErrReader(errors.New("disk broken")))
	require.EqualError(t, err, "disk broken")
}

func TestSecretsAreNeverInside(t *testing.T) {
	b, err := Read(story(t))
	require.NoError(t, err)
	all, err := json.Marshal(b)
	require.NoError(t, err)
	require.NotContains(t, string(all), password)
	require.NotContains(t, string(all), "odd", "a Secret that can't be read shows nothing")
}

func TestEveryCutIsRefused(t *testing.T) {
	whole := story(t)
	for n := range whole {
		_, err := Read(whole[:n])
		require.ErrorContains(t, err, "cut off", "%d of %d bytes", n, len(whole))
	}
}

func TestEveryAlterationIsRefused(t *testing.T) {
	whole := story(t)
	for n := range whole {
		altered := bytes.Clone(whole)
		altered[n] ^= 0x20
		_, err := Read(altered)
		var wrong *Error
		require.ErrorAs(t, err, &wrong, "byte %d", n)
	}
}

// sections of the story, by name, with the place at which they begin.
func placed(t *testing.T, file []byte) map[string]int {
	t.Helper()
	b, err := Read(file)
	require.NoError(t, err)
	at := len(file) - digestLength
	places := map[string]int{"end": at}
	for i := len(b.Header.Sections) - 1; i >= 0; i-- {
		at -= int(b.Header.Sections[i].Bytes)
		places[b.Header.Sections[i].Name] = at
	}
	return places
}

func TestRefusalsNameThePlace(t *testing.T) {
	whole := story(t)
	at := placed(t, whole)
	alter := func(n int) []byte {
		out := bytes.Clone(whole)
		out[n]++
		return out
	}
	for name, tc := range map[string]struct {
		file []byte
		want string
	}{
		"empty":            {nil, "not a good bundle: it is cut off in its first line, after 0 bytes"},
		"something else":   {[]byte("PK\x03\x04"), `not a good bundle: it does not begin with "rutter bundle "`},
		"no format":        {[]byte("rutter bundle x\n{}\n"), "not a good bundle: the first line (bytes 0 to 16) names no format"},
		"a later format":   {[]byte("rutter bundle 2\n{}\n"), "not a good bundle: it is of format 2, and this program reads format 1; open it with the version of Rutter that its second line names"},
		"header cut":       {whole[:40], "not a good bundle: it is cut off in its header, after 40 bytes"},
		"header altered":   {alter(30), fmt.Sprintf("not a good bundle: the header (bytes 16 to %d) is altered: its digest is another one", at["state"]-digestLength)},
		"state altered":    {alter(at["state"] + 9), fmt.Sprintf(`not a good bundle: section "state" (bytes %d to %d) is altered: its digest is another one`, at["state"], at["events"])},
		"state cut":        {whole[:at["events"]-1], fmt.Sprintf(`not a good bundle: it is cut off in its section "state", which ends at byte %d: the file has %d`, at["events"], at["events"]-1)},
		"events altered":   {alter(at["end"] - 1), fmt.Sprintf(`not a good bundle: section "events" (bytes %d to %d) is altered: its digest is another one`, at["events"], at["end"])},
		"end cut":          {whole[:len(whole)-1], fmt.Sprintf("not a good bundle: it is cut off in its last line, after %d bytes", len(whole)-1)},
		"end altered":      {alter(len(whole) - 3), fmt.Sprintf("not a good bundle: the last line (bytes %d to %d) is altered: the digest of the whole is another one", at["end"], len(whole))},
		"something behind": {append(bytes.Clone(whole), "more"...), fmt.Sprintf("not a good bundle: something (bytes %d to %d) follows its end", len(whole), len(whole)+4)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(tc.file)
			require.EqualError(t, err, tc.want)
		})
	}
}

// TestRecordsMakeSense: digests that fit do not make a log of nonsense.
func TestRecordsMakeSense(t *testing.T) {
	object := `{"metadata":{"name":"a"}}`
	for name, tc := range map[string]struct {
		state, events []schemas.Event
		want          string
	}{
		"late object":  {state: []schemas.Event{change(11, schemas.Added, "core/nodes/a", object)}, want: `record 1 of section "state" is of revision 11, after the beginning, 10`},
		"twice":        {state: []schemas.Event{change(1, schemas.Added, "core/nodes/a", object), change(2, schemas.Added, "core/nodes/a", object)}, want: `record 2 of section "state" tells of core/nodes/a a second time`},
		"no object":    {state: []schemas.Event{change(1, schemas.Deleted, "core/nodes/a", object)}, want: `record 1 of section "state" is no object`},
		"too late":     {events: []schemas.Event{change(21, schemas.Added, "core/nodes/a", object)}, want: `record 1 of section "events" is of revision 21, after the end, 20`},
		"too early":    {events: []schemas.Event{change(9, schemas.Added, "core/nodes/a", object)}, want: `record 1 of section "events" is of revision 9, which comes before 10`},
		"unknown type": {events: []schemas.Event{change(11, schemas.Left, "core/nodes/a", object)}, want: `record 1 of section "events" is of type "LEFT"`},
		"no name":      {events: []schemas.Event{{Rev: 11, Type: schemas.Added, Key: schemas.Key{Resource: "nodes"}}}, want: `record 1 of section "events" names no object`},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := NewWriter()
			require.NoError(t, err)
			for _, e := range tc.state {
				require.NoError(t, w.Object(e))
			}
			for _, e := range tc.events {
				require.NoError(t, w.Event(e))
			}
			var file bytes.Buffer
			_, err = w.WriteTo(&file, header())
			require.NoError(t, err)
			_, err = Read(file.Bytes())
			require.EqualError(t, err, "not a good bundle: "+tc.want)
		})
	}
}

func TestWriterRefuses(t *testing.T) {
	w, err := NewWriter()
	require.NoError(t, err)
	require.NoError(t, w.Event(change(12, schemas.Added, "core/nodes/a", "{}")))
	require.EqualError(t, w.Event(change(11, schemas.Added, "core/nodes/a", "{}")), "bundle: the event of revision 11 comes after one of revision 12")
	h := header()
	h.To.Rev = 9
	_, err = w.WriteTo(&bytes.Buffer{}, h)
	require.EqualError(t, err, "bundle: the span ends before it begins")
}

// TestPartsAreReadable: a bundle says to the eye what it is.
func TestPartsAreReadable(t *testing.T) {
	lines := strings.SplitN(string(story(t)), "\n", 4)
	require.Equal(t, "rutter bundle 1", lines[0])
	var h Header
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &h))
	require.Equal(t, []string{"secrets"}, h.Redacted)
	require.Contains(t, lines[2], "sha256 ")
}

func FuzzRead(f *testing.F) {
	whole := story(f)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("rutter bundle 1\n{}\n"))
	// What the fuzzer alters must get past the digests: it is given what comes between.
	f.Add([]byte(`{"from":{"revision":1},"to":{"revision":2},"sections":[{"name":"state"},{"name":"events"}]}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, file := range [][]byte{file, sealed(file)} {
			b, err := Read(file)
			if err != nil {
				continue
			}
			w, err := NewWriter()
			require.NoError(t, err)
			for _, e := range b.Events {
				require.NoError(t, w.Event(e), "what was read can be written")
			}
		}
	})
}

// sealed makes a file of a header alone whose digests fit.
func sealed(text []byte) []byte {
	head := append([]byte("rutter bundle 1\n"), bytes.ReplaceAll(text, []byte("\n"), nil)...)
	head = append(head, '\n')
	head = append(head, sum(head)...)
	return append(head, sum(head)...)
}

func sum(text []byte) string { return digestLine(sha256.Sum256(text)) }

// TestLaterStates: behind a gap that nothing closes, the state is there once more.
func TestLaterStates(t *testing.T) {
	object := `{"metadata":{"name":"a"}}`
	node := change(14, schemas.Added, "core/nodes/a", object)
	for name, tc := range map[string]struct {
		at   []int64
		add  func(w *Writer) error
		want string
	}{
		"good":        {at: []int64{15, 20}, add: func(w *Writer) error { return errors.Join(w.Later(15, node), w.Later(20, node)) }},
		"empty":       {at: []int64{15}, add: func(*Writer) error { return nil }},
		"too early":   {at: []int64{10}, add: func(*Writer) error { return nil }, want: "it has a later state at revision 10, between 10 and 20"},
		"too late":    {at: []int64{21}, add: func(*Writer) error { return nil }, want: "it has a later state at revision 21, between 10 and 20"},
		"another":     {at: []int64{15}, add: func(w *Writer) error { return w.Later(16, node) }, want: `record 1 of section "later" is no object of a later state`},
		"a later one": {at: []int64{13}, add: func(w *Writer) error { return w.Later(13, node) }, want: `record 1 of section "later" is no object of a later state`},
		"twice":       {at: []int64{15}, add: func(w *Writer) error { return errors.Join(w.Later(15, node), w.Later(15, node)) }, want: `record 2 of section "later" is no object of a later state`},
		"backwards":   {at: []int64{15, 20}, add: func(w *Writer) error { return errors.Join(w.Later(20, node), w.Later(15, node)) }, want: `record 2 of section "later" is no object of a later state`},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := NewWriter()
			require.NoError(t, err)
			require.NoError(t, tc.add(w))
			h := header()
			for _, rev := range tc.at {
				h.Later = append(h.Later, Instant{Rev: rev, Time: began})
			}
			var file bytes.Buffer
			_, err = w.WriteTo(&file, h)
			require.NoError(t, err)
			b, err := Read(file.Bytes())
			if tc.want != "" {
				require.EqualError(t, err, "not a good bundle: "+tc.want)
				return
			}
			require.NoError(t, err)
			require.Equal(t, h.Later, b.Header.Later)
		})
	}
}
