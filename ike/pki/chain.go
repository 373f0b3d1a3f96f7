package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxChain bounds the certificates from a leaf to its trusted CA, both included.
const MaxChain = 10

// Roots is an immutable set of trusted CA certificates, ready for use, safe for concurrent use; it remembers the chains
// that were proven to end in it. They need not be
// self-signed: an intermediate CA that is trusted ends a chain. A certificate that is no CA is trusted for itself only.
type Roots struct {
	certs  []*x509.Certificate
	pool   *x509.CertPool
	proven proven
}

// NewRoots makes the set; nil entries are ignored.
func NewRoots(certs []*x509.Certificate) *Roots {
	r := &Roots{pool: x509.NewCertPool()}
	for _, c := range certs {
		if c != nil {
			r.certs = append(r.certs, c)
			r.pool.AddCert(c)
		}
	}
	return r
}

// Certificates returns what the set holds; not to be changed.
func (r *Roots) Certificates() []*x509.Certificate { return r.certs }

// ForgetChains has the chains proven anew of whoever comes next.
func (r *Roots) ForgetChains() { r.proven.forget() }

// ChainReason says what is wrong with a chain.
type ChainReason uint8

// Values of ChainReason.
const (
	ChainOther         ChainReason = iota // see Detail: name constraints, unknown critical extensions, …
	ChainExpired                          // after NotAfter
	ChainNotYetValid                      // before NotBefore
	ChainUnknownIssuer                    // no certificate of the issuer, or a self-signed one that is not trusted
	ChainBadSignature                     // the issuer's key did not sign it
	ChainWeakSignature                    // MD5, SHA-1: crypto/x509 no longer takes it
	ChainNotCA                            // the issuer may not sign certificates
	ChainPathLength                       // more CAs below the issuer than it allows
	ChainRefused                          // Options.Accept refused every chain
	ChainRevoked                          // its issuer revoked it
	ChainUnchecked                        // whether it is revoked is not known, and must be
)

// String is a short text.
func (r ChainReason) String() string {
	switch r {
	case ChainOther:
		return "not acceptable"
	case ChainExpired:
		return "expired"
	case ChainNotYetValid:
		return "not yet valid"
	case ChainUnknownIssuer:
		return "unknown issuer"
	case ChainBadSignature:
		return "bad signature"
	case ChainWeakSignature:
		return "weak signature algorithm"
	case ChainNotCA:
		return "issuer is no CA"
	case ChainPathLength:
		return "path length exceeded"
	case ChainRefused:
		return "refused"
	case ChainRevoked:
		return "revoked"
	case ChainUnchecked:
		return "revocation unknown"
	}
	return fmt.Sprintf("ChainReason(%d)", uint8(r))
}

// ChainError says which certificate ends the search for a chain, and why.
type ChainError struct {
	Reason  ChainReason
	Subject string // of the certificate at fault
	Issuer  string // its issuer
	Detail  string // expected and found; may be empty
	Err     error  // cause: of crypto/x509, or what Options.Accept said
}

// Error names the certificate, the reason and the detail.
func (e *ChainError) Error() string {
	s := fmt.Sprintf("certificate %q issued by %q: %s", e.Subject, e.Issuer, e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Unwrap returns the cause.
func (e *ChainError) Unwrap() error { return e.Err }

// Options of VerifyChain.
type Options struct {
	// Accept is asked for each chain found, leaf first, until it accepts one by nil; nil function: the first is taken.
	Accept func(chain []*x509.Certificate) error
}

// VerifyChain builds a path from leaf to one of roots (RFC 5280 6.1) and returns it, leaf first, the trusted
// certificate last. Extended key usages and host names are not looked at; validity is that at now, for each
// certificate of the chain. Revocation is Options.Accept's to check. Errors are a *ChainError.
func VerifyChain(leaf *x509.Certificate, intermediates []*x509.Certificate, roots *Roots, now time.Time, o Options) ([]*x509.Certificate, error) {
	opts := x509.VerifyOptions{Roots: roots.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if len(intermediates) > 0 {
		opts.Intermediates = x509.NewCertPool()
		for _, c := range intermediates {
			opts.Intermediates.AddCert(c)
		}
	}
	if now.IsZero() { // crypto/x509 would take the wall clock
		return nil, chainError(leaf, ChainOther, "expected a time to check the validity at, found none", nil)
	}
	if chain := roots.proven.find(leaf, now); chain != nil && (o.Accept == nil || o.Accept(chain) == nil) {
		return chain, nil
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return nil, diagnose(leaf, intermediates, roots, now, err)
	}
	for _, chain := range chains {
		if len(chain) > MaxChain {
			err = errors.Join(err, fmt.Errorf("expected at most %d certificates, found %d", MaxChain, len(chain)))
			continue
		}
		if o.Accept == nil {
			roots.proven.add(leaf, chain)
			return chain, nil
		}
		refusal := o.Accept(chain)
		if refusal == nil {
			roots.proven.add(leaf, chain)
			return chain, nil
		}
		if err == nil {
			err = refusal
		}
	}
	if ce, is := asChainError(err); is {
		return nil, ce
	}
	return nil, chainError(leaf, ChainRefused, err.Error(), err)
}

func chainError(c *x509.Certificate, r ChainReason, detail string, err error) *ChainError {
	return &ChainError{Reason: r, Subject: FormatDN(c.RawSubject), Issuer: FormatDN(c.RawIssuer), Detail: detail, Err: err}
}

// CheckValidity says whether now lies within the certificate's lifetime. The error is a *ChainError.
func CheckValidity(c *x509.Certificate, now time.Time) error {
	if now.Before(c.NotBefore) {
		return chainError(c, ChainNotYetValid, "valid from "+stamp(c.NotBefore)+", now "+stamp(now), nil)
	}
	if now.After(c.NotAfter) {
		return chainError(c, ChainExpired, "valid until "+stamp(c.NotAfter)+", now "+stamp(now), nil)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// diagnose walks from the leaf upwards to find what crypto/x509 stumbled on: its own error often names neither the
// certificate nor, for a wrong signature or a missing CA bit, the reason.
func diagnose(leaf *x509.Certificate, intermediates []*x509.Certificate, roots *Roots, now time.Time, cause error) error {
	cur := leaf
	for depth := range MaxChain {
		if err := CheckValidity(cur, now); err != nil {
			return withCause(err, cause)
		}
		if slices.ContainsFunc(roots.certs, cur.Equal) {
			break
		}
		issuer, err := issuerOf(cur, depth, intermediates, roots)
		if err != nil {
			return withCause(err, cause)
		}
		if issuer.Equal(cur) {
			return chainError(cur, ChainUnknownIssuer, "it is self-signed and not among our CAs", cause)
		}
		cur = issuer
	}
	var invalid x509.CertificateInvalidError
	if errors.As(cause, &invalid) && invalid.Cert != nil {
		return chainError(invalid.Cert, ChainOther, cause.Error(), cause)
	}
	return chainError(leaf, ChainOther, cause.Error(), cause)
}

func withCause(err, cause error) error {
	var ce *ChainError
	if errors.As(err, &ce) && ce.Err == nil {
		ce.Err = cause
	}
	return err
}

// issuerOf finds a certificate that signed c; below is the number of CA certificates under it. Without one the error
// is about the first certificate that bears the issuer's name.
func issuerOf(c *x509.Certificate, below int, intermediates []*x509.Certificate, roots *Roots) (*x509.Certificate, error) {
	var first error
	for _, set := range [][]*x509.Certificate{roots.certs, intermediates} {
		for _, ca := range set {
			if !bytes.Equal(ca.RawSubject, c.RawIssuer) {
				continue
			}
			err := checkIssued(c, ca, below)
			if err == nil {
				return ca, nil
			}
			if first == nil {
				first = err
			}
		}
	}
	if first != nil {
		return nil, first
	}
	if bytes.Equal(c.RawSubject, c.RawIssuer) {
		return c, nil
	}
	return nil, chainError(c, ChainUnknownIssuer, "expected a certificate of its issuer among our CAs or those the peer sent, found none", nil)
}

func checkIssued(c, ca *x509.Certificate, below int) error {
	if err := ca.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		var weak x509.InsecureAlgorithmError
		if errors.As(err, &weak) {
			return chainError(c, ChainWeakSignature, "signed with "+c.SignatureAlgorithm.String(), err)
		}
		return chainError(c, ChainBadSignature, "the key of its issuer's certificate did not sign it", err)
	}
	if ca.Version == 3 && (!ca.BasicConstraintsValid || !ca.IsCA) {
		return chainError(c, ChainNotCA, "the issuer's certificate lacks basicConstraints CA:TRUE", nil)
	}
	if ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCertSign == 0 {
		return chainError(c, ChainNotCA, "the issuer's certificate has a keyUsage without keyCertSign", nil)
	}
	if ca.BasicConstraintsValid && ca.MaxPathLen >= 0 && below > ca.MaxPathLen {
		return chainError(c, ChainPathLength, fmt.Sprintf("expected at most %d CAs below the issuer, found %d", ca.MaxPathLen, below), nil)
	}
	return nil
}
