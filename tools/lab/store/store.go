// Package store keeps what is dear to make (guest roots, kernels, initial file systems) in the user's cache directory. An entry
// is a directory that appears whole or not at all.
package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unused is how long an entry lies untouched before Prune removes it.
const unused = 14 * 24 * time.Hour

// Store is a directory of entries, shared by all lab processes of a user.
type Store struct{ dir string }

// Open makes the store ${XDG_CACHE_HOME:-~/.cache}/espalier-lab, if need be, and returns it.
func Open() (*Store, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("finding the cache directory: %w", err)
	}
	return OpenAt(filepath.Join(base, "espalier-lab"))
}

// OpenAt makes the store in the directory, if need be, and returns it.
func OpenAt(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the lab's cache: %w", err)
	}
	return &Store{dir}, nil
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// Path is where the entry of that name lies, or would.
func (s *Store) Path(name string) string { return filepath.Join(s.dir, name) }

// Make returns the directory of the entry. When it does not exist yet, build fills a fresh directory that then becomes the entry;
// other processes that want the same entry wait. When build fails nothing is left.
func (s *Store) Make(name string, build func(dir string) error) (string, error) {
	unlock, err := s.Lock(name)
	if err != nil {
		return "", err
	}
	defer unlock()
	entry := s.Path(name)
	if _, err := os.Stat(entry); err == nil {
		now := time.Now()
		return entry, os.Chtimes(entry, now, now)
	}
	temp := entry + ".new"
	if err := os.RemoveAll(temp); err != nil { // of a process that was killed; the lock says that it is gone
		return "", err
	}
	if err := os.Mkdir(temp, 0o755); err != nil {
		return "", err
	}
	if err := build(temp); err != nil {
		_ = os.RemoveAll(temp) // the build's error says more
		return "", err
	}
	now := time.Now()
	if err := os.Chtimes(temp, now, now); err != nil {
		return "", err
	}
	return entry, os.Rename(temp, entry)
}

// Lock waits until no other process holds the lock of that name and takes it.
func (s *Store) Lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(s.Path("."+name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s in the lab's cache: %w", name, err)
	}
	return func() { f.Close() }, nil
}

// Prune removes entries whose name begins with the prefix and that were not used for two weeks.
func (s *Store) Prune(prefix string) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasPrefix(e.Name(), prefix) || time.Since(info.ModTime()) < unused {
			continue
		}
		if err := os.RemoveAll(s.Path(e.Name())); err != nil {
			return err
		}
	}
	return nil
}
