package wire

import (
	"fmt"
	"testing"
)

// TestNames spot-checks numbers and names against the IANA registry, written out here by number.
func TestNames(t *testing.T) {
	tests := []struct {
		got  fmt.Stringer
		want string
	}{
		{PayloadType(0), "No Next Payload"}, {PayloadType(33), "SA"}, {PayloadType(40), "Nonce"},
		{PayloadType(46), "SK"}, {PayloadType(48), "EAP"}, {PayloadType(53), "SKF"}, {PayloadType(54), "PS"},
		{PayloadType(77), "PayloadType(77)"}, {PayloadType(1), "PayloadType(1)"},
		{ExchangeType(34), "IKE_SA_INIT"}, {ExchangeType(35), "IKE_AUTH"}, {ExchangeType(36), "CREATE_CHILD_SA"},
		{ExchangeType(37), "INFORMATIONAL"}, {ExchangeType(38), "IKE_SESSION_RESUME"},
		{ExchangeType(43), "IKE_INTERMEDIATE"}, {ExchangeType(44), "IKE_FOLLOWUP_KE"}, {ExchangeType(2), "ExchangeType(2)"},
		{Flags(0x08), "Initiator"}, {Flags(0x28), "Initiator|Response"}, {Flags(0x10), "Version"}, {Flags(0), "0"},
		{Flags(0x61), "Response|65"}, {Flags(0x40), "64"},
		{ProtocolID(1), "IKE"}, {ProtocolID(2), "AH"}, {ProtocolID(3), "ESP"}, {ProtocolID(9), "ProtocolID(9)"},
		{TransformType(1), "ENCR"}, {TransformType(3), "INTEG"}, {TransformType(5), "SN"}, {TransformType(6), "ADDKE1"},
		{TransformType(12), "ADDKE7"}, {TransformType(99), "TransformType(99)"},
		{EncrID(3), "ENCR_3DES"}, {EncrID(12), "ENCR_AES_CBC"}, {EncrID(13), "ENCR_AES_CTR"}, {EncrID(16), "ENCR_AES_CCM_16"},
		{EncrID(18), "ENCR_AES_GCM_8"}, {EncrID(20), "ENCR_AES_GCM_16"}, {EncrID(28), "ENCR_CHACHA20_POLY1305"},
		{EncrID(1024), "EncrID(1024)"},
		{PRFID(2), "PRF_HMAC_SHA1"}, {PRFID(4), "PRF_AES128_XCBC"}, {PRFID(5), "PRF_HMAC_SHA2_256"}, {PRFID(8), "PRF_AES128_CMAC"},
		{IntegID(0), "NONE"}, {IntegID(2), "AUTH_HMAC_SHA1_96"}, {IntegID(5), "AUTH_AES_XCBC_96"}, {IntegID(8), "AUTH_AES_CMAC_96"},
		{IntegID(12), "AUTH_HMAC_SHA2_256_128"}, {IntegID(14), "AUTH_HMAC_SHA2_512_256"},
		{KEMethod(14), "2048-bit MODP Group"}, {KEMethod(18), "8192-bit MODP Group"}, {KEMethod(19), "256-bit random ECP group"},
		{KEMethod(21), "521-bit random ECP group"}, {KEMethod(31), "Curve25519"}, {KEMethod(32), "Curve448"},
		{KEMethod(35), "ml-kem-512"}, {KEMethod(36), "ml-kem-768"}, {KEMethod(37), "ml-kem-1024"},
		{ESNID(0), "32-bit Sequential Numbers"}, {ESNID(1), "Partially Transmitted 64-bit Sequential Numbers"},
		{AttributeType(14), "Key Length"}, {KeyWrapID(4), "KW_ARX"}, {GCAuthID(1), "Implicit"},
		{IDType(1), "ID_IPV4_ADDR"}, {IDType(5), "ID_IPV6_ADDR"}, {IDType(9), "ID_DER_ASN1_DN"}, {IDType(13), "ID_NULL"},
		{CertEncoding(4), "X.509 Certificate - Signature"}, {CertEncoding(14), "OCSP Content"},
		{AuthMethod(2), "Shared Key Message Integrity Code"}, {AuthMethod(14), "Digital Signature"},
		{HashAlgorithm(2), "SHA2-256"}, {HashAlgorithm(5), "Identity"}, {PasswordMethod(1), "PACE"},
		{NotifyType(1), "UNSUPPORTED_CRITICAL_PAYLOAD"}, {NotifyType(7), "INVALID_SYNTAX"}, {NotifyType(14), "NO_PROPOSAL_CHOSEN"},
		{NotifyType(17), "INVALID_KE_PAYLOAD"}, {NotifyType(24), "AUTHENTICATION_FAILED"}, {NotifyType(38), "TS_UNACCEPTABLE"},
		{NotifyType(43), "TEMPORARY_FAILURE"}, {NotifyType(44), "CHILD_SA_NOT_FOUND"}, {NotifyType(47), "STATE_NOT_FOUND"},
		{NotifyType(48), "TS_MAX_QUEUE"}, {NotifyType(16384), "INITIAL_CONTACT"}, {NotifyType(16387), "IPCOMP_SUPPORTED"},
		{NotifyType(16388), "NAT_DETECTION_SOURCE_IP"}, {NotifyType(16390), "COOKIE"}, {NotifyType(16391), "USE_TRANSPORT_MODE"},
		{NotifyType(16393), "REKEY_SA"}, {NotifyType(16394), "ESP_TFC_PADDING_NOT_SUPPORTED"},
		{NotifyType(16395), "NON_FIRST_FRAGMENTS_ALSO"}, {NotifyType(16396), "MOBIKE_SUPPORTED"},
		{NotifyType(16400), "UPDATE_SA_ADDRESSES"}, {NotifyType(16401), "COOKIE2"}, {NotifyType(16406), "REDIRECT_SUPPORTED"},
		{NotifyType(16413), "TICKET_OPAQUE"}, {NotifyType(16417), "EAP_ONLY_AUTHENTICATION"},
		{NotifyType(16419), "QUICK_CRASH_DETECTION"}, {NotifyType(16430), "IKEV2_FRAGMENTATION_SUPPORTED"},
		{NotifyType(16431), "SIGNATURE_HASH_ALGORITHMS"}, {NotifyType(16435), "USE_PPK"}, {NotifyType(16437), "NO_PPK_AUTH"},
		{NotifyType(16438), "INTERMEDIATE_EXCHANGE_SUPPORTED"}, {NotifyType(16441), "ADDITIONAL_KEY_EXCHANGE"},
		{NotifyType(16442), "USE_AGGFRAG"}, {NotifyType(16443), "SUPPORTED_AUTH_METHODS"}, {NotifyType(16444), "SA_RESOURCE_INFO"},
		{NotifyType(16446), "PPK_IDENTITY_KEY"}, {NotifyType(40960), "NotifyType(40960)"},
		{TSType(7), "TS_IPV4_ADDR_RANGE"}, {TSType(8), "TS_IPV6_ADDR_RANGE"}, {TSType(10), "TS_SECLABEL"},
		{CfgType(1), "CFG_REQUEST"}, {CfgType(4), "CFG_ACK"}, {CfgAttr(1), "INTERNAL_IP4_ADDRESS"},
		{CfgAttr(8), "INTERNAL_IP6_ADDRESS"}, {CfgAttr(14), "SUPPORTED_ATTRIBUTES"}, {CfgAttr(25), "INTERNAL_DNS_DOMAIN"},
		{IPCompTransform(2), "IPCOMP_DEFLATE"}, {GatewayType(3), "FQDN of the new VPN gateway"}, {PPKIDType(2), "PPK_ID_FIXED"},
		{ROHCAttribute(5), "MRRU"},
		{EAPCode(3), "Success"}, {EAPType(13), "EAP-TLS"}, {EAPType(29), "EAP-MSCHAP-V2"}, {EAPType(200), "EAPType(200)"},
		{SPI(0x0123456789abcdef), "0123456789abcdef"}, {SPI(0), "0000000000000000"}, {SPI(1 << 63), "8000000000000000"},
	}
	for _, tt := range tests {
		if got := tt.got.String(); got != tt.want {
			t.Errorf("%T: got %q, want %q", tt.got, got, tt.want)
		}
	}
}

// TestNamesDistinct finds two numbers of one registry under one name, and numbers out of the ranges that IANA assigns.
func TestNamesDistinct(t *testing.T) {
	tests := []struct {
		name  string
		known int // how many numbers have a name
		at    func(n int) (fmt.Stringer, bool)
	}{
		{"PayloadType", 23, func(n int) (fmt.Stringer, bool) { return PayloadType(n), n < 256 }},
		{"ExchangeType", 11, func(n int) (fmt.Stringer, bool) { return ExchangeType(n), n < 256 }},
		{"TransformType", 14, func(n int) (fmt.Stringer, bool) { return TransformType(n), n < 256 }},
		{"EncrID", 32, func(n int) (fmt.Stringer, bool) { return EncrID(n), true }},
		{"PRFID", 9, func(n int) (fmt.Stringer, bool) { return PRFID(n), true }},
		{"IntegID", 15, func(n int) (fmt.Stringer, bool) { return IntegID(n), true }},
		{"KEMethod", 28, func(n int) (fmt.Stringer, bool) { return KEMethod(n), true }},
		{"IDType", 9, func(n int) (fmt.Stringer, bool) { return IDType(n), n < 256 }},
		{"CertEncoding", 14, func(n int) (fmt.Stringer, bool) { return CertEncoding(n), n < 256 }},
		{"AuthMethod", 9, func(n int) (fmt.Stringer, bool) { return AuthMethod(n), n < 256 }},
		{"NotifyType", 25 + 64, func(n int) (fmt.Stringer, bool) { return NotifyType(n), true }},
		{"CfgAttr", 26, func(n int) (fmt.Stringer, bool) { return CfgAttr(n), true }},
		{"EAPType", 55, func(n int) (fmt.Stringer, bool) { return EAPType(n), n < 256 }},
	}
	for _, tt := range tests {
		seen := map[string]int{}
		for n := range 1 << 16 {
			v, ok := tt.at(n)
			if !ok {
				break
			}
			s := v.String()
			if s == fmt.Sprintf("%s(%d)", tt.name, n) {
				continue
			}
			if m, dup := seen[s]; dup {
				t.Errorf("%s: %d and %d are both %q", tt.name, m, n, s)
			}
			seen[s] = n
		}
		if len(seen) != tt.known {
			t.Errorf("%s: %d numbers have a name, want %d", tt.name, len(seen), tt.known)
		}
	}
}

func TestNotifyIsError(t *testing.T) {
	for n, want := range map[NotifyType]bool{0: true, NotifyNoProposalChosen: true, NotifyTSMaxQueue: true, 16383: true,
		NotifyInitialContact: false, NotifyRekeySA: false, 0xffff: false} {
		if n.IsError() != want {
			t.Errorf("%s: IsError is %v", n, !want)
		}
	}
}

func TestTransformNames(t *testing.T) {
	for want, tr := range map[string]Transform{
		"ENCR_AES_CBC/256":          NewTransform(TransformENCR, uint16(EncrAESCBC), 256),
		"ENCR_CHACHA20_POLY1305":    NewTransform(TransformENCR, uint16(EncrChaCha20Poly1305), 0),
		"PRF_HMAC_SHA2_256":         NewTransform(TransformPRF, uint16(PRFHMACSHA2_256), 0),
		"AUTH_HMAC_SHA1_96":         NewTransform(TransformINTEG, uint16(IntegHMACSHA1_96), 0),
		"Curve25519":                NewTransform(TransformKE, uint16(KECurve25519), 0),
		"ml-kem-768":                NewTransform(TransformADDKE7, uint16(KEMLKEM768), 0),
		"32-bit Sequential Numbers": NewTransform(TransformESN, uint16(ESNNo), 0),
		"KW_ARX":                    NewTransform(TransformKWA, uint16(KeyWrapARX), 0),
		"Digital Signature":         NewTransform(TransformGCAUTH, uint16(GCAuthDigitalSignature), 0),
		"TransformID(5)":            NewTransform(200, 5, 0),
	} {
		if got := tr.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
