// Package auth proves identities in IKE_AUTH: shared keys (RFC 7296 2.15) and signatures (RFC 7296 2.15, RFC 4754,
// RFC 7427, RFC 8420) with X.509 certificates.
//
// A round of authentication is a step: [Sign] and [Verify] take a job, a plain value that can be stored and issued
// again, and an immutable [Credentials]; they keep nothing between calls. Both are pure but for the randomness given
// and safe for concurrent use; they take tens of microseconds (RSA: milliseconds) and never block.
//
// Failures are an [*Error], which says whose identity, which check, what was expected and what came, and never a secret.
package auth
