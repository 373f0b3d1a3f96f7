package auth

import (
	"crypto/x509"

	"espalier/ike/pki"
)

// Stored is a certificate of a set.
type Stored struct {
	Cert   *x509.Certificate
	CA     bool // by its basicConstraints
	HasKey bool // we can sign for it
}

// Certificates lists the certificates of the set, each once, in the order added:
// those that are sent or pinned, then the trusted CAs.
func (c *Credentials) Certificates() []Stored {
	keys := map[pki.Fingerprint]bool{}
	for _, h := range c.holders {
		keys[h.fp] = true
	}
	seen := map[pki.Fingerprint]bool{}
	var out []Stored
	for _, list := range [][]*x509.Certificate{c.certs, c.roots.Certificates()} {
		for _, cert := range list {
			if fp := pki.FingerprintOf(cert); !seen[fp] {
				seen[fp] = true
				out = append(out, Stored{Cert: cert, CA: cert.BasicConstraintsValid && cert.IsCA, HasKey: keys[fp]})
			}
		}
	}
	return out
}
