package auth

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"espalier/ike/pki"
	"espalier/ike/wire"
)

// MaxIDSize bounds the data of an identity, in octets.
const MaxIDSize = 4096

// ID is an identity or a pattern for identities: a comparable plain value. Data is the payload's data, so 4 or 16
// octets for addresses and DER for distinguished names. The zero value is %any. Two IDs that mean the same may differ
// as values (letter case): ask Equal.
type ID struct {
	Type wire.IDType
	Data string
}

// IsAny says whether the pattern is %any.
func (id ID) IsAny() bool { return id.Type == 0 }

// AddrID is the identity of an address (IPv4-mapped ones as IPv4); %any if it is not valid.
func AddrID(a netip.Addr) ID {
	a = a.Unmap()
	switch {
	case a.Is4():
		return ID{wire.IDIPv4Addr, string(a.AsSlice())}
	case a.Is6():
		return ID{wire.IDIPv6Addr, string(a.AsSlice())}
	}
	return ID{}
}

// DNID is the identity of a distinguished name in DER, such as a certificate's RawSubject; it copies.
func DNID(der []byte) ID { return ID{wire.IDDERASN1DN, string(der)} }

// IDFromWire takes the identity out of an ID payload; it copies. It refuses what is longer than MaxIDSize, data that
// does not fit the type (RFC 7296 3.5), names that are empty or hold NUL (which compare differently in different
// programs), and types that do not name a single peer.
func IDFromWire(p *wire.ID) (ID, error) {
	if p == nil {
		return ID{}, errors.New("expected an ID payload, found none")
	}
	if len(p.Data) > MaxIDSize {
		return ID{}, fmt.Errorf("expected an identity of at most %d octets, found %d", MaxIDSize, len(p.Data))
	}
	id := ID{p.IDType, string(p.Data)}
	return id, id.check()
}

// check says whether the data fits the type.
func (id ID) check() error {
	fail := func(want string) error {
		return fmt.Errorf("expected %s as data of %s, found %d octets that are not", want, id.Type, len(id.Data))
	}
	switch id.Type {
	case wire.IDIPv4Addr:
		if len(id.Data) != 4 {
			return fail("4 octets")
		}
	case wire.IDIPv6Addr:
		if len(id.Data) != 16 {
			return fail("16 octets")
		}
	case wire.IDFQDN, wire.IDRFC822Addr:
		if id.Data == "" || strings.IndexByte(id.Data, 0) >= 0 {
			return fail("a name without NUL")
		}
	case wire.IDDERASN1DN:
		if !pki.ValidDN([]byte(id.Data)) {
			return fail("a distinguished name in DER")
		}
	case wire.IDDERASN1GN, wire.IDKeyID:
		if id.Data == "" {
			return fail("at least one octet")
		}
	default:
		return fmt.Errorf("expected an identity that names one peer (RFC 7296 3.5), found %s", id.Type)
	}
	return nil
}

// Wire makes the ID payload; initiator says IDi, else IDr. %any and patterns make no sense there: the caller checks.
func (id ID) Wire(initiator bool) *wire.ID {
	return &wire.ID{Initiator: initiator, IDType: id.Type, Data: []byte(id.Data)}
}

// String prints as strongSwan does: addresses in their usual form, names as they are with '?' for octets that do not
// print, distinguished names as pki.FormatDN has them, a key id as text if all of it prints (and it is not a hash),
// else as hexadecimal with colons.
func (id ID) String() string {
	switch id.Type {
	case 0:
		return "%any"
	case wire.IDIPv4Addr, wire.IDIPv6Addr:
		if a, ok := netip.AddrFromSlice([]byte(id.Data)); ok {
			return a.String()
		}
		return "(invalid " + id.Type.String() + ")"
	case wire.IDFQDN, wire.IDRFC822Addr:
		return pki.Printable(id.Data)
	case wire.IDDERASN1DN:
		return pki.FormatDN([]byte(id.Data))
	case wire.IDDERASN1GN:
		return "(ASN.1 general name)"
	case wire.IDKeyID:
		const sha1Size = 20
		if s := pki.Printable(id.Data); s == id.Data && len(s) != sha1Size {
			return s
		}
		return colonHex(id.Data)
	}
	return fmt.Sprintf("(unknown ID type: %d)", uint8(id.Type))
}

func colonHex(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(hex.EncodeToString([]byte{s[i]}))
	}
	return b.String()
}

// Equal says whether both are the same identity: names without regard to ASCII case (strongSwan and RFC 4343),
// distinguished names as pki.EqualDN, all else octet for octet.
func (id ID) Equal(other ID) bool {
	if id == other {
		return true
	}
	if id.Type != other.Type {
		return false
	}
	switch id.Type {
	case wire.IDFQDN, wire.IDRFC822Addr:
		return pki.EqualFoldASCII(id.Data, other.Data) && strings.IndexByte(id.Data, 0) < 0
	case wire.IDDERASN1DN:
		return pki.EqualDN([]byte(id.Data), []byte(other.Data))
	}
	return false
}

// Scores of Matches, best first. A distinguished name loses one point a wildcard.
const (
	MatchPerfect = 20
	MatchOne     = 19 // one wildcard
	maxWildcards = MatchOne - 2
	MatchAny     = 1 // %any, or "*"
)

// Matches says whether id falls under a pattern, and how closely: MatchPerfect for the same identity, less for each
// wildcard, MatchAny for %any. In a pattern a name may begin with "*" ("*.example.org", "*@example.org": the rest must
// be the end of the name), and a value of a distinguished name may be "*".
func (id ID) Matches(pattern ID) (score int, ok bool) {
	if pattern.IsAny() {
		return MatchAny, true
	}
	if id.Type != pattern.Type {
		return 0, false
	}
	if id.Equal(pattern) {
		return MatchPerfect, true
	}
	switch id.Type {
	case wire.IDFQDN, wire.IDRFC822Addr:
		end, wild := strings.CutPrefix(pattern.Data, "*")
		switch {
		case !wild || len(id.Data) < len(pattern.Data):
		case end == "":
			return MatchAny, true
		case pki.EqualFoldASCII(id.Data[len(id.Data)-len(end):], end):
			return MatchOne, true
		}
	case wire.IDDERASN1DN:
		if n, ok := pki.MatchDN([]byte(id.Data), []byte(pattern.Data)); ok {
			return MatchPerfect - min(n, maxWildcards), true
		}
	}
	return 0, false
}

// IsPattern says whether the identity holds a wildcard (or is %any), so that it cannot be sent.
func (id ID) IsPattern() bool {
	switch id.Type {
	case 0:
		return true
	case wire.IDFQDN, wire.IDRFC822Addr:
		return strings.HasPrefix(id.Data, "*")
	case wire.IDDERASN1DN:
		return pki.HasWildcard([]byte(id.Data))
	}
	return false
}
