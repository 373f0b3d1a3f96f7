package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
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
