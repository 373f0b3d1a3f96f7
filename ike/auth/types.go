package auth

import (
	"time"

	"espalier/ike/pki"
	"espalier/ike/wire"
)

// Bounds on what a peer may send. More is refused before it is parsed.
const (
	MaxCerts    = 10    // certificates in one IKE_AUTH
	MaxCertSize = 16384 // octets a certificate
	MaxCertReqs = 1024  // CA key ids that Sign looks at
)

// Local says how we authenticate in one round. A plain value.
type Local struct {
	Method   Method            // MethodPSK or MethodPubkey; MethodAny: MethodPubkey with Certs, else MethodPSK
	ID       ID                // zero: see Identity
	Certs    []pki.Fingerprint // candidates, the first with a usable private key wins; empty, and no Keys: any that holds ID
	Keys     []pki.Fingerprint // raw public keys (RFC 7670), candidates after Certs; no certificate is sent for them
	Schemes  []Scheme          // signature schemes allowed, empty: any
	SendCert SendCert
}

// Remote says how the peer must authenticate in one round. A plain value.
type Remote struct {
	Method  Method            // MethodAny: what the peer chooses
	ID      ID                // a pattern; zero: any
	CACerts []pki.Fingerprint // the chain must hold one of them; empty: any trusted CA
	Certs   []pki.Fingerprint // pinned: the peer's certificate is one of them, and needs no chain then; empty: any with a chain
	Keys    []pki.Fingerprint // raw public keys, pinned: the peer's is one of them, or it has one of Certs; certificates that it sends are not looked at
	Schemes []Scheme          // signatures allowed, in AUTH and (unless IKEOnly) in the chain; empty: any

	CAID       ID             // the chain must hold a CA with this identity, a pattern; zero: any
	Policies   []string       // OIDs of policies that the peer's certificate must all have
	Revocation pki.Revocation // what it means that no CRL tells of a certificate
}

// SendCert says when Sign returns certificates to send.
type SendCert uint8

// Values of SendCert, with swanctl's names.
const (
	SendIfAsked SendCert = iota // ifasked, the default: when the peer sent a CERTREQ
	SendAlways                  // always
	SendNever                   // never
)

// String is swanctl's keyword.
func (s SendCert) String() string {
	switch s {
	case SendIfAsked:
		return "ifasked"
	case SendAlways:
		return "always"
	case SendNever:
		return "never"
	}
	return "SendCert(?)"
}

// SignJob asks for our AUTH payload. A plain value: it refers to credentials by fingerprint and identity.
type SignJob struct {
	Local      Local
	LocalID    ID // as in our ID payload; not zero
	RemoteID   ID // what the peer says it is, or (initiator) what we expect; zero: unknown
	PRF        wire.PRFID
	Octets     []byte               // SignedOctets of our side
	PeerHashes []wire.HashAlgorithm // the peer's SIGNATURE_HASH_ALGORITHMS; empty: it lacks RFC 7427, so methods 1, 9, 10, 11
	CertReqs   [][]byte             // 20-octet key ids of CAs the peer trusts
	CertReq    bool                 // the peer sent a CERTREQ, be it empty; implied by CertReqs
}

// SignResult is what Sign made.
type SignResult struct {
	Auth     wire.Auth
	Certs    []wire.Cert // leaf first, then its intermediates; the root is not sent
	Describe string      // for people: "PSK", "ECDSA-256 SHA-256"
}

// VerifyJob asks whether the peer is who it says. A plain value.
type VerifyJob struct {
	Remote     Remote
	LocalID    ID // ours, to choose the shared key
	PeerID     ID // from the peer's ID payload
	PRF        wire.PRFID
	Octets     []byte // SignedOctets of the peer's side
	Auth       wire.Auth
	Certs      [][]byte             // DER of the peer's CERT payloads (CertX509Signature), leaf first
	Now        time.Time            // for validity
	PeerHashes []wire.HashAlgorithm // the peer's SIGNATURE_HASH_ALGORITHMS; when not empty, a SHA-1 signature is refused
}

// VerifyResult says how the peer proved its identity.
type VerifyResult struct {
	ID       ID
	Method   Method
	Describe string   // for people: "PSK", "ECDSA-256 SHA-256"
	Chain    []string // subjects from the leaf to the trusted certificate; empty for a shared key
}
