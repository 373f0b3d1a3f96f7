package auth

import "espalier/ike/wire"

// ID is an identity or a pattern for identities: a comparable plain value. Data is the payload's data, so 4 or 16
// octets for addresses and DER for distinguished names. The zero value is %any.
type ID struct {
	Type wire.IDType
	Data string
}

// IsAny says whether the pattern is %any.
func (id ID) IsAny() bool { return id.Type == 0 }

// ParseID reads an identity in strongSwan's syntax.
func ParseID(s string) (ID, error) { return ID{}, nil }

// IDFromWire takes the identity out of an ID payload; it copies.
func IDFromWire(p *wire.ID) (ID, error) { return ID{}, nil }

// Wire makes the ID payload.
func (id ID) Wire(initiator bool) *wire.ID { return nil }

// String prints as strongSwan does.
func (id ID) String() string { return "" }

// Matches says whether id falls under the pattern other.
func (id ID) Matches(other ID) (score int, ok bool) { return 0, false }
