package vici

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// Message is a message or a section's content: elements in the order in which
// they were sent. Names may hold any text; values any octets, but everything
// that charon and Espalier send is text, numbers included.
type Message []Element

// Element is one of KeyValue, List and Section.
type Element interface {
	// ElementName is the name of the value, list or section.
	ElementName() string
	appendTo(b []byte) ([]byte, error)
	size() int // octets that appendTo appends
}

// KeyValue is a named value of at most 65535 octets.
type KeyValue struct{ Name, Value string }

// List is a named list of values; lists do not nest.
type List struct {
	Name  string
	Items []string
}

// Section is a named message within a message. The name may be empty: charon calls
// the counters of all connections so.
type Section struct {
	Name string
	Body Message
}

// ElementName is the key.
func (e KeyValue) ElementName() string { return e.Name }

// ElementName is the list's name.
func (e List) ElementName() string { return e.Name }

// ElementName is the section's name.
func (e Section) ElementName() string { return e.Name }

// Put appends a value.
func (m *Message) Put(name, value string) { *m = append(*m, KeyValue{name, value}) }

// PutInt appends a number.
func (m *Message) PutInt(name string, value int64) { m.Put(name, strconv.FormatInt(value, 10)) }

// PutUint appends a number.
func (m *Message) PutUint(name string, value uint64) { m.Put(name, strconv.FormatUint(value, 10)) }

// PutFlag appends name=yes when set, and nothing otherwise, which is how
// charon says no.
func (m *Message) PutFlag(name string, set bool) {
	if set {
		m.Put(name, "yes")
	}
}

// PutList appends a list.
func (m *Message) PutList(name string, items []string) { *m = append(*m, List{name, items}) }

// PutSection appends a section.
func (m *Message) PutSection(name string, body Message) { *m = append(*m, Section{name, body}) }

// Get returns the value of a key of this level.
func (m Message) Get(name string) (value string, ok bool) {
	for _, e := range m {
		if kv, is := e.(KeyValue); is && kv.Name == name {
			return kv.Value, true
		}
	}
	return "", false
}

// Text is the value of a key of this level, empty when it is not there.
func (m Message) Text(name string) string {
	v, _ := m.Get(name)
	return v
}

// List returns the items of a list of this level, nil when it is not there.
func (m Message) List(name string) []string {
	for _, e := range m {
		if l, is := e.(List); is && l.Name == name {
			return l.Items
		}
	}
	return nil
}

// Section returns the first section of that name on this level, nil when it is
// not there.
func (m Message) Section(name string) Message {
	for _, e := range m {
		if s, is := e.(Section); is && s.Name == name {
			return s.Body
		}
	}
	return nil
}

// Sections returns the sections of this level in order.
func (m Message) Sections() []Section {
	var out []Section
	for _, e := range m {
		if s, is := e.(Section); is {
			out = append(out, s)
		}
	}
	return out
}

// Element types on the wire.
const (
	elemSectionStart = 1
	elemSectionEnd   = 2
	elemKeyValue     = 3
	elemListStart    = 4
	elemListItem     = 5
	elemListEnd      = 6
)

// Limits of names and values, from the width of their length fields.
const (
	maxName  = 1<<8 - 1
	maxValue = 1<<16 - 1
)

// Append encodes the message. Errors: a name that is empty (not a section's), has control
// characters or is longer than 255 octets; a value longer than 65535.
func (m Message) Append(b []byte) ([]byte, error) {
	var err error
	for _, e := range m {
		if b, err = e.appendTo(b); err != nil {
			return b, err
		}
	}
	return b, nil
}

func (e KeyValue) appendTo(b []byte) ([]byte, error) {
	b, err := appendName(append(b, elemKeyValue), e.Name)
	if err != nil {
		return b, err
	}
	return appendValue(b, e.Name, e.Value)
}

func (e List) appendTo(b []byte) ([]byte, error) {
	b, err := appendName(append(b, elemListStart), e.Name)
	if err != nil {
		return b, err
	}
	for _, item := range e.Items {
		if b, err = appendValue(append(b, elemListItem), e.Name, item); err != nil {
			return b, err
		}
	}
	return append(b, elemListEnd), nil
}

func (e Section) appendTo(b []byte) ([]byte, error) {
	b, err := append(b, elemSectionStart, 0), error(nil)
	if e.Name != "" {
		b, err = appendName(b[:len(b)-1], e.Name)
	}
	if err != nil {
		return b, err
	}
	if b, err = e.Body.Append(b); err != nil {
		return b, fmt.Errorf("section %q: %w", e.Name, err)
	}
	return append(b, elemSectionEnd), nil
}

func (m Message) size() (n int) {
	for _, e := range m {
		n += e.size()
	}
	return n
}

func (e KeyValue) size() int { return 2 + len(e.Name) + 2 + len(e.Value) }

func (e List) size() int {
	n := 2 + len(e.Name) + 1
	for _, item := range e.Items {
		n += 3 + len(item)
	}
	return n
}

func (e Section) size() int { return 2 + len(e.Name) + e.Body.size() + 1 }

func appendName(b []byte, name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return b, err
	}
	b = append(b, byte(len(name)))
	return append(b, name...), nil
}

func appendValue(b []byte, name, value string) ([]byte, error) {
	if len(value) > maxValue {
		return b, fmt.Errorf("value of %q has %d octets: expected at most %d", name, len(value), maxValue)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...), nil
}

// checkName refuses what no program can mean: it would only end up in a
// terminal or a log.
func checkName(name string) error {
	if len(name) == 0 || len(name) > maxName {
		return fmt.Errorf("name of %d octets: expected 1 to %d", len(name), maxName)
	}
	for i := 0; i < len(name); i++ {
		if name[i] < 0x20 || name[i] == 0x7f {
			return fmt.Errorf("name %q: expected no control characters", name)
		}
	}
	return nil
}
