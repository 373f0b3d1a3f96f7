package vici

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// MaxSegment is the largest segment in octets, without its length field.
const MaxSegment = 512 << 10

const segmentHeader = 4 // octets of the length field

// PacketType is the first octet of a segment.
type PacketType uint8

// The packet types.
const (
	CmdRequest      PacketType = 0 // named
	CmdResponse     PacketType = 1
	CmdUnknown      PacketType = 2
	EventRegister   PacketType = 3 // named
	EventUnregister PacketType = 4 // named
	EventConfirm    PacketType = 5
	EventUnknown    PacketType = 6
	Event           PacketType = 7 // named
)

func (t PacketType) String() string {
	switch t {
	case CmdRequest:
		return "CMD_REQUEST"
	case CmdResponse:
		return "CMD_RESPONSE"
	case CmdUnknown:
		return "CMD_UNKNOWN"
	case EventRegister:
		return "EVENT_REGISTER"
	case EventUnregister:
		return "EVENT_UNREGISTER"
	case EventConfirm:
		return "EVENT_CONFIRM"
	case EventUnknown:
		return "EVENT_UNKNOWN"
	case Event:
		return "EVENT"
	}
	return fmt.Sprintf("PacketType(%d)", uint8(t))
}

// named reports whether a name follows the type.
func (t PacketType) named() bool {
	return t == CmdRequest || t == EventRegister || t == EventUnregister || t == Event
}

// hasMessage reports whether a message may follow.
func (t PacketType) hasMessage() bool {
	return t == CmdRequest || t == CmdResponse || t == Event
}

// Packet is the content of one segment.
type Packet struct {
	Type    PacketType
	Name    string  // of the command or event; empty for types without name
	Message Message // of requests, responses and events
}

// AppendSegment encodes the packet with its length field.
// Errors: those of Message.Append; a packet above MaxSegment.
func (p *Packet) AppendSegment(b []byte) ([]byte, error) {
	start := len(b)
	b = slices.Grow(b, segmentHeader+2+len(p.Name)+p.Message.size())
	b = append(b, 0, 0, 0, 0, byte(p.Type))
	var err error
	if p.Type.named() {
		if b, err = appendName(b, p.Name); err != nil {
			return b[:start], err
		}
	}
	if b, err = p.Message.Append(b); err != nil {
		return b[:start], err
	}
	n := len(b) - start - segmentHeader
	if n > MaxSegment {
		return b[:start], fmt.Errorf("%s %q of %d octets: expected at most %d", p.Type, p.Name, n, MaxSegment)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(n))
	return b, nil
}

// ParsePacket decodes a segment without its length field.
func ParsePacket(b []byte) (Packet, error) {
	if len(b) == 0 {
		return Packet{}, fmt.Errorf("empty segment: expected a packet type")
	}
	p := Packet{Type: PacketType(b[0])}
	if p.Type > Event {
		return p, fmt.Errorf("packet type %d: expected 0 to %d", b[0], Event)
	}
	b = b[1:]
	if p.Type.named() {
		r := parser{b: b}
		name, err := r.name()
		if err != nil {
			return p, fmt.Errorf("name of %s: %w", p.Type, err)
		}
		p.Name, b = name, b[r.at:]
	}
	if !p.Type.hasMessage() {
		if len(b) > 0 {
			return p, fmt.Errorf("%s: expected no message, %d octets follow", p.Type, len(b))
		}
		return p, nil
	}
	m, err := ParseMessage(b)
	if err != nil {
		return p, fmt.Errorf("message of %s %q: %w", p.Type, p.Name, err)
	}
	p.Message = m
	return p, nil
}

// atOnce is the length up to which a segment's announced memory is taken: that of
// nearly all.
const atOnce = 16 << 10

// ReadSegment reads one segment without its length field. Beyond some kilobytes
// memory grows with what has come, not with what the length field announces.
// Errors: io.EOF before the first octet, io.ErrUnexpectedEOF later, a length
// above MaxSegment.
func ReadSegment(r io.Reader) ([]byte, error) {
	var head [segmentHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	return readBody(r, head)
}

func readBody(r io.Reader, head [segmentHeader]byte) ([]byte, error) {
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxSegment {
		return nil, fmt.Errorf("segment of %d octets: expected at most %d", n, MaxSegment)
	}
	var err error
	var body []byte
	if n <= atOnce {
		body = make([]byte, n)
		_, err = io.ReadFull(r, body)
	} else {
		var grown bytes.Buffer
		_, err = io.CopyN(&grown, r, int64(n))
		body = grown.Bytes()
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}
