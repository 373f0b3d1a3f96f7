package wire

import "strconv"

// reader is the unread rest of a payload's body, with what an error has to say about it.
type reader struct {
	b       []byte      // what is left; its capacity ends with the body
	at      int         // offset of b[0] for errors
	payload PayloadType // whose body it is
}

// need checks that n octets are left, and names what they are for if not.
func (r *reader) need(n int, what string) error {
	if len(r.b) < n {
		return r.fail(what+" of "+octets(n), octets(len(r.b))+" left")
	}
	return nil
}

// take returns the next n octets, which the caller knows are there.
func (r *reader) take(n int) []byte {
	head := r.b[:n:n]
	r.b, r.at = r.b[n:], r.at+n
	return head
}

// fail is the error for what stands at the reader's position.
func (r *reader) fail(expected, got string) *SyntaxError {
	return r.failAt(0, expected, got)
}

// failAt is the error for what stands off octets from the reader's position (negative: already taken).
func (r *reader) failAt(off int, expected, got string) *SyntaxError {
	return &SyntaxError{Payload: r.payload, Offset: r.at + off, Expected: expected, Got: got}
}

func itoa(n int) string { return strconv.Itoa(n) }

func utoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
