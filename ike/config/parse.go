package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds on what one configuration may hold. They are far beyond any real one
// and keep a wrong file from eating the box.
const (
	maxNesting  = 16       // sections within sections
	maxItems    = 2 << 20  // sections and settings, all files together
	maxIncludes = 16       // files including files
	maxFiles    = 4096     // files in all
	maxBytes    = 64 << 20 // size of all files together
)

// nameEnds are the characters that can't be part of a name.
const nameEnds = "\"#{}=,: \t\r\n"

// parser reads one file into a section. The grammar is strongswan.conf's:
//
//	items   := { section | setting | "include" pattern }
//	section := name [ ":" name { "," name } ] "{" items "}"
//	setting := name "=" { word | string }    to the end of the line, "}" or "#"
//
// After a mistake it goes on with the next line, so that all are found.
type parser struct {
	file      string
	src       string
	off       int
	line      int
	lineStart int
	ld        *loader
	depth     int      // of the section being read, includes counted in
	path      []string // names of the sections around
	dead      bool     // nothing further can be made of the file
}

func (p *parser) here() Pos { return p.at(p.off) }

// at is the place of an offset in the current line.
func (p *parser) at(off int) Pos {
	return Pos{p.file, p.line, utf8.RuneCountInString(p.src[p.lineStart:off]) + 1}
}

// peek returns the next byte, 0 at the end; the source holds no NUL.
func (p *parser) peek() byte {
	if p.dead || p.off >= len(p.src) {
		return 0
	}
	return p.src[p.off]
}

// next steps over one byte and counts lines.
func (p *parser) next() {
	if p.src[p.off] == '\n' {
		p.line++
		p.lineStart = p.off + 1
	}
	p.off++
}

// blanks steps over spaces within a line.
func (p *parser) blanks() {
	for strings.IndexByte(" \t\r", p.peek()) >= 0 && p.peek() != 0 {
		p.next()
	}
}

// space steps over blanks, line ends and comments.
func (p *parser) space() {
	for {
		p.blanks()
		switch p.peek() {
		case '#':
			for p.peek() != 0 && p.peek() != '\n' {
				p.next()
			}
		case '\n':
			p.next()
		default:
			return
		}
	}
}

// what names the thing at the current place for an error message. Text is left
// out: a broken line may hold a secret.
func (p *parser) what() string {
	switch c := p.peek(); c {
	case 0:
		return "the end of the file"
	case '\n', '#':
		return "the end of the line"
	case '"':
		return "a string"
	case '{', '}', '=', ',', ':':
		return fmt.Sprintf("%q", string(c))
	}
	return "another word"
}

// items reads up to the closing brace of the section, or the end of the file
// when the section was opened outside of it.
func (p *parser) items(into *Section, closes bool) {
	for !p.dead {
		p.space()
		switch c := p.peek(); {
		case c == 0:
			if closes {
				p.ld.rep.add(into.Pos, fmt.Sprintf("\"}\" to close section %s", quote(into.Name)), "the end of the file", "")
			}
			return
		case c == '}':
			if closes {
				p.next()
				return
			}
			p.ld.rep.add(p.here(), "a section or a setting", "\"}\" without an open section", "")
			p.next()
		case strings.IndexByte("{=\",:", c) >= 0 && !strings.HasPrefix(p.src[p.off:], "::"):
			p.ld.rep.add(p.here(), "the name of a section or a setting", p.what(), "")
			p.recover()
		default:
			p.statement(into)
		}
		if p.ld.rep.full() {
			p.dead = true
		}
	}
}

// statement reads a section, a setting or an include.
func (p *parser) statement(into *Section) {
	pos := p.here()
	name := p.name()
	if name == "include" && p.isInclude() {
		p.include(into)
		return
	}
	if !p.ld.count(pos) {
		p.dead = true
		return
	}
	p.blanks()
	switch c := p.peek(); c {
	case '=':
		p.next()
		p.blanks()
		set := &Setting{Key: name, Pos: pos, ValuePos: p.here()}
		if p.value(set) {
			into.Items = append(into.Items, set)
		}
	case ':', '{':
		p.section(into, name, pos)
	default:
		found := p.what()
		if c == '\n' || c == '#' || c == 0 {
			if p.space(); p.peek() == '{' {
				p.section(into, name, pos)
				return
			}
			p.ld.rep.add(pos, p.after(name), found, "")
			return
		}
		p.ld.rep.add(p.here(), p.after(name), found, "")
		p.recover()
	}
}

// after says what may follow a name; among secrets the name stays unsaid, it
// may be part of one.
func (p *parser) after(name string) string {
	if len(p.path) > 0 && p.path[0] == "secrets" {
		return `"=" or "{" after a name`
	}
	return `"=" or "{" after ` + quote(name)
}

// name reads a name; "::" stands for a colon in it.
func (p *parser) name() string {
	var b strings.Builder
	for {
		c := p.peek()
		if c == ':' && strings.HasPrefix(p.src[p.off:], "::") {
			p.next()
		} else if c == 0 || strings.IndexByte(nameEnds, c) >= 0 {
			return b.String()
		}
		b.WriteByte(c)
		p.next()
	}
}

// section reads references and body of a section.
func (p *parser) section(into *Section, name string, pos Pos) {
	sec := &Section{Name: name, Pos: pos}
	if p.peek() == ':' && !p.refs(sec) {
		p.recover()
		return
	}
	if p.depth >= maxNesting {
		p.ld.rep.add(pos, fmt.Sprintf("at most %d sections within each other", maxNesting), "one more", "")
		p.dead = true
		return
	}
	p.next() // the brace
	p.depth++
	p.path = append(p.path, name)
	p.items(sec, true)
	p.path = p.path[:len(p.path)-1]
	p.depth--
	into.Items = append(into.Items, sec)
}

// refs reads ": name, name" up to the brace, which may stand in the next line.
func (p *parser) refs(sec *Section) bool {
	for {
		p.next() // the colon or comma
		p.space()
		pos := p.here()
		name := p.name()
		if name == "" {
			p.ld.rep.add(pos, "the name of a section to inherit from", p.what(), "")
			return false
		}
		sec.Refs = append(sec.Refs, Ref{name, pos})
		p.space()
		switch p.peek() {
		case ',':
		case '{':
			return true
		default:
			p.ld.rep.add(p.here(), fmt.Sprintf("\",\" or \"{\" after %s", quote(name)), p.what(), "")
			return false
		}
	}
}

// value reads words and strings up to the end of the setting; one space joins
// them.
func (p *parser) value(set *Setting) bool {
	var parts []string
	for {
		p.blanks()
		switch c := p.peek(); c {
		case 0, '\n', '#', '}':
			set.Value = strings.Join(parts, " ")
			return true
		case '"':
			s, ok := p.quoted()
			if !ok {
				return false
			}
			parts = append(parts, s)
		default:
			start := p.off
			for c := p.peek(); c != 0 && strings.IndexByte("#}\"\r\n\t ", c) < 0; c = p.peek() {
				p.next()
			}
			parts = append(parts, p.src[start:p.off])
		}
	}
}

// quoted reads a string in double quotes: \n, \r and \t, a backslash before the
// end of a line joins lines, before anything else it stands for that.
func (p *parser) quoted() (string, bool) {
	open := p.here()
	p.next()
	var b strings.Builder
	for {
		c := p.peek()
		switch c {
		case 0:
			p.ld.rep.add(open, "a closing '\"' for the string that begins here", "the end of the file", "")
			p.dead = true
			return "", false
		case '"':
			p.next()
			return b.String(), true
		case '\r': // of a line end
		case '\\':
			p.next()
			if p.peek() == '\r' && strings.HasPrefix(p.src[p.off:], "\r\n") {
				p.next()
			}
			switch e := p.peek(); e {
			case 0:
				continue
			case '\n':
			case 'n':
				b.WriteByte('\n')
			case 'r':
				b.WriteByte('\r')
			case 't':
				b.WriteByte('\t')
			default:
				b.WriteByte(e)
			}
		default:
			b.WriteByte(c)
		}
		p.next()
	}
}

// recover skips a broken line. Where it opens a section, the section goes with
// it, or each of its closing braces would be a mistake of its own.
func (p *parser) recover() {
	open := 0
	for c := p.peek(); c != 0; c = p.peek() {
		switch c {
		case '#':
			p.blanks()
			for p.peek() != 0 && p.peek() != '\n' {
				p.next()
			}
			continue
		case '{':
			open++
		case '}':
			if open == 0 {
				return
			}
			open--
		case '\n':
			if open == 0 {
				return
			}
		}
		p.next()
	}
}

// isInclude tells the statement from a setting or a section of that name.
func (p *parser) isInclude() bool {
	if c := p.peek(); c != ' ' && c != '\t' {
		return false
	}
	p.blanks()
	c := p.peek()
	return c != '=' && c != '{' && c != ':'
}

// include reads the pattern and hands the files to the loader.
func (p *parser) include(into *Section) {
	pos := p.here()
	var b strings.Builder
	if p.peek() == '"' {
		s, ok := p.quoted()
		if !ok {
			return
		}
		b.WriteString(s)
	} else {
		for c := p.peek(); c != 0 && strings.IndexByte("#}\r\n\t ", c) < 0; c = p.peek() {
			if c == '\\' && p.off+1 < len(p.src) && strings.IndexByte("\"#} ", p.src[p.off+1]) >= 0 {
				p.next()
				c = p.peek()
			}
			b.WriteByte(c)
			p.next()
		}
	}
	if b.Len() == 0 {
		p.ld.rep.add(pos, "a file name or pattern after \"include\"", p.what(), "")
		return
	}
	p.ld.include(into, b.String(), p, pos)
	p.blanks()
	if c := p.peek(); c != 0 && strings.IndexByte("\n#}", c) < 0 {
		p.ld.rep.add(p.here(), "the end of the line after include", p.what(), "")
		p.recover()
	}
}
