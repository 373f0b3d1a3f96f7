package config

import (
	"strings"
	"unicode"
)

// Section is a named block of a configuration file as written: its settings
// and subsections in order, references not yet followed.
type Section struct {
	Name  string // empty for the file itself
	Pos   Pos
	Refs  []Ref // names after ":", whose content is inherited
	Items []Item
}

// Ref is a reference to another section by its absolute, dotted name.
type Ref struct {
	Name string
	Pos  Pos
}

// Item is what a section holds: *Section or *Setting.
type Item interface{ pos() Pos }

// Setting is one "key = value". An empty value clears an inherited one.
type Setting struct {
	Key      string
	Value    string
	Pos      Pos
	ValuePos Pos
}

func (s *Section) pos() Pos { return s.Pos }
func (s *Setting) pos() Pos { return s.Pos }

// Print writes the content of the section as Parse reads it. Comments,
// includes and the layout of the original are not kept.
func (s *Section) Print() string {
	var b strings.Builder
	s.print(&b, "")
	return b.String()
}

func (s *Section) print(b *strings.Builder, indent string) {
	for _, it := range s.Items {
		b.WriteString(indent)
		switch it := it.(type) {
		case *Setting:
			b.WriteString(printName(it.Key) + " =")
			if it.Value != "" {
				b.WriteString(" " + printValue(it.Value))
			}
			b.WriteString("\n")
		case *Section:
			b.WriteString(printName(it.Name))
			for i, r := range it.Refs {
				b.WriteString([]string{" : ", ", "}[min(i, 1)] + printName(r.Name))
			}
			b.WriteString(" {\n")
			it.print(b, indent+"    ")
			b.WriteString(indent + "}\n")
		}
	}
}

// printName doubles the colons that a name may hold.
func printName(s string) string { return strings.ReplaceAll(s, ":", "::") }

// printValue writes a value, in quotes where the bare form would be read
// otherwise.
func printValue(s string) string {
	bare := !strings.ContainsFunc(s, func(r rune) bool {
		return strings.ContainsRune("#}\"\r\n\t", r) || unicode.IsControl(r)
	}) && s == strings.Join(strings.Fields(s), " ")
	if bare {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s) + `"`
}
