package ipsecconf

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds on what is read. Real files stay far below them.
const (
	maxBytes    = 16 << 20 // all files together
	maxFiles    = 512
	maxIncludes = 16    // files including files
	maxSections = 20000 // conn and ca sections
	maxSettings = 400000
)

// setting is one key = value of a section, with its place.
type setting struct {
	key, value string
	file       string
	line       int
}

// section is "config setup", "conn NAME" or "ca NAME" as written.
type section struct {
	kind, name string
	file       string
	line       int
	settings   []setting // in order; of two with one key the later counts
	also       []setting // in order
}

// parser reads ipsec.conf and what it includes into sections.
type parser struct {
	files    Files
	notes    *notes
	sections []*section
	byName   map[string]*section // kind and name
	current  *section
	budget
}

// budget counts what reading may cost.
type budget struct {
	bytes, reads, settings int
}

// read returns a file's text, or what keeps it from being read.
func (b *budget) read(files Files, path string) (string, error) {
	if b.reads++; b.reads > maxFiles {
		return "", fmt.Errorf("expected at most %d files, found one more", maxFiles)
	}
	data, err := files.Read(path)
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", errors.New("there is no such file")
	case errors.As(err, &pe):
		return "", pe.Err
	case err != nil:
		return "", err
	}
	if b.bytes += len(data); b.bytes > maxBytes {
		return "", fmt.Errorf("expected at most %d bytes in all files together, found more", maxBytes)
	}
	if !utf8.Valid(data) || slices.Contains(data, 0) {
		return "", fmt.Errorf("expected UTF-8 text, found other bytes")
	}
	return string(data), nil
}

// file reads one file; stack are those that include it.
func (p *parser) file(path string, stack []string) error {
	text, err := p.read(p.files, path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	stack = append(slices.Clone(stack), path)
	for _, l := range splitLines(text) {
		p.statement(path, l, stack)
	}
	return nil
}

// line is a line without its comment, joined with those it continues in.
type line struct {
	text     string
	number   int
	indented bool
}

// splitLines cuts a text into lines; empty ones are left out.
func splitLines(text string) []line {
	var out []line
	raw := strings.Split(text, "\n")
	for i := 0; i < len(raw); i++ {
		l := line{number: i + 1, text: strings.TrimSuffix(raw[i], "\r")}
		for strings.HasSuffix(l.text, `\`) && i+1 < len(raw) {
			i++
			l.text = strings.TrimSuffix(l.text, `\`) + strings.TrimSuffix(raw[i], "\r")
		}
		l.indented = strings.HasPrefix(l.text, " ") || strings.HasPrefix(l.text, "\t")
		if l.text = strings.TrimSpace(uncomment(l.text)); l.text != "" {
			out = append(out, l)
		}
	}
	return out
}

// uncomment cuts off what follows a # that begins a word, outside of quotes.
func uncomment(s string) string {
	quoted := false
	for i := range len(s) {
		switch s[i] {
		case '"':
			quoted = !quoted
		case '#':
			if !quoted && (i == 0 || s[i-1] == ' ' || s[i-1] == '\t') {
				return s[:i]
			}
		}
	}
	return s
}

// statement takes one line.
func (p *parser) statement(path string, l line, stack []string) {
	word, rest, _ := strings.Cut(strings.ReplaceAll(l.text, "\t", " "), " ")
	rest = strings.TrimSpace(rest)
	head := !l.indented && !strings.Contains(word, "=") && !strings.HasPrefix(rest, "=")
	switch {
	case head && word == "version":
	case word == "include" && !strings.HasPrefix(rest, "="):
		p.include(path, l.number, rest, stack)
	case head && (word == "config" || word == "conn" || word == "ca"):
		p.open(word, unquote(rest), path, l.number)
	default:
		p.setting(path, l)
	}
}

// open begins a section, or goes on with one of that name.
func (p *parser) open(kind, name, path string, number int) {
	p.current = nil
	if name == "" || kind == "config" && name != "setup" {
		p.notes.lost(path, number, kind+" "+name, "expected a section config setup, conn NAME or ca NAME")
		return
	}
	if s := p.byName[kind+" "+name]; s != nil {
		p.current = s
		return
	}
	if len(p.sections) >= maxSections {
		p.notes.lost(path, number, kind+" "+name, fmt.Sprintf("expected at most %d sections", maxSections))
		return
	}
	s := &section{kind: kind, name: name, file: path, line: number}
	p.sections = append(p.sections, s)
	p.byName[kind+" "+name] = s
	p.current = s
}

// setting takes "key = value" into the current section.
func (p *parser) setting(path string, l line) {
	key, value, ok := strings.Cut(l.text, "=")
	key = strings.ToLower(strings.TrimSpace(key))
	switch {
	case !ok || key == "" || strings.ContainsAny(key, " \t\""):
		// Its text is left out: it may be a secret that stands in the wrong file.
		p.notes.lost(path, l.number, "a line", "expected key=value")
		return
	case p.current == nil:
		p.notes.lost(path, l.number, key, "it stands in no section")
		return
	}
	if p.settings++; p.settings > maxSettings {
		p.notes.lost(path, l.number, key, fmt.Sprintf("expected at most %d settings", maxSettings))
		return
	}
	s := setting{key: normal(key), value: unquote(value), file: path, line: l.number}
	if s.key == "also" {
		p.current.also = append(p.current.also, s)
		return
	}
	p.current.settings = append(p.current.settings, s)
}

// include reads the files that a pattern names, relative to the including file.
func (p *parser) include(path string, number int, pattern string, stack []string) {
	paths, why := included(p.files, path, unquote(pattern), stack)
	if why != "" {
		p.notes.lost(path, number, "include "+pattern, why)
		return
	}
	for _, inc := range paths {
		if err := p.file(inc, stack); err != nil {
			p.notes.lost(path, number, "include "+pattern, err.Error())
		}
	}
}

// included lists the files that an include names; why says what is wrong with it.
func included(files Files, from, pattern string, stack []string) (paths []string, why string) {
	if pattern == "" {
		return nil, "expected a file name"
	}
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(from), pattern)
	}
	paths = []string{pattern}
	if strings.ContainsAny(pattern, "*?[") {
		var err error
		if paths, err = files.Glob(pattern); err != nil {
			return nil, err.Error()
		}
		slices.Sort(paths)
	}
	for _, path := range paths {
		if slices.Contains(stack, path) {
			return nil, "the file includes itself"
		}
	}
	if len(stack) >= maxIncludes {
		return nil, fmt.Sprintf("expected at most %d files including each other", maxIncludes)
	}
	return paths, ""
}

// unquote takes spaces and double quotes around a value away.
func unquote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return strings.TrimSpace(s)
}

// normal is a key's one spelling: libreswan allows - for _ and both call many
// things by several names.
func normal(key string) string {
	key = strings.ReplaceAll(key, "_", "-")
	side := ""
	for _, s := range []string{"left", "right"} {
		if rest, ok := strings.CutPrefix(key, s); ok && !strings.HasPrefix(rest, "-") {
			side, key = s, rest
		}
	}
	if same, ok := synonyms[key]; ok {
		key = same
	}
	return side + key
}

// synonyms are the other names of keys, sides taken off.
var synonyms = map[string]string{
	"keylife": "lifetime", "salifetime": "lifetime", "ipsec-lifetime": "lifetime", "ike-lifetime": "ikelifetime", "rekeymargin": "margintime",
	"phase2alg": "esp", "subnetwithin": "subnet", "rsasigkey": "sigkey", "pubkey": "sigkey", "sha2-truncbug": "sha256-96", "ikedscp": "dscp",
	"connaddrfamily": "hostaddrfamily", "ipsec-max-bytes": "lifebytes", "ipsec-max-packets": "lifepackets",
}
