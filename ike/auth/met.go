package auth

import (
	"crypto/x509"
	"sync"

	"espalier/ike/pki"
)

// maxMet bounds the certificates that a set remembers to have met; the oldest go.
const maxMet = 256

// met are the certificates that authentication went by, ours and peers', each once, in
// the order in which it first did: what charon has in its cache, and lists.
type met struct {
	mu    sync.Mutex
	order []*x509.Certificate
	has   map[pki.Fingerprint]bool
}

func (m *met) note(cert *x509.Certificate) {
	fp := pki.FingerprintOf(cert)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.has[fp] {
		return
	}
	if m.has == nil {
		m.has = map[pki.Fingerprint]bool{}
	}
	if len(m.order) == maxMet {
		delete(m.has, pki.FingerprintOf(m.order[0]))
		m.order = m.order[1:]
	}
	m.has[fp] = true
	m.order = append(m.order, cert)
}

func (m *met) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.order, m.has = nil, nil
}

func (m *met) list() []*x509.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*x509.Certificate(nil), m.order...)
}
