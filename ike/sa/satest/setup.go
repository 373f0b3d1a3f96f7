package satest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"sync"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/suite"
	"espalier/internal/secret"
)

// Must returns v, or panics: for test fixtures.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Option changes a fixture's connection.
type Option func(*sa.Connection)

// Conn is a connection from one named gateway to another with one child "net":
// PSK, AES-GCM, X25519, 10.<a>.0.0/16 to 10.<b>.0.0/16.
func Conn(name, localID, remoteID, localTS, remoteTS string, opts ...Option) *sa.Connection {
	c := &sa.Connection{
		Name: name, KeyingTries: 1,
		Proposals: []suite.Proposal{Must(suite.ParseIKE("aes128gcm16-prfsha256-x25519"))},
		Local:     []auth.Local{{Method: auth.MethodPSK, ID: Must(auth.ParseID(localID))}},
		Remote:    []auth.Remote{{Method: auth.MethodPSK, ID: Must(auth.ParseID(remoteID))}},
		Children: []*sa.ChildConfig{{
			Name:      "net",
			Proposals: []suite.Proposal{Must(suite.ParseESP("aes128gcm16"))},
			LocalTS:   []selector.Spec{Must(selector.Parse(localTS))},
			RemoteTS:  []selector.Spec{Must(selector.Parse(remoteTS))},
			Mode:      dataplane.Tunnel, Policies: true, ReplayWindow: 32, CopyDF: true, CopyECN: true, CopyDSCPOut: true,
		}},
	}
	for _, o := range opts {
		o(c)
	}
	return c
}

// IKE sets the IKE proposals.
func IKE(proposals ...string) Option {
	return func(c *sa.Connection) {
		c.Proposals = nil
		for _, p := range proposals {
			c.Proposals = append(c.Proposals, Must(suite.ParseIKE(p)))
		}
	}
}

// ESP sets the child's proposals.
func ESP(proposals ...string) Option {
	return func(c *sa.Connection) {
		c.Children[0].Proposals = nil
		for _, p := range proposals {
			c.Children[0].Proposals = append(c.Children[0].Proposals, Must(suite.ParseESP(p)))
		}
	}
}

// Pubkey makes both sides authenticate with certificates.
func Pubkey(c *sa.Connection) {
	c.Local[0].Method, c.Remote[0].Method = auth.MethodPubkey, auth.MethodPubkey
	c.SendCertReq = true
}

// Pair is moon (192.0.2.1, initiator) and sun (192.0.2.2) with matching PSK
// connections, each changed by opts.
func Pair(w *World, opts ...Option) (moon, sun *Node) {
	b := auth.NewBuilder()
	if err := b.AddShared(secret.Bytes("correct horse battery staple"), nil, "test"); err != nil {
		panic(err)
	}
	creds := b.Build()
	moon = w.Add("192.0.2.1", []*sa.Connection{Conn("sun", "moon.example.org", "sun.example.org", "10.1.0.0/16", "10.2.0.0/16", opts...)}, creds)
	sun = w.Add("192.0.2.2", []*sa.Connection{Conn("moon", "sun.example.org", "moon.example.org", "10.2.0.0/16", "10.1.0.0/16", opts...)}, creds)
	return moon, sun
}

// PubkeyPair is Pair with certificates of one CA, of a kind: "rsa", "ecdsa" or
// "ed25519".
func PubkeyPair(w *World, kind string, opts ...Option) (moon, sun *Node) {
	opts = append([]Option{Pubkey}, opts...)
	moon, sun = Pair(w, opts...)
	c := pairCreds[kind]()
	moon.Env.Creds, sun.Env.Creds = c[0], c[1]
	return moon, sun
}

// pairCreds are moon's and sun's credentials of each kind, made once: RSA keys
// take seconds.
var pairCreds = map[string]func() [2]*auth.Credentials{
	"rsa": credsOf("rsa"), "ecdsa": credsOf("ecdsa"), "ed25519": credsOf("ed25519"),
}

func credsOf(kind string) func() [2]*auth.Credentials {
	return sync.OnceValue(func() [2]*auth.Credentials {
		w := New(1)
		ca := NewCA(kind, w.rnd, w.Now)
		return [2]*auth.Credentials{ca.Credentials("moon.example.org"), ca.Credentials("sun.example.org")}
	})
}

// CA issues certificates for tests.
type CA struct {
	Cert *x509.Certificate
	key  crypto.Signer
	kind string
	rnd  io.Reader
	now  time.Time
	n    int64
}

// NewCA makes a self-signed authority.
func NewCA(kind string, rnd io.Reader, now time.Time) *CA {
	ca := &CA{kind: kind, rnd: rnd, now: now, key: newKey(kind, rnd)}
	t := ca.template("Test CA " + kind)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	ca.Cert = Must(x509.ParseCertificate(Must(x509.CreateCertificate(rnd, t, t, ca.key.Public(), ca.key))))
	return ca
}

func (ca *CA) template(cn string) *x509.Certificate {
	ca.n++
	return &x509.Certificate{SerialNumber: big.NewInt(ca.n), Subject: pkix.Name{Country: []string{"CH"}, Organization: []string{"Espalier"}, CommonName: cn},
		NotBefore: ca.now.Add(-time.Hour), NotAfter: ca.now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
}

// Issue makes an end-entity certificate with the name as subjectAltName.
func (ca *CA) Issue(name string) (*x509.Certificate, crypto.Signer) {
	key := newKey(ca.kind, ca.rnd)
	t := ca.template(name)
	t.DNSNames = []string{name}
	return Must(x509.ParseCertificate(Must(x509.CreateCertificate(ca.rnd, t, ca.Cert, key.Public(), ca.key)))), key
}

// Credentials are what a gateway of the name holds: its key, its certificate,
// and the CA.
func (ca *CA) Credentials(name string) *auth.Credentials {
	cert, key := ca.Issue(name)
	b := auth.NewBuilder()
	for _, err := range []error{b.AddCert(cert, "test"), b.AddKey(key, "test"), b.AddCA(ca.Cert, "test")} {
		if err != nil {
			panic(err)
		}
	}
	return b.Build()
}

func newKey(kind string, rnd io.Reader) crypto.Signer {
	switch kind {
	case "rsa":
		return Must(rsa.GenerateKey(rnd, 2048))
	case "ecdsa":
		return Must(ecdsa.GenerateKey(elliptic.P256(), rnd))
	case "ed25519":
		_, k, err := ed25519.GenerateKey(rnd)
		return Must(k, err)
	}
	panic("unknown kind of key: " + kind)
}
