package suite

import "espalier/ike/wire"

// keyword is a word of strongSwan's proposal syntax.
type keyword struct {
	word      string
	typ       wire.TransformType
	id        uint16
	bits      uint16 // Key Length attribute
	supported bool   // false: known, so that it can be named in a peer's proposal, but refused in ours
	primary   bool   // what String prints where several words mean the same
}

// keywords are the words with a number of IANA's. The order is that in which the nearest word is looked for.
var keywords = [...]keyword{
	{"aes128", wire.TransformENCR, uint16(wire.EncrAESCBC), 128, true, true},
	{"aes192", wire.TransformENCR, uint16(wire.EncrAESCBC), 192, true, true},
	{"aes256", wire.TransformENCR, uint16(wire.EncrAESCBC), 256, true, true},
	{"aes", wire.TransformENCR, uint16(wire.EncrAESCBC), 128, true, false},
	{"aes128ctr", wire.TransformENCR, uint16(wire.EncrAESCTR), 128, true, true},
	{"aes192ctr", wire.TransformENCR, uint16(wire.EncrAESCTR), 192, true, true},
	{"aes256ctr", wire.TransformENCR, uint16(wire.EncrAESCTR), 256, true, true},
	{"aes128gcm16", wire.TransformENCR, uint16(wire.EncrAESGCM16), 128, true, true},
	{"aes128gcm128", wire.TransformENCR, uint16(wire.EncrAESGCM16), 128, true, false},
	{"aes128gcm12", wire.TransformENCR, uint16(wire.EncrAESGCM12), 128, true, true},
	{"aes128gcm96", wire.TransformENCR, uint16(wire.EncrAESGCM12), 128, true, false},
	{"aes128gcm8", wire.TransformENCR, uint16(wire.EncrAESGCM8), 128, true, true},
	{"aes128gcm64", wire.TransformENCR, uint16(wire.EncrAESGCM8), 128, true, false},
	{"aes128gcm", wire.TransformENCR, uint16(wire.EncrAESGCM16), 128, true, false},
	{"aes192gcm16", wire.TransformENCR, uint16(wire.EncrAESGCM16), 192, true, true},
	{"aes192gcm128", wire.TransformENCR, uint16(wire.EncrAESGCM16), 192, true, false},
	{"aes192gcm12", wire.TransformENCR, uint16(wire.EncrAESGCM12), 192, true, true},
	{"aes192gcm96", wire.TransformENCR, uint16(wire.EncrAESGCM12), 192, true, false},
	{"aes192gcm8", wire.TransformENCR, uint16(wire.EncrAESGCM8), 192, true, true},
	{"aes192gcm64", wire.TransformENCR, uint16(wire.EncrAESGCM8), 192, true, false},
	{"aes192gcm", wire.TransformENCR, uint16(wire.EncrAESGCM16), 192, true, false},
	{"aes256gcm16", wire.TransformENCR, uint16(wire.EncrAESGCM16), 256, true, true},
	{"aes256gcm128", wire.TransformENCR, uint16(wire.EncrAESGCM16), 256, true, false},
	{"aes256gcm12", wire.TransformENCR, uint16(wire.EncrAESGCM12), 256, true, true},
	{"aes256gcm96", wire.TransformENCR, uint16(wire.EncrAESGCM12), 256, true, false},
	{"aes256gcm8", wire.TransformENCR, uint16(wire.EncrAESGCM8), 256, true, true},
	{"aes256gcm64", wire.TransformENCR, uint16(wire.EncrAESGCM8), 256, true, false},
	{"aes256gcm", wire.TransformENCR, uint16(wire.EncrAESGCM16), 256, true, false},
	{"chacha20poly1305", wire.TransformENCR, uint16(wire.EncrChaCha20Poly1305), 0, true, true},
	{"sha1", wire.TransformINTEG, uint16(wire.IntegHMACSHA1_96), 0, true, true},
	{"sha256", wire.TransformINTEG, uint16(wire.IntegHMACSHA2_256_128), 0, true, true},
	{"sha384", wire.TransformINTEG, uint16(wire.IntegHMACSHA2_384_192), 0, true, true},
	{"sha512", wire.TransformINTEG, uint16(wire.IntegHMACSHA2_512_256), 0, true, true},
	{"aesxcbc", wire.TransformINTEG, uint16(wire.IntegAESXCBC_96), 0, true, true},
	{"aescmac", wire.TransformINTEG, uint16(wire.IntegAESCMAC_96), 0, true, true},
	{"sha", wire.TransformINTEG, uint16(wire.IntegHMACSHA1_96), 0, true, false},
	{"sha2_256", wire.TransformINTEG, uint16(wire.IntegHMACSHA2_256_128), 0, true, false},
	{"sha2_384", wire.TransformINTEG, uint16(wire.IntegHMACSHA2_384_192), 0, true, false},
	{"sha2_512", wire.TransformINTEG, uint16(wire.IntegHMACSHA2_512_256), 0, true, false},
	{"prfsha1", wire.TransformPRF, uint16(wire.PRFHMACSHA1), 0, true, true},
	{"prfsha256", wire.TransformPRF, uint16(wire.PRFHMACSHA2_256), 0, true, true},
	{"prfsha384", wire.TransformPRF, uint16(wire.PRFHMACSHA2_384), 0, true, true},
	{"prfsha512", wire.TransformPRF, uint16(wire.PRFHMACSHA2_512), 0, true, true},
	{"prfaesxcbc", wire.TransformPRF, uint16(wire.PRFAES128XCBC), 0, true, true},
	{"prfaescmac", wire.TransformPRF, uint16(wire.PRFAES128CMAC), 0, true, true},
	{"none", wire.TransformKE, uint16(wire.KENone), 0, true, true},
	{"modpnone", wire.TransformKE, uint16(wire.KENone), 0, true, false},
	{"modp1024", wire.TransformKE, uint16(wire.KEMODP1024), 0, true, true},
	{"modp1536", wire.TransformKE, uint16(wire.KEMODP1536), 0, true, true},
	{"modp2048", wire.TransformKE, uint16(wire.KEMODP2048), 0, true, true},
	{"modp3072", wire.TransformKE, uint16(wire.KEMODP3072), 0, true, true},
	{"modp4096", wire.TransformKE, uint16(wire.KEMODP4096), 0, true, true},
	{"modp6144", wire.TransformKE, uint16(wire.KEMODP6144), 0, true, true},
	{"modp8192", wire.TransformKE, uint16(wire.KEMODP8192), 0, true, true},
	{"ecp256", wire.TransformKE, uint16(wire.KEECP256), 0, true, true},
	{"ecp384", wire.TransformKE, uint16(wire.KEECP384), 0, true, true},
	{"ecp521", wire.TransformKE, uint16(wire.KEECP521), 0, true, true},
	{"x25519", wire.TransformKE, uint16(wire.KECurve25519), 0, true, true},
	{"curve25519", wire.TransformKE, uint16(wire.KECurve25519), 0, true, false},
	{"x448", wire.TransformKE, uint16(wire.KECurve448), 0, true, true},
	{"curve448", wire.TransformKE, uint16(wire.KECurve448), 0, true, false},
	{"noesn", wire.TransformESN, uint16(wire.ESNNo), 0, true, true},
	{"esn", wire.TransformESN, uint16(wire.ESNYes), 0, true, true},
	{"null", wire.TransformENCR, uint16(wire.EncrNull), 0, false, true},
	{"des", wire.TransformENCR, uint16(wire.EncrDES), 0, false, true},
	{"3des", wire.TransformENCR, uint16(wire.Encr3DES), 0, false, true},
	{"aes128ccm16", wire.TransformENCR, uint16(wire.EncrAESCCM16), 128, false, true},
	{"aes128ccm128", wire.TransformENCR, uint16(wire.EncrAESCCM16), 128, false, false},
	{"aes128ccm12", wire.TransformENCR, uint16(wire.EncrAESCCM12), 128, false, true},
	{"aes128ccm96", wire.TransformENCR, uint16(wire.EncrAESCCM12), 128, false, false},
	{"aes128ccm8", wire.TransformENCR, uint16(wire.EncrAESCCM8), 128, false, true},
	{"aes128ccm64", wire.TransformENCR, uint16(wire.EncrAESCCM8), 128, false, false},
	{"aes128ccm", wire.TransformENCR, uint16(wire.EncrAESCCM16), 128, false, false},
	{"aes128gmac", wire.TransformENCR, uint16(wire.EncrNullAuthAESGMAC), 128, false, true},
	{"camellia128", wire.TransformENCR, uint16(wire.EncrCamelliaCBC), 128, false, true},
	{"camellia128ctr", wire.TransformENCR, uint16(wire.EncrCamelliaCTR), 128, false, true},
	{"camellia128ccm16", wire.TransformENCR, uint16(wire.EncrCamelliaCCM16), 128, false, true},
	{"camellia128ccm128", wire.TransformENCR, uint16(wire.EncrCamelliaCCM16), 128, false, false},
	{"camellia128ccm12", wire.TransformENCR, uint16(wire.EncrCamelliaCCM12), 128, false, true},
	{"camellia128ccm96", wire.TransformENCR, uint16(wire.EncrCamelliaCCM12), 128, false, false},
	{"camellia128ccm8", wire.TransformENCR, uint16(wire.EncrCamelliaCCM8), 128, false, true},
	{"camellia128ccm64", wire.TransformENCR, uint16(wire.EncrCamelliaCCM8), 128, false, false},
	{"blowfish128", wire.TransformENCR, uint16(wire.EncrBlowfish), 128, false, true},
	{"aes192ccm16", wire.TransformENCR, uint16(wire.EncrAESCCM16), 192, false, true},
	{"aes192ccm128", wire.TransformENCR, uint16(wire.EncrAESCCM16), 192, false, false},
	{"aes192ccm12", wire.TransformENCR, uint16(wire.EncrAESCCM12), 192, false, true},
	{"aes192ccm96", wire.TransformENCR, uint16(wire.EncrAESCCM12), 192, false, false},
	{"aes192ccm8", wire.TransformENCR, uint16(wire.EncrAESCCM8), 192, false, true},
	{"aes192ccm64", wire.TransformENCR, uint16(wire.EncrAESCCM8), 192, false, false},
	{"aes192ccm", wire.TransformENCR, uint16(wire.EncrAESCCM16), 192, false, false},
	{"aes192gmac", wire.TransformENCR, uint16(wire.EncrNullAuthAESGMAC), 192, false, true},
	{"camellia192", wire.TransformENCR, uint16(wire.EncrCamelliaCBC), 192, false, true},
	{"camellia192ctr", wire.TransformENCR, uint16(wire.EncrCamelliaCTR), 192, false, true},
	{"camellia192ccm16", wire.TransformENCR, uint16(wire.EncrCamelliaCCM16), 192, false, true},
	{"camellia192ccm128", wire.TransformENCR, uint16(wire.EncrCamelliaCCM16), 192, false, false},
	{"camellia192ccm12", wire.TransformENCR, uint16(wire.EncrCamelliaCCM12), 192, false, true},
	{"camellia192ccm96", wire.TransformENCR, uint16(wire.EncrCamelliaCCM12), 192, false, false},
	{"camellia192ccm8", wire.TransformENCR, uint16(wire.EncrCamelliaCCM8), 192, false, true},
	{"camellia192ccm64", wire.TransformENCR, uint16(wire.EncrCamelliaCCM8), 192, false, false},
	{"blowfish192", wire.TransformENCR, uint16(wire.EncrBlowfish), 192, false, true},
	{"aes256ccm16", wire.TransformENCR, uint16(wire.EncrAESCCM16), 256, false, true},
	{"aes256ccm128", wire.TransformENCR, uint16(wire.EncrAESCCM16), 256, false, false},
	{"aes256ccm12", wire.TransformENCR, uint16(wire.EncrAESCCM12), 256, false, true},
	{"aes256ccm96", wire.TransformENCR, uint16(wire.EncrAESCCM12), 256, false, false},
	{"aes256ccm8", wire.TransformENCR, uint16(wire.EncrAESCCM8), 256, false, true},
	{"aes256ccm64", wire.TransformENCR, uint16(wire.EncrAESCCM8), 256, false, false},
	{"aes256ccm", wire.TransformENCR, uint16(wire.EncrAESCCM16), 256, false, false},
	{"aes256gmac", wire.TransformENCR, uint16(wire.EncrNullAuthAESGMAC), 256, false, true},
	{"camellia256", wire.TransformENCR, uint16(wire.EncrCamelliaCBC), 256, false, true},
	{"camellia256ctr", wire.TransformENCR, uint16(wire.EncrCamelliaCTR), 256, false, true},
	{"camellia256ccm16", wire.TransformENCR, uint16(wire.EncrCamelliaCCM16), 256, false, true},
	{"camellia256ccm128", wire.TransformENCR, uint16(wire.EncrCamelliaCCM16), 256, false, false},
	{"camellia256ccm12", wire.TransformENCR, uint16(wire.EncrCamelliaCCM12), 256, false, true},
	{"camellia256ccm96", wire.TransformENCR, uint16(wire.EncrCamelliaCCM12), 256, false, false},
	{"camellia256ccm8", wire.TransformENCR, uint16(wire.EncrCamelliaCCM8), 256, false, true},
	{"camellia256ccm64", wire.TransformENCR, uint16(wire.EncrCamelliaCCM8), 256, false, false},
	{"blowfish256", wire.TransformENCR, uint16(wire.EncrBlowfish), 256, false, true},
	{"camellia", wire.TransformENCR, uint16(wire.EncrCamelliaCBC), 128, false, false},
	{"blowfish", wire.TransformENCR, uint16(wire.EncrBlowfish), 128, false, false},
	{"cast128", wire.TransformENCR, uint16(wire.EncrCAST), 128, false, true},
	{"chacha20poly1305compat", wire.TransformENCR, uint16(wire.EncrChaCha20Poly1305), 256, false, true},
	{"md5", wire.TransformINTEG, uint16(wire.IntegHMACMD5_96), 0, false, true},
	{"md5_128", wire.TransformINTEG, uint16(wire.IntegHMACMD5_128), 0, false, true},
	{"sha1_160", wire.TransformINTEG, uint16(wire.IntegHMACSHA1_160), 0, false, true},
	{"prfmd5", wire.TransformPRF, uint16(wire.PRFHMACMD5), 0, false, true},
	{"modp768", wire.TransformKE, uint16(wire.KEMODP768), 0, false, true},
	{"modp1024s160", wire.TransformKE, uint16(wire.KEMODP1024S160), 0, false, true},
	{"modp2048s224", wire.TransformKE, uint16(wire.KEMODP2048S224), 0, false, true},
	{"modp2048s256", wire.TransformKE, uint16(wire.KEMODP2048S256), 0, false, true},
	{"ecp192", wire.TransformKE, uint16(wire.KEECP192), 0, false, true},
	{"ecp224", wire.TransformKE, uint16(wire.KEECP224), 0, false, true},
	{"ecp224bp", wire.TransformKE, uint16(wire.KEBrainpoolP224r1), 0, false, true},
	{"ecp256bp", wire.TransformKE, uint16(wire.KEBrainpoolP256r1), 0, false, true},
	{"ecp384bp", wire.TransformKE, uint16(wire.KEBrainpoolP384r1), 0, false, true},
	{"ecp512bp", wire.TransformKE, uint16(wire.KEBrainpoolP512r1), 0, false, true},
	{"mlkem512", wire.TransformKE, uint16(wire.KEMLKEM512), 0, false, true},
	{"mlkem768", wire.TransformKE, uint16(wire.KEMLKEM768), 0, false, true},
	{"mlkem1024", wire.TransformKE, uint16(wire.KEMLKEM1024), 0, false, true},
}

// isKnownUnsupported knows strongSwan's words whose algorithms have no number of IANA's, or none that this code names.
func isKnownUnsupported(word string) bool {
	switch word {
	case "serpent", "serpent128", "serpent192", "serpent256", "twofish", "twofish128", "twofish192", "twofish256",
		"sha256_96", "sha2_256_96", "camelliaxcbc", "prfcamelliaxcbc":
		return true
	}
	return isKnownUnsupportedKE(word)
}

// isKnownUnsupportedKE is isKnownUnsupported for key exchange methods alone.
func isKnownUnsupportedKE(word string) bool {
	switch word {
	case "modpnull", "ntru112", "ntru128", "ntru192", "ntru256", "newhope128":
		return true
	}
	return false
}
