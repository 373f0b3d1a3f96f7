package config

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/sha1" //nolint:gosec // as strongSwan does
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"espalier/ike/pki"
)

// treeText is what a client sends, in the words of a file.
func treeText(t *testing.T, text string) Tree {
	t.Helper()
	root, err := Parse("text", text)
	if err != nil {
		t.Fatal(err)
	}
	return Tree{Section: root.Items[0].(*Section), Content: map[string][]byte{}}
}

func defaultSettings(t *testing.T) *Settings {
	t.Helper()
	cfg, err := load(memFS{}.with(map[string]memFile{"espalier.conf": {data: "connections { }\n"}}), confPath)
	if err != nil {
		t.Fatal(err)
	}
	return &cfg.Settings
}

const loadable = `gw {
  version = 2
  remote_addrs = 192.0.2.1
  local { auth = psk
    id = moon }
  remote { auth = psk
    id = sun }
  children { net { remote_ts = 10.2.0.0/16 } }
}
`

// What a client and a file say in the same words is the same, its origin aside.
func TestLoadedIsWhatAFileSays(t *testing.T) {
	file, err := load(memFS{}.with(map[string]memFile{"espalier.conf": {data: "connections {\n" + loadable + "}\nsecrets { ike { secret = x } }\n"}}), confPath)
	if err != nil {
		t.Fatal(err)
	}
	var none *Loaded
	l, err := none.WithConnection(treeText(t, loadable), &file.Settings)
	if err != nil {
		t.Fatal(err)
	}
	want := *file.Connections[0]
	want.Origin = OriginVici
	if d, differs := diffConnection(&want, l.conns[0].Connection); differs {
		t.Errorf("got %+v, want %+v: %+v", l.conns[0].Connection, want, d)
	}
	if same, err := l.WithConnection(treeText(t, loadable), &file.Settings); err != nil || same != l {
		t.Errorf("the same again: expected no change, got %v", err)
	}
	changed, err := l.WithConnection(treeText(t, strings.Replace(loadable, "10.2", "10.3", 1)), &file.Settings)
	if err != nil || changed == l || len(changed.conns) != 1 || changed.conns[0].Children[0].RemoteTS[0] == l.conns[0].Children[0].RemoteTS[0] {
		t.Errorf("another child: %v", err)
	}
	gone, err := changed.WithoutConnection("gw")
	if err != nil || len(gone.conns) != 0 || len(changed.conns) != 1 {
		t.Errorf("unloaded: %v", err)
	}
	if _, err := gone.WithoutConnection("gw"); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("unloaded twice: %v", err)
	}
}

// Every option that is not supported is taken at its default and refused by name,
// with the reason, at another value; wherever it stands.
func TestLoadedHonoursOrRefuses(t *testing.T) {
	others := map[string]string{
		"aggressive": "yes", "pull": "no", "ppk_id": "x", "ppk_required": "yes", "mediation": "yes",
		"mediated_by": "x", "mediation_peer": "x", "pubkeys": "x", "eap_id": "x", "aaa_id": "x", "xauth_id": "x", "ca_id": "x", "groups": "x",
		"cert_policy": "1.2.3", "revocation": "strict", "ah_proposals": "sha256", "updown": "/bin/true", "hostaccess": "yes", "label": "x",
		"label_mode": "simple", "per_cpu_sas": "yes", "hw_offload": "yes", "handle": "ff", "slot": "1", "module": "x",
	}
	set := defaultSettings(t)
	var none *Loaded
	try := func(place string, k *keySpec, value string) error {
		line := k.name + " = " + value + "\n"
		text := strings.Replace(loadable, place, place+" "+line, 1)
		if place == "gw {" {
			text = strings.Replace(loadable, "gw {", "gw {\n"+line, 1)
		}
		_, err := none.WithConnection(treeText(t, text), set)
		return err
	}
	seen := 0
	for place, spec := range map[string]*sectionSpec{"gw {": connectionSpec(), "local {": localSpec(), "remote {": remoteSpec(), "net {": childSpec()} {
		for i := range spec.keys {
			k := &spec.keys[i]
			if k.sup == supported {
				continue
			}
			seen++
			if k.def != "" {
				if err := try(place, k, k.def); err != nil {
					t.Errorf("%s %s at its default %s: %v", place, k.name, k.def, err)
				}
			}
			err := try(place, k, others[k.name])
			if err == nil || !strings.Contains(err.Error(), k.name) || !strings.Contains(err.Error(), "since") {
				t.Errorf("%s %s = %s: expected it to be refused by name and with the reason, got %v", place, k.name, others[k.name], err)
			}
		}
	}
	if seen == 0 {
		t.Error("no option was tried")
	}
	for text, want := range map[string]string{
		"version = 1":                     "version",
		"aggressive = yes":                "belongs to IKEv1",
		"mediation = yes":                 "mediation",
		"nonsense = 1":                    "nonsense",
		"dpd_delay = soon":                "dpd_delay",
		"proposals = des":                 "proposals",
		"local_port = 17":                 "local_port",
		"pools { }":                       "pools",
		"children = x":                    "children",
		"remote-9 = x":                    "remote-9",
		"local-2 { auth = psk\n id = x }": "several rounds",
	} {
		conf := strings.Replace(strings.Replace(loadable, "version = 2", "", 1), "gw {", "gw {\n"+text+"\n", 1)
		if _, err := none.WithConnection(treeText(t, conf), set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected a word about %q, got %v", text, want, err)
		}
	}
	if _, err := none.WithConnection(treeText(t, strings.Replace(loadable, "version = 2", "version = 0", 1)), set); err != nil {
		t.Errorf("version = 0: %v", err)
	}
}

// Credentials come in any order, by their content, and all of them count.
func TestLoadedCredentials(t *testing.T) {
	p := makePKI()
	set := defaultSettings(t)
	var none *Loaded
	tree := treeText(t, `certs {
  local { certs = /vici/1 }
  remote { cacerts = /vici/2
    id = peer.example.com }
}
`)
	tree.Content["/vici/1"] = []byte(p.gw)
	block, _ := pem.Decode([]byte(p.ca))
	tree.Content["/vici/2"] = block.Bytes
	l, err := none.WithConnection(tree, set)
	if err != nil {
		t.Fatal(err)
	}
	l, id, err := l.WithKey("any", []byte(p.gwKey))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParsePrivateKey([]byte(p.gwKey), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := key.Public().(*ecdsa.PublicKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	if want := sha1.Sum(pub.Bytes()); pub.Curve() != ecdh.P256() || id != hex.EncodeToString(want[:]) { //nolint:gosec
		t.Errorf("id of the key: got %s, want %x", id, want)
	}
	if again, same, err := l.WithKey("ecdsa", []byte(p.gwKey)); err != nil || again != l || same != id {
		t.Errorf("the key again: %s, %v", same, err)
	}
	if _, _, err := l.WithKey("rsa", []byte(p.gwKey)); err == nil || !strings.Contains(err.Error(), "rsa") {
		t.Errorf("a key of another type: %v", err)
	}
	if l, err = l.WithShared("ike-1", "ike", []byte("word"), []string{"sun"}); err != nil {
		t.Fatal(err)
	}
	if same, err := l.WithShared("ike-1", "ike", []byte("word"), []string{"sun"}); err != nil || same != l {
		t.Errorf("the shared key again: %v", err)
	}
	other, err := l.WithShared("ike-1", "ike", []byte("other"), nil)
	if err != nil || len(other.shared) != 1 || string(other.shared[0].key) != "other" {
		t.Errorf("the shared key replaced: %v", err)
	}
	for _, typ := range []string{"eap", "xauth", "ntlm", "ppk", "private", "nonsense"} {
		if _, err := l.WithShared("x", typ, []byte("hush!"), nil); err == nil || strings.Contains(err.Error(), "hush!") || strings.Contains(err.Error(), hex.EncodeToString([]byte("hush!"))) {
			t.Errorf("shared key of type %s: expected it to be refused, and not to be shown, got %v", typ, err)
		}
	}
	if _, err := l.WithCert([]byte(p.gw), true); err == nil {
		t.Error("an end entity was taken for a CA")
	}
	if l, err = l.WithCert([]byte(p.peer), false); err != nil {
		t.Fatal(err)
	}
	file, err := load(memFS{}.with(map[string]memFile{"espalier.conf": {data: "secrets { ike { secret = file } }\n"}}), confPath)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := Join(file, l, file)
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Credentials.String(); got != "credentials(2 shared keys, 1 private keys with certificate, 2 certificates, 1 CAs)" {
		t.Errorf("joined: %s", got)
	}
	if again, err := Join(file, l, cfg); err != nil || again.Credentials != cfg.Credentials {
		t.Errorf("joined again: expected the credentials that there are, %v", err)
	}
	cleared, err := Join(file, l.WithoutCreds(), cfg)
	if err != nil || cleared.Credentials.String() != "credentials(1 shared keys, 0 private keys with certificate, 1 certificates, 1 CAs)" || !Diff(cfg, cleared).Credentials {
		t.Errorf("cleared: %s, %v", cleared.Credentials, err)
	}
	if l, err = l.WithoutKey(id); err != nil || len(l.KeyIDs()) != 0 {
		t.Errorf("the key unloaded: %v, %q", err, l.KeyIDs())
	}
	if l, err = l.WithoutShared("ike-1"); err != nil || len(l.SharedIDs()) != 0 {
		t.Errorf("the shared key unloaded: %v, %q", err, l.SharedIDs())
	}
}

// Nobody takes the other's names, nor addresses of its pools.
func TestJoinRefuses(t *testing.T) {
	p := makePKI()
	file, err := load(memFS{}.with(map[string]memFile{"x509ca/ca.pem": {data: p.ca},
		"espalier.conf": {data: "connections {\n" + loadable + "}\npools { a { addrs = 10.3.0.0/24 } }\nauthorities { lab { cacert = ca.pem } }\nsecrets { ike { secret = x } }\n"}}), confPath)
	if err != nil {
		t.Fatal(err)
	}
	var none *Loaded
	conn, err := none.WithConnection(treeText(t, loadable), &file.Settings)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := none.WithPool(treeText(t, "a { addrs = 10.4.0.0/24 }\n"))
	if err != nil {
		t.Fatal(err)
	}
	overlap, err := none.WithPool(treeText(t, "b { addrs = 10.3.0.9-10.3.1.9 }\n"))
	if err != nil {
		t.Fatal(err)
	}
	tree := treeText(t, "lab { cacert = /vici/1 }\n")
	tree.Content["/vici/1"] = []byte(p.ca)
	authority, err := none.WithAuthority(tree)
	if err != nil {
		t.Fatal(err)
	}
	for want, l := range map[string]*Loaded{"connections.gw": conn, "pools.a": pool, "pools.b.addrs": overlap, "authorities.lab": authority} {
		if _, err := Join(file, l, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected a word about %s, got %v", want, err)
		}
	}
	if cfg, err := Join(file, nil, nil); err != nil || cfg.Credentials != file.Credentials || !Diff(file, cfg).None() {
		t.Errorf("with nothing loaded: %v", err)
	}
}

func TestLoadedPoolsAndAuthorities(t *testing.T) {
	var none *Loaded
	l, err := none.WithPool(treeText(t, "a { addrs = 10.4.0.0/24\n dns = 10.4.0.1, 10.4.0.2 }\n"))
	if err != nil || len(l.pools) != 1 || len(l.pools[0].Attrs) != 2 || l.pools[0].Origin != OriginVici {
		t.Fatalf("loaded: %v, %+v", err, l)
	}
	for text, want := range map[string]string{"b { }\n": "addrs", "b { addrs = x }\n": "addrs", "b { addrs = 10.4.0.0/24\n dnss = 1.1.1.1 }\n": "dnss"} {
		if _, err := l.WithPool(treeText(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: expected a word about %s, got %v", text, want, err)
		}
	}
	if l, err = l.WithoutPool("a"); err != nil || len(l.pools) != 0 {
		t.Errorf("unloaded: %v", err)
	}
	for text, want := range map[string]string{"b { }\n": "cacert", "b { cacert = /vici/7 }\n": "/vici/7", "b { cacert = /vici/1\n ocsp_uris = http://x }\n": "ocsp_uris", "b { cacert = /vici/1\n crl_uris = ldap://x }\n": "http://"} {
		tree := treeText(t, text)
		tree.Content["/vici/1"] = []byte(makePKI().ca)
		if _, err := l.WithAuthority(tree); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: expected a word about %s, got %v", text, want, err)
		}
	}
}
