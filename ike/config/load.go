package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// fileSystem is what loading needs of the box; tests put memory in its place.
type fileSystem interface {
	// read returns a regular file's content and mode, never more than most bytes.
	read(path string, most int64) ([]byte, fs.FileMode, error)
	glob(pattern string) ([]string, error)
	// list returns the paths of the files in a folder; a missing folder is empty.
	list(dir string) ([]string, error)
}

// osFS is the box itself.
type osFS struct{}

// errNotRegular refuses devices, pipes and folders: reading them may block.
var errNotRegular = errors.New("not a regular file")

// errTooBig refuses what can't be a configuration, key or certificate.
var errTooBig = errors.New("more than the limit of bytes")

func (osFS) read(path string, most int64) ([]byte, fs.FileMode, error) {
	if st, err := os.Stat(path); err != nil {
		return nil, 0, err
	} else if !st.Mode().IsRegular() {
		return nil, 0, errNotRegular
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, errNotRegular
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = errTooBig
	}
	return b, st.Mode(), err
}

func (osFS) glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }

func (osFS) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, err
}

// cause says in words why a file could not be read.
func cause(err error) string {
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file"
	case errors.Is(err, fs.ErrPermission):
		return "one that may not be read"
	case errors.As(err, &pe):
		return pe.Err.Error()
	}
	return err.Error()
}

// loader reads a file and what it includes.
type loader struct {
	fs    fileSystem
	rep   *report
	stack []string // files being read, outermost first
	modes map[string]fs.FileMode
	items int
	reads int
	bytes int64
}

func newLoader(fsys fileSystem, rep *report) *loader {
	return &loader{fs: fsys, rep: rep, modes: map[string]fs.FileMode{}}
}

// count takes one section or setting from the budget.
func (l *loader) count(pos Pos) bool {
	if l.items++; l.items > maxItems {
		l.rep.add(pos, fmt.Sprintf("at most %d sections and settings", maxItems), "one more", "")
		return false
	}
	return true
}

// file reads one file's items into a section. from is where it is included, or
// the file itself.
func (l *loader) file(path string, into *Section, outer *parser, from Pos) {
	if slices.Contains(l.stack, path) {
		l.rep.add(from, "a file that does not include itself", "a loop: "+strings.Join(append(slices.Clone(l.stack), path), " includes "), "")
		return
	}
	if len(l.stack) >= maxIncludes {
		l.rep.add(from, fmt.Sprintf("at most %d files including each other", maxIncludes), "one more", "")
		return
	}
	if l.reads++; l.reads > maxFiles {
		l.rep.add(from, fmt.Sprintf("at most %d files", maxFiles), "one more", "")
		return
	}
	b, mode, err := l.fs.read(path, maxBytes-l.bytes)
	if err != nil {
		what := "a readable configuration file"
		if outer != nil {
			what = "a readable file " + quote(path)
		}
		l.rep.add(from, what, cause(err), "")
		return
	}
	l.bytes += int64(len(b))
	l.modes[path] = mode
	if _, ok := l.rep.files[path]; !ok {
		l.rep.files[path] = len(l.rep.files) + 1
	}
	l.stack = append(l.stack, path)
	p := &parser{file: path, src: string(b), line: 1, ld: l}
	if outer != nil {
		p.depth, p.path = outer.depth, outer.path
	}
	if p.checkText() {
		p.items(into, false)
	}
	l.stack = l.stack[:len(l.stack)-1]
}

// checkText refuses what is not text, at its first byte.
func (p *parser) checkText() bool {
	for i, r := range p.src {
		_, size := utf8.DecodeRuneInString(p.src[i:])
		if r == 0 || r == utf8.RuneError && size == 1 {
			lines := strings.Split(p.src[:i], "\n")
			col := utf8.RuneCountInString(lines[len(lines)-1]) + 1
			p.ld.rep.add(Pos{p.file, len(lines), col}, "UTF-8 text", fmt.Sprintf("the byte 0x%02x", p.src[i]), "")
			return false
		}
	}
	return true
}

// include reads the files that a pattern names, in alphabetic order, relative
// to the including file. A pattern with wildcards may name none.
func (l *loader) include(into *Section, pattern string, outer *parser, pos Pos) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(outer.file), pattern)
	}
	if !strings.ContainsAny(pattern, "*?[") {
		l.file(pattern, into, outer, pos)
		return
	}
	paths, err := l.fs.glob(pattern)
	if err != nil {
		l.rep.add(pos, "a file name pattern", quote(pattern), "")
		return
	}
	slices.Sort(paths)
	for _, path := range paths {
		l.file(path, into, outer, pos)
		if l.rep.full() {
			return
		}
	}
}

// Parse reads configuration text without following it to schema or meaning;
// name stands for the file in positions. Errors: Errors. Include statements are
// followed on the box's files.
func Parse(name, text string) (*Section, error) {
	rep := newReport()
	root := parseText(rep, osFS{}, name, text)
	return root, rep.err()
}

// parseText is Parse with a choice of files.
func parseText(rep *report, fsys fileSystem, name, text string) *Section {
	l := newLoader(overlay{fsys, name, text}, rep)
	root := &Section{Pos: Pos{File: name}}
	l.file(name, root, nil, Pos{File: name})
	return root
}

// overlay is a file system with one file in memory.
type overlay struct {
	fileSystem
	name, text string
}

func (o overlay) read(path string, most int64) ([]byte, fs.FileMode, error) {
	if path == o.name {
		if int64(len(o.text)) > most {
			return nil, 0, errTooBig
		}
		return []byte(o.text), 0o600, nil
	}
	return o.fileSystem.read(path, most)
}
