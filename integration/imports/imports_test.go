package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/rutter-project/rutter/"

// pkg is what `go list` tells of a package.
type pkg struct {
	ImportPath, Dir, Doc               string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
	Module                             *struct{ Path string }
	Standard                           bool
}

// name is the import path inside this module.
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

// tests are what only tests import.
func (p pkg) tests() []string { return slices.Concat(p.TestImports, p.XTestImports) }

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Dir,Doc,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports,Module,Standard"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	var all []pkg
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// under tells whether a path is the prefix or below it.
func under(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

func top(name string) string {
	folder, _, _ := strings.Cut(name, "/")
	return folder
}

func TestRooms(t *testing.T) {
	for _, p := range list(t, "./...") {
		from := top(p.name())
		r, ok := rooms[from]
		if !ok {
			t.Errorf("%s is in no room; give its folder a place in the graph", p.ImportPath)
			continue
		}
		for _, imp := range append(slices.Clone(p.Imports), p.tests()...) {
			to, ours := strings.CutPrefix(imp, module)
			if !ours || top(to) == from || slices.Contains(r.may, top(to)) {
				continue
			}
			if _, ok := testRooms[from][to]; ok && !slices.Contains(p.Imports, imp) {
				continue
			}
			t.Errorf("%s imports %s: %s", p.name(), to, r.why)
		}
	}
}

func TestOwners(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, o := range owners {
			for _, imp := range p.Imports {
				if !under(imp, o.prefix) || slices.ContainsFunc(o.may, func(folder string) bool { return under(p.name(), folder) }) {
					continue
				}
				if _, ok := ownerExceptions[[2]string{p.name(), imp}]; !ok {
					t.Errorf("%s imports %s, which belongs to %v: %s", p.name(), imp, o.may, o.why)
				}
			}
		}
	}
}

func TestBanned(t *testing.T) {
	ours := list(t, "./...")
	linked := list(t, "-deps", "./cmd/rutter")
	for _, b := range banned {
		match := func(path string) bool {
			return b.except[path] == "" && (path == b.prefix || !b.exact && under(path, b.prefix))
		}
		for _, p := range ours {
			for _, imp := range p.Imports {
				if match(imp) {
					t.Errorf("%s imports %s: %s", p.name(), imp, b.why)
				}
			}
		}
		for _, p := range linked {
			if b.absent && match(p.ImportPath) {
				t.Errorf("%s is linked into rutter: %s", p.ImportPath, b.why)
			}
		}
	}
}

func TestPure(t *testing.T) {
	for _, p := range list(t, "./...") {
		if !slices.Contains(pure, p.name()) {
			continue
		}
		for _, imp := range p.Imports {
			if why := impure[imp]; why != "" {
				t.Errorf("%s imports %s, but it only decides: %s", p.name(), imp, why)
			}
		}
	}
}

// TestExceptionsAreUsed: an exception that nobody needs is a hole.
func TestExceptionsAreUsed(t *testing.T) {
	used := map[[2]string]bool{}
	rooms := map[[2]string]bool{}
	var names []string
	for _, p := range list(t, "./...") {
		names = append(names, p.name())
		for _, imp := range p.Imports {
			used[[2]string{p.name(), imp}] = true
		}
		for _, imp := range p.tests() {
			rooms[[2]string{top(p.name()), strings.TrimPrefix(imp, module)}] = true
		}
	}
	for e := range ownerExceptions {
		if !used[e] {
			t.Errorf("the exception %v is not needed", e)
		}
	}
	for from, exceptions := range testRooms {
		for to := range exceptions {
			if !rooms[[2]string{from, to}] {
				t.Errorf("the exception of %s for %s is not needed", from, to)
			}
		}
	}
	for _, name := range pure {
		if !slices.Contains(names, name) {
			t.Errorf("there is no package %s", name)
		}
	}
	linked := map[string]bool{}
	for _, p := range list(t, "-deps", "./cmd/rutter") {
		linked[p.ImportPath] = true
	}
	for _, b := range banned {
		for path := range b.except {
			if !linked[path] {
				t.Errorf("the exception %s is not needed", path)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.Doc != "" {
			continue
		}
		documented := false
		if len(p.GoFiles) == 0 { // a package of tests has its comment in a test
			for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
				file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
				if err != nil {
					t.Fatal(err)
				}
				documented = documented || file.Doc != nil
			}
		}
		if !documented {
			t.Errorf("%s has no package comment", p.name())
		}
	}
}

// TestReasons: ARCHITECTURE.md gives a reason for every module that our code imports.
func TestReasons(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	modules := map[string]string{} // package to module
	for _, p := range list(t, "-deps", "-test", "./...") {
		if p.Module != nil {
			modules[p.ImportPath] = p.Module.Path
		}
	}
	missing := map[string]bool{}
	for _, p := range list(t, "./...") {
		for _, imp := range append(slices.Clone(p.Imports), p.tests()...) {
			m := modules[imp]
			if m != "" && m+"/" != module && !strings.Contains(string(text), "| `"+m+"` |") {
				missing[m] = true
			}
		}
	}
	for m := range missing {
		t.Errorf("ARCHITECTURE.md gives no reason for the dependency %s", m)
	}
}
