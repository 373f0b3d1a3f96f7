package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"espalier/tools/lab/guest"
	"espalier/tools/lab/vm"
)

func TestShareDirs(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, ab, other := filepath.Join(base, "a"), filepath.Join(base, "a/b"), filepath.Join(base, "ab")
	for _, d := range []string{ab, other} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(a, filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	got, err := shareDirs([]string{ab, a, other, a, filepath.Join(base, "link")})
	if want := []string{a, other}; err != nil || !slices.Equal(got, want) {
		t.Errorf("expected %q, got %q, %v", want, got, err)
	}
	for _, bad := range []string{"/", filepath.Join(base, "missing"), "/dev/null"} {
		if _, err := shareDirs([]string{bad}); err == nil {
			t.Errorf("%s: expected an error", bad)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("ESPALIER_X", "1")
	t.Setenv("LAB_TEST_SET", "2")
	f := machineFlags{Env: []string{"A=b=c", "LAB_TEST_SET"}}
	env, err := f.environment()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ESPALIER_X=1", "A=b=c", "LAB_TEST_SET=2", "HOME=/root"} {
		if !slices.Contains(env, want) {
			t.Errorf("expected %s in %q", want, env)
		}
	}
	if _, err := (&machineFlags{Env: []string{"LAB_TEST_UNSET"}}).environment(); err == nil {
		t.Error("expected an error for a variable that is not set")
	}
}

func TestWithTaggedTests(t *testing.T) {
	tagged := []pkg{{ImportPath: "a", TestGoFiles: []string{"x", "lab"}}, {ImportPath: "b", XTestGoFiles: []string{"x"}}, {ImportPath: "c", XTestGoFiles: []string{"lab"}}}
	plain := []pkg{{ImportPath: "a", TestGoFiles: []string{"x"}}, {ImportPath: "b", XTestGoFiles: []string{"x"}}}
	var names []string
	for _, p := range withTaggedTests(tagged, plain) {
		names = append(names, p.ImportPath)
	}
	if want := []string{"a", "c"}; !slices.Equal(names, want) {
		t.Errorf("expected %q, got %q", want, names)
	}
}

func TestCheckFlags(t *testing.T) {
	good := machineFlags{Accel: "auto", CPUs: 2, Mem: 2048, TimeLimit: time.Minute}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*machineFlags){
		"cpus": func(f *machineFlags) { f.CPUs = 0 }, "mem": func(f *machineFlags) { f.Mem = 100 }, "time": func(f *machineFlags) { f.TimeLimit = 0 },
		"two kernels": func(f *machineFlags) { f.UML, f.Kernel = "linux", "trixie" },
	} {
		f := good
		change(&f)
		if f.check() == nil {
			t.Errorf("%s: expected an error", name)
		}
	}
}

// TestUnits shares the tests of a package out: each that has the build tag is one unit, the others are one together.
func TestUnits(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a_test.go":     "package a\nfunc TestQuick(t *testing.T) {}\nfunc TestAlso(t *testing.T) {}\nfunc TestMain(m *testing.M) {}\nfunc BenchmarkX(b *testing.B) {}\n",
		"a_lab_test.go": "package a\nfunc TestSlow(t *testing.T) {}\nfunc Testing(t *testing.T) {}\nfunc (x y) TestMethod(t *testing.T) {}\nfunc FuzzIt(f *testing.F) {}\n",
		"x_test.go":     "package a_test\nfunc ExampleIt() {}\nfunc TestSlower(t *testing.T) {}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plain := pkg{ImportPath: "x/a", Dir: dir, TestGoFiles: []string{"a_test.go"}}
	tagged := pkg{ImportPath: "x/a", Dir: dir, TestGoFiles: []string{"a_test.go", "a_lab_test.go"}, XTestGoFiles: []string{"x_test.go"}}
	for _, c := range []struct {
		run  string
		want []string
	}{
		{"", []string{"^(TestSlow)$", "^(FuzzIt)$", "^(ExampleIt)$", "^(TestSlower)$", "^(TestQuick|TestAlso)$"}},
		{"TestSlow$|TestAlso", []string{"^(TestSlow)$", "^(TestAlso)$"}},
		{"none", nil},
	} {
		units, err := unitsOf(tagged, plain, regexp.MustCompile(c.run))
		if err != nil {
			t.Fatal(err)
		}
		claims, got := map[string]bool{}, []string(nil)
		for _, s := range tagged.steps(units, []string{"bin", "-test.v"}, "/claims") {
			if s.Dir != dir || s.Argv[0] != "bin" || s.Argv[2] != "-test.v" || claims[s.Claim] || filepath.Dir(s.Claim) != "/claims" {
				t.Errorf("--run %q: %+v", c.run, s)
			}
			claims[s.Claim] = true
			got = append(got, strings.TrimPrefix(s.Argv[1], "-test.run="))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("--run %q: expected %q, got %q", c.run, c.want, got)
		}
	}
}

// claiming stands for machines whose guests claim their steps: it prints in small pieces, and fails as it is told.
type claiming struct {
	mu    sync.Mutex
	taken map[string]bool
}

func (*claiming) Describe() string { return "a test" }

func (c *claiming) Run(_ context.Context, job *vm.Job) (int, error) {
	run := func(s guest.Step, _ []string, stdout, stderr io.Writer) (int, error) {
		c.mu.Lock()
		taken := c.taken[s.Claim]
		c.taken[s.Claim] = true
		c.mu.Unlock()
		if taken {
			return 0, guest.ErrTaken
		}
		for i := range 50 {
			to := stdout
			if i%2 == 0 {
				to = stderr
			}
			fmt.Fprintf(to, "%s %d\n", s.Name, i)
		}
		return map[string]int{"fails": 7}[s.Name], nil
	}
	status := guest.RunSteps(&guest.Spec{Steps: job.Steps}, job.Stdout, job.Stderr, run, job.StepEnded)
	if job.Steps[0].Name == "dies" {
		return 0, vm.ErrTimeout
	}
	return status, nil
}

// TestRunJobs has machines share steps: each is run once, its output is in one piece, and what fails in one of them fails all.
func TestRunJobs(t *testing.T) {
	for first, want := range map[string]struct {
		status int
		err    error
	}{"works": {}, "fails": {7, nil}, "dies": {0, vm.ErrTimeout}} {
		steps := []guest.Step{{Name: first, Claim: first, Dir: "/"}}
		for i := range 40 {
			name := fmt.Sprintf("step%d", i)
			steps = append(steps, guest.Step{Name: name, Claim: name, Dir: "/"})
		}
		var status int
		var err error
		out := captured(t, func() {
			status, err = runJobs(t.Context(), &claiming{taken: map[string]bool{}}, vm.Job{Steps: steps}, 3)
		})
		if status != want.status || !errors.Is(err, want.err) {
			t.Errorf("%s: expected %d and %v, got %d and %v", first, want.status, want.err, status, err)
		}
		for _, s := range steps {
			var text strings.Builder
			for i := range 50 {
				fmt.Fprintf(&text, "%s %d\n", s.Name, i)
			}
			if strings.Count(out, text.String()) != 1 {
				t.Errorf("%s: expected the output of %s once and in one piece, got\n%s", first, s.Name, out)
			}
		}
	}
}

// captured is what f prints to either stream.
func captured(t *testing.T, f func()) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = file, file
	f()
	os.Stdout, os.Stderr = stdout, stderr
	b, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCheckJobs(t *testing.T) {
	for _, c := range []testCmd{{Jobs: 0}, {Jobs: 17}, {Jobs: 2, RunRE: "TestA/b"}, {Jobs: 2, RunRE: "("}, {Jobs: 2, machineFlags: machineFlags{Here: true}}} {
		if _, err := c.checkJobs(); !errors.Is(err, errUsage) {
			t.Errorf("%+v: expected a usage error, got %v", c, err)
		}
	}
	for _, c := range []testCmd{{Jobs: 1, RunRE: "TestA/b", machineFlags: machineFlags{Here: true}}, {Jobs: 2, RunRE: "TestA|TestB$"}, {Jobs: 2}} {
		if _, err := c.checkJobs(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
