package auth

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"espalier/ike/pki"
	"espalier/ike/wire"
)

// idPrefixes force a type; they are compared without regard to case.
var idPrefixes = [...]struct {
	prefix string
	typ    wire.IDType
}{
	{"ipv4:", wire.IDIPv4Addr},
	{"ipv6:", wire.IDIPv6Addr},
	{"rfc822:", wire.IDRFC822Addr},
	{"email:", wire.IDRFC822Addr},
	{"userfqdn:", wire.IDRFC822Addr},
	{"fqdn:", wire.IDFQDN},
	{"dns:", wire.IDFQDN},
	{"asn1dn:", wire.IDDERASN1DN},
	{"asn1gn:", wire.IDDERASN1GN},
	{"keyid:", wire.IDKeyID},
}

// ParseID reads an identity or a pattern in strongSwan's syntax:
//
//	%any, *, 0.0.0.0, ::, empty  any
//	192.0.2.1, 2001:db8::1       an address
//	moon.example.org, @moon      FQDN
//	moon@example.org, @@moon     e-mail address
//	@#6d6f6f6e                   key id, in hexadecimal
//	C=CH, O=x, CN=moon           distinguished name, also /C=CH/O=x/CN=moon; see pki.ParseDN
//	TYPE:text, TYPE:#hex         type forced: ipv4, ipv6, rfc822, email, userfqdn, fqdn, dns, asn1dn, asn1gn, keyid
//
// Other text with a colon is a key id. Unlike strongSwan, which turns it into a key id or into an ID payload that the
// standard does not allow, it refuses text with '=' that is no distinguished name, and data that does not fit the
// forced type; after ipv4:, ipv6: and asn1dn: it takes the written form besides the hexadecimal one.
func ParseID(s string) (ID, error) {
	if len(s) > MaxIDSize {
		return ID{}, fmt.Errorf("expected an identity of at most %d octets, found %d", MaxIDSize, len(s))
	}
	for _, p := range idPrefixes {
		if len(s) >= len(p.prefix) && pki.EqualFoldASCII(s[:len(p.prefix)], p.prefix) {
			return parseTyped(p.typ, s[len(p.prefix):])
		}
	}
	switch s {
	case "", "%any", "%any6", "0.0.0.0", "*", "::", "0::0":
		return ID{}, nil
	}
	id := ID{Data: s}
	switch {
	case strings.Contains(s, "="):
		der, err := pki.ParseDN(s)
		if err != nil {
			return ID{}, fmt.Errorf("%w; if %q is no distinguished name, say keyid:, fqdn: or email: before it", err, s)
		}
		id = DNID(der)
	case strings.HasPrefix(s, "@#"):
		return parseTyped(wire.IDKeyID, s[1:])
	case strings.HasPrefix(s, "@@"):
		id = ID{wire.IDRFC822Addr, s[2:]}
	case strings.HasPrefix(s, "@"):
		id = ID{wire.IDFQDN, s[1:]}
	case strings.Contains(s, "@"):
		id.Type = wire.IDRFC822Addr
	default:
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return addrOf(a), nil
		}
		id.Type = wire.IDFQDN
		if strings.Contains(s, ":") {
			id.Type = wire.IDKeyID
		}
	}
	if err := id.check(); err != nil {
		return ID{}, err
	}
	return id, nil
}

// addrOf keeps an IPv4-mapped address as the 16 octets that were written.
func addrOf(a netip.Addr) ID {
	if a.Is4In6() {
		return ID{wire.IDIPv6Addr, string(a.AsSlice())}
	}
	return AddrID(a)
}

func parseTyped(t wire.IDType, s string) (ID, error) {
	id := ID{t, s}
	if h, ok := strings.CutPrefix(s, "#"); ok {
		h = strings.ReplaceAll(h, ":", "")
		if len(h)%2 == 1 { // strongSwan puts a zero before it
			h = "0" + h
		}
		b, err := hex.DecodeString(h)
		if err != nil {
			return ID{}, fmt.Errorf("expected hexadecimal digits after '#' in an identity, found %q", s)
		}
		id.Data = string(b)
	} else {
		switch t {
		case wire.IDIPv4Addr, wire.IDIPv6Addr:
			a, err := netip.ParseAddr(s)
			if err != nil || a.Is4() != (t == wire.IDIPv4Addr) || a.Zone() != "" {
				return ID{}, fmt.Errorf("expected an address that fits %s, found %q", t, s)
			}
			return addrOf(a), nil
		case wire.IDDERASN1DN:
			der, err := pki.ParseDN(s)
			if err != nil {
				return ID{}, err
			}
			id.Data = string(der)
		}
	}
	if err := id.check(); err != nil {
		return ID{}, err
	}
	return id, nil
}
