package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestVerifyChain(t *testing.T) {
	root := issue(t, "root", nil, isCA)
	inter := issue(t, "inter", root, isCA)
	leaf := issue(t, "leaf", inter, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })
	chain, err := VerifyChain(leaf.cert, []*x509.Certificate{inter.cert}, NewRoots([]*x509.Certificate{root.cert}), testNow, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) != 3 || chain[0] != leaf.cert || !chain[2].Equal(root.cert) {
		t.Errorf("chain has %d certificates or the wrong order", len(chain))
	}
	// A trusted intermediate ends the chain.
	if chain, err = VerifyChain(leaf.cert, nil, NewRoots([]*x509.Certificate{inter.cert}), testNow, Options{}); err != nil || len(chain) != 2 {
		t.Errorf("trusted intermediate: %d certificates, %v", len(chain), err)
	}
}

func TestVerifyChainFailures(t *testing.T) {
	root := issue(t, "root", nil, isCA)
	inter := issue(t, "inter", root, isCA)
	leaf := issue(t, "leaf", inter, nil)
	otherRoot := issue(t, "other", nil, isCA)
	sameName := issue(t, "root", nil, isCA) // another key under the root's name
	notCA := issue(t, "notca", root, nil)
	underNotCA := issue(t, "leaf", notCA, nil)
	noSign := issue(t, "nosign", root, func(c *x509.Certificate) { isCA(c); c.KeyUsage = x509.KeyUsageCRLSign })
	short := issue(t, "short", nil, func(c *x509.Certificate) { isCA(c); c.MaxPathLenZero = true })
	underShort := issue(t, "mid", short, isCA)
	tooDeep := issue(t, "leaf", underShort, nil)
	oldCA := issue(t, "old", root, func(c *x509.Certificate) { isCA(c); c.NotAfter = testNow.Add(-time.Hour) })
	underOld := issue(t, "leaf", oldCA, nil)
	list := func(cs ...*testCert) (out []*x509.Certificate) {
		for _, c := range cs {
			out = append(out, c.cert)
		}
		return out
	}
	tests := []struct {
		name   string
		leaf   *testCert
		inter  []*x509.Certificate
		roots  []*x509.Certificate
		now    time.Time
		accept error
		reason ChainReason
		text   string
	}{
		{"expired", leaf, list(inter), list(root), testNow.AddDate(2, 0, 0), nil, ChainExpired, "2031-06-01"},
		{"not yet valid", leaf, list(inter), list(root), testNow.AddDate(-2, 0, 0), nil, ChainNotYetValid, "2029-06-01"},
		{"CA expired", underOld, list(oldCA), list(root), testNow, nil, ChainExpired, "CN=old"},
		{"no intermediate", leaf, nil, list(root), testNow, nil, ChainUnknownIssuer, "CN=inter"},
		{"other root", leaf, list(inter), list(otherRoot), testNow, nil, ChainUnknownIssuer, "CN=root"},
		{"root sent but not trusted", leaf, list(inter, root), list(otherRoot), testNow, nil, ChainUnknownIssuer, "self-signed"},
		{"no roots", leaf, list(inter), nil, testNow, nil, ChainUnknownIssuer, "CN=root"},
		{"bad signature", inter, nil, list(sameName), testNow, nil, ChainBadSignature, "CN=inter"},
		{"not a CA", underNotCA, list(notCA), list(root), testNow, nil, ChainNotCA, "basicConstraints"},
		{"no keyCertSign", issue(t, "leaf", noSign, nil), list(noSign), list(root), testNow, nil, ChainNotCA, "keyCertSign"},
		{"path length", tooDeep, list(underShort), list(short), testNow, nil, ChainPathLength, "at most 0"},
		{"refused", leaf, list(inter), list(root), testNow, errors.New("not this one"), ChainRefused, "not this one"},
		{"no time", leaf, list(inter), list(root), time.Time{}, nil, ChainOther, "time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := VerifyChain(tt.leaf.cert, tt.inter, NewRoots(tt.roots), tt.now, Options{Accept: func([]*x509.Certificate) error { return tt.accept }})
			var ce *ChainError
			if !errors.As(err, &ce) || ce.Reason != tt.reason || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.reason, tt.text)
			}
		})
	}
}

func TestUnknownCriticalExtensionIsNamed(t *testing.T) {
	root := issue(t, "root", nil, isCA)
	leaf := issue(t, "leaf", root, nil)
	leaf.cert.UnhandledCriticalExtensions = append(leaf.cert.UnhandledCriticalExtensions, []int{1, 2, 3, 4})
	_, err := VerifyChain(leaf.cert, nil, NewRoots([]*x509.Certificate{root.cert}), testNow, Options{})
	var ce *ChainError
	if !errors.As(err, &ce) || ce.Reason != ChainOther || !strings.Contains(err.Error(), "critical") {
		t.Errorf("got %v", err)
	}
}

func TestChainBound(t *testing.T) {
	ca := issue(t, "ca0", nil, isCA)
	roots := NewRoots([]*x509.Certificate{ca.cert})
	var inter []*x509.Certificate
	for range MaxChain {
		ca = issue(t, "ca"+string(rune('a'+len(inter))), ca, isCA)
		inter = append(inter, ca.cert)
	}
	leaf := issue(t, "leaf", ca, nil)
	if _, err := VerifyChain(leaf.cert, inter, roots, testNow, Options{}); err == nil || !strings.Contains(err.Error(), "at most 10") {
		t.Errorf("a chain of %d certificates: %v", len(inter)+2, err)
	}
}

func TestFingerprints(t *testing.T) {
	c := issue(t, "x", nil, func(c *x509.Certificate) { isCA(c) }).cert
	// crypto/x509 makes the subject key id of a CA from the key alone; two certificates of one key share the KeyID.
	if k := KeyIDOf(c); len(k.String()) != 40 || bytes.Equal(k[:], make([]byte, 20)) {
		t.Error("KeyID is not a SHA-1")
	}
	if f := FingerprintOf(c); len(f.String()) != 64 || f == (Fingerprint{}) {
		t.Error("Fingerprint is not a SHA-256")
	}
}
