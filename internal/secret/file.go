package secret

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Keep returns the secret of n random octets that the file holds, and makes one,
// readable by its owner alone, when there is none. One that cannot be used, having
// another length or an owner or mode that would have let others read it, is replaced;
// replaced says why then, without any of its octets. Folders are made as needed.
// Errors: the file, or its folder, cannot be read or written.
func Keep(path string, n int) (b Bytes, replaced string, err error) {
	b, replaced, err = read(path, n)
	if err != nil || b != nil {
		return b, replaced, err
	}
	b = make(Bytes, n)
	if _, err := rand.Read(b); err != nil {
		return nil, replaced, err
	}
	return b, replaced, write(path, b)
}

// read returns nil when there is no file, or none that can be used.
func read(path string, n int) (b Bytes, why string, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", nil
	case errors.Is(err, syscall.ELOOP):
		return nil, "expected a file, found a link", nil
	case err != nil:
		return nil, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	owner, _ := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, "", fmt.Errorf("%s: expected a file, found %s", path, info.Mode())
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Sprintf("expected mode 0600, found %#o", info.Mode().Perm()), nil
	case owner != nil && int(owner.Uid) != os.Geteuid():
		return nil, fmt.Sprintf("expected user %d as its owner, found %d", os.Geteuid(), owner.Uid), nil
	case info.Size() != int64(n):
		return nil, fmt.Sprintf("expected %d octets, found %d", n, info.Size()), nil
	}
	b = make(Bytes, n)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	return b, "", nil
}

// write puts a file in its place as a whole, and on the disk.
func write(path string, b Bytes) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
