package wire

import (
	"encoding/binary"
)

const (
	proposalLen  = 8 // octets of a proposal before its SPI (RFC 7296 3.3.1)
	transformLen = 8 // octets of a transform before its attributes (RFC 7296 3.3.2)

	moreProposals  = 2 // "last substructure" octet: another proposal follows
	moreTransforms = 3 // the same for transforms

	attributeFormat = 0x8000 // AF bit: type and value, without length (RFC 7296 3.3.5)
)

// SA is the Security Association payload (RFC 7296 3.3): proposals in the order of preference. Parsing wants at least
// one proposal, and SPIs of 4 octets for AH and ESP and of 0 or 8 for IKE.
type SA struct {
	Proposals []Proposal
}

// Proposal is one offer of an SA payload (RFC 7296 3.3.1).
type Proposal struct {
	Number     uint8 // from 1 in an offer; in an answer that of the accepted proposal
	Protocol   ProtocolID
	SPI        []byte // of the sending side: 4 octets for AH and ESP; for IKE 8 in a rekey, else none
	Transforms []Transform
}

// Transform is one algorithm of a proposal (RFC 7296 3.3.2). ID is to be read in the light of Type: [EncrID], [PRFID],
// [IntegID], [KEMethod] (also for ADDKE1 to 7) or [ESNID].
type Transform struct {
	Type       TransformType
	ID         uint16
	Attributes []Attribute
}

// Attribute is an attribute of a transform (RFC 7296 3.3.5). A nil Data stands for the short format, whose value is
// Value; otherwise the value is Data (long format), and Value is zero.
type Attribute struct {
	Type  AttributeType // 0 to 32767
	Value uint16
	Data  []byte
}

// NewTransform makes a transform, with a Key Length attribute if keyLenBits is not zero.
func NewTransform(t TransformType, id uint16, keyLenBits uint16) Transform {
	tr := Transform{Type: t, ID: id}
	if keyLenBits != 0 {
		tr.Attributes = []Attribute{{Type: AttrKeyLength, Value: keyLenBits}}
	}
	return tr
}

// KeyLength returns the value in bits of the transform's Key Length attribute; ok is false if it has none.
func (t Transform) KeyLength() (bits uint16, ok bool) {
	for _, a := range t.Attributes {
		if a.Type == AttrKeyLength && a.Data == nil {
			return a.Value, true
		}
	}
	return 0, false
}

// IDName is the IANA name of the transform's ID in the light of its type.
func (t Transform) IDName() string {
	switch {
	case t.Type == TransformENCR:
		return EncrID(t.ID).String()
	case t.Type == TransformPRF:
		return PRFID(t.ID).String()
	case t.Type == TransformINTEG:
		return IntegID(t.ID).String()
	case t.Type.IsKE():
		return KEMethod(t.ID).String()
	case t.Type == TransformESN:
		return ESNID(t.ID).String()
	case t.Type == TransformKWA:
		return KeyWrapID(t.ID).String()
	case t.Type == TransformGCAUTH:
		return GCAuthID(t.ID).String()
	}
	return unknown("TransformID", t.ID)
}

// String is the IANA name of the transform's ID, with "/" and the key length in bits where there is one:
// "ENCR_AES_CBC/256".
func (t Transform) String() string {
	if bits, ok := t.KeyLength(); ok {
		return t.IDName() + "/" + itoa(int(bits))
	}
	return t.IDName()
}

// Type is PayloadSA.
func (p *SA) Type() PayloadType { return PayloadSA }

// AppendBody appends the proposals. At most 255 transforms a proposal, and 255 octets of SPI, can be said.
func (p *SA) AppendBody(b []byte) []byte {
	for i := range p.Proposals {
		q := &p.Proposals[i]
		more := byte(moreProposals)
		if i == len(p.Proposals)-1 {
			more = 0
		}
		start := len(b)
		b = append(b, more, 0, 0, 0, q.Number, byte(q.Protocol), byte(len(q.SPI)), byte(len(q.Transforms)))
		b = append(b, q.SPI...)
		for j := range q.Transforms {
			b = q.Transforms[j].append(b, j == len(q.Transforms)-1)
		}
		binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	}
	return b
}

func (t *Transform) append(b []byte, last bool) []byte {
	more := byte(moreTransforms)
	if last {
		more = 0
	}
	start := len(b)
	b = append(b, more, 0, 0, 0, byte(t.Type), 0, byte(t.ID>>8), byte(t.ID))
	for _, a := range t.Attributes {
		if a.Data == nil {
			b = binary.BigEndian.AppendUint16(b, uint16(a.Type)|attributeFormat)
			b = binary.BigEndian.AppendUint16(b, a.Value)
			continue
		}
		b = binary.BigEndian.AppendUint16(b, uint16(a.Type)&^attributeFormat)
		b = binary.BigEndian.AppendUint16(b, uint16(len(a.Data)))
		b = append(b, a.Data...)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return b
}

func (p *SA) bodyLen() int {
	n := 0
	for i := range p.Proposals {
		q := &p.Proposals[i]
		n += proposalLen + len(q.SPI)
		for j := range q.Transforms {
			n += transformLen
			for _, a := range q.Transforms[j].Attributes {
				n += 4 + len(a.Data)
			}
		}
	}
	return n
}

// saSizes is what an SA payload holds, found before anything is allocated.
type saSizes struct{ proposals, transforms, attributes int }

// measureSA walks the structure as far as it is sound. Every counted element stands for octets of the input (8 a
// proposal or transform, 4 an attribute), so what is allocated from it is bounded by the input's length.
func measureSA(b []byte) (s saSizes) {
	for len(b) >= proposalLen && s.proposals < MaxProposals {
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n < proposalLen+int(b[6]) || n > len(b) {
			break
		}
		s.proposals++
		t := b[proposalLen+int(b[6]) : n]
		for left := int(b[7]); left > 0 && len(t) >= transformLen; left-- {
			m := int(binary.BigEndian.Uint16(t[2:]))
			if m < transformLen || m > len(t) {
				break
			}
			s.transforms++
			s.attributes += countAttributes(t[transformLen:m])
			t = t[m:]
		}
		b = b[n:]
	}
	return s
}

func countAttributes(b []byte) int {
	n := 0
	for len(b) >= 4 && n < MaxAttributes {
		l := 4
		if binary.BigEndian.Uint16(b)&attributeFormat == 0 {
			l += int(binary.BigEndian.Uint16(b[2:]))
		}
		n++
		if l > len(b) {
			break
		}
		b = b[l:]
	}
	return n
}

// saParser holds the room for all proposals, transforms and attributes of one payload.
type saParser struct {
	reader
	transforms []Transform
	attributes []Attribute
}

func parseSA(r reader) (*SA, error) {
	sizes := measureSA(r.b)
	p := saParser{reader: r}
	sa := &SA{Proposals: make([]Proposal, 0, sizes.proposals)}
	if sizes.transforms > 0 {
		p.transforms = make([]Transform, 0, sizes.transforms)
	}
	if sizes.attributes > 0 {
		p.attributes = make([]Attribute, 0, sizes.attributes)
	}
	for more := true; more; {
		if len(sa.Proposals) == MaxProposals {
			return nil, p.fail("at most "+itoa(MaxProposals)+" proposals", "one more")
		}
		var q Proposal
		var err error
		if q, more, err = p.proposal(); err != nil {
			return nil, err
		}
		sa.Proposals = append(sa.Proposals, q)
	}
	if len(p.b) != 0 {
		return nil, p.fail("the end of the payload after its last proposal", octets(len(p.b))+" more")
	}
	return sa, nil
}

// proposal parses one proposal (RFC 7296 3.3.1) and says whether another is announced.
func (p *saParser) proposal() (q Proposal, more bool, err error) {
	if err := p.need(proposalLen, "a proposal"); err != nil {
		return q, false, err
	}
	n, spiLen, transforms := int(binary.BigEndian.Uint16(p.b[2:])), int(p.b[6]), int(p.b[7])
	if n < proposalLen+spiLen || n > len(p.b) {
		return q, false, p.failAt(2, "a proposal length from "+itoa(proposalLen+spiLen)+" to "+itoa(len(p.b)), itoa(n))
	}
	if p.b[0] != 0 && p.b[0] != moreProposals {
		return q, false, p.fail("0 (last) or 2 (more proposals)", itoa(int(p.b[0])))
	}
	more = p.b[0] == moreProposals
	q.Number, q.Protocol = p.b[4], ProtocolID(p.b[5])
	if want, ok := proposalSPI(q.Protocol, spiLen); !ok {
		return q, false, p.failAt(6, "an "+q.Protocol.String()+" SPI of "+want+" octets", itoa(spiLen))
	}
	rest := p.b[n:]
	p.b = p.b[:n:n]
	p.take(proposalLen)
	if spiLen > 0 {
		q.SPI = p.take(spiLen)
	}
	start := len(p.transforms)
	for i := range transforms {
		if err := p.transform(i == transforms-1); err != nil {
			return q, false, err
		}
	}
	if len(p.b) != 0 {
		return q, false, p.fail("the end of the proposal after "+itoa(transforms)+" transforms", octets(len(p.b))+" more")
	}
	if transforms > 0 {
		q.Transforms = p.transforms[start:len(p.transforms):len(p.transforms)]
	}
	p.b = rest
	return q, more, nil
}

// proposalSPI checks the length of a proposal's SPI for the protocols of RFC 7296 3.3.1.
func proposalSPI(proto ProtocolID, n int) (want string, ok bool) {
	switch proto {
	case ProtoAH, ProtoESP:
		return "4", n == 4
	case ProtoIKE:
		return "0 or 8", n == 0 || n == 8
	}
	return "", true
}

// transform parses one transform (RFC 7296 3.3.2) into the payload's room.
func (p *saParser) transform(last bool) error {
	if err := p.need(transformLen, "a transform"); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(p.b[2:]))
	if n < transformLen || n > len(p.b) {
		return p.failAt(2, "a transform length from 8 to "+itoa(len(p.b)), itoa(n))
	}
	want, wantText := byte(moreTransforms), "3 (more transforms, by the proposal's count)"
	if last {
		want, wantText = 0, "0 (last transform, by the proposal's count)"
	}
	if p.b[0] != want {
		return p.fail(wantText, itoa(int(p.b[0])))
	}
	t := Transform{Type: TransformType(p.b[4]), ID: binary.BigEndian.Uint16(p.b[6:])}
	rest := p.b[n:]
	p.b = p.b[:n:n]
	p.take(transformLen)
	start := len(p.attributes)
	for len(p.b) > 0 {
		if len(p.attributes)-start == MaxAttributes {
			return p.fail("at most "+itoa(MaxAttributes)+" attributes", "one more")
		}
		if err := p.attribute(); err != nil {
			return err
		}
	}
	if end := len(p.attributes); end > start {
		t.Attributes = p.attributes[start:end:end]
	}
	p.transforms = append(p.transforms, t)
	p.b = rest
	return nil
}

// attribute parses one attribute (RFC 7296 3.3.5) into the payload's room.
func (p *saParser) attribute() error {
	if err := p.need(4, "an attribute"); err != nil {
		return err
	}
	t, v := binary.BigEndian.Uint16(p.b), binary.BigEndian.Uint16(p.b[2:])
	a := Attribute{Type: AttributeType(t &^ attributeFormat)}
	p.take(4)
	if t&attributeFormat != 0 {
		a.Value = v
	} else {
		if err := p.need(int(v), "an attribute value"); err != nil {
			return err
		}
		a.Data = p.take(int(v))
	}
	p.attributes = append(p.attributes, a)
	return nil
}
