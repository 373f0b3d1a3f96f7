package config

import "strings"

// Schema answers questions about single settings, for tools that write
// configurations. The zero value is not ready; see NewSchema. It is not for
// concurrent use.
type Schema struct{ c *checker }

// NewSchema returns the schema of configuration files.
func NewSchema() *Schema { return &Schema{newChecker(newReport(), nil)} }

// Refusal says why a configuration with this setting would be refused, as the end
// of a sentence that begins with what was written; "" when the setting is valid by
// itself. section is the way to it from the top, such as "connections", "gw",
// "local"; an empty key asks for the section. Values of secrets are not repeated.
func (s *Schema) Refusal(section []string, key, value string) string {
	spec := s.c.root
	for i, name := range section {
		sub := spec.sub(name)
		if sub == nil {
			return "expected a section of " + strings.Join(section[:i], ".") + ", found " + quote(name)
		}
		if sub.sup != supported {
			return "expected no section " + sub.name + sub.sup.because("it is")
		}
		spec = sub
	}
	if key == "" {
		return ""
	}
	k := spec.key(key)
	if k == nil {
		return "expected a key of " + strings.Join(section, ".") + ", found " + quote(key)
	}
	s.c.rep = newReport()
	n := &node{path: strings.Join(section, ".")}
	s.c.value(n, &entry{Setting: &Setting{Key: key, Value: value}}, k)
	mistakes := s.c.rep.list()
	if len(mistakes) == 0 {
		return ""
	}
	text := "expected " + mistakes[0].Expected
	if hint := mistakes[0].Hint; hint != "" {
		text += " (" + hint + ")"
	}
	return text
}
