package wire

import "encoding/binary"

// AppendIntAuth appends to b what one message of an IKE_INTERMEDIATE exchange contributes to IntAuth (RFC 9242
// 3.3.2): IntAuth_A, the message up to and with the generic header of its SK payload, and IntAuth_P, the inner chain
// of payloads in clear, with the length fields of IKE header and SK payload adjusted as if IV, padding, pad length and
// ICV weren't there. raw is the message as on the wire or, if it was fragmented, its fragment 1, which is taken as the
// unfragmented message it stands for; m is raw parsed. inner is the decrypted, reassembled chain ([OpenInner],
// [OpenFragment]; on the sending side [AppendPayloads]). It returns nil if m has neither SK nor SKF.
func AppendIntAuth(b, raw []byte, m *Message, inner []byte) []byte {
	at := HeaderLen // where the next payload starts
	next := 16      // where its type is announced
	for range m.Clear() {
		next = at
		at += int(binary.BigEndian.Uint16(raw[at+2:]))
	}
	if len(m.Payloads) == len(m.Clear()) {
		return nil
	}
	start := len(b)
	b = append(b, raw[:at+genericLen]...)
	prefix := b[start:]
	prefix[next] = byte(PayloadSK)
	binary.BigEndian.PutUint16(prefix[at+2:], uint16(genericLen+len(inner)))
	binary.BigEndian.PutUint32(prefix[24:], uint32(len(prefix)+len(inner)))
	return append(b, inner...)
}
