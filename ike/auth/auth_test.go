package auth

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"espalier/ike/pki"
	"espalier/ike/wire"
	"espalier/internal/secret"
)

// Computed with another HMAC implementation (Python's) from RFC 7296 2.15.
func TestSharedKeyVectors(t *testing.T) {
	octets := make([]byte, 64)
	for i := range octets {
		octets[i] = byte(i)
	}
	c := withShared(t, "correct horse battery staple")
	for prf, want := range map[wire.PRFID]string{
		wire.PRFHMACSHA1:     "3da837e7549fa4d4afa819366fa90b759f859ad1",
		wire.PRFHMACSHA2_256: "9e244274a6a04d55a9bff80309bc4ed6d767c35334c6406c7e0038580ab7e39f",
		wire.PRFHMACSHA2_384: "4ee2fd099a08007246a85631dd7d1e623e4bbcc5f60cb9b975ef41fa8340080a499d7cee91ccda7c78eb7f5bfc259e73",
	} {
		r, err := Sign(c, SignJob{Local: Local{Method: MethodPSK}, LocalID: id("moon"), PRF: prf, Octets: octets}, nil)
		if err != nil || hex.EncodeToString(r.Auth.Data) != want || r.Auth.Method != wire.AuthSharedKey || r.Describe != "PSK" {
			t.Errorf("%v: %x, %v", prf, r.Auth.Data, err)
		}
	}
}

func TestSignedOctets(t *testing.T) {
	got := SignedOctets([]byte("d"), []byte("message"), []byte("nonce"), []byte("mac"), []byte("int"))
	if string(got) != "dmessagenoncemacint" {
		t.Errorf("got %q", got)
	}
}

func TestSignatures(t *testing.T) {
	ca := issue(t, "ca", ec256(), nil, asCA)
	inter := issue(t, "inter", ec256(), ca, asCA)
	scheme := func(s string) []Scheme { _, l, _ := ParseAuth(s); return l }
	for _, tt := range []struct {
		name     string
		key      crypto.Signer
		schemes  string
		hashes   []wire.HashAlgorithm
		method   wire.AuthMethod
		describe string
	}{
		{"P-256", ec256(), "", allHashes, 14, "ECDSA-256 SHA-256"},
		{"P-384", ec384(), "", allHashes, 14, "ECDSA-384 SHA-384"},
		{"P-521", ec521(), "", allHashes, 14, "ECDSA-521 SHA-512"},
		{"Ed25519", ed25519Key(), "", allHashes, 14, "Ed25519"},
		{"RSA", rsa2048(), "", allHashes, 14, "RSA-2048 SHA-256"},
		{"RSA SHA-512", rsa2048(), "rsa-sha512-sha256", allHashes, 14, "RSA-2048 SHA-512"},
		{"RSA, order of the configuration", rsa2048(), "rsa-sha512-sha256", allHashes[:1], 14, "RSA-2048 SHA-256"},
		{"RSA PSS", rsa2048(), "ike:rsa/pss-sha256", allHashes, 14, "RSA-2048 PSS SHA-256"},
		{"RSA PSS SHA-384", rsa2048(), "ike:rsa/pss-sha384", allHashes, 14, "RSA-2048 PSS SHA-384"},
		{"RSA PSS SHA-512", rsa2048(), "ike:rsa/pss-sha512", allHashes, 14, "RSA-2048 PSS SHA-512"},
		{"P-256, peer has SHA-512 only", ec256(), "", allHashes[2:3], 14, "ECDSA-256 SHA-512"},
		{"classic P-256", ec256(), "", nil, 9, "ECDSA-256 SHA-256"},
		{"classic P-384", ec384(), "", nil, 10, "ECDSA-384 SHA-384"},
		{"classic P-521", ec521(), "", nil, 11, "ECDSA-521 SHA-512"},
		{"classic RSA", rsa2048(), "", nil, 1, "RSA-2048 SHA-1"},
		{"classic P-256, no common hash", ec256(), "", allHashes[3:], 9, "ECDSA-256 SHA-256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			own := issue(t, "moon", tt.key, inter, named("moon.example.org"))
			b := NewBuilder()
			for _, err := range []error{b.AddCert(own.cert, ""), b.AddKey(tt.key, ""), b.AddCert(inter.cert, ""), b.AddCA(ca.cert, "")} {
				if err != nil {
					t.Fatal(err)
				}
			}
			me := id("moon.example.org")
			key := pki.KeyIDOf(ca.cert)
			job := SignJob{Local: Local{Method: MethodPubkey, Certs: []pki.Fingerprint{own.fp()}, Schemes: scheme(tt.schemes)},
				LocalID: me, RemoteID: id("sun"), Octets: testOctets, PeerHashes: tt.hashes, CertReqs: [][]byte{key[:]}}
			r, err := Sign(b.Build(), job, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if r.Auth.Method != tt.method || r.Describe != tt.describe {
				t.Errorf("signed with %d %q", r.Auth.Method, r.Describe)
			}
			again, err := Sign(b.Build(), job, rand.Reader)
			if err != nil || bytes.Equal(again.Auth.Data, r.Auth.Data) == strings.Contains(tt.describe, "PSS") {
				t.Errorf("signed twice, only RSASSA-PSS may differ: %x, %x, %v", r.Auth.Data, again.Auth.Data, err)
			}
			if len(r.Certs) != 2 || !bytes.Equal(r.Certs[0].Data, own.cert.Raw) || !bytes.Equal(r.Certs[1].Data, inter.cert.Raw) {
				t.Errorf("%d certificates go with it, or the wrong ones", len(r.Certs))
			}
			vj := VerifyJob{Remote: Remote{Method: MethodPubkey, ID: me}, LocalID: id("sun"), PeerID: me, Octets: testOctets, Auth: r.Auth,
				Certs: [][]byte{own.cert.Raw, inter.cert.Raw}, Now: testNow, PeerHashes: tt.hashes}
			peer := gateway(t, ca)
			v, err := Verify(peer, vj)
			if err != nil {
				t.Fatal(err)
			}
			if v.Describe != tt.describe || v.Method != MethodPubkey || v.ID != me || len(v.Chain) != 3 || v.Chain[2] != "C=CH, O=Espalier, CN=ca" {
				t.Errorf("verified as %+v", v)
			}
			// Any other octets, and any bit of the signature, must count.
			vj.Octets = append(bytes.Clone(testOctets), 0)
			wantCheck(t, peer, vj, CheckSignature, "")
			vj.Octets = testOctets
			for i := range 8 {
				vj.Auth.Data = bytes.Clone(r.Auth.Data)
				vj.Auth.Data[i*(len(vj.Auth.Data)-1)/7] ^= 1 << i
				if _, err := Verify(peer, vj); err == nil {
					t.Errorf("a changed bit in octet %d goes unnoticed", i*(len(vj.Auth.Data)-1)/7)
				}
			}
		})
	}
}

// wantCheck fails unless Verify fails by check, and the text is part of the error.
func wantCheck(t *testing.T, c *Credentials, job VerifyJob, check Check, text string) {
	t.Helper()
	_, err := Verify(c, job)
	var e *Error
	if !errors.As(err, &e) || e.Check != check || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), check) ||
		!strings.Contains(err.Error(), job.PeerID.String()) {
		t.Errorf("got %v, want %s with %q", err, check, text)
	}
}

func TestVerifyFailures(t *testing.T) {
	ca := issue(t, "ca", ec256(), nil, asCA)
	ca2 := issue(t, "ca2", ec256(), nil, asCA)
	moon := issue(t, "moon", ec256(), ca, named("moon"))
	venus := issue(t, "venus", ec256(), ca, named("venus"))
	stranger := issue(t, "moon", ec256(), ca2, named("moon"))
	big := issue(t, "moon", ec384(), ca, named("moon"))
	creds := gateway(t, ca)
	sign := func(own *issued, name string, hashes []wire.HashAlgorithm) VerifyJob {
		r, err := Sign(gateway(t, ca, own), SignJob{Local: Local{Method: MethodPubkey}, LocalID: id(name), RemoteID: id("sun"), Octets: testOctets, PeerHashes: hashes}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return VerifyJob{Remote: Remote{Method: MethodPubkey}, LocalID: id("sun"), PeerID: id(name), Octets: testOctets, Auth: r.Auth, Certs: [][]byte{own.cert.Raw}, Now: testNow}
	}
	good := sign(moon, "moon", allHashes)
	if _, err := Verify(creds, good); err != nil {
		t.Fatal(err)
	}
	pss := []Scheme{{Key: KeyRSA, PSS: true}}
	tests := []struct {
		name  string
		job   VerifyJob
		mod   func(*VerifyJob)
		check Check
		text  string
	}{
		{"identity", good, func(j *VerifyJob) { j.Remote.ID = id("sun.example.org") }, CheckIdentity, `expected "sun.example.org", found "moon"`},
		{"malformed identity", good, func(j *VerifyJob) { j.PeerID = ID{wire.IDFQDN, ""} }, CheckIdentity, "a name"},
		{"no identity", good, func(j *VerifyJob) { j.PeerID = ID{} }, CheckIdentity, ""},
		{"method", good, func(j *VerifyJob) { j.Remote.Method = MethodPSK }, CheckMethod, "expected psk, found pubkey"},
		{"unknown method", good, func(j *VerifyJob) { j.Auth.Method = 3 }, CheckMethod, "expected pubkey"},
		{"NULL", good, func(j *VerifyJob) { j.Auth.Method = wire.AuthNull; j.Remote.Method = MethodAny }, CheckMethod, "expected any"},
		{"no certificate", good, func(j *VerifyJob) { j.Certs = nil }, CheckCertMissing, "found neither"},
		{"damaged certificate", good, func(j *VerifyJob) { j.Certs = [][]byte{{0x30, 0}} }, CheckChain, "no certificate"},
		{"large certificate", good, func(j *VerifyJob) { j.Certs = [][]byte{make([]byte, MaxCertSize+1)} }, CheckChain, "16384"},
		{"many certificates", good, func(j *VerifyJob) { j.Certs = make([][]byte, MaxCerts+1) }, CheckChain, "at most 10"},
		{"another identity", good, func(j *VerifyJob) { j.PeerID = id("sol") }, CheckCertIdentity, `"moon"`},
		{"certificate of another", sign(venus, "venus", allHashes), func(j *VerifyJob) { j.PeerID = id("moon") }, CheckCertIdentity, `"venus"`},
		{"signature of another key", sign(venus, "venus", allHashes), func(j *VerifyJob) { j.PeerID = id("moon"); j.Certs = good.Certs }, CheckSignature, "does not fit"},
		{"signature kind", sign(issue(t, "x", rsa2048(), ca, named("moon")), "moon", allHashes), func(j *VerifyJob) { j.Certs = good.Certs }, CheckSignature, "one of rsa"},
		{"classic RSA with an ECDSA key", good, func(j *VerifyJob) { j.Auth.Method = wire.AuthRSA }, CheckSignature, "one of rsa"},
		{"classic curve", sign(big, "moon", nil), func(j *VerifyJob) { j.Certs = good.Certs }, CheckSignature, "ecdsa-256"},
		{"classic length", sign(moon, "moon", nil), func(j *VerifyJob) { j.Auth.Data = j.Auth.Data[1:] }, CheckSignature, "64 octets"},
		{"empty AUTH", good, func(j *VerifyJob) { j.Auth.Data = nil }, CheckSignature, "no data"},
		{"SHA-1 against RFC 7427", sign(issue(t, "x", rsa2048(), ca, named("moon")), "moon", nil), func(j *VerifyJob) { j.PeerHashes = allHashes }, CheckConstraint, "SHA-1"},
		{"untrusted CA", sign(stranger, "moon", allHashes), nil, CheckChain, `issued by "C=CH, O=Espalier, CN=ca2"`},
		{"expired", good, func(j *VerifyJob) { j.Now = testNow.AddDate(2, 0, 0) }, CheckValidity, "expired"},
		{"not yet valid", good, func(j *VerifyJob) { j.Now = testNow.AddDate(-2, 0, 0) }, CheckValidity, "not yet valid"},
		{"no time", good, func(j *VerifyJob) { j.Now = time.Time{} }, CheckValidity, "time"},
		{"CA constraint", good, func(j *VerifyJob) { j.Remote.CACerts = []pki.Fingerprint{ca2.fp()} }, CheckConstraint, "CN=ca"},
		{"the peer is no CA for itself", good, func(j *VerifyJob) { j.Remote.CACerts = []pki.Fingerprint{moon.fp()} }, CheckConstraint, "CN=ca"},
		{"pinned", good, func(j *VerifyJob) { j.Remote.Certs = []pki.Fingerprint{venus.fp()} }, CheckConstraint, moon.fp().String()},
		{"pinned, expired", good, func(j *VerifyJob) { j.Remote.Certs = []pki.Fingerprint{moon.fp()}; j.Now = testNow.AddDate(2, 0, 0) }, CheckValidity, "expired"},
		{"scheme", good, func(j *VerifyJob) { j.Remote.Schemes = pss }, CheckConstraint, "expected a signature with one of rsa/pss, found ECDSA-256 SHA-256"},
		{"key size", good, func(j *VerifyJob) { j.Remote.Schemes = []Scheme{{Key: KeyECDSA, MinBits: 384}} }, CheckConstraint, "ecdsa-384"},
		{"scheme in the chain", sign(big, "moon", allHashes), func(j *VerifyJob) { j.Remote.Schemes = []Scheme{{Hash: wire.HashSHA2_384}} }, CheckConstraint, "to be signed with"},
		{"unreadable intermediate", sign(stranger, "moon", allHashes), func(j *VerifyJob) { j.Certs = append(j.Certs, []byte("x")) }, CheckChain, "certificate 2 of the peer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.mod != nil {
				tt.mod(&tt.job)
			}
			wantCheck(t, creds, tt.job, tt.check, tt.text)
		})
	}
}

func TestVerifyAccepts(t *testing.T) {
	ca := issue(t, "ca", ec256(), nil, asCA)
	moon := issue(t, "moon", ec256(), ca, named("moon"))
	self := issue(t, "self", ec256(), nil, named("self"))
	sign := func(own *issued, name string) VerifyJob {
		r, err := Sign(gateway(t, nil, own), SignJob{Local: Local{Method: MethodPubkey}, LocalID: id(name), RemoteID: id("sun"), Octets: testOctets, PeerHashes: allHashes}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return VerifyJob{LocalID: id("sun"), PeerID: id(name), Octets: testOctets, Auth: r.Auth, Certs: [][]byte{own.cert.Raw}, Now: testNow}
	}
	stored := NewBuilder()
	for _, err := range []error{stored.AddCert(moon.cert, ""), stored.AddCert(self.cert, ""), stored.AddCA(ca.cert, "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"moon", "MOON", "admin@moon", "192.0.2.1", "2001:db8::1", "C=CH, O=Espalier, CN=moon", "c=ch, o=espalier, cn=Moon"} {
		if _, err := Verify(gateway(t, ca), sign(moon, name)); err != nil {
			t.Errorf("identity %q: %v", name, err)
		}
	}
	key := pki.KeyIDOf(moon.cert)
	if _, err := Verify(gateway(t, ca), sign(moon, "@#"+key.String())); err != nil {
		t.Errorf("key id: %v", err)
	}
	job := sign(self, "self")
	job.Remote.Certs = []pki.Fingerprint{self.fp()}
	if r, err := Verify(gateway(t, ca), job); err != nil || len(r.Chain) != 1 {
		t.Errorf("pinned, self-signed: %v, %v", r.Chain, err)
	}
	job.Certs = nil
	if _, err := Verify(stored.Build(), job); err != nil {
		t.Errorf("pinned, stored: %v", err)
	}
	job.Remote.Certs = nil
	wantCheck(t, stored.Build(), job, CheckChain, "self-signed")
	job = sign(moon, "moon")
	job.Certs = nil
	if r, err := Verify(stored.Build(), job); err != nil || len(r.Chain) != 2 {
		t.Errorf("stored under a CA: %v, %v", r.Chain, err)
	}
	job.Remote = Remote{Method: MethodPubkey, ID: id("*oon"), CACerts: []pki.Fingerprint{ca.fp()}, Schemes: []Scheme{{Key: KeyECDSA, MinBits: 256, Hash: wire.HashSHA2_256}}}
	if _, err := Verify(stored.Build(), job); err != nil {
		t.Errorf("all constraints: %v", err)
	}
}

func TestShared(t *testing.T) {
	const key = "hunter2hunter2"
	moon := withShared(t, key, "moon", "sun")
	r, err := Sign(moon, SignJob{LocalID: id("moon"), RemoteID: id("sun"), PRF: wire.PRFHMACSHA2_256, Octets: testOctets}, nil)
	if err != nil {
		t.Fatal(err)
	}
	job := VerifyJob{Remote: Remote{Method: MethodPSK}, LocalID: id("sun"), PeerID: id("moon"), PRF: wire.PRFHMACSHA2_256, Octets: testOctets, Auth: r.Auth}
	if v, err := Verify(moon, job); err != nil || v.Describe != "PSK" || v.Method != MethodPSK {
		t.Fatalf("%+v, %v", v, err)
	}
	wantCheck(t, withShared(t, "another", "moon"), job, CheckKeyMismatch, "different keys")
	wantCheck(t, withShared(t, key, "venus"), job, CheckKeyMissing, "none of the 1")
	for name, mod := range map[string]func(*VerifyJob){
		"other octets": func(j *VerifyJob) { j.Octets = []byte("x") },
		"empty":        func(j *VerifyJob) { j.Auth.Data = nil },
		"short":        func(j *VerifyJob) { j.Auth.Data = j.Auth.Data[:31] },
		"other PRF":    func(j *VerifyJob) { j.PRF = wire.PRFHMACSHA2_384 },
	} {
		bad := job
		mod(&bad)
		t.Run(name, func(t *testing.T) { wantCheck(t, moon, bad, CheckKeyMismatch, "") })
	}
	bad := job
	bad.PRF = 999
	wantCheck(t, moon, bad, CheckMethod, "")
	bad = job
	bad.Remote.Method = MethodPubkey
	wantCheck(t, moon, bad, CheckMethod, "expected pubkey, found psk")

	var all strings.Builder
	b := NewBuilder()
	_ = b.AddShared(secret.Bytes(key), nil, "f")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		fmt.Fprintf(&all, verb+verb+verb, moon, b, *moon)
	}
	for _, leak := range []string{key, hex.EncodeToString([]byte(key)), "104 117 110"} {
		if strings.Contains(all.String(), leak) {
			t.Errorf("the key leaks as %q", leak)
		}
	}
}

func TestSignFailures(t *testing.T) {
	ca := issue(t, "ca", ec256(), nil, asCA)
	moon := issue(t, "moon", rsa2048(), ca, named("moon"))
	ed := issue(t, "moon", ed25519Key(), ca, named("moon"))
	base := SignJob{Local: Local{Method: MethodPubkey}, LocalID: id("moon"), RemoteID: id("sun"), Octets: testOctets, PeerHashes: allHashes}
	for _, tt := range []struct {
		name  string
		creds *Credentials
		mod   func(*SignJob)
		check Check
		text  string
	}{
		{"no certificate", gateway(t, ca), nil, CheckCertMissing, "0 loaded"},
		{"configured certificate without key", gateway(t, ca, moon), func(j *SignJob) { j.Local.Certs = []pki.Fingerprint{ed.fp()} }, CheckCertMissing, "1 configured"},
		{"identity not held", gateway(t, ca, moon), func(j *SignJob) { j.LocalID = id("sol") }, CheckCertIdentity, `"moon"`},
		{"pattern", gateway(t, ca, moon), func(j *SignJob) { j.LocalID = id("*.x") }, CheckIdentity, "wildcard"},
		{"no identity", gateway(t, ca, moon), func(j *SignJob) { j.LocalID = ID{} }, CheckIdentity, ""},
		{"peer lacks Ed25519", gateway(t, ca, ed), func(j *SignJob) { j.PeerHashes = allHashes[:3] }, CheckConstraint, "ed25519"},
		{"scheme", gateway(t, ca, moon), func(j *SignJob) { j.Local.Schemes = []Scheme{{Key: KeyECDSA}} }, CheckConstraint, "ecdsa"},
		{"SHA-1 never towards RFC 7427", gateway(t, ca, moon), func(j *SignJob) { j.PeerHashes = allHashes[3:] }, CheckConstraint, "rsa-2048"},
		{"no shared key", gateway(t, ca, moon), func(j *SignJob) { j.Local.Method = MethodPSK }, CheckKeyMissing, "none of the 0"},
		{"method", gateway(t, ca, moon), func(j *SignJob) { j.Local.Method = 77 }, CheckMethod, "Method(77)"},
		{"PSS without randomness", gateway(t, ca, moon), func(j *SignJob) { j.Local.Schemes = []Scheme{{Key: KeyRSA, PSS: true}} }, CheckSignature, "randomness"},
	} {
		job := base
		if tt.mod != nil {
			tt.mod(&job)
		}
		_, err := Sign(tt.creds, job, nil)
		var e *Error
		if !errors.As(err, &e) || e.Check != tt.check || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestWhichCertificateIsSent(t *testing.T) {
	ca1, ca2 := issue(t, "ca1", ec256(), nil, asCA), issue(t, "ca2", ec256(), nil, asCA)
	one, two := issue(t, "one", ec256(), ca1, named("moon")), issue(t, "two", ec256(), ca2, named("moon"))
	b := NewBuilder()
	for _, err := range []error{b.AddCert(one.cert, ""), b.AddCert(two.cert, ""), b.AddKey(one.key, ""), b.AddKey(two.key, ""), b.AddCA(ca1.cert, ""), b.AddCA(ca2.cert, "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	k1, k2 := pki.KeyIDOf(ca1.cert), pki.KeyIDOf(ca2.cert)
	for _, tt := range []struct {
		name string
		send SendCert
		asks bool
		reqs [][]byte
		want *issued
	}{
		{"not asked", SendIfAsked, false, nil, nil},
		{"asked", SendIfAsked, true, nil, one},
		{"first CA", SendIfAsked, false, [][]byte{k1[:]}, one},
		{"second CA", SendIfAsked, false, [][]byte{{1, 2}, k2[:]}, two},
		{"unknown CA", SendIfAsked, false, [][]byte{make([]byte, 20)}, one},
		{"always", SendAlways, false, nil, one},
		{"never", SendNever, true, [][]byte{k1[:]}, nil},
	} {
		job := SignJob{Local: Local{Method: MethodPubkey, SendCert: tt.send}, LocalID: id("moon"), Octets: testOctets, PeerHashes: allHashes, CertReq: tt.asks, CertReqs: tt.reqs}
		r, err := Sign(b.Build(), job, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if tt.want == nil {
			if len(r.Certs) != 0 {
				t.Errorf("%s: %d certificates", tt.name, len(r.Certs))
			}
			continue
		}
		if len(r.Certs) != 1 || !bytes.Equal(r.Certs[0].Data, tt.want.cert.Raw) || r.Certs[0].Encoding != wire.CertX509Signature {
			t.Errorf("%s: the wrong certificates", tt.name)
		}
	}
	if got := b.Build().CAKeyIDs(nil); len(got) != 2 || !bytes.Equal(got[0], k1[:]) {
		t.Errorf("key ids %x", got)
	}
	if got := b.Build().CAKeyIDs([]pki.Fingerprint{ca2.fp()}); len(got) != 1 || !bytes.Equal(got[0], k2[:]) {
		t.Errorf("key ids of the second CA %x", got)
	}
}

func TestBuilderRefuses(t *testing.T) {
	b := NewBuilder()
	leaf := issue(t, "moon", ec256(), nil, nil)
	weak := issue(t, "weak", ec256(), nil, asCA)
	weak.cert.PublicKey = "no key"
	for name, err := range map[string]error{
		"no CA":        b.AddCA(leaf.cert, "dir/f"),
		"nil CA":       b.AddCA(nil, "dir/f"),
		"odd CA":       b.AddCA(weak.cert, "dir/f"),
		"nil cert":     b.AddCert(nil, "dir/f"),
		"odd cert":     b.AddCert(&x509.Certificate{}, "dir/f"),
		"nil key":      b.AddKey(nil, "dir/f"),
		"empty secret": b.AddShared(nil, nil, "dir/f"),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), "dir/f: expected ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c := b.Build(); c.String() != "credentials(0 shared keys, 0 private keys with certificate, 0 certificates, 0 CAs)" {
		t.Errorf("what was refused is there: %v", c)
	}
}
