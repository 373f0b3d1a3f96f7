package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"espalier/tools/lab/guest"
)

// maxTransfer is the largest 9p message in bytes; the kernel's default of 128 KiB costs many more exits under emulation.
const maxTransfer = 512 << 10

// mountKernelFS mounts /proc, /sys and /dev below root.
func mountKernelFS(root string) error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := mount(m.kind, m.kind, root+m.at, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mounting %s at %s: %w", m.kind, root+m.at, err)
		}
	}
	return nil
}

// mount makes the mount point and mounts. It returns the bare errno.
func mount(source, kind, at string, flags uintptr, data string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	return unix.Mount(source, at, kind, flags, data)
}

// loadModules loads the modules of the initial root in the order of its list; a guest without the list has all built in.
func loadModules() error {
	list, err := os.Open("/modules/list")
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the list of modules: %w", err)
	}
	defer list.Close()
	for sc := bufio.NewScanner(list); sc.Scan(); {
		f, err := os.Open(filepath.Join("/modules", sc.Text()))
		if err != nil {
			return fmt.Errorf("loading module %s: %w", sc.Text(), err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("loading module %s: %w", sc.Text(), err)
		}
	}
	return nil
}

// openChannel opens the named device, or the virtio port of guest.PortName, as raw bytes.
func openChannel(device string) (*os.File, error) {
	if device == "" {
		var err error
		if device, err = await("virtio port named "+guest.PortName, "/sys/class/virtio-ports/*/name", guest.PortName); err != nil {
			return nil, err
		}
	}
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the channel %s: %w", device, err)
	}
	if t, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		t.Oflag, t.Lflag, t.Iflag = 0, 0, 0
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
			return nil, fmt.Errorf("making the channel %s raw: %w", device, err)
		}
	}
	return os.NewFile(uintptr(fd), device), nil
}

// hostFS mounts a directory of the host through hostfs.
func hostFS(path, at string, flags uintptr) error {
	err := mount("none", "hostfs", at, flags, "hostfs="+path)
	if err != nil { // before 6.11 the option was the bare path
		err = mount("none", "hostfs", at, flags, path)
	}
	return err
}

// share mounts a directory of the host, to be read and written: by its path through hostfs, by its tag through 9p.
func share(transport, tag, path, at string) error {
	if transport == guest.TransportHostFS {
		return hostFS(path, at, 0)
	}
	return mount(tag, "9p", at, 0, fmt.Sprintf("trans=virtio,version=9p2000.L,msize=%d,cache=mmap", maxTransfer))
}

// disk mounts the disk with that serial number, read-only.
func disk(serial, at string) error {
	device, err := await("disk with the serial number "+serial, "/sys/block/vd*/serial", serial)
	if err != nil {
		return err
	}
	return mount(device, guest.DiskFS, at, unix.MS_RDONLY, "")
}

// await is the path below /dev of the device of which a file in sysfs, whose path matches the pattern, says what is wanted. Devices
// appear a moment after their driver.
func await(what, pattern, want string) (string, error) {
	for range 100 {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.TrimSpace(string(b)) == want {
				return "/dev/" + filepath.Base(filepath.Dir(f)), nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", fmt.Errorf("no %s", what)
}

// enterRoot makes the guest's root (the given tree under an overlay in memory, everything mounted that a Debian
// system expects, the shares) and moves into it. The kernel's module loader follows, as it shares this process's root.
func enterRoot(spec *guest.Spec) error {
	const stage, root = "/new", "/new/root"
	if err := mount("stage", "tmpfs", stage, 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting a tmpfs at %s: %w", stage, err)
	}
	for _, d := range []string{"/new/up", "/new/work", root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := lower(spec, "/new/low"); err != nil {
		return fmt.Errorf("mounting what the guest's root begins with: %w", err)
	}
	if err := mount("overlay", "overlay", root, 0, "lowerdir=/new/low,upperdir=/new/up,workdir=/new/work"); err != nil {
		return fmt.Errorf("mounting the overlay: %w", err)
	}
	if err := mountSystem(root); err != nil {
		return err
	}
	if spec.Modules {
		if err := disk(guest.ModulesDisk, root+"/usr/lib/modules"); err != nil {
			return fmt.Errorf("mounting the kernel's modules: %w", err)
		}
	}
	for _, s := range spec.Shares {
		if err := share(spec.Transport, s.Tag, s.Path, root+s.Path); err != nil {
			return fmt.Errorf("mounting the share %s: %w", s.Path, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return settle()
}

// lower mounts the given tree that lies below the overlay.
func lower(spec *guest.Spec, at string) error {
	if spec.Transport == guest.TransportHostFS {
		return hostFS(spec.Root, at, unix.MS_RDONLY)
	}
	return disk(guest.RootDisk, at)
}

// mountSystem mounts the pseudo file systems of a Debian system below root. What a kernel may lack is let go; a
// command that needs it will say so.
func mountSystem(root string) error {
	if err := mountKernelFS(root); err != nil {
		return err
	}
	for _, m := range []struct {
		kind, at, data string
		optional       bool
	}{
		{"devpts", "/dev/pts", "mode=620,ptmxmode=666", false},
		{"tmpfs", "/dev/shm", "mode=1777", false},
		{"tmpfs", "/run", "mode=755", false},
		{"tmpfs", "/tmp", "mode=1777", false},
		{"bpf", "/sys/fs/bpf", "", true},
		{"cgroup2", "/sys/fs/cgroup", "", true},
		{"tracefs", "/sys/kernel/tracing", "", true},
		{"debugfs", "/sys/kernel/debug", "", true},
	} {
		if err := mount(m.kind, m.kind, root+m.at, 0, m.data); err != nil && !m.optional {
			return fmt.Errorf("mounting %s at %s: %w", m.kind, m.at, err)
		}
	}
	for _, d := range []string{"/run/lock", "/run/netns"} {
		if err := os.MkdirAll(root+d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// settle does in the new root what a booted system has: a host name, standard streams, lo up.
func settle() error {
	for link, to := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, link); err != nil && !os.IsExist(err) {
			return err
		}
	}
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a socket to bring lo up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	return nil
}
