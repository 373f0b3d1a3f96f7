package suite

import (
	"strings"

	"espalier/ike/wire"
)

// Proposal is a set of transforms, several of a type in the order of preference, for one protocol.
type Proposal struct {
	Protocol   wire.ProtocolID
	Transforms []Transform
}

// ParseIKE reads an IKE proposal in strongSwan's keyword syntax: "aes256-sha256-modp2048",
// "aes256gcm16-prfsha384-ecp256". Without a prf keyword the PRFs are those of the integrity keywords (also when an AEAD
// makes those superfluous otherwise, as in "aes256gcm16-sha256-x25519"); an AEAD proposal with neither is refused, as
// strongSwan refuses it. "none" and AEAD integrity are dropped. Errors are *[KeywordError] or *[ProposalError].
func ParseIKE(s string) (Proposal, error) { return parse(wire.ProtoIKE, s) }

// ParseESP reads an ESP proposal: "aes256gcm16-modp2048", "aes128-sha256-none-esn". Without esn and noesn it is noesn.
// PRF keywords are ignored, as strongSwan does. Encryption without integrity is refused (RFC 8221 4). Errors as for
// [ParseIKE].
func ParseESP(s string) (Proposal, error) { return parse(wire.ProtoESP, s) }

// ParseAH reads an AH proposal: "sha256-x25519". Errors as for [ParseIKE].
func ParseAH(s string) (Proposal, error) { return parse(wire.ProtoAH, s) }

// DefaultIKE is what "proposals = default" stands for: classic and AEAD, 128 bits of strength or more, no SHA-1. The order
// is strongSwan's, so that a configuration without proposals negotiates the same on either.
func DefaultIKE() []Proposal {
	const rest = "-prfsha256-prfsha384-prfsha512-ecp256-ecp384-ecp521-x25519-x448-modp3072-modp4096-modp6144-modp8192-modp2048"
	return []Proposal{
		mustParse(wire.ProtoIKE, "aes128-aes192-aes256-sha256-sha384-sha512"+rest),
		mustParse(wire.ProtoIKE, "aes128gcm16-aes192gcm16-aes256gcm16-chacha20poly1305"+rest),
	}
}

// DefaultESP is what "esp_proposals = default" stands for: AES-GCM, then AES-CBC with SHA-2; no key exchange of its
// own, 32-bit sequence numbers; in strongSwan's order.
func DefaultESP() []Proposal {
	return []Proposal{
		mustParse(wire.ProtoESP, "aes128gcm16-aes192gcm16-aes256gcm16"),
		mustParse(wire.ProtoESP, "aes128-aes192-aes256-sha256-sha384-sha512"),
	}
}

// String is the proposal in keyword syntax; the parser of its protocol reads it back to an equal value, as long as all
// its transforms have keywords.
func (p Proposal) String() string {
	var b strings.Builder
	b.Grow(16 * len(p.Transforms))
	for i, t := range p.Transforms {
		if i > 0 {
			b.WriteByte('-')
		}
		b.WriteString(t.String())
	}
	return b.String()
}

// Join is a list of proposals for people: their keyword forms, joined by ", ".
func Join(ps []Proposal) string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return strings.Join(s, ", ")
}

// JoinWire is [Join] of proposals as they came, at most a few kilobytes of them.
func JoinWire(ps []wire.Proposal) string {
	const most = 2000 // octets after which the rest is left out: the peer decides how much there is
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteString(", ")
		}
		for j, t := range FromWire(p).Transforms {
			if b.Len() > most {
				b.WriteString("…")
				return b.String()
			}
			if j > 0 {
				b.WriteByte('-')
			}
			b.WriteString(t.String())
		}
	}
	return b.String()
}

// Of lists the transforms of type t in the order of preference; nil when there is none.
func (p Proposal) Of(t wire.TransformType) []Transform {
	var out []Transform
	for _, x := range p.Transforms {
		if x.Type == t {
			out = append(out, x)
		}
	}
	return out
}

// WithoutKE is the proposal without key exchanges, the form in which the first CHILD SA is offered in IKE_AUTH
// (RFC 7296 1.2).
func (p Proposal) WithoutKE() Proposal {
	out := Proposal{Protocol: p.Protocol, Transforms: make([]Transform, 0, len(p.Transforms))}
	for _, t := range p.Transforms {
		if !t.Type.IsKE() {
			out.Transforms = append(out.Transforms, t)
		}
	}
	return out
}

// WithoutKE strips the key exchanges of every proposal; proposals that are then equal to an earlier one are left out.
func WithoutKE(ps []Proposal) []Proposal {
	out := make([]Proposal, 0, len(ps))
	for _, p := range ps {
		p = p.WithoutKE()
		known := false
		for _, q := range out {
			known = known || equal(p, q)
		}
		if !known {
			out = append(out, p)
		}
	}
	return out
}

func equal(p, q Proposal) bool {
	if p.Protocol != q.Protocol || len(p.Transforms) != len(q.Transforms) {
		return false
	}
	for i := range p.Transforms {
		if p.Transforms[i] != q.Transforms[i] {
			return false
		}
	}
	return true
}

// Wire is the proposal as it is sent, with its number (from 1) and the sender's SPI (4 octets for ESP and AH, 8 for an
// IKE rekey, else nil), which is aliased.
func (p Proposal) Wire(number uint8, spi []byte) wire.Proposal {
	w := wire.Proposal{Number: number, Protocol: p.Protocol, SPI: spi, Transforms: make([]wire.Transform, len(p.Transforms))}
	n := 0
	for _, t := range p.Transforms {
		if t.KeyBits != 0 {
			n++
		}
	}
	attrs := make([]wire.Attribute, 0, n)
	for i, t := range p.Transforms {
		w.Transforms[i] = wire.Transform{Type: t.Type, ID: t.ID}
		if t.KeyBits != 0 {
			attrs = append(attrs, wire.Attribute{Type: wire.AttrKeyLength, Value: t.KeyBits})
			w.Transforms[i].Attributes = attrs[len(attrs)-1 : len(attrs) : len(attrs)]
		}
	}
	return w
}

// FromWire is a peer's proposal for display and storage; nothing is aliased. Attributes other than Key Length are lost,
// so what is chosen is decided by [Select] and [Accept], which see them.
func FromWire(w wire.Proposal) Proposal {
	p := Proposal{Protocol: w.Protocol, Transforms: make([]Transform, len(w.Transforms))}
	for i, t := range w.Transforms {
		bits, _ := t.KeyLength()
		p.Transforms[i] = Transform{Type: t.Type, ID: t.ID, KeyBits: bits}
	}
	return p
}

// Offer is the SA payload that offers ps, numbered from 1, each with the sender's SPI (see [Proposal.Wire]). If ke is
// not KENone, proposals that hold it come first and it comes first among their KE transforms: the group of the KE
// payload beside the offer is then the preferred one (RFC 7296 1.2, 2.7). ps is not changed.
func Offer(ps []Proposal, spi []byte, ke wire.KEMethod) *wire.SA {
	sa := &wire.SA{Proposals: make([]wire.Proposal, 0, len(ps))}
	add := func(p Proposal) { sa.Proposals = append(sa.Proposals, p.Wire(uint8(len(sa.Proposals)+1), spi)) }
	if ke == wire.KENone {
		for _, p := range ps {
			add(p)
		}
		return sa
	}
	for _, p := range ps {
		if p.offersKE(ke) {
			add(p.promoteKE(ke))
		}
	}
	for _, p := range ps {
		if !p.offersKE(ke) {
			add(p)
		}
	}
	return sa
}

// FirstKE is the most preferred KE method of the proposals, KENone if there is none.
func FirstKE(ps []Proposal) wire.KEMethod {
	for _, p := range ps {
		for _, t := range p.Transforms {
			if t.Type == wire.TransformKE && t.ID != uint16(wire.KENone) {
				return wire.KEMethod(t.ID)
			}
		}
	}
	return wire.KENone
}

// OffersKE reports whether one of the proposals holds m as its KE (not as an additional one).
func OffersKE(ps []Proposal, m wire.KEMethod) bool {
	for _, p := range ps {
		if p.offersKE(m) {
			return true
		}
	}
	return false
}

// HasAdditionalKE reports whether one of the proposals holds additional key exchanges (RFC 9370).
func HasAdditionalKE(ps []Proposal) bool {
	for _, p := range ps {
		for _, t := range p.Transforms {
			if addKE(t.Type) > 0 {
				return true
			}
		}
	}
	return false
}

func (p Proposal) offersKE(m wire.KEMethod) bool {
	for _, t := range p.Transforms {
		if t.Type == wire.TransformKE && t.ID == uint16(m) {
			return true
		}
	}
	return false
}

// promoteKE moves m to the place of the first KE transform.
func (p Proposal) promoteKE(m wire.KEMethod) Proposal {
	want := Transform{Type: wire.TransformKE, ID: uint16(m)}
	out := Proposal{Protocol: p.Protocol, Transforms: make([]Transform, 0, len(p.Transforms))}
	placed := false
	for _, t := range p.Transforms {
		if t.Type == wire.TransformKE && !placed {
			out.Transforms = append(out.Transforms, want)
			placed = true
		}
		if t != want {
			out.Transforms = append(out.Transforms, t)
		}
	}
	return out
}

func (p Proposal) has(t Transform) bool {
	for _, x := range p.Transforms {
		if x == t {
			return true
		}
	}
	return false
}
