package auth

import (
	"crypto/sha1" //nolint:gosec // strongSwan names keys so
	"crypto/x509"
	"fmt"
	"iter"
	"net/netip"
	"strings"

	"espalier/ike/pki"
	"espalier/ike/wire"
)

// emptyDN is the DER of a distinguished name without attributes.
const emptyDN = "\x30\x00"

// identities yields what a certificate stands for, the subject first.
func identities(cert *x509.Certificate) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		if len(cert.RawSubject) > len(emptyDN) && !yield(DNID(cert.RawSubject)) {
			return
		}
		for _, name := range cert.DNSNames {
			if !yield(ID{wire.IDFQDN, name}) {
				return
			}
		}
		for _, mail := range cert.EmailAddresses {
			if !yield(ID{wire.IDRFC822Addr, mail}) {
				return
			}
		}
		for _, ip := range cert.IPAddresses {
			if a, ok := netip.AddrFromSlice(ip); ok && !yield(addrOf(a)) {
				return
			}
		}
		if len(cert.SubjectKeyId) > 0 && !yield(ID{wire.IDKeyID, string(cert.SubjectKeyId)}) {
			return
		}
		key := pki.KeyIDOf(cert)
		yield(ID{wire.IDKeyID, string(key[:])})
	}
}

// describeIdentities lists a certificate's names for an error; key ids say nothing to people and are left out.
func describeIdentities(cert *x509.Certificate) string {
	const most = 8
	var names []string
	for id := range identities(cert) {
		if id.Type == wire.IDKeyID {
			continue
		}
		if len(names) == most {
			names = append(names, "…")
			break
		}
		names = append(names, id.String())
	}
	if len(names) == 0 {
		return "no name"
	}
	return `"` + strings.Join(names, `", "`) + `"`
}

// Identity says who we are in a round, for our ID payload: Local.ID if it is set; else, with certificates, the subject
// of the first that has a private key (its first subjectAltName if the subject is empty); else the address. It fails if
// Local.ID is a pattern, or nothing gives an identity. It does not fail for lack of a private key when Local.ID is set:
// Sign does, and says why.
func Identity(c *Credentials, l Local, fallback netip.Addr) (ID, error) {
	if !l.ID.IsAny() {
		if l.ID.IsPattern() {
			return ID{}, fmt.Errorf("expected an own identity without wildcard, found %q", l.ID)
		}
		return l.ID, nil
	}
	if method := l.method(); method == MethodPubkey {
		for _, h := range c.candidates(&l) {
			if h.cert == nil {
				continue
			}
			for id := range identities(h.cert) {
				if id.Type != wire.IDKeyID {
					return id, nil
				}
			}
			return ID{}, errNoIdentity
		}
		for _, fp := range l.Keys {
			if k := c.raw[fp]; k != nil {
				return RawKeyID(k), nil
			}
		}
	}
	if id := AddrID(fallback); !id.IsAny() {
		return id, nil
	}
	return ID{}, fmt.Errorf("expected an own identity, a certificate with a private key or an address to take it from, found none")
}

// RawKeyID is the identity of a raw public key that has no other: the SHA-1 of its
// SubjectPublicKeyInfo, as charon has it.
func RawKeyID(k *pki.RawKey) ID {
	sum := sha1.Sum(k.DER) //nolint:gosec
	return ID{wire.IDKeyID, string(sum[:])}
}

// method resolves MethodAny, which for our own side means what we have.
func (l *Local) method() Method {
	switch {
	case l.Method != MethodAny:
		return l.Method
	case len(l.Certs)+len(l.Keys) > 0:
		return MethodPubkey
	}
	return MethodPSK
}
