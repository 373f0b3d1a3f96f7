package wire

import (
	"errors"
	"fmt"
)

// ErrIntegrity is matched (errors.Is) by every failure to authenticate an SK or SKF payload, also by one too short to
// hold an IV and an ICV. Such a message is dropped without an answer and changes no state (RFC 7296 2.21).
var ErrIntegrity = errors.New("integrity check failed")

// ErrTooLong is matched (errors.Is) when payloads to be sent don't fit the length fields of the format: 65535 octets a
// payload and 65535 octets a message.
var ErrTooLong = errors.New("message does not fit IKE's length fields")

// SyntaxError is a message or payload that breaks the format; the notification for it is INVALID_SYNTAX.
type SyntaxError struct {
	Payload  PayloadType // the payload at fault; PayloadNone for the IKE header and the chain itself
	Offset   int         // octets from the start of the message, or of the decrypted chain
	Expected string      // what the format asks for at Offset
	Got      string      // what came
}

// Error says what was expected, what came, and where.
func (e *SyntaxError) Error() string {
	where := "IKE message"
	if e.Payload != PayloadNone {
		where = e.Payload.String() + " payload"
	}
	return fmt.Sprintf("%s: expected %s, got %s at offset %d", where, e.Expected, e.Got, e.Offset)
}

// UnsupportedCriticalPayload is a payload of a type this codec doesn't know, with the critical bit set. The whole
// message is refused with the notification UNSUPPORTED_CRITICAL_PAYLOAD, whose data is the type (RFC 7296 2.5).
type UnsupportedCriticalPayload struct {
	PayloadType PayloadType // the type to name in the answer
	Offset      int         // of its generic header; see SyntaxError.Offset
}

// Error names the payload type and where it stands.
func (e *UnsupportedCriticalPayload) Error() string {
	return fmt.Sprintf("unsupported critical payload %s (%d) at offset %d", e.PayloadType, uint8(e.PayloadType), e.Offset)
}
