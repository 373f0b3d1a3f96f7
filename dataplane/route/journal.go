package route

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"espalier/dataplane/host"
)

// object is one thing in the kernel; exactly one field is set.
type object struct {
	Route   *host.Route   `json:",omitempty"`
	Address *host.Address `json:",omitempty"`
	Rule    *host.Rule    `json:",omitempty"`
}

// key tells objects apart: what the kernel removes when it is told to.
func (x *object) key() string {
	switch {
	case x.Route != nil:
		return fmt.Sprintf("route %+v", *x.Route)
	case x.Address != nil:
		return fmt.Sprintf("address %+v", *x.Address)
	case x.Rule != nil:
		return fmt.Sprintf("rule %+v", *x.Rule)
	}
	return ""
}

// entry is a living object with its place in the order of additions.
type entry struct {
	object
	at uint64
}

// journal is the list of what this daemon has in the kernel's tables: a file of
// lines, "+" and an object before it is added, "-" and the object after it is
// gone. It survives the daemon, not the kernel. A line cut short by a crash
// ends the file: what it was to announce was not done yet.
type journal struct {
	path  string
	file  *os.File
	alive map[string]entry // by key
	count uint64           // of additions
	lines int              // in the file
}

const (
	journalName  = "route.journal"
	journalMagic = "espalier routes 1\n"
	compactLines = 1024 // superfluous lines before a compaction is worth it
)

// openJournal reads the folder's journal and returns what is alive in it.
func openJournal(dir string) (*journal, []object, error) {
	if dir == "" {
		return nil, nil, errors.New("journal of routes: expected a folder (Options.JournalDir)")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("journal of routes: %w", err)
	}
	j := &journal{path: filepath.Join(dir, journalName), alive: map[string]entry{}}
	b, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("journal of routes: %w", err)
	}
	rest, ok := bytes.CutPrefix(b, []byte(journalMagic))
	if !ok && !bytes.HasPrefix([]byte(journalMagic), b) {
		return nil, nil, fmt.Errorf("journal %s: starts with %q, expected %q: written by another version, whose addresses and routes only that version can remove", j.path, b[:min(len(b), len(journalMagic))], journalMagic)
	}
	for {
		line, more, whole := bytes.Cut(rest, []byte("\n"))
		var x object
		if !whole || len(line) < 2 || json.Unmarshal(line[1:], &x) != nil || x.key() == "" {
			break
		}
		rest = more
		j.note(line[0] == '+', x)
	}
	if err := j.rewrite(); err != nil {
		return nil, nil, err
	}
	return j, j.live(), nil
}

// live lists what is alive, the youngest first: the order of removal.
func (j *journal) live() []object {
	list := slices.SortedFunc(maps.Values(j.alive), func(a, b entry) int { return cmp.Compare(b.at, a.at) })
	out := make([]object, len(list))
	for i, x := range list {
		out[i] = x.object
	}
	return out
}

func (j *journal) note(added bool, x object) {
	if !added {
		delete(j.alive, x.key())
		return
	}
	j.count++
	j.alive[x.key()] = entry{x, j.count}
}

func (j *journal) add(x object) error    { return j.write(true, x) }
func (j *journal) remove(x object) error { return j.write(false, x) }

func (j *journal) write(added bool, x object) error {
	j.note(added, x)
	if j.lines > 2*len(j.alive)+compactLines {
		return j.rewrite()
	}
	j.lines++
	_, err := j.file.Write(line(added, x))
	if err != nil {
		return fmt.Errorf("journal of routes: %w", err)
	}
	return nil
}

func line(added bool, x object) []byte {
	sign := byte('-')
	if added {
		sign = '+'
	}
	b, _ := json.Marshal(x) // plain values: cannot fail
	return append(append([]byte{sign}, b...), '\n')
}

// rewrite replaces the file by one with the living objects only.
func (j *journal) rewrite() error {
	b := []byte(journalMagic)
	live := j.live()
	slices.Reverse(live)
	for _, x := range live {
		b = append(b, line(true, x)...)
	}
	const flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC | os.O_APPEND | unix.O_NOFOLLOW | unix.O_CLOEXEC
	f, err := os.OpenFile(j.path+".new", flags, 0o600)
	if err != nil {
		return fmt.Errorf("journal of routes: %w", err)
	}
	if _, err = f.Write(b); err == nil {
		err = os.Rename(f.Name(), j.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("journal of routes: %w", err), f.Close())
	}
	old := j.file
	j.file, j.lines = f, len(j.alive)
	if old != nil {
		return old.Close()
	}
	return nil
}

func (j *journal) close() error { return j.file.Close() }
