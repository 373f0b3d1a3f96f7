package wire

// KEMethod is a key exchange method, transform types KE and ADDKE1 to ADDKE7, and the method field of a KE payload.
type KEMethod uint16

// Values of KEMethod.
const (
	KENone              KEMethod = 0
	KEMODP768           KEMethod = 1
	KEMODP1024          KEMethod = 2
	KEMODP1536          KEMethod = 5
	KEMODP2048          KEMethod = 14
	KEMODP3072          KEMethod = 15
	KEMODP4096          KEMethod = 16
	KEMODP6144          KEMethod = 17
	KEMODP8192          KEMethod = 18
	KEECP256            KEMethod = 19
	KEECP384            KEMethod = 20
	KEECP521            KEMethod = 21
	KEMODP1024S160      KEMethod = 22
	KEMODP2048S224      KEMethod = 23
	KEMODP2048S256      KEMethod = 24
	KEECP192            KEMethod = 25
	KEECP224            KEMethod = 26
	KEBrainpoolP224r1   KEMethod = 27
	KEBrainpoolP256r1   KEMethod = 28
	KEBrainpoolP384r1   KEMethod = 29
	KEBrainpoolP512r1   KEMethod = 30
	KECurve25519        KEMethod = 31
	KECurve448          KEMethod = 32
	KEGOST3410_2012_256 KEMethod = 33
	KEGOST3410_2012_512 KEMethod = 34
	KEMLKEM512          KEMethod = 35
	KEMLKEM768          KEMethod = 36
	KEMLKEM1024         KEMethod = 37
)

// String is the IANA name.
func (k KEMethod) String() string {
	switch k {
	case KENone:
		return "NONE"
	case KEMODP768:
		return "768-bit MODP Group"
	case KEMODP1024:
		return "1024-bit MODP Group"
	case KEMODP1536:
		return "1536-bit MODP Group"
	case KEMODP2048:
		return "2048-bit MODP Group"
	case KEMODP3072:
		return "3072-bit MODP Group"
	case KEMODP4096:
		return "4096-bit MODP Group"
	case KEMODP6144:
		return "6144-bit MODP Group"
	case KEMODP8192:
		return "8192-bit MODP Group"
	case KEECP256:
		return "256-bit random ECP group"
	case KEECP384:
		return "384-bit random ECP group"
	case KEECP521:
		return "521-bit random ECP group"
	case KEMODP1024S160:
		return "1024-bit MODP Group with 160-bit Prime Order Subgroup"
	case KEMODP2048S224:
		return "2048-bit MODP Group with 224-bit Prime Order Subgroup"
	case KEMODP2048S256:
		return "2048-bit MODP Group with 256-bit Prime Order Subgroup"
	case KEECP192:
		return "192-bit Random ECP Group"
	case KEECP224:
		return "224-bit Random ECP Group"
	case KEBrainpoolP224r1:
		return "brainpoolP224r1"
	case KEBrainpoolP256r1:
		return "brainpoolP256r1"
	case KEBrainpoolP384r1:
		return "brainpoolP384r1"
	case KEBrainpoolP512r1:
		return "brainpoolP512r1"
	case KECurve25519:
		return "Curve25519"
	case KECurve448:
		return "Curve448"
	case KEGOST3410_2012_256:
		return "GOST3410_2012_256"
	case KEGOST3410_2012_512:
		return "GOST3410_2012_512"
	case KEMLKEM512:
		return "ml-kem-512"
	case KEMLKEM768:
		return "ml-kem-768"
	case KEMLKEM1024:
		return "ml-kem-1024"
	}
	return unknown("KEMethod", uint16(k))
}

// ESNID is the kind of sequence numbers, transform type SN (formerly ESN; RFC 9827).
type ESNID uint16

// Values of ESNID.
const (
	ESNNo            ESNID = 0
	ESNYes           ESNID = 1
	ESNUnspecified32 ESNID = 2 // RFC 9827
)

// String is the IANA name.
func (e ESNID) String() string {
	switch e {
	case ESNNo:
		return "32-bit Sequential Numbers"
	case ESNYes:
		return "Partially Transmitted 64-bit Sequential Numbers"
	case ESNUnspecified32:
		return "32-bit Unspecified Numbers"
	}
	return unknown("ESNID", uint16(e))
}

// KeyWrapID is a key wrap algorithm, transform type KWA (RFC 9838).
type KeyWrapID uint16

// Values of KeyWrapID.
const (
	KeyWrap5649_128 KeyWrapID = 1
	KeyWrap5649_192 KeyWrapID = 2
	KeyWrap5649_256 KeyWrapID = 3
	KeyWrapARX      KeyWrapID = 4
)

// String is the IANA name.
func (k KeyWrapID) String() string {
	switch k {
	case KeyWrap5649_128:
		return "KW_5649_128"
	case KeyWrap5649_192:
		return "KW_5649_192"
	case KeyWrap5649_256:
		return "KW_5649_256"
	case KeyWrapARX:
		return "KW_ARX"
	}
	return unknown("KeyWrapID", uint16(k))
}

// GCAuthID is a group controller authentication method, transform type GCAUTH (RFC 9838).
type GCAuthID uint16

// Values of GCAuthID.
const (
	GCAuthImplicit         GCAuthID = 1
	GCAuthDigitalSignature GCAuthID = 2
)

// String is the IANA name.
func (g GCAuthID) String() string {
	switch g {
	case GCAuthImplicit:
		return "Implicit"
	case GCAuthDigitalSignature:
		return "Digital Signature"
	}
	return unknown("GCAuthID", uint16(g))
}

// AttributeType is the type of a transform attribute (RFC 7296 3.3.5), without the format bit.
type AttributeType uint16

// Values of AttributeType.
const (
	AttrKeyLength          AttributeType = 14 // bits, short format
	AttrSignatureAlgorithm AttributeType = 18 // RFC 9838
)

// String is the IANA name.
func (a AttributeType) String() string {
	switch a {
	case AttrKeyLength:
		return "Key Length"
	case AttrSignatureAlgorithm:
		return "Signature Algorithm Identifier"
	}
	return unknown("AttributeType", uint16(a))
}
