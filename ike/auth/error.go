package auth

import "strings"

// Check names what Sign or Verify tested when it failed.
type Check = string

// Values of Error.Check. Verify tests in this order: identity, method; for shared keys: missing, mismatch; for
// signatures: certificate missing, certificate readable (chain), pinned (constraint), identity held, scheme
// allowed (constraint), signature, then chain, validity, CAs, policies and schemes in the chain (constraint), revocation.
const (
	CheckIdentity     Check = "identity"            // the peer's ID does not match the configured one, or none is known
	CheckMethod       Check = "method"              // the AUTH method is not the configured one, or is unknown
	CheckKeyMissing   Check = "shared key missing"  // no shared key for the two identities
	CheckKeyMismatch  Check = "shared key mismatch" // AUTH is not what our shared key gives
	CheckCertMissing  Check = "certificate missing" // none came and none is stored; signing: none with a private key
	CheckCertIdentity Check = "certificate does not hold the identity"
	CheckChain        Check = "chain"      // no path to a trusted CA, or a malformed certificate
	CheckValidity     Check = "validity"   // a certificate is expired or not yet valid
	CheckSignature    Check = "signature"  // wrong, or malformed
	CheckRevocation   Check = "revocation" // a certificate is revoked, or whether it is must be known and is not
	CheckConstraint   Check = "constraint" // right, but not what the configuration allows: CA, pinned certificate, scheme
)

// Error is a failed authentication.
type Error struct {
	Check  Check
	Local  ID     // our identity
	Peer   ID     // the peer's
	Detail string // what was expected and what was found; never a secret
	Err    error  // the cause, such as *pki.ChainError; may be nil
}

// Error says whose identities, which check, and the detail.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("authentication between \"")
	b.WriteString(e.Local.String())
	b.WriteString("\" (us) and \"")
	b.WriteString(e.Peer.String())
	b.WriteString("\" failed: ")
	b.WriteString(e.Check)
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
