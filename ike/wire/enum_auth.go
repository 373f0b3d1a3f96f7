package wire

// IDType is the type of an identity (RFC 7296 3.5).
type IDType uint8

// Values of IDType.
const (
	IDIPv4Addr   IDType = 1
	IDFQDN       IDType = 2
	IDRFC822Addr IDType = 3
	IDIPv6Addr   IDType = 5
	IDDERASN1DN  IDType = 9
	IDDERASN1GN  IDType = 10
	IDKeyID      IDType = 11
	IDFCName     IDType = 12
	IDNull       IDType = 13 // RFC 7619
)

// String is the IANA name.
func (i IDType) String() string {
	switch i {
	case IDIPv4Addr:
		return "ID_IPV4_ADDR"
	case IDFQDN:
		return "ID_FQDN"
	case IDRFC822Addr:
		return "ID_RFC822_ADDR"
	case IDIPv6Addr:
		return "ID_IPV6_ADDR"
	case IDDERASN1DN:
		return "ID_DER_ASN1_DN"
	case IDDERASN1GN:
		return "ID_DER_ASN1_GN"
	case IDKeyID:
		return "ID_KEY_ID"
	case IDFCName:
		return "ID_FC_NAME"
	case IDNull:
		return "ID_NULL"
	}
	return unknown("IDType", uint16(i))
}

// CertEncoding is the encoding of a CERT or CERTREQ payload (RFC 7296 3.6).
type CertEncoding uint8

// Values of CertEncoding.
const (
	CertPKCS7X509     CertEncoding = 1
	CertPGP           CertEncoding = 2
	CertDNSSignedKey  CertEncoding = 3
	CertX509Signature CertEncoding = 4
	CertKerberosToken CertEncoding = 6
	CertCRL           CertEncoding = 7
	CertARL           CertEncoding = 8
	CertSPKI          CertEncoding = 9
	CertX509Attribute CertEncoding = 10
	CertRawRSAKey     CertEncoding = 11 // deprecated by RFC 7670
	CertHashURLX509   CertEncoding = 12
	CertHashURLBundle CertEncoding = 13
	CertOCSPContent   CertEncoding = 14 // RFC 4806
	CertRawPublicKey  CertEncoding = 15 // RFC 7670
)

// String is the IANA name.
func (c CertEncoding) String() string {
	switch c {
	case CertPKCS7X509:
		return "PKCS #7 wrapped X.509 certificate"
	case CertPGP:
		return "PGP Certificate"
	case CertDNSSignedKey:
		return "DNS Signed Key"
	case CertX509Signature:
		return "X.509 Certificate - Signature"
	case CertKerberosToken:
		return "Kerberos Token"
	case CertCRL:
		return "Certificate Revocation List (CRL)"
	case CertARL:
		return "Authority Revocation List (ARL)"
	case CertSPKI:
		return "SPKI Certificate"
	case CertX509Attribute:
		return "X.509 Certificate - Attribute"
	case CertRawRSAKey:
		return "Raw RSA Key"
	case CertHashURLX509:
		return "Hash and URL of X.509 certificate"
	case CertHashURLBundle:
		return "Hash and URL of X.509 bundle"
	case CertOCSPContent:
		return "OCSP Content"
	case CertRawPublicKey:
		return "Raw Public Key"
	}
	return unknown("CertEncoding", uint16(c))
}

// AuthMethod is the method of an AUTH payload (RFC 7296 3.8).
type AuthMethod uint8

// Values of AuthMethod.
const (
	AuthRSA              AuthMethod = 1
	AuthSharedKey        AuthMethod = 2
	AuthDSS              AuthMethod = 3
	AuthECDSA256         AuthMethod = 9 // RFC 4754
	AuthECDSA384         AuthMethod = 10
	AuthECDSA521         AuthMethod = 11
	AuthGSPM             AuthMethod = 12 // RFC 6467
	AuthNull             AuthMethod = 13 // RFC 7619
	AuthDigitalSignature AuthMethod = 14 // RFC 7427
)

// String is the IANA name.
func (a AuthMethod) String() string {
	switch a {
	case AuthRSA:
		return "RSA Digital Signature"
	case AuthSharedKey:
		return "Shared Key Message Integrity Code"
	case AuthDSS:
		return "DSS Digital Signature"
	case AuthECDSA256:
		return "ECDSA with SHA-256 on the P-256 curve"
	case AuthECDSA384:
		return "ECDSA with SHA-384 on the P-384 curve"
	case AuthECDSA521:
		return "ECDSA with SHA-512 on the P-521 curve"
	case AuthGSPM:
		return "Generic Secure Password Authentication Method"
	case AuthNull:
		return "NULL Authentication"
	case AuthDigitalSignature:
		return "Digital Signature"
	}
	return unknown("AuthMethod", uint16(a))
}

// HashAlgorithm is an entry of the SIGNATURE_HASH_ALGORITHMS notification (RFC 7427 section 4).
type HashAlgorithm uint16

// Values of HashAlgorithm.
const (
	HashSHA1        HashAlgorithm = 1
	HashSHA2_256    HashAlgorithm = 2
	HashSHA2_384    HashAlgorithm = 3
	HashSHA2_512    HashAlgorithm = 4
	HashIdentity    HashAlgorithm = 5 // RFC 8420: Ed25519 and Ed448
	HashStreebog256 HashAlgorithm = 6 // RFC 9385
	HashStreebog512 HashAlgorithm = 7 // RFC 9385
)

// String is the IANA name.
func (h HashAlgorithm) String() string {
	switch h {
	case HashSHA1:
		return "SHA1"
	case HashSHA2_256:
		return "SHA2-256"
	case HashSHA2_384:
		return "SHA2-384"
	case HashSHA2_512:
		return "SHA2-512"
	case HashIdentity:
		return "Identity"
	case HashStreebog256:
		return "STREEBOG_256"
	case HashStreebog512:
		return "STREEBOG_512"
	}
	return unknown("HashAlgorithm", uint16(h))
}

// PasswordMethod is an entry of the SECURE_PASSWORD_METHODS notification (RFC 6467).
type PasswordMethod uint16

// Values of PasswordMethod.
const (
	PasswordPACE      PasswordMethod = 1 // RFC 6631
	PasswordAugPAKE   PasswordMethod = 2 // RFC 6628
	PasswordSecurePSK PasswordMethod = 3 // RFC 6617
)

// String is the IANA name.
func (p PasswordMethod) String() string {
	switch p {
	case PasswordPACE:
		return "PACE"
	case PasswordAugPAKE:
		return "AugPAKE"
	case PasswordSecurePSK:
		return "Secure PSK Authentication"
	}
	return unknown("PasswordMethod", uint16(p))
}
