package pki

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxRDN bounds the parts of a distinguished name that is written as text.
const maxRDN = 20

// attribute is one part of a distinguished name, aliasing the DER.
type attribute struct {
	oid   []byte // contents of the OBJECT IDENTIFIER
	tag   cbasn1.Tag
	value []byte
	first bool // of its SET: the following ones belong to the same RDN
}

// walkDN calls f for each attribute until f says stop, and says whether all that it read is well-formed.
func walkDN(der []byte, f func(attribute) bool) bool {
	in := cryptobyte.String(der)
	var sets cryptobyte.String
	if !in.ReadASN1(&sets, cbasn1.SEQUENCE) || !in.Empty() {
		return false
	}
	for !sets.Empty() {
		var set cryptobyte.String
		if !sets.ReadASN1(&set, cbasn1.SET) || set.Empty() {
			return false
		}
		for first := true; !set.Empty(); first = false {
			var seq, oid, value cryptobyte.String
			var tag cbasn1.Tag
			if !set.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) || len(oid) == 0 ||
				!seq.ReadAnyASN1(&value, &tag) || !seq.Empty() {
				return false
			}
			if !f(attribute{oid: oid, tag: tag, value: value, first: first}) {
				return true
			}
		}
	}
	return true
}

// ValidDN says whether der is one well-formed distinguished name (RFC 5280 4.1.2.4) without anything after it.
func ValidDN(der []byte) bool { return walkDN(der, func(attribute) bool { return true }) }

// EqualDN says whether two distinguished names are the same, as strongSwan sees it: same attributes in the same order,
// values octet for octet, but without regard to the string type, and without regard to ASCII case where both values
// are PrintableString, or IA5String in an emailAddress. Malformed names equal nothing but themselves.
func EqualDN(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if len(a) != len(b) {
		return false
	}
	n, ok := compareDN(a, b, false)
	return ok && n == 0
}

// MatchDN says whether name falls under pattern, and how many of the pattern's values are "*", each of which stands
// for any one value of that attribute.
func MatchDN(name, pattern []byte) (wildcards int, ok bool) {
	if bytes.Equal(name, pattern) {
		return 0, true
	}
	return compareDN(name, pattern, true)
}

func compareDN(name, pattern []byte, wild bool) (wildcards int, ok bool) {
	as, okA := attributes(name)
	ps, okP := attributes(pattern)
	if !okA || !okP || len(as) != len(ps) {
		return 0, false
	}
	for i, p := range ps {
		a := as[i]
		switch {
		case !bytes.Equal(a.oid, p.oid) || a.first != p.first:
			return 0, false
		case wild && string(p.value) == "*":
			wildcards++
		case !equalValue(a, p):
			return 0, false
		}
	}
	return wildcards, true
}

func attributes(der []byte) ([]attribute, bool) {
	as := make([]attribute, 0, 8) // few names have more
	ok := walkDN(der, func(a attribute) bool {
		as = append(as, a)
		return true
	})
	return as, ok
}

func equalValue(a, b attribute) bool {
	if len(a.value) != len(b.value) {
		return false
	}
	fold := a.tag == b.tag && (a.tag == cbasn1.PrintableString ||
		a.tag == cbasn1.IA5String && string(a.oid) == oidEmail)
	if !fold {
		return bytes.Equal(a.value, b.value)
	}
	return EqualFoldASCII(string(a.value), string(b.value))
}

// EqualFoldASCII compares without regard to the case of ASCII letters, and of those only.
func EqualFoldASCII(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// FormatDN prints a distinguished name as strongSwan does: "C=CH, O=strongSwan, CN=moon", octets that do not print as
// '?'. Where a value holds a comma, the form is "/C=CH/O=a, b", and where one holds a slash besides, it is
// "asn1dn:#" and hexadecimal, so that no name can look like another one. Attributes without a name appear as dotted
// numbers. A malformed name is "(invalid ID_DER_ASN1_DN)".
func FormatDN(der []byte) string {
	as, ok := attributes(der)
	if !ok {
		return "(invalid ID_DER_ASN1_DN)"
	}
	var comma, slash bool
	for _, a := range as {
		comma = comma || bytes.IndexByte(a.value, ',') >= 0
		slash = slash || bytes.IndexByte(a.value, '/') >= 0
	}
	if comma && slash {
		return "asn1dn:#" + hex.EncodeToString(der)
	}
	var b strings.Builder
	b.Grow(len(der)) // what DER spends on tags, lengths and OIDs is about what the names take
	for i, a := range as {
		switch {
		case comma:
			b.WriteByte('/')
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(attributeName(a.oid))
		b.WriteByte('=')
		for _, c := range a.value {
			b.WriteByte(printable(c))
		}
	}
	return b.String()
}

// Printable replaces each octet that is not printable ASCII by '?'.
func Printable(v string) string {
	for i := range len(v) {
		if printable(v[i]) != v[i] {
			return replaceUnprintable(v)
		}
	}
	return v // what most names are
}

func replaceUnprintable(v string) string {
	out := []byte(v)
	for i, c := range out {
		out[i] = printable(c)
	}
	return string(out)
}

func printable(c byte) byte {
	if c < 0x20 || c > 0x7e {
		return '?'
	}
	return c
}

// ParseDN turns "C=CH, O=strongSwan, CN=moon" or "/C=CH/O=strongSwan/CN=moon" into DER. Attribute names are
// strongSwan's, without regard to case, or dotted numbers; a value is a PrintableString if it can be one, else
// UTF8String; emailAddress and unstructuredName are IA5String. At most 20 attributes.
func ParseDN(s string) ([]byte, error) {
	rest, sep := strings.TrimLeft(s, " "), ","
	if strings.HasPrefix(rest, "/") {
		rest, sep = rest[1:], "/"
	}
	parts := strings.Split(rest, sep)
	if n := len(parts); n > 1 && strings.TrimSpace(parts[n-1]) == "" {
		parts = parts[:n-1]
	}
	if len(parts) > maxRDN {
		return nil, fmt.Errorf("expected at most %d attributes in a distinguished name, found %d", maxRDN, len(parts))
	}
	var b cryptobyte.Builder
	var err error
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, part := range parts {
			if err == nil {
				err = addAttribute(b, part)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes()
}

func addAttribute(b *cryptobyte.Builder, part string) error {
	name, value, ok := strings.Cut(part, "=")
	name, value = strings.Trim(name, " "), strings.Trim(value, " ")
	if !ok {
		return fmt.Errorf("expected attribute=value in a distinguished name, found %q", strings.TrimSpace(part))
	}
	oid, ia5, ok := attributeOID(name)
	if !ok {
		return fmt.Errorf("expected an attribute name such as C, O, OU, CN or E, or a dotted number, in a distinguished name, found %q", name)
	}
	tag := cbasn1.UTF8String
	switch {
	case ia5:
		tag = cbasn1.IA5String
		for i := range len(value) {
			if value[i] >= 0x80 {
				return fmt.Errorf("expected ASCII as value of %s in a distinguished name, found %q", name, value)
			}
		}
	case isPrintableString(value):
		tag = cbasn1.PrintableString
	case !utf8.ValidString(value):
		return fmt.Errorf("expected UTF-8 as value of %s in a distinguished name, found %q", name, value)
	}
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(oid)) })
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	})
	return nil
}

// isPrintableString says whether s fits the ASN.1 type (X.680 41.4).
func isPrintableString(s string) bool {
	for i := range len(s) {
		c := lower(s[i])
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte(" '()+,-./:=?", c) >= 0) {
			return false
		}
	}
	return true
}

const (
	oidX500  = "\x55\x04"                             // 2.5.4
	oidPKCS9 = "\x2a\x86\x48\x86\xf7\x0d\x01\x09"     // 1.2.840.113549.1.9
	oidPilot = "\x09\x92\x26\x89\x93\xf2\x2c\x64\x01" // 0.9.2342.19200300.100.1
	oidEmail = oidPKCS9 + "\x01"
)

// attributeNames: the first name of an OID is the one that is printed.
var attributeNames = [...]struct {
	name, oid string
	ia5       bool
}{
	{"CN", oidX500 + "\x03", false},
	{"C", oidX500 + "\x06", false},
	{"O", oidX500 + "\x0a", false},
	{"OU", oidX500 + "\x0b", false},
	{"L", oidX500 + "\x07", false},
	{"ST", oidX500 + "\x08", false},
	{"DC", oidPilot + "\x19", false},
	{"UID", oidPilot + "\x01", false},
	{"E", oidEmail, true},
	{"Email", oidEmail, true},
	{"emailAddress", oidEmail, true},
	{"S", oidX500 + "\x04", false},
	{"SN", oidX500 + "\x05", false},
	{"serialNumber", oidX500 + "\x05", false},
	{"T", oidX500 + "\x0c", false},
	{"D", oidX500 + "\x0d", false},
	{"N", oidX500 + "\x29", false},
	{"G", oidX500 + "\x2a", false},
	{"I", oidX500 + "\x2b", false},
	{"ID", oidX500 + "\x2d", false},
	{"dnQualifier", oidX500 + "\x2e", false},
	{"dmdName", oidX500 + "\x36", false},
	{"pseudonym", oidX500 + "\x41", false},
	{"street", oidX500 + "\x09", false},
	{"postalCode", oidX500 + "\x11", false},
	{"EN", "\x60\x86\x48\x01\x86\xf8\x42\x03\x01\x03", false}, // 2.16.840.1.113730.3.1.3
	{"employeeNumber", "\x60\x86\x48\x01\x86\xf8\x42\x03\x01\x03", false},
	{"unstructuredName", oidPKCS9 + "\x02", true},
	{"UN", oidPKCS9 + "\x02", true},
	{"unstructuredAddress", oidPKCS9 + "\x08", false},
	{"UA", oidPKCS9 + "\x08", false},
	{"ND", "\x02\x82\x06\x01\x0a\x07\x14", false}, // 0.2.262.1.10.7.20
}

func attributeName(oid []byte) string {
	for i := range attributeNames {
		if attributeNames[i].oid == string(oid) {
			return attributeNames[i].name
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(oid) })
	if der, err := b.Bytes(); err == nil {
		var o asn1.ObjectIdentifier
		if rest, err := asn1.Unmarshal(der, &o); err == nil && len(rest) == 0 {
			return o.String()
		}
	}
	return "OID." + hex.EncodeToString(oid)
}

func attributeOID(name string) (oid string, ia5, ok bool) {
	for i := range attributeNames {
		if EqualFoldASCII(attributeNames[i].name, name) {
			return attributeNames[i].oid, attributeNames[i].ia5, true
		}
	}
	var o asn1.ObjectIdentifier
	for _, arc := range strings.Split(name, ".") {
		n := 0
		if arc == "" || len(arc) > 9 {
			return "", false, false
		}
		for i := range len(arc) {
			if arc[i] < '0' || arc[i] > '9' {
				return "", false, false
			}
			n = n*10 + int(arc[i]-'0')
		}
		o = append(o, n)
	}
	if len(o) > 32 {
		return "", false, false
	}
	der, err := asn1.Marshal(o)
	if err != nil {
		return "", false, false
	}
	return string(der[2:]), false, true
}

// HasWildcard says whether a value of the name is "*".
func HasWildcard(der []byte) bool {
	found := false
	walkDN(der, func(a attribute) bool {
		found = string(a.value) == "*"
		return !found
	})
	return found
}
