package auth

import (
	"crypto"
	"crypto/rand"
	"testing"

	"espalier/ike/pki"
	"espalier/ike/wire"
)

var benchKeys = []struct {
	name string
	key  func() crypto.Signer
}{{"ECDSA256", ec256}, {"Ed25519", ed25519Key}, {"RSA2048", rsa2048}}

func benchJobs(b *testing.B, key crypto.Signer) (own, peer *Credentials, sign SignJob, verify VerifyJob) {
	ca := issue(b, "ca", ec256(), nil, asCA)
	moon := issue(b, "moon", key, ca, named("moon"))
	own, peer = gateway(b, ca, moon), gateway(b, ca)
	k := pki.KeyIDOf(ca.cert)
	sign = SignJob{Local: Local{Method: MethodPubkey, Certs: []pki.Fingerprint{moon.fp()}}, LocalID: id("moon"), RemoteID: id("sun"), Octets: make([]byte, 600),
		PeerHashes: allHashes, CertReqs: [][]byte{k[:]}}
	r, err := Sign(own, sign, rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	verify = VerifyJob{Remote: Remote{Method: MethodPubkey, ID: id("moon")}, LocalID: id("sun"), PeerID: id("moon"), Octets: sign.Octets, Auth: r.Auth,
		Certs: [][]byte{r.Certs[0].Data}, Now: testNow, PeerHashes: allHashes}
	return own, peer, sign, verify
}

func BenchmarkSign(b *testing.B) {
	for _, k := range benchKeys {
		b.Run(k.name, func(b *testing.B) {
			own, _, job, _ := benchJobs(b, k.key())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Sign(own, job, rand.Reader); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVerify includes reading the certificate and the chain: the peer's certificate is not stored.
func BenchmarkVerify(b *testing.B) {
	for _, k := range benchKeys {
		b.Run(k.name, func(b *testing.B) {
			_, peer, _, job := benchJobs(b, k.key())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(peer, job); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkShared(b *testing.B) {
	bl := NewBuilder()
	for i := range 10000 {
		if err := bl.AddShared([]byte("secret"), []ID{id("moon"), {wire.IDIPv4Addr, string([]byte{10, 0, byte(i >> 8), byte(i)})}}, ""); err != nil {
			b.Fatal(err)
		}
	}
	c := bl.Build()
	job := SignJob{Local: Local{Method: MethodPSK}, LocalID: id("moon"), RemoteID: id("10.0.1.2"), PRF: wire.PRFHMACSHA2_256, Octets: make([]byte, 600)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Sign(c, job, nil); err != nil {
			b.Fatal(err)
		}
	}
}
