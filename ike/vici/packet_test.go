package vici

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestSegments(t *testing.T) {
	p := Packet{Type: CmdRequest, Name: "list-sas", Message: documentedMessage()}
	b, err := p.AppendSegment([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte("before\x00\x00\x00"), byte(1+9+len(documented)), 0, 8)
	want = append(append(want, "list-sas"...), documented...)
	if !bytes.Equal(b, want) {
		t.Fatalf("segment %q; want %q", b, want)
	}
	two := append(b[6:], b[6:]...)
	r := iotest.OneByteReader(bytes.NewReader(two))
	for range 2 {
		body, err := ReadSegment(r)
		if err != nil || !bytes.Equal(body, b[10:]) {
			t.Fatalf("read %q, %v", body, err)
		}
	}
	if _, err := ReadSegment(r); err != io.EOF {
		t.Errorf("at the end: %v; want EOF", err)
	}
	for cut := 1; cut < len(b)-6; cut++ {
		if _, err := ReadSegment(bytes.NewReader(b[6 : 6+cut])); err != io.ErrUnexpectedEOF {
			t.Errorf("cut at %d: %v; want unexpected EOF", cut, err)
		}
	}
}

func TestSegmentLimit(t *testing.T) {
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], MaxSegment+1)
	if _, err := ReadSegment(bytes.NewReader(head[:])); err == nil || !strings.Contains(err.Error(), "at most 524288") {
		t.Errorf("length above the limit: %v", err)
	}
	// A liar that announces the most and sends nothing costs no memory.
	binary.BigEndian.PutUint32(head[:], MaxSegment)
	if n := testing.AllocsPerRun(10, func() { ReadSegment(bytes.NewReader(head[:])) }); n > 10 {
		t.Errorf("%v allocations", n)
	}
	big := Packet{Type: CmdResponse}
	for range 8 {
		big.Message = append(big.Message, List{"l", []string{strings.Repeat("x", maxValue)}})
	}
	if b, err := big.AppendSegment([]byte("kept")); err == nil || string(b) != "kept" {
		t.Errorf("packet above the limit: %d octets, %v", len(b), err)
	}
	big.Message = big.Message[:7]
	b, err := big.AppendSegment(nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := ReadSegment(bytes.NewReader(b)); err != nil || len(body) != len(b)-4 {
		t.Errorf("%d octets, %v", len(body), err)
	}
}

func TestParsePacketRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":              "empty segment",
		"\x08":          "packet type 8",
		"\x00":          "name of CMD_REQUEST",
		"\x00\x03ab":    "name of CMD_REQUEST",
		"\x03\x00":      "name of EVENT_REGISTER",
		"\x02x":         "CMD_UNKNOWN: expected no message",
		"\x03\x01ax":    "EVENT_REGISTER: expected no message",
		"\x00\x01a\x02": `message of CMD_REQUEST "a": octet 0`,
	} {
		if _, err := ParsePacket([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", in, err, want)
		}
	}
}

func TestReadSegmentPassesErrorsOn(t *testing.T) {
	boom := errors.New("boom")
	r := io.MultiReader(strings.NewReader("\x00\x00\x00\x05ab"), iotest.ErrReader(boom))
	if _, err := ReadSegment(r); err != boom {
		t.Errorf("%v; want boom", err)
	}
}
