package differential

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/rutter-project/rutter/integration/servers"
)

var (
	beside = flag.Bool("beside", false, "build and ask kube-apiserver too, instead of comparing with what is recorded")
	record = flag.Bool("record", false, "keep kube-apiserver's answers; with -beside")
	shown  = flag.String("show", "", "print the answers of cases whose name begins with this")
)

// recordFile holds one line for each case, compressed.
const recordFile = "testdata/upstream.json.gz"

// TestSameAsUpstream sends every case to Rutter and compares the answer with upstream's.
func TestSameAsUpstream(t *testing.T) {
	cases() // a mistake in a case ends the test before anything runs
	rutter, err := servers.StartRutter(t.Context(), rutterProgram(t))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, rutter)
	if !*beside {
		judge(t, play(t, rutter), recorded(t))
		return
	}
	programs, err := servers.Build(t.Context(), filepath.Join("..", "conformance", "upstream"), filepath.Join("..", "..", "bin", "upstream"))
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := servers.StartUpstream(t.Context(), programs)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, upstream)
	var ours, theirs map[string]answer
	g, ctx := errgroup.WithContext(t.Context())
	g.Go(func() (err error) { ours, err = playAll(ctx, rutter); return err })
	g.Go(func() (err error) { theirs, err = playAll(ctx, upstream); return err })
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if *record {
		keepRecord(t, theirs)
	}
	judge(t, ours, theirs)
}

func stop(t *testing.T, s *servers.Server) {
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// rutterProgram is what the task runner built.
func rutterProgram(t *testing.T) string {
	t.Helper()
	program := os.Getenv("RUTTER_BIN")
	if program == "" {
		program = filepath.Join("..", "..", "bin", "rutter")
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("rutter is not built; run `./task build` or set RUTTER_BIN: %v", err)
	}
	return program
}

func play(t *testing.T, s *servers.Server) map[string]answer {
	t.Helper()
	answers, err := playAll(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return answers
}

// atOnce reads are on their way at the same time.
const atOnce = 12

// playAll sends all cases to one server: what changes something, or is asked for the sake
// of later cases, alone and in order; reads between two such together.
func playAll(ctx context.Context, s *servers.Server) (map[string]answer, error) {
	a, err := newAsked(s)
	if err != nil {
		return nil, err
	}
	all := cases()
	answers := make([]answer, len(all))
	g, gctx := group(ctx)
	for i, r := range all {
		if r.onlyReads() {
			g.Go(func() (err error) { answers[i], err = a.ask(gctx, r); return err })
			continue
		}
		if err := g.Wait(); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		if answers[i], err = a.ask(ctx, r); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		g, gctx = group(ctx)
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	byName := map[string]answer{}
	for i, r := range all {
		if _, twice := byName[r.name]; twice {
			return nil, fmt.Errorf("two cases are named %q", r.name)
		}
		byName[r.name] = answers[i]
	}
	return byName, nil
}

func group(ctx context.Context) (*errgroup.Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	return g, ctx
}

// judge compares all answers. A reason that nothing asked for fails as well, so that the
// table only holds what is so.
func judge(t *testing.T, ours, theirs map[string]answer) {
	needed := map[justified]bool{}
	for _, r := range cases() {
		t.Run(strings.ReplaceAll(r.name, " ", "_"), func(t *testing.T) {
			want, ok := theirs[r.name]
			if !ok {
				t.Fatal("upstream's answer is not recorded; run `./task differential -- -record`")
			}
			if *shown != "" && strings.HasPrefix(r.name, *shown) {
				show(t, "rutter", ours[r.name])
				show(t, "upstream", want)
			}
			for i, d := range unjustified(r.name, compare(ours[r.name], want), needed) {
				if i == maxShown {
					t.Error("and more")
					break
				}
				t.Errorf("%s %s: %s", r.method, r.path, d)
			}
		})
	}
	for _, reason := range unneeded(needed) {
		t.Errorf("no such difference any more: %s", reason)
	}
}

// maxShown differences of one case are printed.
const maxShown = 12

func show(t *testing.T, who string, a answer) {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s", who, text)
}

// keepRecord writes one line for each case, in order, so that changes are easy to read.
func keepRecord(t *testing.T, answers map[string]answer) {
	t.Helper()
	var out strings.Builder
	out.WriteString("{\n")
	all := cases()
	for i, r := range all {
		name, err := json.Marshal(r.name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(answers[r.name])
		if err != nil {
			t.Fatal(err)
		}
		comma := ","
		if i == len(all)-1 {
			comma = ""
		}
		fmt.Fprintf(&out, "%s: %s%s\n", name, text, comma)
	}
	out.WriteString("}\n")
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, out.String())
	if err := errors.Join(err, w.Close(), os.WriteFile(recordFile, packed.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func recorded(t *testing.T) map[string]answer {
	t.Helper()
	f, err := os.Open(recordFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", recordFile, err)
	}
	var answers map[string]answer
	decoder := json.NewDecoder(unpacked)
	decoder.UseNumber()
	if err := decoder.Decode(&answers); err != nil {
		t.Fatalf("%s: %v", recordFile, err)
	}
	return answers
}
