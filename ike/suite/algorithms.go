package suite

import (
	"strconv"
	"strings"

	"espalier/ike/wire"
)

// encrFacts are the lengths of an encryption algorithm, in octets.
type encrFacts struct {
	aead     bool
	fixedKey int // key length of an algorithm without Key Length attribute
	salt     int // implicit part of the nonce, drawn behind the key
	iv       int // explicit IV
	icv      int // of an AEAD
	block    int // what the plaintext is padded to, 1 for nothing
}

// encryption gives the facts of id, the zero value for what isn't implemented.
func encryption(id wire.EncrID) encrFacts {
	switch id {
	case wire.EncrAESCBC: // RFC 3602
		return encrFacts{iv: 16, block: 16}
	case wire.EncrAESCTR: // RFC 3686 2, 5.1; RFC 5930
		return encrFacts{salt: 4, iv: 8, block: 1}
	case wire.EncrAESGCM8: // RFC 4106, RFC 5282
		return encrFacts{aead: true, salt: 4, iv: 8, icv: 8, block: 1}
	case wire.EncrAESGCM12:
		return encrFacts{aead: true, salt: 4, iv: 8, icv: 12, block: 1}
	case wire.EncrAESGCM16:
		return encrFacts{aead: true, salt: 4, iv: 8, icv: 16, block: 1}
	case wire.EncrChaCha20Poly1305: // RFC 7634
		return encrFacts{aead: true, fixedKey: 32, salt: 4, iv: 8, icv: 16, block: 1}
	}
	return encrFacts{}
}

// integFacts are the lengths of an integrity algorithm, in octets.
type integFacts struct{ key, icv int }

// integrity gives the facts of id, the zero value for NONE and what isn't implemented.
func integrity(id wire.IntegID) integFacts {
	switch id {
	case wire.IntegHMACSHA1_96: // RFC 2404
		return integFacts{key: 20, icv: 12}
	case wire.IntegAESXCBC_96: // RFC 3566
		return integFacts{key: 16, icv: 12}
	case wire.IntegAESCMAC_96: // RFC 4494
		return integFacts{key: 16, icv: 12}
	case wire.IntegHMACSHA2_256_128: // RFC 4868
		return integFacts{key: 32, icv: 16}
	case wire.IntegHMACSHA2_384_192:
		return integFacts{key: 48, icv: 24}
	case wire.IntegHMACSHA2_512_256:
		return integFacts{key: 64, icv: 32}
	}
	return integFacts{}
}

// AlgorithmName is charon's name of an algorithm, the IANA name for what this package doesn't implement.
func AlgorithmName(t wire.TransformType, id uint16) string {
	switch baseType(t) {
	case wire.TransformENCR:
		return encrName(wire.EncrID(id))
	case wire.TransformPRF:
		return wire.PRFID(id).String()
	case wire.TransformINTEG:
		return integName(wire.IntegID(id))
	case wire.TransformKE:
		return keName(wire.KEMethod(id))
	case wire.TransformESN:
		switch wire.ESNID(id) {
		case wire.ESNNo:
			return "NO_EXT_SEQ"
		case wire.ESNYes:
			return "EXT_SEQ"
		}
		return wire.ESNID(id).String()
	}
	return t.String() + "-" + strconv.Itoa(int(id))
}

// encrName is the IANA name without ENCR_, but for the few that charon leaves in.
func encrName(id wire.EncrID) string {
	switch id {
	case wire.EncrDES:
		return "DES_CBC"
	case wire.Encr3DES:
		return "3DES_CBC"
	case wire.EncrRC5:
		return "RC5_CBC"
	case wire.EncrIDEA:
		return "IDEA_CBC"
	case wire.EncrCAST:
		return "CAST_CBC"
	case wire.EncrBlowfish:
		return "BLOWFISH_CBC"
	case wire.EncrNullAuthAESGMAC:
		return "NULL_AES_GMAC"
	}
	return strings.TrimPrefix(id.String(), "ENCR_")
}

// integName is the IANA name without AUTH_.
func integName(id wire.IntegID) string { return strings.TrimPrefix(id.String(), "AUTH_") }

func keName(id wire.KEMethod) string {
	switch id {
	case wire.KEMODP768:
		return "MODP_768"
	case wire.KEMODP1024:
		return "MODP_1024"
	case wire.KEMODP1536:
		return "MODP_1536"
	case wire.KEMODP2048:
		return "MODP_2048"
	case wire.KEMODP3072:
		return "MODP_3072"
	case wire.KEMODP4096:
		return "MODP_4096"
	case wire.KEMODP6144:
		return "MODP_6144"
	case wire.KEMODP8192:
		return "MODP_8192"
	case wire.KEMODP1024S160:
		return "MODP_1024_160"
	case wire.KEMODP2048S224:
		return "MODP_2048_224"
	case wire.KEMODP2048S256:
		return "MODP_2048_256"
	}
	return curveName(id)
}

func curveName(id wire.KEMethod) string {
	switch id {
	case wire.KEECP192:
		return "ECP_192"
	case wire.KEECP224:
		return "ECP_224"
	case wire.KEECP256:
		return "ECP_256"
	case wire.KEECP384:
		return "ECP_384"
	case wire.KEECP521:
		return "ECP_521"
	case wire.KEBrainpoolP224r1:
		return "ECP_224_BP"
	case wire.KEBrainpoolP256r1:
		return "ECP_256_BP"
	case wire.KEBrainpoolP384r1:
		return "ECP_384_BP"
	case wire.KEBrainpoolP512r1:
		return "ECP_512_BP"
	case wire.KECurve25519:
		return "CURVE_25519"
	case wire.KECurve448:
		return "CURVE_448"
	case wire.KEMLKEM512:
		return "ML_KEM_512"
	case wire.KEMLKEM768:
		return "ML_KEM_768"
	case wire.KEMLKEM1024:
		return "ML_KEM_1024"
	}
	return id.String()
}
