package suite

import "espalier/ike/wire"

// KeywordError is a word of a proposal that can't be used.
type KeywordError struct {
	Word    string // as written
	Offset  int    // octets from the start of the proposal
	Known   bool   // a keyword of strongSwan's that is not supported yet
	Nearest string // the supported keyword with the fewest differences, empty if none is near
}

// Error says what was found, where, and what it was perhaps meant to be.
func (e *KeywordError) Error() string { return e.Word }

// ProposalError is a proposal whose keywords are fine each, but not together.
type ProposalError struct {
	Protocol wire.ProtocolID
	Text     string // the proposal as written
	Expected string
	Got      string
}

// Error says what a proposal needs and what it has.
func (e *ProposalError) Error() string { return e.Expected }

type keyword struct {
	word      string
	typ       wire.TransformType
	id, bits  uint16
	supported bool
	primary   bool // the one that String uses
}

var keywords = [...]keyword{}

func parse(proto wire.ProtocolID, s string) (Proposal, error) { return Proposal{Protocol: proto}, nil }

func mustParse(proto wire.ProtocolID, s string) Proposal {
	p, err := parse(proto, s)
	if err != nil {
		panic(err)
	}
	return p
}
