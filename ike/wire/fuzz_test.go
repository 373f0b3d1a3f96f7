package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// The corpus in testdata/fuzz is real: see testdata/README.md.

// FuzzParseMessage wants no panic, a bounded allocation, parse → append → parse to agree, and an encrypted payload of
// any content to be opened or refused.
func FuzzParseMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add(Header{Next: PayloadSKF, Length: 30}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		checkMessage(t, b)
		if len(b) >= HeaderLen { // else nearly every mutation ends at the length field
			b = bytes.Clone(b)
			binary.BigEndian.PutUint32(b[24:], uint32(len(b)))
		}
		checkFuzzAlloc(t, len(b), func() { _, _ = ParseMessage(b) })
		if !checkMessage(t, b) {
			return
		}
		m, _ := ParseMessage(b)
		for _, c := range []*testCipher{noCipher(), {iv: 8, block: 1, plain: true}} {
			raw := bytes.Clone(b)
			_, err := OpenEncrypted(raw, m, c)
			var critical *UnsupportedCriticalPayload
			if err != nil && !isSyntax(err) && !errors.Is(err, ErrIntegrity) && !errors.As(err, &critical) {
				t.Errorf("error of no known kind: %v", err)
			}
			_, _ = OpenFragment(raw, m, c)
		}
		if x := AppendIntAuth(nil, b, m, nil); len(x) > len(b) {
			t.Errorf("prefix of %d octets from a message of %d", len(x), len(b))
		}
	})
}

// FuzzParsePayloads is the same for the inside of an encrypted payload.
func FuzzParsePayloads(f *testing.F) {
	f.Add(byte(PayloadSA), []byte{})
	for _, tt := range payloadTests {
		f.Add(byte(tt.typ), chain(typedBody{tt.typ, unhex(f, tt.body)}))
	}
	f.Fuzz(func(t *testing.T, first byte, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		checkFuzzAlloc(t, len(b), func() { _, _ = ParsePayloads(PayloadType(first), b) })
		checkChain(t, PayloadType(first), b)
	})
}

// checkFuzzAlloc bounds what f allocates for n octets of input.
func checkFuzzAlloc(t *testing.T, n int, f func()) {
	t.Helper()
	limit := uint64(allocFactor*n + allocBase)
	if got := allocated(limit, f); got > limit {
		t.Errorf("%d octets of input: %d allocated, at most %d allowed", n, got, limit)
	}
}
