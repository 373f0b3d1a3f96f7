package suite

import (
	"espalier/ike/wire"
)

// SelectOptions says how proposals are chosen; its zero value is strongSwan's default.
type SelectOptions struct {
	PreferPeer bool // the peer's order decides among common proposals and transforms, not ours
	// SkipKE leaves key exchanges out of account on both sides: for the CHILD SA of IKE_AUTH (RFC 7296 1.2).
	SkipKE bool
}

// Select chooses, as responder, one of the offered proposals and one transform of each type (RFC 7296 2.7, 3.3). The
// Choice copies the peer's SPI. On failure the Mismatch is not nil and says on what the two sides part.
func Select(ours []Proposal, offered []wire.Proposal, opt SelectOptions) (Choice, *Mismatch) {
	return Choice{}, nil
}

// Accept checks, as initiator, that the answer is one proposal with exactly one transform of each type, all out of one
// proposal that we offered (RFC 7296 2.7), ours being what was offered (for IKE_AUTH: [WithoutKE]). Its number need not
// be the one we gave.
func Accept(ours []Proposal, got []wire.Proposal) (Choice, error) { return Choice{}, nil }

// Mismatch is why there is no common proposal.
type Mismatch struct {
	Ours   []Proposal
	Theirs []Proposal
	// Closest is the pair of proposals that has the most transform types in common, as indexes of Ours and Theirs; -1
	// each if a side has none.
	ClosestOurs, ClosestTheirs int
	Part                       wire.TransformType // the first type on which the closest pair parts; 0 if Protocol is it
}

// String is one line: both lists, and for the closest pair the transform type on which they part with what either
// side has, e.g. "… they part on ENCR: ours AES_CBC-256, peer's AES_GCM_16-128".
func (m *Mismatch) String() string { return "" }

// PartString is the last piece of String: "they part on ENCR: ours AES_CBC-256, peer's AES_GCM_16-128".
func (m *Mismatch) PartString() string { return "" }

// Error makes a Mismatch usable as an error; it is String.
func (m *Mismatch) Error() string { return m.String() }
