package secret

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "var", "lib", "s")
	first, why, err := Keep(path, 32)
	if err != nil || why != "" || len(first) != 32 || bytes.Equal(first, make([]byte, 32)) {
		t.Fatalf("a new one: %d octets, %q, %v", len(first), why, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if again, why, err := Keep(path, 32); err != nil || why != "" || !again.Equal(first) {
		t.Fatalf("the second time: %q, %v", why, err)
	}
	for _, c := range []struct {
		name, want string
		spoil      func() error
	}{
		{"short", "expected 32 octets, found 31", func() error { return os.Truncate(path, 31) }},
		{"empty", "found 0", func() error { return os.Truncate(path, 0) }},
		{"long", "found 33", func() error { return os.Truncate(path, 33) }},
		{"readable", "mode 0600, found 0640", func() error { return os.Chmod(path, 0o640) }},
		{"link", "found a link", func() error { return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)) }},
	} {
		if err := c.spoil(); err != nil {
			t.Fatal(err)
		}
		next, why, err := Keep(path, 32)
		if err != nil || !strings.Contains(why, c.want) || len(next) != 32 || next.Equal(first) {
			t.Errorf("%s: %q, %v, expected a new one since %q", c.name, why, err, c.want)
		}
		if again, why, err := Keep(path, 32); err != nil || why != "" || !again.Equal(next) {
			t.Errorf("%s: it is not kept: %q, %v", c.name, why, err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v", c.name, info.Mode(), err)
		}
		first = next
	}
	if _, _, err := Keep(filepath.Join(path, "below"), 32); err == nil {
		t.Error("no error where a file is in the way")
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
