package config

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io/fs"
	"math/big"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// memFS is a box in memory, all its paths absolute.
type memFS map[string]memFile

type memFile struct {
	data string
	mode fs.FileMode
}

func (m memFS) read(p string, most int64) ([]byte, fs.FileMode, error) {
	f, ok := m[p]
	switch {
	case !ok:
		return nil, 0, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	case f.mode&0o400 == 0:
		return nil, 0, &fs.PathError{Op: "open", Path: p, Err: fs.ErrPermission}
	case int64(len(f.data)) > most:
		return nil, 0, errTooBig
	}
	return []byte(f.data), f.mode, nil
}

func (m memFS) glob(pattern string) ([]string, error) {
	var out []string
	for p := range m {
		ok, err := filepath.Match(pattern, p)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, p)
		}
	}
	return out, nil
}

func (m memFS) list(dir string) ([]string, error) {
	var out []string
	for p := range m {
		if path.Dir(p) == dir {
			out = append(out, p)
		}
	}
	return out, nil
}

// with returns a copy with further files; names are relative to /etc/espalier.
func (m memFS) with(files map[string]memFile) memFS {
	out := memFS{}
	for p, f := range m {
		out[p] = f
	}
	for p, f := range files {
		if f.mode == 0 {
			f.mode = 0o600
		}
		if !strings.HasPrefix(p, "/") {
			p = "/etc/espalier/" + p
		}
		out[p] = f
	}
	return out
}

const confPath = "/etc/espalier/espalier.conf"

// pki is a CA and two end entities, made once: their keys differ from run to
// run, and nothing that the tests check depends on them.
type testPKI struct {
	ca, gw, peer             string // PEM
	gwKey, peerKey, strayKey string
	gwPub, peerPub           string
	crl                      string // on which peer stands
}

var makePKI = sync.OnceValue(func() testPKI {
	caKey, ca := issue("Espalier Test CA", nil, nil)
	gwKey, gw := issue("gw.example.com", ca, caKey)
	peerKey, peer := issue("peer.example.com", ca, caKey)
	stray, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return testPKI{certPEM(ca), certPEM(gw), certPEM(peer), keyPEM(gwKey), keyPEM(peerKey), keyPEM(stray), pubPEM(gwKey), pubPEM(peerKey), crlPEM(ca, caKey, peer)}
})

func issue(cn string, ca *x509.Certificate, caKey crypto.Signer) (crypto.Signer, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn, Organization: []string{"Espalier"}},
		NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(4000000000, 0),
		BasicConstraintsValid: true, IsCA: ca == nil,
	}
	if ca == nil {
		ca, caKey = tmpl, key
		tmpl.KeyUsage = x509.KeyUsageCertSign
	} else {
		tmpl.DNSNames = []string{cn}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return key, cert
}

func certPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func keyPEM(k crypto.Signer) string {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// box is a gateway with the credentials that the corpus names.
func box(conf string) memFS {
	p := makePKI()
	return memFS{}.with(map[string]memFile{
		"espalier.conf":  {data: conf},
		"x509/gw.pem":    {data: p.gw, mode: 0o644},
		"x509/peer.pem":  {data: p.peer, mode: 0o644},
		"x509ca/ca.pem":  {data: p.ca, mode: 0o644},
		"private/gw.pem": {data: p.gwKey},
	})
}

func mustLoad(t *testing.T, conf string) *Config {
	t.Helper()
	cfg, err := load(box(conf), confPath)
	if err != nil {
		t.Fatalf("load: %v\n%s", err, conf)
	}
	return cfg
}

func pubPEM(k crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// crlPEM is a CA's list with some certificates.
func crlPEM(ca *x509.Certificate, key crypto.Signer, revoked ...*x509.Certificate) string {
	issuer := *ca
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(1700000000, 0), NextUpdate: time.Unix(4000000000, 0)}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: list.ThisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, &issuer, key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}
