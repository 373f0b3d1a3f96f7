package wire

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// HeaderLen is the length of the IKE header in octets (RFC 7296 3.1).
const HeaderLen = 28

// Version2 is the version octet of IKEv2: major 2, minor 0 (RFC 7296 3.1).
const Version2 = 0x20

// SPI is an IKE SA's security parameter index (RFC 7296 2.6); zero stands for "not chosen yet".
type SPI uint64

// String prints the SPI as 16 hexadecimal digits.
func (s SPI) String() string {
	const digits = "0123456789abcdef"
	var b [16]byte
	for i := range b {
		b[i] = digits[s>>(60-4*i)&15]
	}
	return string(b[:])
}

// Header is the IKE header that starts each message (RFC 7296 3.1).
type Header struct {
	SPIi, SPIr SPI          // of the IKE SA's original initiator and responder
	Next       PayloadType  // type of the first payload
	Version    uint8        // major in the upper four bits, minor in the lower
	Exchange   ExchangeType // what this message belongs to
	Flags      Flags        // initiator, version, response
	MessageID  uint32       // request and response share it (RFC 7296 2.2)
	Length     uint32       // octets of the whole message, header included
}

// IsInitiator reports whether the original initiator of the IKE SA sent the message.
func (h Header) IsInitiator() bool { return h.Flags&FlagInitiator != 0 }

// IsResponse reports whether the message answers a request of the same message id.
func (h Header) IsResponse() bool { return h.Flags&FlagResponse != 0 }

// MajorVersion is the major version, 2 for IKEv2.
func (h Header) MajorVersion() uint8 { return h.Version >> 4 }

// ParseHeader reads the header at the start of b. It checks nothing but that b holds HeaderLen octets (else
// *[SyntaxError]): version and length are [ParseMessage]'s to judge, so that a caller can answer a message of another
// major version or count it by its SPIs.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, &SyntaxError{Payload: PayloadNone, Offset: 0,
			Expected: "an IKE header of 28 octets", Got: octets(len(b))}
	}
	return Header{
		SPIi:      SPI(binary.BigEndian.Uint64(b)),
		SPIr:      SPI(binary.BigEndian.Uint64(b[8:])),
		Next:      PayloadType(b[16]),
		Version:   b[17],
		Exchange:  ExchangeType(b[18]),
		Flags:     Flags(b[19]),
		MessageID: binary.BigEndian.Uint32(b[20:]),
		Length:    binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// Append appends the header's HeaderLen octets to b. A zero Version is written as [Version2].
func (h Header) Append(b []byte) []byte {
	if h.Version == 0 {
		h.Version = Version2
	}
	b = binary.BigEndian.AppendUint64(b, uint64(h.SPIi))
	b = binary.BigEndian.AppendUint64(b, uint64(h.SPIr))
	b = append(b, byte(h.Next), h.Version, byte(h.Exchange), byte(h.Flags))
	b = binary.BigEndian.AppendUint32(b, h.MessageID)
	return binary.BigEndian.AppendUint32(b, h.Length)
}

// InvalidMajorVersion is the error for a message whose major version is not 2; RFC 7296 2.5 wants a higher one
// answered with the notification INVALID_MAJOR_VERSION.
type InvalidMajorVersion struct {
	Major, Minor uint8 // 0 to 15 each
}

// Error says which version came.
func (e *InvalidMajorVersion) Error() string {
	return fmt.Sprintf("IKE header: expected major version 2, got version %d.%d at offset 17", e.Major, e.Minor)
}

func octets(n int) string {
	if n == 1 {
		return "1 octet"
	}
	return strconv.Itoa(n) + " octets"
}
