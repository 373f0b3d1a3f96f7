package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"espalier/ike/pki"
	"espalier/ike/wire"
)

// Sign makes our AUTH payload and says which certificates go with it. random feeds RSASSA-PSS, which refuses nil, and
// keys outside of this process; PKCS#1 v1.5, Ed25519 and ECDSA (deterministic, RFC 6979) need none.
//
// With RFC 7427 (PeerHashes) the hash is the one that the schemes name, or else the one that fits the key's strength,
// among those the peer takes; RSASSA-PSS is used only where a scheme asks for it. Without, it is method 9, 10 or 11
// for ECDSA (RFC 4754) and method 1 with SHA-1 for RSA, which is what such peers understand (RFC 7296 2.15).
//
// Errors are an *Error.
func Sign(c *Credentials, job SignJob, random io.Reader) (SignResult, error) {
	fail := func(check Check, detail string, cause error) (SignResult, error) {
		return SignResult{}, &Error{Check: check, Local: job.LocalID, Peer: job.RemoteID, Detail: detail, Err: cause}
	}
	if job.LocalID.IsPattern() {
		return fail(CheckIdentity, "expected an own identity without wildcard", nil)
	}
	switch job.Local.method() {
	case MethodPSK:
		key, ok := c.shared.find(job.LocalID, job.RemoteID)
		if !ok {
			return fail(CheckKeyMissing, c.sharedHint(), nil)
		}
		data, err := psk(job.PRF, key, job.Octets)
		if err != nil {
			return fail(CheckMethod, err.Error(), err)
		}
		return SignResult{Auth: wire.Auth{Method: wire.AuthSharedKey, Data: data}, Describe: describePSK}, nil
	case MethodPubkey:
		h, plan, err := c.choose(&job)
		if err != nil {
			return SignResult{}, err
		}
		a, err := plan.sign(h.key, job.Octets, random)
		if err != nil {
			return fail(CheckSignature, "the private key of "+h.String()+" does not sign: "+err.Error(), err)
		}
		if h.cert != nil {
			c.met.note(h.cert)
		}
		r := SignResult{Auth: a, Describe: plan.String()}
		if job.Local.SendCert == SendAlways || job.Local.SendCert == SendIfAsked && (job.CertReq || len(job.CertReqs) > 0) {
			for _, cert := range h.send {
				r.Certs = append(r.Certs, wire.Cert{Encoding: wire.CertX509Signature, Data: cert.Raw})
			}
		}
		return r, nil
	}
	return fail(CheckMethod, "expected psk or pubkey as own method, found "+job.Local.Method.String(), nil)
}

const describePSK = "PSK"

// sharedHint helps to see why no key was found.
func (c *Credentials) sharedHint() string {
	return fmt.Sprintf("expected a shared key that names one of the two identities, or nobody; none of the %d configured does", len(c.shared.all))
}

// choose finds the certificate and the way to sign: first among those under a CA that the peer trusts, then among all.
func (c *Credentials) choose(job *SignJob) (*holder, plan, error) {
	fail := func(check Check, detail string) (*holder, plan, error) {
		return nil, plan{}, &Error{Check: check, Local: job.LocalID, Peer: job.RemoteID, Detail: detail}
	}
	candidates := c.candidates(&job.Local)
	if len(candidates) == 0 {
		return fail(CheckCertMissing, fmt.Sprintf("expected a certificate with its private key, found none (%d configured for this connection, %d loaded with private key)",
			len(job.Local.Certs)+len(job.Local.Keys), len(c.holders)+len(c.rawHolders)))
	}
	var held []*holder
	for _, h := range candidates {
		if h.cert == nil || HoldsIdentity(h.cert, job.LocalID) {
			held = append(held, h)
		}
	}
	if len(held) == 0 {
		return fail(CheckCertIdentity, fmt.Sprintf("expected %q as subject or subjectAltName of our certificate, found %s",
			job.LocalID, describeIdentities(candidates[0].cert)))
	}
	for _, all := range []bool{false, true} {
		for _, h := range held {
			if !all && !h.wanted(job.CertReqs) {
				continue
			}
			if p, ok := planFor(h.key.Public(), job); ok {
				return h, p, nil
			}
		}
	}
	return fail(CheckConstraint, fmt.Sprintf("expected a signature scheme that our key, the configuration (%s) and the peer's hashes %v allow, found none for a key of %s-%d",
		orAny(listSchemes(job.Local.Schemes)), job.PeerHashes, keyOf(held[0].key.Public()).key, keyOf(held[0].key.Public()).bits))
}

// candidates are what we may sign with.
func (c *Credentials) candidates(l *Local) (out []*holder) {
	if len(l.Certs)+len(l.Keys) == 0 {
		return c.holders
	}
	find := func(list []*holder, fps []pki.Fingerprint) {
		for _, fp := range fps {
			if i := slices.IndexFunc(list, func(h *holder) bool { return h.fp == fp }); i >= 0 {
				out = append(out, list[i])
			}
		}
	}
	find(c.holders, l.Certs)
	find(c.rawHolders, l.Keys)
	return out
}

// String names the certificate or the key.
func (h *holder) String() string {
	if h.cert == nil {
		return "the raw public key " + h.fp.String()
	}
	return DNID(h.cert.RawSubject).String()
}

func orAny(s string) string {
	if s == "" {
		return "any"
	}
	return s
}

// plan is how to sign: the AUTH method and what the signature is made with.
type plan struct {
	signature
	method wire.AuthMethod
}

// planFor finds the first scheme that the configuration and the peer allow: by RFC 7427 if there is one, else by a
// classic method.
func planFor(pub crypto.PublicKey, job *SignJob) (plan, bool) {
	schemes := job.Local.Schemes
	if len(schemes) == 0 {
		schemes = []Scheme{{}}
	}
	var fallback plan
	for _, s := range schemes {
		sig := keyOf(pub)
		sig.pss = s.PSS
		if sig.pss && sig.key != KeyRSA {
			continue
		}
		for _, h := range hashOrder(sig) {
			sig.hash = h
			if !s.allows(sig) || !allowedInAuth(job.Local.Schemes, sig) {
				continue
			}
			m, ok := methodFor(sig, job.PeerHashes)
			if ok && m == wire.AuthDigitalSignature {
				return plan{sig, m}, true
			}
			if ok && fallback.method == 0 {
				fallback = plan{sig, m}
			}
		}
	}
	return fallback, fallback.method != 0
}

// hashOrder lists the hashes for a key: the one of its strength, the stronger ones, the weaker ones; SHA-1 last, for
// method 1 only.
func hashOrder(sig signature) []wire.HashAlgorithm {
	const h256, h384, h512, h1 = wire.HashSHA2_256, wire.HashSHA2_384, wire.HashSHA2_512, wire.HashSHA1
	switch {
	case sig.key == KeyEd25519:
		return []wire.HashAlgorithm{wire.HashIdentity}
	case sig.key == KeyECDSA && sig.bits <= 256:
		return []wire.HashAlgorithm{h256, h384, h512}
	case sig.key == KeyECDSA && sig.bits <= 384:
		return []wire.HashAlgorithm{h384, h512, h256}
	case sig.key == KeyECDSA:
		return []wire.HashAlgorithm{h512, h384, h256}
	case sig.bits <= 3072: // NIST SP 800-57 part 1: 128 bits of strength
		return []wire.HashAlgorithm{h256, h384, h512, h1}
	case sig.bits <= 7680: // 192
		return []wire.HashAlgorithm{h384, h512, h256, h1}
	}
	return []wire.HashAlgorithm{h512, h384, h256, h1}
}

// methodFor says which AUTH method carries the signature to a peer that announced hashes.
func methodFor(sig signature, hashes []wire.HashAlgorithm) (wire.AuthMethod, bool) {
	if sig.hash != wire.HashSHA1 && slices.Contains(hashes, sig.hash) {
		return wire.AuthDigitalSignature, true
	}
	if sig.key == KeyRSA { // SHA-1 only towards who knows nothing else
		ok := sig.hash == wire.HashSHA1 && !sig.pss && len(hashes) == 0
		return wire.AuthRSA, ok
	}
	m, ok := classicECDSA(sig.bits)
	return m.method, ok && sig.key == KeyECDSA && m.hash == sig.hash
}

// classic is a method of RFC 4754: the curve fixes the hash.
type classic struct {
	method wire.AuthMethod
	bits   int
	hash   wire.HashAlgorithm
}

func classicECDSA(bits int) (classic, bool) {
	for _, c := range [...]classic{
		{wire.AuthECDSA256, 256, wire.HashSHA2_256},
		{wire.AuthECDSA384, 384, wire.HashSHA2_384},
		{wire.AuthECDSA521, 521, wire.HashSHA2_512},
	} {
		if c.bits == bits {
			return c, true
		}
	}
	return classic{}, false
}

func (p plan) sign(key crypto.Signer, octets []byte, random io.Reader) (wire.Auth, error) {
	a := wire.Auth{Method: p.method}
	digest, opts := octets, crypto.SignerOpts(crypto.Hash(0))
	alg := algorithm{key: p.key, hash: p.hash, pss: p.pss}
	if h := cryptoHash(p.hash); h != 0 {
		digest, opts = hashOf(h, octets), h
		if p.pss {
			if random == nil {
				return a, errors.New("expected randomness for RSASSA-PSS, found none")
			}
			alg.salt = h.Size()
			opts = &rsa.PSSOptions{SaltLength: alg.salt, Hash: h}
		}
	}
	if _, ours := key.(*ecdsa.PrivateKey); ours {
		// RFC 6979: no randomness that could fail, the same signature in a replay, and two thirds of the time. What hedged
		// signatures protect from, faults while one message is signed again and again, needs the same octets twice; the
		// peer's fresh nonce is part of them.
		random = nil
	}
	sig, err := key.Sign(random, digest, opts)
	if err != nil {
		return a, err
	}
	switch p.method {
	case wire.AuthDigitalSignature:
		if a.Data, err = appendAlgorithm(nil, alg); err != nil {
			return a, err
		}
		a.Data = append(a.Data, sig...)
	case wire.AuthRSA:
		a.Data = sig
	default:
		if a.Data, err = plainECDSA(sig, p.bits); err != nil {
			return a, err
		}
	}
	return a, nil
}

func hashOf(h crypto.Hash, data []byte) []byte {
	f := h.New()
	f.Write(data)
	return f.Sum(nil)
}

// plainECDSA turns ECDSA-Sig-Value into r and s side by side, each as long as the curve's order (RFC 4754 7).
func plainECDSA(der []byte, bits int) ([]byte, error) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	var r, s []byte
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() || !seq.ReadASN1Integer(&r) || !seq.ReadASN1Integer(&s) || !seq.Empty() {
		return nil, errors.New("expected an ECDSA-Sig-Value from the private key, found something else")
	}
	n := (bits + 7) / 8
	if len(r) > n || len(s) > n {
		return nil, fmt.Errorf("expected numbers of at most %d octets from the private key, found longer ones", n)
	}
	out := make([]byte, 2*n)
	copy(out[n-len(r):n], r)
	copy(out[2*n-len(s):], s)
	return out, nil
}
