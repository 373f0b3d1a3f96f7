package vici

import (
	"encoding/binary"
	"fmt"
)

// Bounds of a parsed message, far above what any client sends.
const (
	maxDepth    = 16      // sections within sections
	maxElements = 1 << 16 // values, lists, items and sections in all
)

// ParseMessage decodes a message. It takes nothing that is not whole: unbalanced
// sections, values outside their place, two values of one name in a section, or
// octets left over are errors that name the octet at which they stand. What it
// allocates is bounded by the input's length and by the number of elements.
func ParseMessage(b []byte) (Message, error) {
	p := parser{b: b}
	m, err := p.message(0)
	if err != nil {
		return nil, fmt.Errorf("octet %d: %w", p.at, err)
	}
	return m, nil
}

type parser struct {
	b        []byte
	at       int
	elements int
}

// message parses elements until the end of the section, or at depth 0 of the
// input.
func (p *parser) message(depth int) (Message, error) {
	var m Message
	var seen names
	for {
		if p.at == len(p.b) {
			if depth > 0 {
				return nil, fmt.Errorf("end of message: expected the end of %d sections", depth)
			}
			return m, nil
		}
		start, kind := p.at, p.b[p.at]
		p.at++
		if kind == elemSectionEnd {
			if depth == 0 {
				p.at = start
				return nil, fmt.Errorf("end of a section: expected an element, no section is open")
			}
			return m, nil
		}
		e, err := p.element(kind, depth)
		if err != nil {
			return nil, err
		}
		if kv, is := e.(KeyValue); is && !seen.add(kv.Name) {
			p.at = start
			return nil, fmt.Errorf("second value %q in a section: expected one, or a list", kv.Name)
		}
		m = append(m, e)
	}
}

func (p *parser) element(kind byte, depth int) (Element, error) {
	if err := p.count(); err != nil {
		return nil, err
	}
	if kind != elemSectionStart && kind != elemKeyValue && kind != elemListStart {
		p.at--
		return nil, fmt.Errorf("element type %d: expected the start of a section, a value or a list", kind)
	}
	var name string
	var err error
	if kind == elemSectionStart && p.at < len(p.b) && p.b[p.at] == 0 {
		p.at++ // only sections may be without a name
	} else if name, err = p.name(); err != nil {
		return nil, err
	}
	switch kind {
	case elemKeyValue:
		value, err := p.value()
		return KeyValue{name, value}, err
	case elemListStart:
		items, err := p.items()
		return List{name, items}, err
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("section %q: expected at most %d sections within each other", name, maxDepth)
	}
	body, err := p.message(depth + 1)
	return Section{name, body}, err
}

func (p *parser) items() ([]string, error) {
	var items []string
	for {
		if p.at == len(p.b) {
			return nil, fmt.Errorf("end of message: expected the end of a list")
		}
		kind := p.b[p.at]
		switch kind {
		case elemListEnd:
			p.at++
			return items, nil
		case elemListItem:
			p.at++
		default:
			return nil, fmt.Errorf("element type %d in a list: expected an item or the list's end", kind)
		}
		if err := p.count(); err != nil {
			return nil, err
		}
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		items = append(items, value)
	}
}

func (p *parser) count() error {
	if p.elements++; p.elements > maxElements {
		return fmt.Errorf("more than %d elements", maxElements)
	}
	return nil
}

func (p *parser) name() (string, error) {
	if p.at == len(p.b) {
		return "", fmt.Errorf("end of message: expected a name")
	}
	n := int(p.b[p.at])
	if left := len(p.b) - p.at - 1; left < n {
		return "", fmt.Errorf("name of %d octets: only %d are left", n, left)
	}
	name := string(p.b[p.at+1 : p.at+1+n])
	if err := checkName(name); err != nil {
		return "", err
	}
	p.at += 1 + n
	return name, nil
}

func (p *parser) value() (string, error) {
	if left := len(p.b) - p.at; left < 2 {
		return "", fmt.Errorf("length of a value: expected 2 octets, %d are left", left)
	}
	n := int(binary.BigEndian.Uint16(p.b[p.at:]))
	if left := len(p.b) - p.at - 2; left < n {
		return "", fmt.Errorf("value of %d octets: only %d are left", n, left)
	}
	value := string(p.b[p.at+2 : p.at+2+n])
	p.at += 2 + n
	return value, nil
}

// names is a set that costs nothing for the few keys that a section has, and
// stays linear for the many that it could have.
type names struct {
	few  []string
	many map[string]struct{}
}

// add reports whether name is new.
func (s *names) add(name string) bool {
	const few = 32
	if s.many == nil && len(s.few) < few {
		for _, n := range s.few {
			if n == name {
				return false
			}
		}
		s.few = append(s.few, name)
		return true
	}
	if s.many == nil {
		s.many = make(map[string]struct{}, 2*few)
		for _, n := range s.few {
			s.many[n] = struct{}{}
		}
	}
	if _, there := s.many[name]; there {
		return false
	}
	s.many[name] = struct{}{}
	return true
}
