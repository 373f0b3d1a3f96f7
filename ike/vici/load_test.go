package vici_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"espalier/ike/lease"
	"espalier/ike/vici"
	"espalier/ike/vici/vicitest"
)

func section(name string, body vici.Message) vici.Section {
	return vici.Section{Name: name, Body: body}
}

// connMessage is what swanctl sends for a small connection, with more of it.
func connMessage(name string, more ...vici.Element) vici.Message {
	m := vici.Message{
		vici.KeyValue{Name: "version", Value: "2"},
		vici.List{Name: "remote_addrs", Items: []string{"192.0.2.1", "192.0.2.2"}},
		vici.List{Name: "proposals", Items: []string{"aes256-sha256-x25519"}},
		section("local", request("auth", "psk", "id", "moon")),
		section("remote", request("auth", "psk", "id", "sun")),
		section("children", vici.Message{section("net", vici.Message{vici.List{Name: "remote_ts", Items: []string{"10.2.0.0/16", "10.4.0.0/16"}}})}),
	}
	return vici.Message{section(name, append(m, more...))}
}

// ask calls a command and tells success, or the words why not.
func ask(t *testing.T, c *vici.Client, name string, req vici.Message) (vici.Message, string) {
	t.Helper()
	m, err := c.Call(t.Context(), name, req)
	if m.Text("success") == "yes" {
		return m, "yes"
	}
	if err == nil {
		t.Errorf("%s: neither success nor an error: %v", name, m)
		return m, ""
	}
	return m, err.Error()
}

func list(t *testing.T, c *vici.Client, name, of string) string {
	t.Helper()
	m, err := c.Call(t.Context(), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(m.List(of), " ")
}

func TestLoadConn(t *testing.T) {
	e := vicitest.New()
	path, _ := start(t, e, nil)
	c := dial(t, path)
	load := func(req vici.Message) string { _, said := ask(t, c, "load-conn", req); return said }
	if said := load(connMessage("gw")); said != "yes" {
		t.Fatal(said)
	}
	conn := e.Connections()[0]
	if len(conn.RemoteAddrs) != 2 || len(conn.Children[0].RemoteTS) != 2 || conn.Children[0].Mode.String() != "TUNNEL" {
		t.Errorf("loaded: %+v", conn)
	}
	if said := load(connMessage("gw")); said != "yes" || e.Changes != 1 || e.Connections()[0] != conn {
		t.Errorf("the same again: %s, %d changes", said, e.Changes)
	}
	if said := load(connMessage("gw", vici.KeyValue{Name: "mobike", Value: "no"})); said != "yes" || e.Connections()[0].MOBIKE || len(e.Connections()) != 1 {
		t.Errorf("replaced: %s", said)
	}
	before := e.Connections()[0]
	for want, req := range map[string]vici.Message{
		"connections.gw.aggressive: expected aggressive = no, since that belongs to IKEv1": connMessage("gw", vici.KeyValue{Name: "aggressive", Value: "yes"}),
		"connections.gw.children":           connMessage("gw", section("children", nil)),
		"connections.gw.local-2.id":         connMessage("gw", section("local-2", request("auth", "psk", "id", "a\x00b"))),
		"a section named by the connection": nil,
		"a section for each connection":     append(connMessage("gw"), vici.KeyValue{Name: "version", Value: "2"}),
		"connections: expected a name":      connMessage(""),
		"connections.other":                 append(connMessage("gw", vici.KeyValue{Name: "mobike", Value: "yes"}), section("other", request("nonsense", "1"))),
		"a readable certificate file":       connMessage("gw", section("local-2", vici.Message{section("cert1", request("file", "/nonexistent"))})),
		"and 5 more":                        {section("bad", manyMistakes(15))},
	} {
		if said := load(req); !strings.Contains(said, want) || strings.Contains(said, "\n") {
			t.Errorf("expected a line with %q, got %q", want, said)
		}
	}
	if e.Connections()[0] != before || len(e.Connections()) != 1 {
		t.Error("what was refused left something behind")
	}
	if got := list(t, c, "get-conns", "conns"); got != "gw" {
		t.Errorf("get-conns: %q", got)
	}
	if _, said := ask(t, c, "unload-conn", request("name", "gone")); !strings.Contains(said, "connection 'gone' not found") {
		t.Errorf("unloading what is not there: %s", said)
	}
	if _, said := ask(t, c, "unload-conn", nil); !strings.Contains(said, "missing name") {
		t.Errorf("unloading without a name: %s", said)
	}
	if _, said := ask(t, c, "unload-conn", request("name", "gw")); said != "yes" || list(t, c, "get-conns", "conns") != "" {
		t.Errorf("unloaded: %s", said)
	}
}

func manyMistakes(n int) (m vici.Message) {
	for i := range n {
		m.Put(fmt.Sprintf("nonsense-%d", i), "1")
	}
	return m
}

// endEntity is a certificate with its key, PEM.
func endEntity(t *testing.T, name string, ca bool) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: vicitest.Now.Add(-time.Hour), NotAfter: vicitest.Now.Add(time.Hour), BasicConstraintsValid: true, IsCA: ca}
	cert, err = x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func TestLoadCredentials(t *testing.T) {
	e := vicitest.New()
	path, _ := start(t, e, nil)
	c := dial(t, path)
	cert, key := endEntity(t, "moon", false)
	ca, _ := endEntity(t, "ca", true)
	der, _ := pem.Decode(ca)
	for _, call := range []struct {
		command string
		req     vici.Message
		want    string
	}{
		{"load-cert", request("type", "X509", "flag", "NONE", "data", string(cert)), "yes"},
		{"load-cert", request("type", "X509", "flag", "CA", "data", string(der.Bytes)), "yes"},
		{"load-cert", request("type", "x509ca", "data", string(cert)), "expected a CA certificate"},
		{"load-cert", request("type", "X509_CRL", "flag", "NONE", "data", "x"), "a certificate revocation list"},
		{"load-cert", request("type", "PUBKEY", "data", "x"), "public key"},
		{"load-cert", request("type", "X509_AC", "data", "x"), "type X509_AC"},
		{"load-cert", request("type", "X509", "flag", "OCSP", "data", "x"), "flag OCSP"},
		{"load-cert", request("type", "X509"), "missing data"},
		{"load-cert", nil, "missing type"},
		{"load-cert", request("type", "X509", "data", "x"), "neither PEM nor DER"},
		{"load-key", request("type", "rsa", "data", string(key)), `expected a private key of type "rsa", found one of type ecdsa`},
		{"load-key", request("type", "bliss", "data", string(key)), "bliss"},
		{"load-key", request("type", "any", "data", "no key"), "neither PEM nor DER"},
		{"load-key", request("type", "any"), "missing data"},
		{"load-key", nil, "missing type"},
		{"load-token", request("handle", "01"), "not supported yet"},
		{"load-shared", vici.Message{vici.KeyValue{Name: "id", Value: "ike-1"}, vici.KeyValue{Name: "type", Value: "IKE"}, vici.KeyValue{Name: "data", Value: "\x00\xff"},
			vici.List{Name: "owners", Items: []string{"sun", "moon"}}}, "yes"},
		{"load-shared", request("id", "eap-1", "type", "EAP", "data", "x"), "no section eap* in secrets"},
		{"load-shared", request("type", "IKE"), "missing data"},
		{"load-shared", request("data", "x"), "missing type"},
		{"unload-shared", request("id", "ike-2"), "shared key 'ike-2' not found"},
		{"unload-key", request("id", "00"), "private key '00' not found"},
		{"flush-certs", request("type", "ANY"), "yes"},
		{"flush-certs", request("type", "X509_CRL"), "yes"},
		{"flush-certs", request("type", "paper"), "paper"},
	} {
		if _, said := ask(t, c, call.command, call.req); !strings.Contains(said, call.want) {
			t.Errorf("%s: got %q, want %q", call.command, said, call.want)
		}
	}
	second, _ := endEntity(t, "second", false)
	if _, said := ask(t, c, "load-cert", request("type", "X509", "data", string(second))); said != "yes" {
		t.Error(said)
	}
	var names []string
	if _, err := c.Stream(t.Context(), "list-certs", nil, "list-cert", func(m vici.Message) error {
		cert, err := x509.ParseCertificate([]byte(m.Text("data")))
		names = append(names, cert.Subject.CommonName)
		return err
	}); err != nil || strings.Join(names, " ") != "second moon ca" {
		t.Errorf("list-certs: %q, %v", names, err)
	}
	m, said := ask(t, c, "load-key", request("type", "any", "data", string(key)))
	id := m.Text("id")
	if said != "yes" || len(id) != 40 || list(t, c, "get-keys", "keys") != id {
		t.Errorf("load-key: %s, id %q", said, id)
	}
	if got := e.Credentials().String(); got != "credentials(1 shared keys, 1 private keys with certificate, 2 certificates, 1 CAs)" {
		t.Errorf("loaded: %s", got)
	}
	if got := list(t, c, "get-shared", "keys"); got != "ike-1" {
		t.Errorf("get-shared: %q", got)
	}
	if _, said := ask(t, c, "unload-key", request("id", strings.ToUpper(id))); said != "yes" || list(t, c, "get-keys", "keys") != "" {
		t.Errorf("unload-key: %s", said)
	}
	if _, said := ask(t, c, "clear-creds", nil); said != "yes" || list(t, c, "get-shared", "keys") != "" {
		t.Errorf("clear-creds: %s", said)
	}
	if got := e.Credentials().String(); got != "credentials(0 shared keys, 0 private keys with certificate, 0 certificates, 0 CAs)" {
		t.Errorf("cleared: %s", got)
	}
}

// CRLs and raw public keys are loaded, and listed by their types.
func TestListOtherCredentials(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: vicitest.Now, NextUpdate: vicitest.Now.Add(time.Hour)}
	crl, err := x509.CreateRevocationList(rand.Reader, list, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	path, _ := start(t, vicitest.New(), nil)
	c := dial(t, path)
	conn := vici.Message{section("raw", vici.Message{section("local", request("auth", "psk", "id", "moon")),
		section("remote", vici.Message{vici.KeyValue{Name: "id", Value: "sun"}, vici.List{Name: "pubkeys", Items: []string{string(pub)}}})})}
	for _, call := range []struct {
		command string
		req     vici.Message
	}{
		{"load-cert", request("type", "X509_CRL", "flag", "NONE", "data", string(crl))},
		{"load-cert", request("type", "PUBKEY", "flag", "NONE", "data", string(pub))},
		{"load-conn", conn},
	} {
		if _, said := ask(t, c, call.command, call.req); said != "yes" {
			t.Errorf("%s: %s", call.command, said)
		}
	}
	for filter, want := range map[string]string{"ANY": "PUBKEY:sun X509_CRL", "X509_CRL": "X509_CRL", "x509crl": "X509_CRL", "pubkey": "PUBKEY:sun", "X509": "", "X509_AC": ""} {
		var got []string
		if _, err := c.Stream(t.Context(), "list-certs", request("type", filter), "list-cert", func(m vici.Message) error {
			line := m.Text("type")
			if s := m.Text("subject"); s != "" {
				line += ":" + s
			}
			if d := m.Text("data"); d != string(crl) && d != string(pub) {
				t.Errorf("%s: other data", line)
			}
			got = append(got, line)
			return nil
		}); err != nil || strings.Join(got, " ") != want {
			t.Errorf("list-certs of type %s: got %q, want %q, %v", filter, got, want, err)
		}
	}
}

func TestLoadPoolsAndAuthorities(t *testing.T) {
	e := vicitest.New()
	e.Config.Pools = []lease.Status{{Name: "busy", Online: 2}}
	path, _ := start(t, e, nil)
	c := dial(t, path)
	ca, _ := endEntity(t, "ca", true)
	for _, call := range []struct {
		command string
		req     vici.Message
		want    string
	}{
		{"load-pool", vici.Message{section("p", vici.Message{vici.KeyValue{Name: "addrs", Value: "10.5.0.0/24"}, vici.List{Name: "dns", Items: []string{"10.5.0.1", "10.5.0.2"}}})}, "yes"},
		{"load-pool", vici.Message{section("q", request("addrs", "10.5.0.128/25"))}, "some of p"},
		{"load-pool", vici.Message{section("q", request("addrs", "10.6.0.0/24", "dnss", "1.1.1.1"))}, "dnss"},
		{"unload-pool", request("name", "busy"), "pool 'busy' has 2 online leases, unable to unload"},
		{"unload-pool", request("name", "q"), "pool 'q' not found"},
		{"load-authority", vici.Message{section("lab", request("cacert", string(ca)))}, "yes"},
		{"load-authority", vici.Message{section("lab", request("cacert", string(ca), "ocsp_uris", "http://x"))}, "ocsp_uris"},
		{"load-authority", vici.Message{section("lab", request("cacert", "x"))}, "authorities.lab.cacert"},
		{"unload-authority", request("name", "x"), "authority 'x' not found"},
	} {
		if _, said := ask(t, c, call.command, call.req); !strings.Contains(said, call.want) {
			t.Errorf("%s: got %q, want %q", call.command, said, call.want)
		}
	}
	if got := list(t, c, "get-authorities", "authorities"); got != "lab" {
		t.Errorf("get-authorities: %q", got)
	}
	if _, said := ask(t, c, "unload-authority", request("name", "lab")); said != "yes" || len(e.Authorities()) != 0 {
		t.Errorf("unload-authority: %s", said)
	}
	if m, err := c.Call(t.Context(), "get-pools", request("name", "p")); err != nil || m.Section("p").Text("size") != "254" {
		t.Errorf("get-pools: %v, %v", m, err)
	}
	if _, said := ask(t, c, "unload-pool", request("name", "p")); said != "yes" || len(e.Pools()) != 1 {
		t.Errorf("unload-pool: %s", said)
	}
}

func TestInstall(t *testing.T) {
	e := vicitest.New()
	path, _ := start(t, e, nil)
	c := dial(t, path)
	more := section("children", vici.Message{section("net", nil), section(vicitest.Refused, nil), section("past", request("mode", "pass"))})
	if _, said := ask(t, c, "load-conn", vici.Message{section("gw", append(connMessage("gw")[0].(vici.Section).Body[:5:5], more))}); said != "yes" {
		t.Fatal(said)
	}
	for _, call := range []struct {
		command string
		req     vici.Message
		want    string
	}{
		{"install", nil, "missing configuration name"},
		{"install", request("child", "other"), "configuration name not found"},
		{"install", request("child", "net", "ike", "other"), "configuration name not found"},
		{"install", request("child", vicitest.Refused), "installing policy 'refused' failed: no way to the peer"},
		{"uninstall", request("child", "net"), "policy 'net' not found"},
		{"install", request("child", "net", "ike", "gw"), "yes"},
		{"uninstall", request("child", "net"), "yes"},
		{"install", request("child", "past"), "yes"},
		{"uninstall", nil, "missing configuration name"},
		{"uninstall", request("child", "other"), "policy 'other' not found"},
	} {
		if _, said := ask(t, c, call.command, call.req); !strings.Contains(said, call.want) {
			t.Errorf("%s %v: got %q, want %q", call.command, call.req, said, call.want)
		}
	}
}
