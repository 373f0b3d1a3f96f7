package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestLoadOrder(t *testing.T) {
	const dep = `kernel/fs/netfs/netfs.ko.xz:
kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/drivers/char/virtio-rng.ko:
kernel/unrelated.ko: kernel/fs/netfs/netfs.ko.xz
`
	got := loadOrder(dep, []string{"virtio_console", "9pnet_virtio", "9p", "virtio_rng"})
	want := []string{"kernel/fs/netfs/netfs.ko.xz", "kernel/net/9p/9pnet.ko.xz", "kernel/net/9p/9pnet_virtio.ko.xz", "kernel/fs/9p/9p.ko.xz",
		"kernel/drivers/char/virtio-rng.ko"}
	if !slices.Equal(got, want) {
		t.Errorf("expected %q, got %q", want, got)
	}
}

func TestRunsThreadsSafely(t *testing.T) {
	for version, want := range map[string]bool{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)": false, "QEMU emulator version 8.0.4": false, "QEMU emulator version 8.1.0": true,
		"QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)": true, "something else": false,
	} {
		if got := RunsThreadsSafely(version); got != want {
			t.Errorf("%s: expected %v", version, want)
		}
	}
}

func TestExport(t *testing.T) {
	if got := export("share0", "/a,b"); !strings.Contains(got, "path=/a,,b,") {
		t.Errorf("expected the comma doubled, got %s", got)
	}
	if got := diskArgs("root", "/a,b"); !strings.Contains(got[1], "file=/a,,b,") || !strings.Contains(got[1], "readonly=on") {
		t.Errorf("expected the comma doubled and the disk read-only, got %q", got)
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{{nil, 9}, {fmt.Errorf("x: %w", ErrTimeout), 124}, {context.Canceled, 130}, {errors.New("died"), 125}} {
		if got := Status(9, c.err); got != c.want {
			t.Errorf("%v: expected %d, got %d", c.err, c.want, got)
		}
	}
}

// TestCpio has cpio(1) list what we wrote, where there is one: the kernel is the only other reader.
func TestCpio(t *testing.T) {
	var b bytes.Buffer
	c := &cpio{w: bufio.NewWriter(&b)}
	c.add("dir", modeDir, nil, 0, 0)
	c.add("dir/file", modeFile, []byte("12345"), 0, 0)
	c.add("dir/null", modeChar, nil, 1, 3)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	if b.Len()%4 != 0 || !strings.HasPrefix(b.String(), "070701") || !strings.Contains(b.String(), "12345\x00\x00\x00070701") {
		t.Errorf("expected members padded to 4 bytes, got %q", b.String())
	}
	if _, err := exec.LookPath("cpio"); err != nil {
		return
	}
	cmd := exec.Command("cpio", "--list", "--quiet")
	cmd.Stdin = &b
	out, err := cmd.Output()
	if err != nil || string(out) != "dir\ndir/file\ndir/null\n" {
		t.Errorf("cpio lists %q, %v", out, err)
	}
}
