package vici

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// DefaultSocket is where the daemon listens and espctl looks.
const DefaultSocket = "/run/espalier/vici.sock"

// OwnerOnly stands for no group.
const OwnerOnly = -1

// Listen opens the control socket at path for its owner only, see ListenGroup.
func Listen(path string) (net.Listener, error) { return ListenGroup(path, OwnerOnly) }

// ListenGroup opens the control socket at path, with the permissions 0600, or 0660 and
// the group gid, from the first moment it can be reached. A socket that a dead daemon
// left behind is replaced. Its folder is made (0755) when it is missing.
// Errors: another daemon answers at path; path is something else than a socket; the
// group may not be given to files.
func ListenGroup(path string, gid int) (net.Listener, error) {
	if err := checkFree(path); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := enterable(dir, gid); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Bound in a folder that only we can enter, then moved: the umask, which is
	// the process's and not ours to change, never decides who may connect.
	tmp, err := os.MkdirTemp(dir, ".v")
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer os.RemoveAll(tmp)
	inner := filepath.Join(tmp, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: inner, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(permit(inner, gid), os.Rename(inner, path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	st, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return &listener{Listener: l, path: path, file: st}, nil
}

// permit says who may connect.
func permit(socket string, gid int) error {
	if gid == OwnerOnly {
		return os.Chmod(socket, 0o600)
	}
	return errors.Join(os.Chown(socket, -1, gid), os.Chmod(socket, 0o660))
}

// enterable lets the group through a folder that is its owner's alone.
func enterable(dir string, gid int) error {
	if gid == OwnerOnly {
		return nil
	}
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm()&0o011 != 0 {
		return err
	}
	return errors.Join(os.Chown(dir, -1, gid), os.Chmod(dir, st.Mode().Perm()|0o010))
}

// checkFree refuses a path at which a daemon answers, or which is no socket.
func checkFree(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("control socket %s: expected a socket or nothing, found a %s", path, kindOf(st.Mode()))
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("control socket %s: another daemon answers there", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket %s: cannot tell whether a daemon answers there: %w", path, err)
	}
	return nil
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m.IsRegular():
		return "regular file"
	case m.Type() == fs.ModeSymlink:
		return "symbolic link"
	}
	return "special file"
}

// listener removes its socket when it closes, unless another took the name.
type listener struct {
	net.Listener
	path string
	file fs.FileInfo
}

func (l *listener) Close() error {
	if st, err := os.Lstat(l.path); err == nil && os.SameFile(st, l.file) {
		os.Remove(l.path)
	}
	return l.Listener.Close()
}
