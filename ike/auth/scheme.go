package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"espalier/ike/wire"
)

// KeyType is a kind of public key.
type KeyType uint8

// Values of KeyType.
const (
	KeyAny KeyType = iota
	KeyRSA
	KeyECDSA
	KeyEd25519
)

// String is swanctl's keyword.
func (k KeyType) String() string {
	switch k {
	case KeyAny:
		return "pubkey"
	case KeyRSA:
		return "rsa"
	case KeyECDSA:
		return "ecdsa"
	case KeyEd25519:
		return "ed25519"
	}
	return "KeyType(" + strconv.Itoa(int(k)) + ")"
}

// Scheme is one signature scheme that a configuration allows. A plain value; zero fields mean any. A list of them
// allows what at least one of them allows.
type Scheme struct {
	Key     KeyType
	MinBits uint16             // of the RSA modulus or the ECDSA curve
	Hash    wire.HashAlgorithm // HashSHA2_256, 384, 512 or HashSHA1; zero: any. Ed25519 has no choice of it
	PSS     bool               // RSA: we sign with RSASSA-PSS, and the peer's signature must be that; else any, ours PKCS#1 v1.5
	IKEOnly bool               // applies to AUTH only, not to the signatures in the chain ("ike:")
}

// String is one keyword of swanctl's syntax.
func (s Scheme) String() string {
	var b strings.Builder
	if s.IKEOnly {
		b.WriteString("ike:")
	}
	b.WriteString(s.Key.String())
	if s.PSS {
		b.WriteString("/pss")
	}
	if s.MinBits != 0 {
		b.WriteByte('-')
		b.WriteString(strconv.Itoa(int(s.MinBits)))
	}
	if s.Hash != 0 {
		b.WriteByte('-')
		b.WriteString(hashKeyword(s.Hash))
	}
	return b.String()
}

func hashKeyword(h wire.HashAlgorithm) string {
	for _, k := range hashKeywords {
		if k.hash == h {
			return k.word
		}
	}
	return h.String()
}

var hashKeywords = [...]struct {
	word string
	hash wire.HashAlgorithm
}{
	{"sha1", wire.HashSHA1},
	{"sha256", wire.HashSHA2_256},
	{"sha384", wire.HashSHA2_384},
	{"sha512", wire.HashSHA2_512},
	{"identity", wire.HashIdentity},
}

// ParseAuth reads swanctl's auth keyword: "any", "psk", "pubkey", or signature constraints, which imply MethodPubkey: key
// types (rsa, rsa/pss, ecdsa, ed25519, pubkey), each followed by an optional minimum size in bits, and hashes (sha256,
// sha384, sha512, identity; sha1), joined by '-' ("rsa-2048-ecdsa-256-sha256-sha384"). Before them "ike:" restricts the
// constraint to AUTH; several constraints are joined by ';'. Without a hash any is allowed.
//
// EAP and XAuth are refused as known but not supported, other words with the list of what is known.
func ParseAuth(s string) (Method, []Scheme, error) {
	switch s {
	case "any":
		return MethodAny, nil, nil
	case "psk":
		return MethodPSK, nil, nil
	case "pubkey", "":
		return MethodPubkey, nil, nil
	}
	switch word, _, _ := strings.Cut(s, "-"); {
	case s == "eap" || word == "eap" || strings.HasPrefix(s, "eap:"):
		return 0, nil, fmt.Errorf("authentication %q is known but not supported yet; expected psk, pubkey or signature constraints", s)
	case word == "xauth" || word == "hybrid":
		return 0, nil, fmt.Errorf("authentication %q belongs to IKEv1; expected psk, pubkey or signature constraints", s)
	}
	var all []Scheme
	for _, part := range strings.Split(s, ";") {
		body, ikeOnly := strings.CutPrefix(strings.TrimSpace(part), "ike:")
		schemes, err := parseConstraint(body, s)
		if err != nil {
			return 0, nil, err
		}
		for i := range schemes {
			schemes[i].IKEOnly = ikeOnly
		}
		all = append(all, schemes...)
	}
	if len(all) == 1 && all[0] == (Scheme{}) {
		all = nil
	}
	return MethodPubkey, all, nil
}

// parseConstraint multiplies the key types with the hashes that are meant for them.
func parseConstraint(s, whole string) ([]Scheme, error) {
	var keys []Scheme
	var hashes []wire.HashAlgorithm
	sized := true // the last key type has its size, or takes none
	for _, word := range strings.Split(s, "-") {
		if k, ok := keyWord(word); ok {
			keys = append(keys, k)
			sized = k.Key != KeyRSA && k.Key != KeyECDSA
			continue
		}
		if i := slices.IndexFunc(hashKeywords[:], func(h struct {
			word string
			hash wire.HashAlgorithm
		}) bool {
			return h.word == word
		}); i >= 0 && len(keys) > 0 {
			hashes = append(hashes, hashKeywords[i].hash)
			sized = true
			continue
		}
		n, err := strconv.ParseUint(word, 10, 16)
		if err != nil || sized || n == 0 {
			return nil, fmt.Errorf("expected any, psk, pubkey, or rsa, rsa/pss, ecdsa, ed25519 with sizes and sha256, sha384, sha512 "+
				"in authentication %q, found %q", whole, word)
		}
		keys[len(keys)-1].MinBits = uint16(n)
		sized = true
	}
	return multiply(keys, hashes), nil
}

func keyWord(word string) (Scheme, bool) {
	switch word {
	case "pubkey":
		return Scheme{}, true
	case "rsa":
		return Scheme{Key: KeyRSA}, true
	case "rsa/pss":
		return Scheme{Key: KeyRSA, PSS: true}, true
	case "ecdsa":
		return Scheme{Key: KeyECDSA}, true
	case "ed25519":
		return Scheme{Key: KeyEd25519}, true
	}
	return Scheme{}, false
}

func multiply(keys []Scheme, hashes []wire.HashAlgorithm) []Scheme {
	if len(hashes) == 0 {
		return keys
	}
	var out []Scheme
	for _, k := range keys {
		if k.Key == KeyEd25519 {
			out = append(out, k)
			continue
		}
		for _, h := range hashes {
			k.Hash = h
			out = append(out, k)
		}
	}
	return out
}

// signature is what one signature is made with, for a Scheme to allow or not.
type signature struct {
	key  KeyType
	bits int
	hash wire.HashAlgorithm
	pss  bool
}

// String is for people: "ECDSA-256 SHA-256", "RSA-2048 PSS SHA-256", "Ed25519".
func (s signature) String() string {
	if s.key == KeyEd25519 {
		return "Ed25519"
	}
	name := strings.ToUpper(s.key.String()) + "-" + strconv.Itoa(s.bits)
	if s.pss {
		name += " PSS"
	}
	switch s.hash {
	case wire.HashSHA1:
		return name + " SHA-1"
	case wire.HashSHA2_256:
		return name + " SHA-256"
	case wire.HashSHA2_384:
		return name + " SHA-384"
	case wire.HashSHA2_512:
		return name + " SHA-512"
	}
	return name + " " + s.hash.String()
}

// keyOf describes a public key that pki.CheckPublicKey has let pass.
func keyOf(pub any) signature {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return signature{key: KeyRSA, bits: k.N.BitLen()}
	case *ecdsa.PublicKey:
		return signature{key: KeyECDSA, bits: k.Curve.Params().BitSize}
	case ed25519.PublicKey:
		return signature{key: KeyEd25519, bits: 256, hash: wire.HashIdentity}
	}
	return signature{}
}

func (s Scheme) allows(sig signature) bool {
	return (s.Key == KeyAny || s.Key == sig.key) &&
		(s.Key == KeyAny || sig.bits >= int(s.MinBits)) &&
		(s.Hash == 0 || s.Hash == sig.hash) &&
		(!s.PSS || sig.pss)
}

// allowedInAuth says whether a signature in AUTH is allowed: by the constraints with "ike:" if there are any, else by all.
func allowedInAuth(schemes []Scheme, sig signature) bool {
	if len(schemes) == 0 {
		return true
	}
	ike := slices.ContainsFunc(schemes, func(s Scheme) bool { return s.IKEOnly })
	return slices.ContainsFunc(schemes, func(s Scheme) bool { return s.IKEOnly == ike && s.allows(sig) })
}

// checkChain says which certificate of a chain is not signed as the constraints without "ike:" want. The last
// one's own signature counts for nothing.
func checkChain(schemes []Scheme, chain []*x509.Certificate) error {
	var want []Scheme
	for _, s := range schemes {
		if !s.IKEOnly {
			s.PSS = false // says how to sign AUTH; CAs sign as they please
			want = append(want, s)
		}
	}
	if len(want) == 0 {
		return nil
	}
	for i, c := range chain[:len(chain)-1] {
		sig := keyOf(chain[i+1].PublicKey)
		sig.hash, sig.pss = certHash(c.SignatureAlgorithm)
		if !slices.ContainsFunc(want, func(s Scheme) bool { return s.allows(sig) }) {
			return fmt.Errorf("expected the certificate %q to be signed with one of %s, found %s", DNID(c.RawSubject), listSchemes(want), sig)
		}
	}
	return nil
}

func certHash(a x509.SignatureAlgorithm) (h wire.HashAlgorithm, pss bool) {
	switch a {
	case x509.SHA256WithRSA, x509.ECDSAWithSHA256:
		return wire.HashSHA2_256, false
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384:
		return wire.HashSHA2_384, false
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512:
		return wire.HashSHA2_512, false
	case x509.SHA256WithRSAPSS:
		return wire.HashSHA2_256, true
	case x509.SHA384WithRSAPSS:
		return wire.HashSHA2_384, true
	case x509.SHA512WithRSAPSS:
		return wire.HashSHA2_512, true
	case x509.PureEd25519:
		return wire.HashIdentity, false
	}
	return wire.HashSHA1, false
}

func listSchemes(schemes []Scheme) string {
	words := make([]string, len(schemes))
	for i, s := range schemes {
		words[i] = s.String()
	}
	return strings.Join(words, ", ")
}
