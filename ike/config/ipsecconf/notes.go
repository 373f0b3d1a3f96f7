package ipsecconf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Note is a line of the input that did not come through as it was.
type Note struct {
	File string
	Line int    // from 1; 0: the file as a whole
	Text string // the line without comment; of ipsec.secrets the kind of secret only
	// Reason says why, and what to do where something can be done.
	Reason string
	// Lost: the result does not do what the line asked for. Otherwise nothing is
	// missing, but something is to be known.
	Lost bool
}

// String is "file:line: text: reason".
func (n Note) String() string {
	at := n.File
	if n.Line > 0 {
		at += fmt.Sprintf(":%d", n.Line)
	}
	return printable(fmt.Sprintf("%s: %s: %s", at, n.Text, n.Reason))
}

// printable keeps what a file may hold from clearing terminals and from ending a comment.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

// notes collects notes, each once: settings of %default count for many conns.
type notes struct {
	list []Note
	seen map[Note]bool
}

func (n *notes) add(note Note) {
	if n.seen == nil {
		n.seen = map[Note]bool{}
	}
	if !n.seen[note] {
		n.seen[note] = true
		n.list = append(n.list, note)
	}
}

func (n *notes) lost(file string, number int, text, reason string) {
	n.add(Note{File: file, Line: number, Text: text, Reason: reason, Lost: true})
}

// sorted are the notes by place.
func (n *notes) sorted() []Note {
	slices.SortStableFunc(n.list, func(a, b Note) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return n.list
}
