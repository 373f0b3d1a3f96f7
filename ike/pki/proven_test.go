package pki

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"
)

// TestProvenChains: what is remembered is only that the signatures are right.
func TestProvenChains(t *testing.T) {
	root := issue(t, "root", nil, isCA)
	inter := issue(t, "inter", root, func(c *x509.Certificate) { isCA(c); c.NotAfter = testNow.AddDate(0, 1, 0) })
	leaf := issue(t, "leaf", inter, nil)
	roots := NewRoots([]*x509.Certificate{root.cert})
	inters := []*x509.Certificate{inter.cert}
	if _, err := VerifyChain(leaf.cert, inters, roots, testNow, Options{}); err != nil {
		t.Fatal(err)
	}
	// Known: the intermediate need not come again.
	if chain, err := VerifyChain(leaf.cert, nil, roots, testNow, Options{}); err != nil || len(chain) != 3 {
		t.Errorf("a known chain: %d certificates, %v", len(chain), err)
	}
	// Its validity counts all the same, that of each certificate in it.
	var ce *ChainError
	if _, err := VerifyChain(leaf.cert, inters, roots, testNow.AddDate(0, 2, 0), Options{}); !errors.As(err, &ce) || ce.Reason != ChainExpired {
		t.Errorf("after the intermediate's end: %v", err)
	}
	// So does what the caller accepts.
	refuse := Options{Accept: func([]*x509.Certificate) error { return errors.New("not this one") }}
	if _, err := VerifyChain(leaf.cert, inters, roots, testNow, refuse); !errors.As(err, &ce) || ce.Reason != ChainRefused {
		t.Errorf("refused: %v", err)
	}
	// Another certificate of the same name, and other roots, know nothing of it.
	other := issue(t, "leaf", issue(t, "inter", nil, isCA), nil)
	if _, err := VerifyChain(other.cert, inters, roots, testNow, Options{}); err == nil {
		t.Error("a certificate of the same name was taken for the known one")
	}
	if _, err := VerifyChain(leaf.cert, inters, NewRoots([]*x509.Certificate{other.cert}), testNow, Options{}); err == nil {
		t.Error("other roots took the chain")
	}
	if chain := roots.proven.find(leaf.cert, testNow.Add(-10*365*24*time.Hour)); chain != nil {
		t.Error("found before it was valid")
	}
}

func TestProvenIsBounded(t *testing.T) {
	var p proven
	for i := range maxProven + 10 {
		p.add(&x509.Certificate{Raw: []byte{byte(i), byte(i >> 8)}}, nil)
	}
	if n := len(p.chains); n > maxProven {
		t.Errorf("%d chains", n)
	}
}
