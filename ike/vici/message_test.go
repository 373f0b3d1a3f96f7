package vici

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// documented is the encoding example of the protocol's own description:
// key1 = value1, section1 { sub-section { key2 = value2 }, list1 [ item1 item2 ] }.
var documented = []byte("\x03\x04key1\x00\x06value1" +
	"\x01\x08section1" +
	"\x01\x0bsub-section" + "\x03\x04key2\x00\x06value2" + "\x02" +
	"\x04\x05list1" + "\x05\x00\x05item1" + "\x05\x00\x05item2" + "\x06" +
	"\x02")

func documentedMessage() Message {
	var sub, section, m Message
	sub.Put("key2", "value2")
	section.PutSection("sub-section", sub)
	section.PutList("list1", []string{"item1", "item2"})
	m.Put("key1", "value1")
	m.PutSection("section1", section)
	return m
}

func TestDocumentedExample(t *testing.T) {
	if n := documentedMessage().size(); n != len(documented) {
		t.Errorf("size: got %d, want %d", n, len(documented))
	}
	want := documentedMessage()
	got, err := ParseMessage(documented)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("parsed %v, %v; want %v", got, err, want)
	}
	b, err := want.Append(nil)
	if err != nil || !bytes.Equal(b, documented) {
		t.Fatalf("encoded %q, %v; want %q", b, err, documented)
	}
	if v := got.Section("section1").List("list1"); len(v) != 2 || v[1] != "item2" {
		t.Errorf("list1 = %q", v)
	}
	if v, ok := got.Section("section1").Section("sub-section").Get("key2"); !ok || v != "value2" {
		t.Errorf("key2 = %q, %t", v, ok)
	}
	if _, ok := got.Get("key2"); ok || got.Section("nowhere") != nil || got.Section("nowhere").List("x") != nil {
		t.Error("found what is not there")
	}
}

func TestParseRefuses(t *testing.T) {
	deep := strings.Repeat("\x01\x01s", maxDepth+1) + strings.Repeat("\x02", maxDepth+1)
	for _, tc := range []struct{ name, in, want string }{
		{"unknown type", "\x07", "octet 0: element type 7"},
		{"type zero", "\x00", "octet 0: element type 0"},
		{"stray section end", "\x03\x01k\x00\x00\x02", "octet 5: end of a section"},
		{"stray list end", "\x06", "element type 6"},
		{"item outside list", "\x05\x00\x01x", "element type 5"},
		{"open section", "\x01\x01s", "expected the end of 1 sections"},
		{"open list", "\x04\x01l\x05\x00\x01x", "expected the end of a list"},
		{"nested list", "\x04\x01l\x04\x01m\x06\x06", "element type 4 in a list"},
		{"value in list", "\x04\x01l\x03\x01k\x00\x00\x06", "element type 3 in a list"},
		{"section in list", "\x04\x01l\x01\x01s\x02\x06", "element type 1 in a list"},
		{"no name", "\x03", "expected a name"},
		{"short name", "\x03\x05key", "octet 1: name of 5 octets: only 3 are left"},
		{"empty name", "\x03\x00\x00\x00", "expected 1 to 255"},
		{"control character", "\x03\x02k\x00\x00\x00", "no control characters"},
		{"no value", "\x03\x01k", "expected 2 octets, 0 are left"},
		{"short value length", "\x03\x01k\x00", "expected 2 octets, 1 are left"},
		{"short value", "\x03\x01k\x00\x05val", "value of 5 octets: only 3 are left"},
		{"second value", "\x03\x01k\x00\x01a\x03\x01k\x00\x01b", `octet 6: second value "k"`},
		{"too deep", deep, "sections within each other"},
		{"too many elements", strings.Repeat("\x04\x01l\x06", maxElements+1), "more than 65536 elements"},
		{"too many items", "\x04\x01l" + strings.Repeat("\x05\x00\x00", maxElements) + "\x06", "more than 65536 elements"},
	} {
		m, err := ParseMessage([]byte(tc.in))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, error %v; want %q", tc.name, len(m), err, tc.want)
		}
	}
}

func TestParseTakesTheLimits(t *testing.T) {
	deep := strings.Repeat("\x01\x01s", maxDepth) + strings.Repeat("\x02", maxDepth)
	many := strings.Repeat("\x04\x01l\x06", maxElements)
	for _, in := range []string{"", deep, many} {
		if _, err := ParseMessage([]byte(in)); err != nil {
			t.Errorf("%d octets: %v", len(in), err)
		}
	}
}

// Keys are told apart beyond the few that are compared one by one.
func TestManyKeys(t *testing.T) {
	var m Message
	for i := range 100 {
		m.Put("key"+strings.Repeat("x", i), "v")
	}
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseMessage(b); err != nil {
		t.Error(err)
	}
	for _, i := range []int{0, 31, 32, 99} {
		twice := append(m[:100:100], m[i])
		b, err := twice.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseMessage(b); err == nil {
			t.Errorf("key %d twice: no error", i)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	for _, tc := range []struct {
		m    Message
		want string
	}{
		{Message{KeyValue{"", "v"}}, "name of 0 octets"},
		{Message{KeyValue{long[:256], "v"}}, "name of 256 octets"},
		{Message{KeyValue{"k", long}}, `value of "k" has 65536 octets`},
		{Message{List{"l", []string{long}}}, `value of "l" has 65536 octets`},
		{Message{List{"a\nb", nil}}, "no control characters"},
		{Message{Section{"outer", Message{List{"", nil}}}}, `section "outer": name of 0 octets`},
	} {
		if _, err := tc.m.Append(nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("error %v; want %q", err, tc.want)
		}
	}
}

// charon's counters of all connections are a section without a name; nothing else may be.
func TestSectionWithoutAName(t *testing.T) {
	m := Message{Section{"", Message{KeyValue{"invalid", "0"}}}}
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseMessage(b); err != nil || raw(got) != raw(m) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, b := range [][]byte{{elemKeyValue, 0, 0, 0}, {elemListStart, 0, elemListEnd}} {
		if _, err := ParseMessage(b); err == nil {
			t.Errorf("% x: expected an error", b)
		}
	}
}

// What is parsed encodes to the same octets: the format has one encoding for
// each message.
func FuzzParseMessage(f *testing.F) {
	f.Add(documented)
	f.Add([]byte{})
	f.Add([]byte("\x03\x01k\x00\x05val"))
	f.Add([]byte("\x04\x01l\x05\x00\x00\x06"))
	f.Add([]byte(strings.Repeat("\x01\x01s", maxDepth+2)))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := ParseMessage(in)
		if err != nil {
			return
		}
		b, err := m.Append(nil)
		if err != nil || !bytes.Equal(b, in) {
			t.Fatalf("encoded %q, %v; want %q", b, err, in)
		}
		again, err := ParseMessage(b)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("parsed again %v, %v; want %v", again, err, m)
		}
	})
}

func FuzzParsePacket(f *testing.F) {
	for _, p := range []Packet{
		{Type: CmdRequest, Name: "version"},
		{Type: CmdResponse, Message: documentedMessage()},
		{Type: CmdUnknown}, {Type: EventConfirm}, {Type: EventUnknown},
		{Type: EventRegister, Name: "list-sa"}, {Type: EventUnregister, Name: "list-sa"},
		{Type: Event, Name: "list-sa", Message: documentedMessage()},
	} {
		b, err := p.AppendSegment(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[segmentHeader:])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := ParsePacket(in)
		if err != nil {
			return
		}
		b, err := p.AppendSegment(nil)
		if err != nil || !bytes.Equal(b[segmentHeader:], in) {
			t.Fatalf("encoded %q, %v; want %q", b, err, in)
		}
	})
}
