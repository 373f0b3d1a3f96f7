package auth

import "strings"

// Check names what Sign or Verify tested when it failed.
type Check = string

// Values of Error.Check, in the order of the tests.
const (
	CheckIdentity     Check = "identity"            // the peer's ID does not match the configured one, or is malformed
	CheckMethod       Check = "method"              // the AUTH method is not the configured one, or is unknown
	CheckKeyMissing   Check = "shared key missing"  // no shared key for the two identities
	CheckKeyMismatch  Check = "shared key mismatch" // AUTH is not what our shared key gives
	CheckCertMissing  Check = "certificate missing" // none came and none is stored; or, when signing, none with a private key
	CheckCertIdentity Check = "certificate does not hold the identity"
	CheckChain        Check = "chain"      // no path to a trusted CA, or a malformed certificate
	CheckValidity     Check = "validity"   // expired or not yet valid
	CheckSignature    Check = "signature"  // the signature is wrong or malformed
	CheckConstraint   Check = "constraint" // right, but not allowed by the configuration: CA, pinned certificate, scheme
)

// Error is a failed authentication.
type Error struct {
	Check  Check
	Local  ID     // our identity
	Peer   ID     // the peer's
	Detail string // what was expected and what was found; never a secret
	Err    error  // the cause, such as *pki.ChainError; may be nil
}

// Error says whose identity, which check, and the detail.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("authentication between ")
	b.WriteString(e.Local.String())
	b.WriteString(" (us) and ")
	b.WriteString(e.Peer.String())
	b.WriteString(" failed: ")
	b.WriteString(e.Check)
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
