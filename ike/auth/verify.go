package auth

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"espalier/ike/pki"
	"espalier/ike/wire"
	"espalier/internal/secret"
)

// Verify checks the peer's AUTH payload. The order of the tests stands with the values of Error.Check; the cheap
// ones come before the signature, and the chain comes after it, so that who lacks the private key makes us do little.
// Errors are an *Error.
func Verify(c *Credentials, job VerifyJob) (VerifyResult, error) {
	v := verifier{c, &job}
	if err := job.PeerID.check(); err != nil {
		return VerifyResult{}, v.fail(CheckIdentity, err.Error(), err)
	}
	if _, ok := job.PeerID.Matches(job.Remote.ID); !ok {
		return VerifyResult{}, v.fail(CheckIdentity, fmt.Sprintf("expected %q, found %q", job.Remote.ID, job.PeerID), nil)
	}
	var method Method
	switch job.Auth.Method {
	case wire.AuthSharedKey:
		method = MethodPSK
	case wire.AuthRSA, wire.AuthECDSA256, wire.AuthECDSA384, wire.AuthECDSA521, wire.AuthDigitalSignature:
		method = MethodPubkey
	default:
		return VerifyResult{}, v.fail(CheckMethod, fmt.Sprintf("expected %s, found %s", job.Remote.Method, job.Auth.Method), nil)
	}
	if job.Remote.Method != MethodAny && job.Remote.Method != method {
		return VerifyResult{}, v.fail(CheckMethod, fmt.Sprintf("expected %s, found %s (%s)", job.Remote.Method, method, job.Auth.Method), nil)
	}
	if method == MethodPSK {
		return v.shared()
	}
	return v.signed()
}

type verifier struct {
	c   *Credentials
	job *VerifyJob
}

func (v verifier) fail(check Check, detail string, cause error) error {
	return &Error{Check: check, Local: v.job.LocalID, Peer: v.job.PeerID, Detail: detail, Err: cause}
}

func (v verifier) shared() (VerifyResult, error) {
	key, ok := v.c.shared.find(v.job.LocalID, v.job.PeerID)
	if !ok {
		return VerifyResult{}, v.fail(CheckKeyMissing, v.c.sharedHint(), nil)
	}
	want, err := psk(v.job.PRF, key, v.job.Octets)
	if err != nil {
		return VerifyResult{}, v.fail(CheckMethod, err.Error(), err)
	}
	if len(want) == 0 || !secret.Bytes(want).Equal(v.job.Auth.Data) {
		return VerifyResult{}, v.fail(CheckKeyMismatch, "the peer's AUTH is not what the shared key for these identities gives: the two sides hold different keys", nil)
	}
	return VerifyResult{ID: v.job.PeerID, Method: MethodPSK, Describe: describePSK}, nil
}

func (v verifier) signed() (VerifyResult, error) {
	if remote := &v.job.Remote; len(remote.Keys) > 0 {
		r, err := v.raw()
		if err == nil || len(remote.Certs)+len(remote.CACerts) == 0 && remote.CAID.IsAny() {
			return r, err
		}
	}
	leaves, intermediates, unread, err := v.certificates()
	if err != nil {
		return VerifyResult{}, err
	}
	var first error
	for _, leaf := range leaves {
		sig, err := v.leaf(leaf)
		if err == nil {
			return v.trust(leaf, sig, intermediates, unread)
		}
		if first == nil {
			first = err
		}
	}
	return VerifyResult{}, first
}

// raw tries the raw public keys of the peer. Whoever has the private key is who the
// configuration says; its identity was tested before.
func (v verifier) raw() (VerifyResult, error) {
	var first error
	for _, fp := range v.job.Remote.Keys {
		k := v.c.raw[fp]
		if k == nil {
			continue
		}
		sig, err := v.signature(k.Key)
		if err == nil {
			return VerifyResult{ID: v.job.PeerID, Method: MethodPubkey, Describe: sig.String() + ", raw public key"}, nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = v.fail(CheckCertMissing, fmt.Sprintf("expected one of the %d raw public keys configured for the peer, found none loaded", len(v.job.Remote.Keys)), nil)
	}
	return VerifyResult{}, first
}

// certificates returns what AUTH may be signed with: the first that the peer sent (RFC 7296 3.6), or, when it sent
// none, the stored ones that are pinned or hold its identity.
func (v verifier) certificates() (leaves, intermediates []*x509.Certificate, unread, err error) {
	if len(v.job.Certs) > MaxCerts {
		return nil, nil, nil, v.fail(CheckChain, fmt.Sprintf("expected at most %d certificates, found %d", MaxCerts, len(v.job.Certs)), nil)
	}
	for i, der := range v.job.Certs {
		cert, err := v.parse(der)
		switch {
		case err != nil && i == 0:
			return nil, nil, nil, v.fail(CheckChain, "the peer's certificate: "+err.Error(), err)
		case err != nil: // perhaps nobody needs it
			unread = errors.Join(unread, fmt.Errorf("certificate %d of the peer: %w", i+1, err))
		case i == 0:
			leaves = append(leaves, cert)
		default:
			intermediates = append(intermediates, cert)
		}
	}
	if len(leaves) > 0 {
		return leaves, append(intermediates, v.c.intermediates...), unread, nil
	}
	for _, cert := range v.c.certs {
		if len(leaves) < MaxCerts && HoldsIdentity(cert, v.job.PeerID) &&
			(len(v.job.Remote.Certs) == 0 || slices.Contains(v.job.Remote.Certs, pki.FingerprintOf(cert))) {
			leaves = append(leaves, cert)
		}
	}
	if len(leaves) == 0 {
		return nil, nil, nil, v.fail(CheckCertMissing, "expected a certificate from the peer, or a stored one that holds its identity, found neither", nil)
	}
	return leaves, v.c.intermediates, nil, nil
}

// parse reads a certificate from the peer; what is stored already needs no second reading.
func (v verifier) parse(der []byte) (*x509.Certificate, error) {
	if len(der) > MaxCertSize {
		return nil, fmt.Errorf("expected at most %d octets, found %d", MaxCertSize, len(der))
	}
	if known := v.c.byFingerprint[sha256.Sum256(der)]; known != nil {
		return known, nil
	}
	cert, err := pki.ParseDER(der, "")
	if err != nil {
		return nil, err
	}
	if err := pki.CheckPublicKey(cert.PublicKey); err != nil { // bounds the work of checking signatures
		return nil, err
	}
	return cert, nil
}

// leaf tests all that needs no trust in the certificate yet, the signature last.
func (v verifier) leaf(cert *x509.Certificate) (signature, error) {
	if pinned := v.job.Remote.Certs; len(pinned) > 0 && !slices.Contains(pinned, pki.FingerprintOf(cert)) {
		return signature{}, v.fail(CheckConstraint, fmt.Sprintf("expected one of the %d certificates configured for the peer, found %q with fingerprint %s",
			len(pinned), DNID(cert.RawSubject), pki.FingerprintOf(cert)), nil)
	}
	if !HoldsIdentity(cert, v.job.PeerID) {
		return signature{}, v.fail(CheckCertIdentity, fmt.Sprintf("expected %q as subject or subjectAltName of the peer's certificate, found %s",
			v.job.PeerID, describeIdentities(cert)), nil)
	}
	return v.signature(cert.PublicKey)
}

// signature tests the peer's signature with a public key.
func (v verifier) signature(pub crypto.PublicKey) (signature, error) {
	p, err := parseSignature(v.job.Auth, pub)
	if err != nil {
		return signature{}, v.fail(CheckSignature, err.Error(), err)
	}
	sig, err := p.check(v.job.Octets)
	switch {
	case errors.Is(err, errUnknownHash): // method 1 names no hash
		return sig, v.fail(CheckSignature, err.Error(), err)
	case sig.hash == wire.HashSHA1 && len(v.job.PeerHashes) > 0:
		return sig, v.fail(CheckConstraint, "expected SHA-2 from a peer with RFC 7427, found a signature with SHA-1", nil)
	case !allowedInAuth(v.job.Remote.Schemes, sig):
		return sig, v.fail(CheckConstraint, fmt.Sprintf("expected a signature with one of %s, found %s", listSchemes(v.job.Remote.Schemes), sig), nil)
	case err != nil:
		return sig, v.fail(CheckSignature, err.Error(), err)
	}
	return sig, nil
}

// trust tests whether we may believe the certificate: a pinned one for itself, another by its chain.
func (v verifier) trust(leaf *x509.Certificate, sig signature, intermediates []*x509.Certificate, unread error) (VerifyResult, error) {
	r := VerifyResult{ID: v.job.PeerID, Method: MethodPubkey, Describe: sig.String()}
	chain := []*x509.Certificate{leaf}
	var err error
	if v.job.Now.IsZero() {
		return VerifyResult{}, v.fail(CheckValidity, "expected a time to check the certificate at, found none", nil)
	}
	if len(v.job.Remote.Certs) > 0 && len(v.job.Remote.CACerts) == 0 && v.job.Remote.CAID.IsAny() {
		err = v.pinned(leaf, intermediates)
	} else {
		chain, err = pki.VerifyChain(leaf, intermediates, v.c.roots, v.job.Now, pki.Options{Accept: v.accept})
	}
	if err != nil {
		return VerifyResult{}, v.chainFailure(err, unread)
	}
	v.c.met.note(leaf)
	for _, cert := range chain {
		r.Chain = append(r.Chain, pki.FormatDN(cert.RawSubject))
	}
	return r, nil
}

// pinned tests a certificate that is trusted for itself.
func (v verifier) pinned(leaf *x509.Certificate, intermediates []*x509.Certificate) error {
	if err := pki.CheckValidity(leaf, v.job.Now); err != nil {
		return err
	}
	if err := v.policies(leaf); err != nil {
		return err
	}
	return v.c.crls.CheckPinned(leaf, slices.Concat(v.c.roots.Certificates(), intermediates), v.job.Now, v.job.Remote.Revocation)
}

// policies tests for the certificate policies that are configured.
func (v verifier) policies(leaf *x509.Certificate) error {
	for _, want := range v.job.Remote.Policies {
		if !slices.ContainsFunc(leaf.Policies, func(o x509.OID) bool { return o.String() == want }) {
			return &pki.ChainError{Reason: pki.ChainRefused, Subject: pki.FormatDN(leaf.RawSubject), Issuer: pki.FormatDN(leaf.RawIssuer),
				Detail: fmt.Sprintf("expected the certificate policy %s in the peer's certificate, found %v", want, leaf.Policies)}
		}
	}
	return nil
}

// accept tests a chain that is right in itself against the configuration.
func (v verifier) accept(chain []*x509.Certificate) error {
	cas := v.job.Remote.CACerts
	above := chain[min(1, len(chain)-1):]
	if len(cas) > 0 && !slices.ContainsFunc(above, func(c *x509.Certificate) bool { return slices.Contains(cas, pki.FingerprintOf(c)) }) {
		var want []string
		for _, fp := range cas {
			if c := v.c.Certificate(fp); c != nil {
				want = append(want, pki.FormatDN(c.RawSubject))
			} else {
				want = append(want, fp.String())
			}
		}
		return fmt.Errorf("expected a chain that holds one of the CAs %q, found one that ends at %q", want, DNID(chain[len(chain)-1].RawSubject))
	}
	if want := v.job.Remote.CAID; !want.IsAny() && !slices.ContainsFunc(above, func(c *x509.Certificate) bool {
		_, matches := DNID(c.RawSubject).Matches(want)
		return matches || HoldsIdentity(c, want)
	}) {
		return fmt.Errorf("expected a chain that holds a CA with the identity %q, found one that ends at %q", want, DNID(chain[len(chain)-1].RawSubject))
	}
	if err := v.policies(chain[0]); err != nil {
		return err
	}
	if err := checkChain(v.job.Remote.Schemes, chain); err != nil {
		return err
	}
	return v.c.crls.Check(chain, v.job.Now, v.job.Remote.Revocation)
}

func (v verifier) chainFailure(err, unread error) error {
	check := CheckChain
	var ce *pki.ChainError
	if errors.As(err, &ce) {
		switch ce.Reason {
		case pki.ChainExpired, pki.ChainNotYetValid:
			check = CheckValidity
		case pki.ChainRevoked, pki.ChainUnchecked:
			check = CheckRevocation
		case pki.ChainRefused:
			return v.fail(CheckConstraint, ce.Detail, err)
		}
	}
	detail := err.Error()
	if unread != nil {
		detail += " (not looked at: " + unread.Error() + ")"
	}
	return v.fail(check, detail, err)
}
