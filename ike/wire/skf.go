package wire

import (
	"encoding/binary"
	"slices"
)

// fragmentLen is the length of the fields between the generic header of an SKF payload and its IV (RFC 7383 2.5).
const fragmentLen = 4

// SKF is the Encrypted and Authenticated Fragment payload (RFC 7383 2.5), still sealed.
type SKF struct {
	First          PayloadType // of the fragmented chain's first payload in fragment 1, else zero
	FragmentNumber uint16      // from 1
	TotalFragments uint16      // at most MaxFragments, not below FragmentNumber
	Body           []byte      // IV, ciphertext and ICV
}

// Type is PayloadSKF.
func (p *SKF) Type() PayloadType { return PayloadSKF }

// AppendBody appends the fragment's numbers and sealed body.
func (p *SKF) AppendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, p.FragmentNumber)
	b = binary.BigEndian.AppendUint16(b, p.TotalFragments)
	return append(b, p.Body...)
}

func (p *SKF) bodyLen() int { return fragmentLen + len(p.Body) }

func parseSKF(next PayloadType, r reader) (*SKF, error) {
	if err := r.need(fragmentLen, "fragment number and total"); err != nil {
		return nil, err
	}
	h := r.take(fragmentLen)
	p := &SKF{First: next, FragmentNumber: binary.BigEndian.Uint16(h), TotalFragments: binary.BigEndian.Uint16(h[2:]), Body: r.b}
	if p.TotalFragments == 0 || p.TotalFragments > MaxFragments {
		return nil, r.failAt(-2, "1 to "+itoa(MaxFragments)+" fragments", itoa(int(p.TotalFragments)))
	}
	if p.FragmentNumber == 0 || p.FragmentNumber > p.TotalFragments {
		return nil, r.failAt(-4, "a fragment number from 1 to "+itoa(int(p.TotalFragments)), itoa(int(p.FragmentNumber)))
	}
	return p, nil
}

// AppendFragments seals payloads as IKE fragments (RFC 7383 2.5), each an own message of at most maxLen octets from
// IKE header to ICV (the caller has taken IP and UDP headers and the non-ESP marker off its packet size), with the
// header h and the same message id. Where one message suffices, that is one SK message, as [AppendEncrypted] makes
// it. The errors are those of s, and one that matches [ErrTooLong] when maxLen leaves no room for content or more
// than MaxFragments would be needed.
func AppendFragments(h Header, payloads []Payload, s Sealer, maxLen int) ([][]byte, error) {
	size := chainLen(payloads)
	chain := AppendPayloads(make([]byte, 0, size), payloads)
	if chain == nil {
		return nil, tooLong("a payload", 0)
	}
	if HeaderLen+genericLen+sealedLen(len(chain), s) <= maxLen {
		msg, err := AppendEncrypted(nil, h, payloads, s)
		if err != nil {
			return nil, err
		}
		return [][]byte{msg}, nil
	}
	room := fragmentRoom(s, maxLen)
	if room <= 0 {
		return nil, tooLong("the overhead of a fragment", maxLen)
	}
	total := (len(chain) + room - 1) / room
	if total > MaxFragments {
		return nil, tooLong("a message of too many fragments", total)
	}
	out := make([][]byte, 0, total)
	first := firstType(payloads)
	for part := range slices.Chunk(chain, room) {
		msg, err := appendFragment(h, first, uint16(len(out)+1), uint16(total), part, s)
		if err != nil {
			return nil, err
		}
		out = append(out, msg)
		first = PayloadNone
	}
	return out, nil
}

// EncryptedLen is the length of the message that [AppendEncrypted] makes of payloads, from IKE header to ICV.
func EncryptedLen(payloads []Payload, s Sealer) int {
	return HeaderLen + genericLen + sealedLen(chainLen(payloads), s)
}

// fragmentRoom is how much of the chain a fragment of maxLen octets carries.
func fragmentRoom(s Sealer, maxLen int) int {
	room := maxLen - HeaderLen - genericLen - fragmentLen - s.IVLen() - s.ICVLen()
	if block := s.BlockLen(); block > 1 {
		room -= room % block
	}
	return room - 1
}

func appendFragment(h Header, first PayloadType, number, total uint16, part []byte, s Sealer) ([]byte, error) {
	h.Next = PayloadSKF
	b := make([]byte, 0, HeaderLen+genericLen+fragmentLen+sealedLen(len(part), s))
	b = append(h.Append(b), byte(first), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, number)
	b = binary.BigEndian.AppendUint16(b, total)
	aadLen := len(b)
	b = append(appendZeros(b, s.IVLen()), part...)
	return finish(b, 0, aadLen, s)
}

// OpenFragment opens the SKF payload of m, which was parsed from raw, with o, and returns its part of the chain
// without padding (aliasing what o returns). When all parts from 1 to TotalFragments are there, their concatenation
// is parsed by [ParsePayloads] with the First of fragment 1. Errors are those of [OpenInner].
func OpenFragment(raw []byte, m *Message, o Opener) (part []byte, err error) {
	skf, ok := m.SKF()
	if !ok {
		return nil, &SyntaxError{Payload: PayloadNone, Offset: HeaderLen,
			Expected: "an SKF payload", Got: "a message without one"}
	}
	return open(raw, len(skf.Body), PayloadSKF, o)
}
