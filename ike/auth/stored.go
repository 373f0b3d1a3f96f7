package auth

import (
	"crypto/x509"
	"slices"

	"espalier/ike/pki"
)

// Stored is a certificate of a set, or one that was met.
type Stored struct {
	Cert   *x509.Certificate
	CA     bool // by its basicConstraints
	HasKey bool // we can sign for it
}

// Certificates lists the certificates of the set, each once: those that
// authentication has gone by, ours and peers', in the order in which it first did,
// then the others, the last added first. It is the order of charon.
func (c *Credentials) Certificates() []Stored {
	keys := map[pki.Fingerprint]bool{}
	for _, h := range c.holders {
		keys[h.fp] = true
	}
	seen := map[pki.Fingerprint]bool{}
	var out []Stored
	add := func(cert *x509.Certificate) {
		if fp := pki.FingerprintOf(cert); !seen[fp] {
			seen[fp] = true
			out = append(out, Stored{Cert: cert, CA: cert.BasicConstraintsValid && cert.IsCA, HasKey: keys[fp]})
		}
	}
	for _, cert := range c.met.list() {
		add(cert)
	}
	for _, list := range [][]*x509.Certificate{c.roots.Certificates(), c.certs} {
		for _, cert := range slices.Backward(list) {
			add(cert)
		}
	}
	return out
}

// StoredKey is a raw public key of a set.
type StoredKey struct {
	Key    *pki.RawKey
	ID     ID   // whose it is; zero: nobody's in particular
	HasKey bool // we can sign for it
}

// RawKeys lists the raw public keys of the set, in the order added; not to be changed.
func (c *Credentials) RawKeys() []StoredKey { return c.rawList }
