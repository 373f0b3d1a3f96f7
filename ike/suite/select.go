package suite

import (
	"fmt"
	"strings"

	"espalier/ike/wire"
)

// SelectOptions says how proposals are chosen; its zero value is strongSwan's default.
type SelectOptions struct {
	PreferPeer bool // the peer's order decides among common proposals and transforms, not ours
	// SkipKE leaves key exchanges out of account on both sides: for the CHILD SA of IKE_AUTH (RFC 7296 1.2).
	SkipKE bool
	// KE is the method of the KE payload beside the offer. Within the proposal that is chosen it is preferred to our
	// (or the peer's) order, which saves a round of INVALID_KE_PAYLOAD (RFC 7296 1.2). KENone prefers nothing.
	KE wire.KEMethod
}

// Select chooses, as responder, one of the offered proposals and one transform of each type (RFC 7296 2.7, 3.3). The
// Choice copies the peer's SPI. On failure the Mismatch is not nil and says on what the two sides part.
//
// A Key Length attribute is part of the algorithm; a transform with another attribute, or an unknown one, is passed
// over, a proposal with an unknown transform type too (RFC 7296 3.3.6). With an AEAD no integrity algorithm is chosen,
// whether the peer offers NONE, nothing or (against RFC 7296 3.3) some. Where one side has no key exchange, NONE
// matches. A missing sequence number transform matches nothing: RFC 4306 and later practice read it differently.
func Select(ours []Proposal, offered []wire.Proposal, opt SelectOptions) (Choice, *Mismatch) {
	n, m := len(ours), len(offered)
	if opt.PreferPeer {
		n, m = m, n
	}
	for i := range n {
		for j := range m {
			o, t := i, j
			if opt.PreferPeer {
				o, t = j, i
			}
			if r := pair(ours[o], offered[t], opt); r.ok() {
				return r.choice(offered[t]), nil
			}
		}
	}
	return Choice{}, mismatch(ours, offered, opt)
}

// Accept checks, as initiator, that the answer is one proposal with exactly one transform of each type, all out of one
// proposal that we offered (RFC 7296 2.7), ours being what was offered (for IKE_AUTH: [WithoutKE]). Its number need not
// be the one we gave. The Choice copies the peer's SPI.
func Accept(ours []Proposal, got []wire.Proposal) (Choice, error) {
	if len(got) != 1 {
		return Choice{}, fmt.Errorf("answer to the offer: expected one proposal, got %d", len(got))
	}
	var seen [256]bool
	for _, t := range got[0].Transforms {
		if seen[t.Type] {
			return Choice{}, fmt.Errorf("answer to the offer: expected one transform of type %s, got several", t.Type)
		}
		seen[t.Type] = true
	}
	for _, p := range ours {
		if r := pair(p, got[0], SelectOptions{}); r.ok() && r.takesAll(got[0]) {
			return r.choice(got[0]), nil
		}
	}
	m := mismatch(ours, got, SelectOptions{})
	if m.ClosestOurs >= 0 && m.Part == 0 && m.Ours[m.ClosestOurs].Protocol == got[0].Protocol {
		m.Part = wire.TransformINTEG // the one type that pair passes over
	}
	return Choice{}, fmt.Errorf("answer to the offer is not among it: %w", m)
}

// selectOrder is the order in which types are compared: the one in which charon prints them.
var selectOrder = [...]wire.TransformType{
	wire.TransformENCR, wire.TransformINTEG, wire.TransformPRF, wire.TransformKE, wire.TransformESN,
	wire.TransformADDKE1, wire.TransformADDKE2, wire.TransformADDKE3, wire.TransformADDKE4, wire.TransformADDKE5,
	wire.TransformADDKE6, wire.TransformADDKE7,
}

// matched is the outcome of comparing two proposals.
type matched struct {
	protocol bool
	part     wire.TransformType // first type without a common transform, 0 if none
	common   int                // types on which they agree
	parts    int                // types on which they don't
	chosen   [len(selectOrder)]Transform
	n        int // of chosen
}

func (r *matched) partOn(t wire.TransformType) {
	if r.part == 0 {
		r.part = t
	}
	r.parts++
}

// closeness orders pairs that don't match: fewest types to part on first, then most to agree on.
func (r *matched) closeness() int {
	if !r.protocol {
		return 0
	}
	const most = len(selectOrder) + 1 // of parts or common
	return 1 + (most-r.parts)*(most+1) + r.common
}

func (r *matched) ok() bool { return r.protocol && r.part == 0 }

func (r *matched) choice(w wire.Proposal) Choice {
	c := Choice{Number: w.Number, Proposal: Proposal{Protocol: w.Protocol}}
	if len(w.SPI) > 0 {
		c.SPI = append([]byte(nil), w.SPI...)
	}
	c.Transforms = append([]Transform(nil), r.chosen[:r.n]...)
	return c
}

// takesAll reports whether every transform of w but NONE was chosen.
func (r *matched) takesAll(w wire.Proposal) bool {
	n := 0
	for _, t := range w.Transforms {
		if t.ID != 0 || t.Type == wire.TransformESN {
			n++
		}
	}
	return n == r.n
}

// pair compares one of our proposals with one of the peer's, type by type.
func pair(p Proposal, w wire.Proposal, opt SelectOptions) matched {
	r := matched{protocol: p.Protocol == w.Protocol}
	if !r.protocol {
		return r
	}
	aead := false
	for _, typ := range selectOrder {
		if opt.SkipKE && typ.IsKE() || aead && typ == wire.TransformINTEG {
			continue
		}
		t, outcome := common(p, w, typ, opt, r.chosen[:r.n])
		switch outcome {
		case agree:
			r.chosen[r.n] = t
			r.n++
			r.common++
			aead = aead || t.isAEAD()
		case agreeOnNone:
			r.common++
		case disagree:
			r.partOn(typ)
		}
	}
	if t, ok := unknownType(w); ok {
		r.partOn(t)
	}
	return r
}

// unknownType finds a transform of a type that no proposal of ours can have (RFC 7296 3.3.6).
func unknownType(w wire.Proposal) (wire.TransformType, bool) {
	for _, t := range w.Transforms {
		if t.Type == 0 || t.Type > wire.TransformADDKE7 {
			return t.Type, true
		}
	}
	return 0, false
}

type outcome int

const (
	agree       outcome = iota // on a transform
	agreeOnNone                // that there is none
	disagree
	absent // on both sides
)

// common finds the preferred common transform of one type. taken are those chosen before: no key exchange method is
// used twice (RFC 9370 2.2.1).
func common(p Proposal, w wire.Proposal, typ wire.TransformType, opt SelectOptions, taken []Transform) (Transform, outcome) {
	ours, theirs, oursNone, theirsNone := 0, 0, false, false
	var best Transform
	bestOurs, bestTheirs := -1, -1
	for i, a := range p.Transforms {
		if a.Type != typ {
			continue
		}
		ours++
		oursNone = oursNone || a.ID == 0
		if typ.IsKE() && a.ID != 0 && usesKE(taken, a.ID) {
			continue
		}
		for j := range w.Transforms {
			b, sound := fromWire(w.Transforms[j])
			if !sound || a != b {
				continue
			}
			better := bestOurs < 0
			switch {
			case better || best.isKE(opt.KE):
			case a.isKE(opt.KE):
				better = true
			case opt.PreferPeer:
				better = j < bestTheirs
			}
			if better {
				best, bestOurs, bestTheirs = a, i, j
			}
			break
		}
	}
	for _, b := range w.Transforms {
		if b.Type == typ {
			theirs++
			theirsNone = theirsNone || b.ID == 0
		}
	}
	optional := typ.IsKE() && (p.Protocol != wire.ProtoIKE || typ != wire.TransformKE) || typ == wire.TransformINTEG
	switch {
	case ours == 0 && theirs == 0:
		return Transform{}, absent
	case bestOurs >= 0 && best.ID == 0 && typ != wire.TransformESN:
		return Transform{}, agreeOnNone
	case bestOurs >= 0:
		return best, agree
	case optional && (ours == 0 && theirsNone || theirs == 0 && oursNone):
		return Transform{}, agreeOnNone
	}
	return Transform{}, disagree
}

// isKE reports whether t is the KE (not an additional one) of method m.
func (t Transform) isKE(m wire.KEMethod) bool {
	return t.Type == wire.TransformKE && m != wire.KENone && t.ID == uint16(m)
}

func usesKE(taken []Transform, id uint16) bool {
	for _, t := range taken {
		if t.Type.IsKE() && t.ID == id {
			return true
		}
	}
	return false
}

// fromWire reads a transform; it isn't sound if an attribute says something that Transform can't (RFC 7296 3.3.6).
func fromWire(t wire.Transform) (tr Transform, sound bool) {
	tr = Transform{Type: t.Type, ID: t.ID}
	for _, a := range t.Attributes {
		if a.Type != wire.AttrKeyLength || a.Data != nil || tr.KeyBits != 0 || a.Value == 0 {
			return tr, false
		}
		tr.KeyBits = a.Value
	}
	return tr, true
}

// Mismatch is why there is no common proposal.
type Mismatch struct {
	Ours   []Proposal
	Theirs []Proposal
	// ClosestOurs and ClosestTheirs are the pair of proposals that parts on the fewest transform types, as indexes of Ours
	// and Theirs; -1 each if a side has none.
	ClosestOurs, ClosestTheirs int
	Part                       wire.TransformType // the first type on which the closest pair parts; 0 if it is the protocol

	offered []wire.Proposal
}

// mismatch finds the closest pair.
func mismatch(ours []Proposal, offered []wire.Proposal, opt SelectOptions) *Mismatch {
	m := &Mismatch{Ours: ours, Theirs: make([]Proposal, len(offered)), ClosestOurs: -1, ClosestTheirs: -1, offered: offered}
	best := -1
	for j := range offered {
		m.Theirs[j] = FromWire(offered[j])
		for i := range ours {
			r := pair(ours[i], offered[j], opt)
			if c := r.closeness(); c > best {
				best, m.ClosestOurs, m.ClosestTheirs, m.Part = c, i, j, r.part
			}
		}
	}
	return m
}

// String is one line: both lists, and for the closest pair the transform type on which they part with what either
// side has: "ours: …; peer's: …; they part on ENCR: ours AES_CBC-256, peer's AES_GCM_16-128".
func (m *Mismatch) String() string {
	return "ours: " + m.OursText() + "; peer's: " + m.PeerText() + "; they part on " + m.PartText()
}

// Error makes a Mismatch usable as an error; it is String.
func (m *Mismatch) Error() string { return m.String() }

// OursText is our proposals in keyword syntax, "none" if there are none.
func (m *Mismatch) OursText() string { return orNone(Join(m.Ours)) }

// PeerText is the peer's proposals in keyword syntax, "none" if there are none; at most a few kilobytes.
func (m *Mismatch) PeerText() string { return orNone(JoinWire(m.offered)) }

// PartText is the transform type on which the closest pair parts, with both sides:
// "ENCR: ours AES_CBC-256, peer's AES_GCM_16-128".
func (m *Mismatch) PartText() string {
	if m.ClosestOurs < 0 {
		return "proposals: one side has none"
	}
	ours, theirs := m.Ours[m.ClosestOurs], m.Theirs[m.ClosestTheirs]
	if m.Part == 0 && ours.Protocol != theirs.Protocol {
		return "the protocol: ours " + ours.Protocol.String() + ", peer's " + theirs.Protocol.String()
	}
	return m.Part.String() + ": ours " + names(ours.Of(m.Part)) + ", peer's " + names(theirs.Of(m.Part))
}

// names lists transforms in charon's spelling, a handful at most.
func names(ts []Transform) string {
	const most = 16
	s := make([]string, 0, min(len(ts), most+1))
	for i, t := range ts {
		if i == most {
			s = append(s, "…")
			break
		}
		s = append(s, t.Name())
	}
	return orNone(strings.Join(s, " "))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
