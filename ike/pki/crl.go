package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// CRL is a certificate revocation list (RFC 5280 5). What it says counts only for
// certificates whose issuer signed it. Safe for concurrent use.
type CRL struct {
	List    *x509.RevocationList
	revoked map[string]x509.RevocationListEntry // by the serial number's octets

	mu     sync.Mutex
	signed map[Fingerprint]bool // whether a certificate's key made the signature
}

// maxIssuers bounds for how many issuers' certificates a CRL remembers whether they signed it.
const maxIssuers = 16

// ParseCRL reads one CRL, PEM or DER. It refuses those that say only a part, and so
// can't be relied on alone: delta CRLs and others with critical extensions that change
// their meaning. Errors are a *ParseError.
func ParseCRL(data []byte, origin string) (*CRL, error) {
	const want = "a certificate revocation list in PEM or DER"
	der := data
	if looksPEM(data) {
		block, rest := pem.Decode(data)
		for block != nil && block.Type != "X509 CRL" && block.Type != "CRL" {
			block, rest = pem.Decode(rest)
		}
		if block == nil {
			return nil, &ParseError{Origin: origin, Expected: want, Found: "PEM without one"}
		}
		der = block.Bytes
	}
	if len(der) == 0 || der[0] != 0x30 {
		return nil, &ParseError{Origin: origin, Expected: want, Found: describeBytes(data)}
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, &ParseError{Origin: origin, Expected: want, Found: "one that is malformed: " + err.Error(), Err: err}
	}
	for _, e := range list.Extensions {
		if e.Critical || e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 27}) {
			return nil, &ParseError{Origin: origin, Expected: "a complete CRL of one CA", Found: "one with the extension " + e.Id.String() + ", which makes it a delta, indirect or partial one"}
		}
	}
	c := &CRL{List: list, revoked: make(map[string]x509.RevocationListEntry, len(list.RevokedCertificateEntries)), signed: map[Fingerprint]bool{}}
	for _, e := range list.RevokedCertificateEntries {
		c.revoked[string(e.SerialNumber.Bytes())] = e
	}
	return c, nil
}

// Replaces reports whether the CRL is of the same issuer and key, and no older.
func (c *CRL) Replaces(o *CRL) bool {
	return bytes.Equal(c.List.RawIssuer, o.List.RawIssuer) && bytes.Equal(c.List.AuthorityKeyId, o.List.AuthorityKeyId) && !c.List.ThisUpdate.Before(o.List.ThisUpdate)
}

// signedBy checks the signature once for each issuer. The bit cRLSign of keyUsage is
// not asked for: many private CAs lack it.
func (c *CRL) signedBy(issuer *x509.Certificate) bool {
	fp := FingerprintOf(issuer)
	c.mu.Lock()
	ok, known := c.signed[fp]
	c.mu.Unlock()
	if known {
		return ok
	}
	ok = issuer.CheckSignature(c.List.SignatureAlgorithm, c.List.RawTBSRevocationList, c.List.Signature) == nil
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.signed) >= maxIssuers {
		clear(c.signed)
	}
	c.signed[fp] = ok
	return ok
}

// Revocation is what it means that nothing is known about a certificate's revocation.
type Revocation uint8

// Values of Revocation, with swanctl's names.
const (
	RevocationRelaxed Revocation = iota // relaxed: it is good
	RevocationIfURI                     // ifuri: it is bad if the certificate says where to ask
	RevocationStrict                    // strict: it is bad
)

// String is swanctl's keyword.
func (r Revocation) String() string {
	switch r {
	case RevocationRelaxed:
		return "relaxed"
	case RevocationIfURI:
		return "ifuri"
	case RevocationStrict:
		return "strict"
	}
	return "Revocation(" + strconv.Itoa(int(r)) + ")"
}

// CRLs is a set of CRLs, immutable but for those that are fetched, safe for concurrent use.
type CRLs struct {
	all     []*CRL
	by      map[string][]*CRL // by issuer
	fetched *CRLCache         // what is in it counts, too; nil: nothing
}

// NewCRLs makes the set.
func NewCRLs(list []*CRL, fetched *CRLCache) *CRLs {
	s := &CRLs{all: slices.Clone(list), by: map[string][]*CRL{}, fetched: fetched}
	for _, c := range list {
		s.by[string(c.List.RawIssuer)] = append(s.by[string(c.List.RawIssuer)], c)
	}
	return s
}

// All are the CRLs in the order given, then those that were fetched.
func (s *CRLs) All() []*CRL { return append(slices.Clip(s.all), s.fetched.All()...) }

// newest is the last CRL that an issuer signed, nil if there is none.
func (s *CRLs) newest(issuer *x509.Certificate, name []byte) (best *CRL) {
	for _, c := range append(slices.Clip(s.by[string(name)]), s.fetched.of(string(name))...) {
		if c.signedBy(issuer) && (best == nil || c.List.ThisUpdate.After(best.List.ThisUpdate)) {
			best = c
		}
	}
	return best
}

// Check looks each certificate of a chain up, leaf first, the trusted one aside. The
// newest CRL that the issuer signed decides; one that is past its next update still
// says who is revoked, and no longer who is not. The error is a *ChainError.
func (s *CRLs) Check(chain []*x509.Certificate, now time.Time, r Revocation) error {
	for i := 0; i+1 < len(chain); i++ {
		cert, issuer := chain[i], chain[i+1]
		why := "no CRL of its issuer"
		if c := s.newest(issuer, cert.RawIssuer); c != nil {
			if e, ok := c.revoked[string(cert.SerialNumber.Bytes())]; ok {
				return chainError(cert, ChainRevoked, fmt.Sprintf("by its issuer at %s, reason %d", stamp(e.RevocationTime), e.ReasonCode), nil)
			}
			if why = ""; !c.List.NextUpdate.IsZero() && now.After(c.List.NextUpdate) {
				why = "a CRL that should have been replaced until " + stamp(c.List.NextUpdate)
			}
		}
		hasURI := len(cert.CRLDistributionPoints)+len(cert.OCSPServer) > 0
		if why != "" && (r == RevocationStrict || r == RevocationIfURI && hasURI) {
			return chainError(cert, ChainUnchecked, "expected a current CRL of its issuer, since revocation is "+r.String()+", found "+why, nil)
		}
	}
	return nil
}

// CheckPinned is Check for a certificate that is trusted for itself: its issuer may be
// among cas.
func (s *CRLs) CheckPinned(cert *x509.Certificate, cas []*x509.Certificate, now time.Time, r Revocation) error {
	if len(s.All()) == 0 && r == RevocationRelaxed {
		return nil
	}
	for _, ca := range cas {
		if bytes.Equal(ca.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(ca) == nil {
			return s.Check([]*x509.Certificate{cert, ca}, now, r)
		}
	}
	return s.Check([]*x509.Certificate{cert, {}}, now, r)
}

// asChainError is an error of Options.Accept that is about a certificate of the chain.
func asChainError(err error) (*ChainError, bool) {
	var ce *ChainError
	return ce, errors.As(err, &ce)
}
