package auth

import (
	"crypto"
	"crypto/x509"
	"io"
	"net/netip"

	"espalier/internal/secret"
)

// Credentials is an immutable set of shared keys, private keys, certificates and CAs, safe for concurrent use. It
// prints as a count of what it holds, never as content.
type Credentials struct{}

// Builder collects credentials; not safe for concurrent use.
type Builder struct{}

// NewBuilder starts an empty set.
func NewBuilder() *Builder { return &Builder{} }

// AddShared adds a shared key for the identities (patterns are allowed; none: for all). The bytes are copied.
func (b *Builder) AddShared(key secret.Bytes, ids []ID, origin string) error { return nil }

// AddKey adds a private key: RSA, ECDSA or Ed25519.
func (b *Builder) AddKey(key crypto.Signer, origin string) error { return nil }

// AddCert adds an end-entity or intermediate certificate, to be sent or pinned.
func (b *Builder) AddCert(c *x509.Certificate, origin string) error { return nil }

// AddCA adds a trusted CA certificate.
func (b *Builder) AddCA(c *x509.Certificate, origin string) error { return nil }

// Build makes the snapshot; the builder may go on and build another.
func (b *Builder) Build() *Credentials { return &Credentials{} }

// CAKeyIDs returns the 20-octet key ids of the trusted CAs for our CERTREQ, those of only when it is not empty.
func (c *Credentials) CAKeyIDs() [][]byte { return nil }

// Identity says who we are in a round whose Local.ID is zero.
func Identity(c *Credentials, l Local, fallback netip.Addr) (ID, error) { return ID{}, nil }

// Sign makes our AUTH payload.
func Sign(c *Credentials, job SignJob, rand io.Reader) (SignResult, error) { return SignResult{}, nil }

// Verify checks the peer's AUTH payload.
func Verify(c *Credentials, job VerifyJob) (VerifyResult, error) { return VerifyResult{}, nil }

// ParseAuth reads swanctl's auth keyword with its signature constraints.
func ParseAuth(s string) (Method, []Scheme, error) { return 0, nil, nil }
