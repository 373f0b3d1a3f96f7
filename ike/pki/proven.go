package pki

import (
	"crypto/x509"
	"sync"
	"time"
)

// maxProven bounds the chains that a Roots remembers; certificates take a few kilobytes each.
const maxProven = 4096

// proven remembers chains whose signatures were found right, by the fingerprint of their leaf. That a certificate's
// octets lead to one of an immutable set of roots does not change, so a peer that comes back, after a rekeying or by
// the thousand after an outage, costs no public key operation for its chain. What may change is not remembered: validity
// is checked each time, and so is whatever the caller accepts.
type proven struct {
	mu     sync.Mutex
	chains map[Fingerprint][]*x509.Certificate
}

// find returns the chain of a leaf, valid at now.
func (p *proven) find(leaf *x509.Certificate, now time.Time) []*x509.Certificate {
	p.mu.Lock()
	chain := p.chains[FingerprintOf(leaf)]
	p.mu.Unlock()
	for _, c := range chain {
		if CheckValidity(c, now) != nil {
			return nil // the long way says why
		}
	}
	return chain
}

func (p *proven) add(leaf *x509.Certificate, chain []*x509.Certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.chains == nil || len(p.chains) >= maxProven {
		// Starting over is rare, and forgetting only costs time.
		p.chains = make(map[Fingerprint][]*x509.Certificate)
	}
	p.chains[FingerprintOf(leaf)] = chain
}

// forget drops all chains.
func (p *proven) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chains = nil
}
