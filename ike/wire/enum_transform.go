package wire

// TransformType is the kind of algorithm that a transform names (RFC 7296 3.3.2; RFC 9370 for ADDKE1 to 7).
type TransformType uint8

// Values of TransformType.
const (
	TransformENCR   TransformType = 1
	TransformPRF    TransformType = 2
	TransformINTEG  TransformType = 3
	TransformKE     TransformType = 4
	TransformESN    TransformType = 5 // Sequence Numbers; Extended Sequence Numbers (ESN) before RFC 9827
	TransformADDKE1 TransformType = 6 // RFC 9370
	TransformADDKE2 TransformType = 7
	TransformADDKE3 TransformType = 8
	TransformADDKE4 TransformType = 9
	TransformADDKE5 TransformType = 10
	TransformADDKE6 TransformType = 11
	TransformADDKE7 TransformType = 12
	TransformKWA    TransformType = 13 // Key Wrap Algorithm, RFC 9838
	TransformGCAUTH TransformType = 14 // Group Controller Authentication Method, RFC 9838
)

// String is the abbreviation in the IANA name.
func (t TransformType) String() string {
	switch t {
	case TransformENCR:
		return "ENCR"
	case TransformPRF:
		return "PRF"
	case TransformINTEG:
		return "INTEG"
	case TransformKE:
		return "KE"
	case TransformESN:
		return "SN"
	case TransformADDKE1:
		return "ADDKE1"
	case TransformADDKE2:
		return "ADDKE2"
	case TransformADDKE3:
		return "ADDKE3"
	case TransformADDKE4:
		return "ADDKE4"
	case TransformADDKE5:
		return "ADDKE5"
	case TransformADDKE6:
		return "ADDKE6"
	case TransformADDKE7:
		return "ADDKE7"
	case TransformKWA:
		return "KWA"
	case TransformGCAUTH:
		return "GCAUTH"
	}
	return unknown("TransformType", uint16(t))
}

// IsKE reports whether a transform of this type names a key exchange method: KE and ADDKE1 to ADDKE7.
func (t TransformType) IsKE() bool {
	return t == TransformKE || t >= TransformADDKE1 && t <= TransformADDKE7
}

// EncrID is an encryption algorithm, transform type ENCR.
type EncrID uint16

// Values of EncrID.
const (
	EncrDESIV64               EncrID = 1
	EncrDES                   EncrID = 2
	Encr3DES                  EncrID = 3
	EncrRC5                   EncrID = 4
	EncrIDEA                  EncrID = 5
	EncrCAST                  EncrID = 6
	EncrBlowfish              EncrID = 7
	Encr3IDEA                 EncrID = 8
	EncrDESIV32               EncrID = 9
	EncrNull                  EncrID = 11
	EncrAESCBC                EncrID = 12
	EncrAESCTR                EncrID = 13
	EncrAESCCM8               EncrID = 14
	EncrAESCCM12              EncrID = 15
	EncrAESCCM16              EncrID = 16
	EncrAESGCM8               EncrID = 18
	EncrAESGCM12              EncrID = 19
	EncrAESGCM16              EncrID = 20
	EncrNullAuthAESGMAC       EncrID = 21
	EncrCamelliaCBC           EncrID = 23
	EncrCamelliaCTR           EncrID = 24
	EncrCamelliaCCM8          EncrID = 25
	EncrCamelliaCCM12         EncrID = 26
	EncrCamelliaCCM16         EncrID = 27
	EncrChaCha20Poly1305      EncrID = 28
	EncrAESCCM8IIV            EncrID = 29
	EncrAESGCM16IIV           EncrID = 30
	EncrChaCha20Poly1305IIV   EncrID = 31
	EncrKuznyechikMGMKTree    EncrID = 32
	EncrMagmaMGMKTree         EncrID = 33
	EncrKuznyechikMGMMACKTree EncrID = 34
	EncrMagmaMGMMACKTree      EncrID = 35
)

// String is the IANA name.
func (e EncrID) String() string {
	switch e {
	case EncrDESIV64:
		return "ENCR_DES_IV64"
	case EncrDES:
		return "ENCR_DES"
	case Encr3DES:
		return "ENCR_3DES"
	case EncrRC5:
		return "ENCR_RC5"
	case EncrIDEA:
		return "ENCR_IDEA"
	case EncrCAST:
		return "ENCR_CAST"
	case EncrBlowfish:
		return "ENCR_BLOWFISH"
	case Encr3IDEA:
		return "ENCR_3IDEA"
	case EncrDESIV32:
		return "ENCR_DES_IV32"
	case EncrNull:
		return "ENCR_NULL"
	case EncrAESCBC:
		return "ENCR_AES_CBC"
	case EncrAESCTR:
		return "ENCR_AES_CTR"
	case EncrAESCCM8:
		return "ENCR_AES_CCM_8"
	case EncrAESCCM12:
		return "ENCR_AES_CCM_12"
	case EncrAESCCM16:
		return "ENCR_AES_CCM_16"
	case EncrAESGCM8:
		return "ENCR_AES_GCM_8"
	case EncrAESGCM12:
		return "ENCR_AES_GCM_12"
	case EncrAESGCM16:
		return "ENCR_AES_GCM_16"
	case EncrNullAuthAESGMAC:
		return "ENCR_NULL_AUTH_AES_GMAC"
	case EncrCamelliaCBC:
		return "ENCR_CAMELLIA_CBC"
	case EncrCamelliaCTR:
		return "ENCR_CAMELLIA_CTR"
	case EncrCamelliaCCM8:
		return "ENCR_CAMELLIA_CCM_8"
	case EncrCamelliaCCM12:
		return "ENCR_CAMELLIA_CCM_12"
	case EncrCamelliaCCM16:
		return "ENCR_CAMELLIA_CCM_16"
	case EncrChaCha20Poly1305:
		return "ENCR_CHACHA20_POLY1305"
	case EncrAESCCM8IIV:
		return "ENCR_AES_CCM_8_IIV"
	case EncrAESGCM16IIV:
		return "ENCR_AES_GCM_16_IIV"
	case EncrChaCha20Poly1305IIV:
		return "ENCR_CHACHA20_POLY1305_IIV"
	case EncrKuznyechikMGMKTree:
		return "ENCR_KUZNYECHIK_MGM_KTREE"
	case EncrMagmaMGMKTree:
		return "ENCR_MAGMA_MGM_KTREE"
	case EncrKuznyechikMGMMACKTree:
		return "ENCR_KUZNYECHIK_MGM_MAC_KTREE"
	case EncrMagmaMGMMACKTree:
		return "ENCR_MAGMA_MGM_MAC_KTREE"
	}
	return unknown("EncrID", uint16(e))
}

// PRFID is a pseudo-random function, transform type PRF.
type PRFID uint16

// Values of PRFID.
const (
	PRFHMACMD5         PRFID = 1
	PRFHMACSHA1        PRFID = 2
	PRFHMACTiger       PRFID = 3
	PRFAES128XCBC      PRFID = 4
	PRFHMACSHA2_256    PRFID = 5
	PRFHMACSHA2_384    PRFID = 6
	PRFHMACSHA2_512    PRFID = 7
	PRFAES128CMAC      PRFID = 8
	PRFHMACStreebog512 PRFID = 9
)

// String is the IANA name.
func (p PRFID) String() string {
	switch p {
	case PRFHMACMD5:
		return "PRF_HMAC_MD5"
	case PRFHMACSHA1:
		return "PRF_HMAC_SHA1"
	case PRFHMACTiger:
		return "PRF_HMAC_TIGER"
	case PRFAES128XCBC:
		return "PRF_AES128_XCBC"
	case PRFHMACSHA2_256:
		return "PRF_HMAC_SHA2_256"
	case PRFHMACSHA2_384:
		return "PRF_HMAC_SHA2_384"
	case PRFHMACSHA2_512:
		return "PRF_HMAC_SHA2_512"
	case PRFAES128CMAC:
		return "PRF_AES128_CMAC"
	case PRFHMACStreebog512:
		return "PRF_HMAC_STREEBOG_512"
	}
	return unknown("PRFID", uint16(p))
}

// IntegID is an integrity algorithm, transform type INTEG.
type IntegID uint16

// Values of IntegID.
const (
	IntegNone             IntegID = 0
	IntegHMACMD5_96       IntegID = 1
	IntegHMACSHA1_96      IntegID = 2
	IntegDESMAC           IntegID = 3
	IntegKPDKMD5          IntegID = 4
	IntegAESXCBC_96       IntegID = 5
	IntegHMACMD5_128      IntegID = 6
	IntegHMACSHA1_160     IntegID = 7
	IntegAESCMAC_96       IntegID = 8
	IntegAES128GMAC       IntegID = 9
	IntegAES192GMAC       IntegID = 10
	IntegAES256GMAC       IntegID = 11
	IntegHMACSHA2_256_128 IntegID = 12
	IntegHMACSHA2_384_192 IntegID = 13
	IntegHMACSHA2_512_256 IntegID = 14
)

// String is the IANA name.
func (i IntegID) String() string {
	switch i {
	case IntegNone:
		return "NONE"
	case IntegHMACMD5_96:
		return "AUTH_HMAC_MD5_96"
	case IntegHMACSHA1_96:
		return "AUTH_HMAC_SHA1_96"
	case IntegDESMAC:
		return "AUTH_DES_MAC"
	case IntegKPDKMD5:
		return "AUTH_KPDK_MD5"
	case IntegAESXCBC_96:
		return "AUTH_AES_XCBC_96"
	case IntegHMACMD5_128:
		return "AUTH_HMAC_MD5_128"
	case IntegHMACSHA1_160:
		return "AUTH_HMAC_SHA1_160"
	case IntegAESCMAC_96:
		return "AUTH_AES_CMAC_96"
	case IntegAES128GMAC:
		return "AUTH_AES_128_GMAC"
	case IntegAES192GMAC:
		return "AUTH_AES_192_GMAC"
	case IntegAES256GMAC:
		return "AUTH_AES_256_GMAC"
	case IntegHMACSHA2_256_128:
		return "AUTH_HMAC_SHA2_256_128"
	case IntegHMACSHA2_384_192:
		return "AUTH_HMAC_SHA2_384_192"
	case IntegHMACSHA2_512_256:
		return "AUTH_HMAC_SHA2_512_256"
	}
	return unknown("IntegID", uint16(i))
}
