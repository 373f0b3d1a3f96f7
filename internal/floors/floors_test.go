package floors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module is our own import path.
const module = "espalier"

// floor is one line of the drawing: the packages at or below the path may
// import those of the floors in may, and one another. An entry of may that ends
// in "/..." stands for all floors below that folder.
type floor struct {
	path string
	may  []string
}

// anything stands for every package of the module.
const anything = "*"

// The drawing, from the top to the bottom. The longest path that fits counts,
// so dataplane/xfrm is not dataplane. internal/event and internal/secret stand
// at the bottom: all may import them.
var floors = []floor{
	{"cmd", []string{"ike/...", "dataplane/...", "internal/...", "bpf", "images"}},
	{"tools", []string{anything}},

	{"ike/vici", []string{"ike/engine", "ike/config", "ike/sa", "ike/lease", "ike/auth", "ike/pki", "ike/suite", "ike/wire", "dataplane", "dataplane/selector"}},
	{"ike/updown", []string{"ike/sa", "dataplane", "dataplane/selector"}},
	{"ike/engine", []string{"ike/config", "ike/sa", "ike/lease", "ike/auth", "ike/pki", "ike/suite", "ike/wire", "dataplane", "dataplane/selector"}},
	{"ike/config", []string{"ike/sa", "ike/lease", "ike/auth", "ike/pki", "ike/suite", "ike/wire", "dataplane", "dataplane/selector"}},
	{"ike/sa", []string{"ike/lease", "ike/auth", "ike/pki", "ike/suite", "ike/wire", "dataplane", "dataplane/selector"}},
	{"ike/lease", []string{"ike/wire"}},
	{"ike/auth", []string{"ike/pki", "ike/suite", "ike/wire"}},
	{"ike/pki", []string{"ike/suite", "ike/wire"}},
	{"ike/suite", []string{"ike/wire"}},
	{"ike/wire", nil},

	// The interface is what the engine and its implementations have in common,
	// so the parts that implement or feed it stand on it.
	{"dataplane/tune", []string{"dataplane", "dataplane/flow", "dataplane/host", "dataplane/selector", "bpf"}}, // bpf: what its cost is measured on
	{"dataplane/xfrm", []string{"dataplane", "dataplane/dptest", "dataplane/host", "dataplane/selector"}},
	{"dataplane/flow", []string{"dataplane", "dataplane/dptest", "dataplane/host", "dataplane/selector", "bpf"}},
	{"dataplane/route", []string{"dataplane", "dataplane/host"}},
	{"dataplane/host", []string{"dataplane"}},
	{"dataplane/dptest", []string{"dataplane", "dataplane/selector"}}, // the suite for fake and kernel
	{"dataplane", []string{"dataplane/dptest", "dataplane/selector"}}, // its tests run the suite
	{"dataplane/selector", nil},
	{"bpf", nil},
	{"images", nil},

	{"internal/event", []string{"internal/secret"}},
	{"internal/secret", nil},
	{"internal/floors", nil},
}

// everywhere are the packages that any floor above them may import.
var everywhere = []string{"internal/event", "internal/secret"}

// pkg is what the test needs of go list's answer.
type pkg struct {
	ImportPath   string
	Dir          string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// floorOf is the floor that a package stands on; nil if the drawing has none.
func floorOf(path string) *floor {
	var best *floor
	for i, f := range floors {
		if (path == f.path || strings.HasPrefix(path, f.path+"/")) && (best == nil || len(f.path) > len(best.path)) {
			best = &floors[i]
		}
	}
	return best
}

// violations are the imports that go up or sideways, one line each, and the
// packages that the drawing does not have.
func violations(pkgs []pkg) []string {
	var out []string
	for _, p := range pkgs {
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		f := floorOf(from)
		if f == nil {
			out = append(out, fmt.Sprintf("%s: expected a floor of the drawing, got a package outside of it", from))
			continue
		}
		for _, imp := range imports(p) {
			to, own := strings.CutPrefix(imp, module+"/")
			if !own || allowed(f, to) {
				continue
			}
			out = append(out, fmt.Sprintf("%s (floor %s): expected imports from the floors below, got %s", from, f.path, to))
		}
	}
	slices.Sort(out)
	return out
}

// imports are those of the package and of its tests: a test that reaches up
// ties the floors together as well.
func imports(p pkg) []string {
	return slices.Concat(p.Imports, p.TestImports, p.XTestImports)
}

func allowed(f *floor, to string) bool {
	t := floorOf(to)
	if t == nil {
		return false // reported where it stands itself
	}
	if t == f || slices.Contains(everywhere, t.path) && f.path != "internal/secret" {
		return true
	}
	return slices.ContainsFunc(f.may, func(may string) bool {
		if under, ok := strings.CutSuffix(may, "/..."); ok {
			return strings.HasPrefix(t.path+"/", under+"/")
		}
		return may == anything || may == t.path
	})
}

// load asks the go command for the import graph of the module, for every
// package, tests included.
func load(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Imports,TestImports,XTestImports", module+"/...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			t.Fatalf("go list: %v: %s", err, ee.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestFloors(t *testing.T) {
	pkgs := load(t)
	for _, must := range []string{"ike/wire", "ike/sa", "ike/engine", "dataplane", "internal/event"} {
		if !slices.ContainsFunc(pkgs, func(p pkg) bool { return p.ImportPath == module+"/"+must }) {
			t.Errorf("expected %s in the import graph: the test would see nothing", must)
		}
	}
	for _, v := range violations(pkgs) {
		t.Error(v)
	}
}

// TestPlanted shows that what the floors forbid is found.
func TestPlanted(t *testing.T) {
	for _, c := range []struct {
		from, to string
		bad      bool
	}{
		{"ike/engine", "dataplane/xfrm", true},
		{"ike/sa", "bpf", true},
		{"ike/sa", "ike/engine", true},
		{"ike/sa", "ike/config", true},
		{"ike/engine", "ike/vici", true},
		{"ike/wire", "ike/suite", true},
		{"ike/wire", "dataplane", true},
		{"dataplane", "ike/sa", true},
		{"dataplane", "dataplane/xfrm", true},
		{"dataplane/xfrm", "ike/wire", true},
		{"dataplane/selector", "dataplane", true},
		{"internal/event", "ike/wire", true},
		{"internal/secret", "internal/event", true},
		{"ike/sa", "tools/lab/vm", true},
		{"ike/engine", "cmd/espalierd", true},
		{"cmd/espalierd", "tools/lab", true},
		{"brandnew/thing", "ike/wire", true},
		{"ike/engine", "ike/engine/sockets", false},
		{"ike/engine/sockets", "ike/sa", false},
		{"ike/sa", "dataplane", false},
		{"ike/sa", "dataplane/selector", false},
		{"ike/auth", "internal/secret", false},
		{"cmd/espalierd", "dataplane/xfrm", false},
		{"cmd/espalierd", "ike/engine", false},
		{"cmd/espctl", "ike/vici", false},
		{"dataplane/xfrm", "dataplane", false},
		{"dataplane/flow", "bpf", false},
		{"tools/lab/e2e", "dataplane/xfrm", false},
	} {
		got := violations([]pkg{{ImportPath: module + "/" + c.from, Imports: []string{"fmt", module + "/" + c.to}}})
		if (len(got) > 0) != c.bad {
			t.Errorf("%s imports %s: expected violation %v, got %q", c.from, c.to, c.bad, got)
		}
	}
	// A forbidden import of a test counts as well.
	if len(violations([]pkg{{ImportPath: module + "/ike/sa", XTestImports: []string{module + "/ike/engine"}}})) != 1 {
		t.Error("an import of a test that goes up was not found")
	}
}
