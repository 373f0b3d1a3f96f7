package auth

import (
	"crypto"
	"crypto/sha1" //nolint:gosec // RFC 7296 3.7 names keys by SHA-1
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"

	"espalier/ike/pki"
	"espalier/internal/secret"
)

// Credentials is an immutable set of shared keys, private keys, certificates and CAs, safe for concurrent use. Every
// formatter prints how many it holds and never what.
type Credentials struct {
	shared        sharedKeys
	holders       []*holder // certificates with their private keys, in the order added
	byFingerprint map[pki.Fingerprint]*x509.Certificate
	certs         []*x509.Certificate // without the CAs, in the order added
	intermediates []*x509.Certificate // those of certs that are CAs
	roots         *pki.Roots
	caKeyIDs      map[pki.Fingerprint][]byte
	crls          *pki.CRLs
	raw           map[pki.Fingerprint]*pki.RawKey
	rawList       []StoredKey
	rawHolders    []*holder // raw public keys with their private keys, in the order added
	met           *met
}

// holder is an end-entity certificate, or a raw public key, that we can sign for.
type holder struct {
	cert    *x509.Certificate // nil: a raw key
	fp      pki.Fingerprint
	key     crypto.Signer
	send    []*x509.Certificate // the certificate and its intermediates
	issuers map[pki.KeyID]bool  // keys of the CAs above it
}

// Format implements fmt.Formatter for every verb.
func (c Credentials) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// String says how many shared keys, private keys with certificate, certificates and CAs the set holds.
func (c Credentials) String() string {
	return fmt.Sprintf("credentials(%d shared keys, %d private keys with certificate, %d certificates, %d CAs)",
		len(c.shared.all), len(c.holders), len(c.certs), len(c.roots.Certificates()))
}

// Certificate finds a stored certificate, CA or not; nil: none.
func (c *Credentials) Certificate(fp pki.Fingerprint) *x509.Certificate { return c.byFingerprint[fp] }

// ForgetChains has peers' chains proven anew, which were found right before, and
// forgets which certificates were met.
func (c *Credentials) ForgetChains() {
	c.roots.ForgetChains()
	c.met.forget()
}

// CAKeyIDs returns the 20-octet key ids of trusted CAs for our CERTREQ: of those in only, or of all when it is empty.
// The result is fresh, the ids are not to be changed.
func (c *Credentials) CAKeyIDs(only []pki.Fingerprint) [][]byte {
	var ids [][]byte
	for _, ca := range c.roots.Certificates() {
		if fp := pki.FingerprintOf(ca); len(only) == 0 || slices.Contains(only, fp) {
			ids = append(ids, c.caKeyIDs[fp])
		}
	}
	return ids
}

// Builder collects credentials; not safe for concurrent use. It prints as nothing but its name.
type Builder struct {
	shared     []*sharedKey
	keys       map[pki.KeyID]crypto.Signer
	certs, cas []*x509.Certificate
	crls       []*pki.CRL
	fetched    *pki.CRLCache
	raw        []*pki.RawKey
	rawIDs     []ID                     // whose they are
	seen       map[pki.Fingerprint]bool // in certs
	seenCA     map[pki.Fingerprint]bool
}

// Format implements fmt.Formatter for every verb.
func (b Builder) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "auth.Builder") }

// NewBuilder starts an empty set.
func NewBuilder() *Builder {
	return &Builder{keys: map[pki.KeyID]crypto.Signer{}, seen: map[pki.Fingerprint]bool{}, seenCA: map[pki.Fingerprint]bool{}}
}

// AddShared adds a shared key for the identities, ours, peers' or both; patterns are allowed, and none or %any means
// for all. The bytes are copied. It refuses an empty key.
func (b *Builder) AddShared(key secret.Bytes, ids []ID, origin string) error {
	if len(key) == 0 {
		return fmt.Errorf("%s: expected a shared key, found an empty one", origin)
	}
	b.shared = append(b.shared, &sharedKey{key: key.Clone(), ids: slices.Clone(ids), order: len(b.shared)})
	return nil
}

// AddKey adds a private key: RSA of 1024 to 8192 bits, ECDSA P-256, P-384, P-521, or Ed25519. The same key again is
// not an error. The key must be safe for concurrent use, as those of the standard library are.
func (b *Builder) AddKey(key crypto.Signer, origin string) error {
	if key == nil {
		return fmt.Errorf("%s: expected a private key, found none", origin)
	}
	if err := pki.CheckPublicKey(key.Public()); err != nil {
		return fmt.Errorf("%s: %w", origin, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("%s: expected a private key with an encodable public key: %w", origin, err)
	}
	b.keys[sha1.Sum(spki)] = key //nolint:gosec
	return nil
}

// AddCert adds an end-entity or intermediate certificate, to be sent or pinned. The same one again is not an error.
func (b *Builder) AddCert(c *x509.Certificate, origin string) error {
	if c == nil {
		return fmt.Errorf("%s: expected a certificate, found none", origin)
	}
	if err := pki.CheckPublicKey(c.PublicKey); err != nil {
		return fmt.Errorf("%s: %w", origin, err)
	}
	if fp := pki.FingerprintOf(c); !b.seen[fp] {
		b.seen[fp] = true
		b.certs = append(b.certs, c)
	}
	return nil
}

// AddCA adds a trusted CA certificate, self-signed or intermediate. It refuses one that is no CA.
func (b *Builder) AddCA(c *x509.Certificate, origin string) error {
	if c == nil {
		return fmt.Errorf("%s: expected a CA certificate, found none", origin)
	}
	if !c.BasicConstraintsValid || !c.IsCA {
		return fmt.Errorf("%s: expected a CA certificate, found %q without basicConstraints CA:TRUE", origin, DNID(c.RawSubject))
	}
	if err := pki.CheckPublicKey(c.PublicKey); err != nil {
		return fmt.Errorf("%s: %w", origin, err)
	}
	if fp := pki.FingerprintOf(c); !b.seenCA[fp] {
		b.seenCA[fp] = true
		b.cas = append(b.cas, c)
	}
	return nil
}

// AddCRL adds a CRL. Of several of one issuer the newest counts.
func (b *Builder) AddCRL(c *pki.CRL) { b.crls = append(b.crls, c) }

// FetchedCRLs has what is in a cache count, too, whenever it comes.
func (b *Builder) FetchedCRLs(c *pki.CRLCache) { b.fetched = c }

// AddRawKey adds a public key without certificate, ours or a peer's. It is of use
// where Local.Keys or Remote.Keys name it; the identity is for lists.
func (b *Builder) AddRawKey(k *pki.RawKey, id ID) {
	b.raw, b.rawIDs = append(b.raw, k), append(b.rawIDs, id)
}

// CRLs are the revocation lists of the set, in the order added, then those that were fetched.
func (c *Credentials) CRLs() []*pki.CRL { return c.crls.All() }

// Build makes the snapshot; the builder may go on and build another. Keys without certificate and certificates without
// key are no error: files come in any order.
func (b *Builder) Build() *Credentials {
	c := &Credentials{
		shared:        newSharedKeys(b.shared),
		byFingerprint: map[pki.Fingerprint]*x509.Certificate{},
		certs:         slices.Clone(b.certs),
		roots:         pki.NewRoots(b.cas),
		caKeyIDs:      map[pki.Fingerprint][]byte{},
		crls:          pki.NewCRLs(b.crls, b.fetched),
		raw:           map[pki.Fingerprint]*pki.RawKey{},
		met:           &met{},
	}
	for _, ca := range b.cas {
		fp, id := pki.FingerprintOf(ca), pki.KeyIDOf(ca)
		c.byFingerprint[fp] = ca
		c.caKeyIDs[fp] = id[:]
	}
	for _, cert := range b.certs {
		c.byFingerprint[pki.FingerprintOf(cert)] = cert
		if cert.IsCA {
			c.intermediates = append(c.intermediates, cert)
		}
	}
	for _, cert := range b.certs {
		if key, ok := b.keys[pki.KeyIDOf(cert)]; ok {
			c.holders = append(c.holders, newHolder(cert, key, append(slices.Clone(c.intermediates), b.cas...)))
		}
	}
	for i, k := range b.raw {
		fp := k.Fingerprint()
		if c.raw[fp] != nil {
			continue
		}
		key, has := b.keys[sha1.Sum(k.DER)] //nolint:gosec
		if has {
			c.rawHolders = append(c.rawHolders, &holder{fp: fp, key: key})
		}
		c.raw[fp], c.rawList = k, append(c.rawList, StoredKey{Key: k, ID: b.rawIDs[i], HasKey: has})
	}
	return c
}

// newHolder follows the issuers upwards as far as they are stored. The self-signed end is not sent: who trusts it has it.
func newHolder(cert *x509.Certificate, key crypto.Signer, cas []*x509.Certificate) *holder {
	h := &holder{cert: cert, fp: pki.FingerprintOf(cert), key: key, send: []*x509.Certificate{cert}, issuers: map[pki.KeyID]bool{}}
	for cur := cert; len(h.issuers) < pki.MaxChain; {
		i := slices.IndexFunc(cas, func(ca *x509.Certificate) bool {
			return string(ca.RawSubject) == string(cur.RawIssuer) && !ca.Equal(cur) && cur.CheckSignatureFrom(ca) == nil
		})
		if i < 0 || h.issuers[pki.KeyIDOf(cas[i])] {
			return h
		}
		cur = cas[i]
		h.issuers[pki.KeyIDOf(cur)] = true
		if string(cur.RawSubject) == string(cur.RawIssuer) {
			return h
		}
		h.send = append(h.send, cur)
	}
	return h
}

// wanted says whether the peer trusts a CA above the certificate.
func (h *holder) wanted(certReqs [][]byte) bool {
	for _, r := range certReqs[:min(len(certReqs), MaxCertReqs)] {
		if len(r) == len(pki.KeyID{}) && h.issuers[pki.KeyID(r)] {
			return true
		}
	}
	return false
}

// HoldsIdentity says whether a certificate stands for an identity: its subject is the distinguished name, one of its
// subjectAltNames the address, host name or e-mail address (RFC 4945 3.1), or the key id is its
// subjectKeyIdentifier or the SHA-1 of its key. Wildcards in a certificate are not honoured.
func HoldsIdentity(cert *x509.Certificate, id ID) bool {
	for own := range identities(cert) {
		if own.Equal(id) {
			return true
		}
	}
	return false
}

var errNoIdentity = errors.New("expected a certificate with a subject or a subjectAltName, found neither")
