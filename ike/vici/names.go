package vici

import (
	"fmt"
	"strings"

	"espalier/dataplane/selector"
	"espalier/ike/wire"
)

// strongSwan spells transforms its own way, and scripts match the spelling.

// encrName is strongSwan's name of an encryption algorithm: IANA's without
// ENCR_, but for those that differ.
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

// integName is strongSwan's name of an integrity algorithm: IANA's without AUTH_.
func integName(id wire.IntegID) string { return strings.TrimPrefix(id.String(), "AUTH_") }

// prfName is strongSwan's name of a PRF, which is IANA's.
func prfName(id wire.PRFID) string { return id.String() }

// keName is strongSwan's name of a key exchange method.
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

// tsText is a traffic selector as strongSwan prints it: ranges that are no
// prefix have two dots.
func tsText(ts selector.TS) string {
	s := ts.String()
	if _, isPrefix := ts.Prefix(); isPrefix {
		return s
	}
	return strings.Replace(s, fmt.Sprintf("%s-%s", ts.Start, ts.End), fmt.Sprintf("%s..%s", ts.Start, ts.End), 1)
}

func tsTexts(list []selector.TS) []string {
	out := make([]string, len(list))
	for i, ts := range list {
		out[i] = tsText(ts)
	}
	return out
}
