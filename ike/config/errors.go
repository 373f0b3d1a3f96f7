package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Pos is a place in a configuration file. Line and Col count from 1, Col in
// characters; 0 means the file as a whole.
type Pos struct {
	File      string
	Line, Col int
}

// String writes "file:line:col", or the file alone.
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Error is one mistake in the configuration: what was expected, what was found,
// and where. It never holds a secret.
type Error struct {
	File      string
	Line, Col int // 0: the file as a whole
	Expected  string
	Found     string
	Hint      string // how to mend it, when that is known
}

// Error writes the mistake in one line.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s: expected %s, found %s", Pos{e.File, e.Line, e.Col}, e.Expected, e.Found)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Errors are all mistakes of a configuration, by place, at least one.
type Errors []*Error

// Error writes one mistake a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find the single mistakes.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, err := range e {
		out[i] = err
	}
	return out
}

// maxErrors bounds how many mistakes are collected; a file that is not a
// configuration at all has one in each line.
const maxErrors = 100

// report collects mistakes, each once.
type report struct {
	errs  Errors
	seen  map[Error]bool
	files map[string]int // order in which files were first read
}

func newReport() *report {
	return &report{seen: map[Error]bool{}, files: map[string]int{}}
}

// add records a mistake at a place.
func (r *report) add(p Pos, expected, found, hint string) {
	e := Error{p.File, p.Line, p.Col, expected, found, hint}
	if r.seen[e] || len(r.errs) >= maxErrors {
		return
	}
	r.seen[e] = true
	r.errs = append(r.errs, &e)
}

// full reports whether further mistakes would be left out.
func (r *report) full() bool { return len(r.errs) >= maxErrors }

// list returns the mistakes by file and place.
func (r *report) list() Errors {
	rank := func(file string) int { // others, such as keys, come after the configuration
		return cmp.Or(r.files[file], len(r.files)+1)
	}
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(rank(a.File), rank(b.File)), cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return r.errs
}

// err returns the mistakes as an error, nil when there are none.
func (r *report) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	return r.list()
}

// quote writes text found in a file so that it fits into one line of a message.
func quote(s string) string {
	const most = 60
	cut := []rune(s)
	if len(cut) > most {
		return fmt.Sprintf("%q...", string(cut[:most]))
	}
	return fmt.Sprintf("%q", s)
}
