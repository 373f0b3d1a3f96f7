package store

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := OpenAt(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMakeOnce(t *testing.T) {
	s := open(t)
	var built atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, err := s.Make("entry", func(dir string) error {
				built.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)
			})
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if built.Load() != 1 {
		t.Errorf("expected one build, got %d", built.Load())
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	s := open(t)
	broken := errors.New("broken")
	if _, err := s.Make("entry", func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o644); err != nil {
			return err
		}
		return broken
	}); !errors.Is(err, broken) {
		t.Fatalf("expected the build's error, got %v", err)
	}
	// What a killed process left behind does not become part of the next try.
	if err := os.MkdirAll(filepath.Join(s.Path("entry.new"), "rest"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := s.Make("entry", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("expected an empty entry, got %v, %v", left, err)
	}
}

func TestPrune(t *testing.T) {
	s := open(t)
	old := time.Now().Add(-2 * unused)
	for _, name := range []string{"root-old", "root-new", "kernel-old"} {
		if _, err := s.Make(name, func(string) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"root-old", "kernel-old"} {
		if err := os.Chtimes(s.Path(name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Prune("root-"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"root-old": false, "root-new": true, "kernel-old": true} {
		if _, err := os.Stat(s.Path(name)); (err == nil) != want {
			t.Errorf("%s: expected to be there: %v; got %v", name, want, err)
		}
	}
}
