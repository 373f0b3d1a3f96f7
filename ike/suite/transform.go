package suite

import (
	"strconv"

	"espalier/ike/wire"
)

// Transform is one algorithm with its key length, comparable with ==.
type Transform struct {
	Type wire.TransformType
	ID   uint16 // wire.EncrID, PRFID, IntegID, KEMethod or ESNID, by Type
	// KeyBits is the Key Length attribute in bits (without salt), 0 where the algorithm has none (RFC 7296 3.3.5).
	KeyBits uint16
}

// String is the strongSwan keyword of the transform ("aes256gcm16", "prfsha256", "ke1_ecp384"), which the parsers read
// back, or [Transform.Name] where there is none.
func (t Transform) String() string {
	for i := range keywords {
		if k := &keywords[i]; k.primary && k.typ == baseType(t.Type) && k.id == t.ID && k.bits == t.KeyBits {
			if n := addKE(t.Type); n > 0 {
				return "ke" + strconv.Itoa(n) + "_" + k.word
			}
			return k.word
		}
	}
	return t.Name()
}

// Name is the algorithm in charon's spelling of the IANA names, the key length behind a hyphen: "AES_GCM_16-256",
// "HMAC_SHA2_256_128", "PRF_HMAC_SHA2_256", "CURVE_25519", "MODP_2048", "ECP_256", "NO_EXT_SEQ". Additional key
// exchanges carry their number: "KE1_CURVE_25519".
func (t Transform) Name() string {
	name := AlgorithmName(t.Type, t.ID)
	if n := addKE(t.Type); n > 0 {
		name = "KE" + strconv.Itoa(n) + "_" + name
	}
	if t.KeyBits != 0 {
		name += "-" + strconv.Itoa(int(t.KeyBits))
	}
	return name
}

// Supported reports whether this package implements the algorithm, for IKE or for naming it in an ESP proposal.
func (t Transform) Supported() bool {
	for i := range keywords {
		if k := &keywords[i]; k.typ == baseType(t.Type) && k.id == t.ID && k.bits == t.KeyBits {
			return k.supported
		}
	}
	return false
}

// isAEAD reports whether t encrypts and authenticates at once.
func (t Transform) isAEAD() bool {
	return t.Type == wire.TransformENCR && encryption(wire.EncrID(t.ID)).aead
}

// addKE is n for ADDKEn and 0 for every other type.
func addKE(t wire.TransformType) int {
	if t >= wire.TransformADDKE1 && t <= wire.TransformADDKE7 {
		return int(t-wire.TransformADDKE1) + 1
	}
	return 0
}

// baseType is the type whose registry numbers t's algorithms.
func baseType(t wire.TransformType) wire.TransformType {
	if t.IsKE() {
		return wire.TransformKE
	}
	return t
}
