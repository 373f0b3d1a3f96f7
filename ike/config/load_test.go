package config

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"espalier/ike/auth"
)

func replaceOnce(t *testing.T, s, from, to string) string {
	t.Helper()
	if from != "" && !strings.Contains(s, from) {
		t.Fatalf("%q is not in the text", from)
	}
	return strings.Replace(s, from, to, 1)
}

// onDisk writes a gateway's files into a folder of the box.
func onDisk(t *testing.T, conf string) string {
	t.Helper()
	dir := t.TempDir()
	for path, f := range box(conf) {
		path = filepath.Join(dir, strings.TrimPrefix(path, "/etc/espalier/"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.data), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, f.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "espalier.conf")
}

func TestLoadFromDisk(t *testing.T) {
	conf := "connections { gw {\nlocal { certs = gw.pem }\nremote { } } }\ninclude conf.d/*.conf\n"
	path := onDisk(t, conf)
	dir := filepath.Dir(path)
	included := filepath.Join(dir, "conf.d", "secret.conf")
	if err := os.Mkdir(filepath.Dir(included), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(included, []byte("secrets { ike { secret = x } }"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x509", ".hidden"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Path != path || len(cfg.Files) != 2 || cfg.Files[0] != path || cfg.Files[1] != included {
		t.Errorf("files %v", cfg.Files)
	}
	if len(cfg.Connections) != 1 || len(cfg.Connections[0].Local[0].Certs) != 1 || len(cfg.creds.shared) != 1 || cfg.Credentials == nil {
		t.Errorf("loaded %s", describe(cfg))
	}
	if cfg.Connection("gw") == nil || cfg.Connection("wg") != nil {
		t.Error("Connection finds the wrong one")
	}

	for _, c := range []struct {
		name string
		do   func() error
		want string
	}{
		{"secret readable by others", func() error { return os.Chmod(included, 0o604) },
			included + ":1:17: expected a file that only its owner can read, since it holds a secret, found mode 0604 (chmod 600 " + included + ")"},
		{"private key readable by the group", func() error { return os.Chmod(filepath.Join(dir, "private/gw.pem"), 0o640) },
			filepath.Join(dir, "private/gw.pem") + ": expected a private key that only its owner can read, found mode 0640 (chmod 600 " + filepath.Join(dir, "private/gw.pem") + ")"},
		{"a pipe in place of a file", func() error {
			if err := os.Remove(included); err != nil {
				return err
			}
			return syscall.Mkfifo(included, 0o600)
		}, path + ":4:9: expected a readable file \"" + included + "\", found not a regular file"},
		{"a folder in place of a file", func() error { return os.Mkdir(filepath.Join(dir, "conf.d/z.conf"), 0o700) },
			"z.conf\", found not a regular file"},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(path)
		if cfg != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: it says\n%v\nwant\n%s", c.name, err, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	root, err := Parse("f", "a = 1\nb {")
	if err == nil || err.Error() != `f:2:1: expected "}" to close section "b", found the end of the file` {
		t.Error(err)
	}
	if root.Print() != "a = 1\nb {\n}\n" {
		t.Errorf("what could be read is %q", root.Print())
	}
}

// A daemon may begin without a file, if it is said to; any other mistake stays one.
func TestFileMayMiss(t *testing.T) {
	cfg, err := loadWith(memFS{}, confPath, Options{MayMiss: true})
	if err != nil || !cfg.Missing || len(cfg.Connections) != 0 || len(cfg.Warnings) != 1 || cfg.Settings.SA.Port != 500 {
		t.Errorf("no file: %+v, %v", cfg, err)
	}
	if _, err := loadWith(memFS{}, confPath, Options{}); err == nil {
		t.Error("no file where there must be one")
	}
	world := memFS{}.with(map[string]memFile{"espalier.conf": {data: "nonsense = 1\n"}})
	if _, err := loadWith(world, confPath, Options{MayMiss: true}); err == nil {
		t.Error("a file with a mistake was taken for none")
	}
	world = memFS{}.with(map[string]memFile{"espalier.conf": {data: "connections { }\n"}})
	if cfg, err := loadWith(world, confPath, Options{MayMiss: true}); err != nil || cfg.Missing || len(cfg.Warnings) != 0 {
		t.Errorf("a file: %+v, %v", cfg, err)
	}
}

// CRLs and raw public keys count, from folders and from clients.
func TestCRLsAndRawKeys(t *testing.T) {
	p := makePKI()
	conf := "connections { gw {\nlocal { pubkeys = gw.pub\n }\nremote { pubkeys = peer.pub\n } } }\n"
	keys := box(conf).with(map[string]memFile{"pubkey/gw.pub": {data: p.gwPub}, "pubkey/peer.pub": {data: p.peerPub}})
	world := keys.with(map[string]memFile{"x509crl/ca.pem": {data: p.crl}})
	cfg, err := load(world, confPath)
	if err != nil || len(cfg.Warnings) != 0 {
		t.Fatal(err, cfg.Warnings)
	}
	raw, conn := cfg.Credentials.RawKeys(), cfg.Connections[0]
	if len(raw) != 2 || !raw[0].HasKey || raw[1].HasKey || len(cfg.Credentials.CRLs()) != 1 || conn.Local[0].Keys[0] != raw[0].Key.Fingerprint() ||
		conn.Remote[0].Keys[0] != raw[1].Key.Fingerprint() || conn.Remote[0].ID != auth.RawKeyID(raw[1].Key) {
		t.Errorf("from files: %d keys, %d CRLs, %+v", len(raw), len(cfg.Credentials.CRLs()), conn)
	}
	if without, err := load(keys, confPath); err != nil || !Diff(without, cfg).Credentials {
		t.Errorf("a CRL makes no difference, %v", err)
	}
	for file, want := range map[string]string{"x509crl/bad.pem": "certificate revocation list", "pubkey/bad.pem": "public key"} {
		if _, err := load(world.with(map[string]memFile{file: {data: p.gw}}), confPath); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected a word about %q, got %v", file, want, err)
		}
	}
	for conf, want := range map[string]string{
		"local { pubkeys = none.pub\n }\n":               "a readable public key file",
		"local { pubkeys = ../x509/gw.pem\n }\n":         "a PEM block",
		"local { pubkeys = peer.pub\n }\n":               "private keys for the pubkeys",
		"local { auth = psk\n pubkeys = gw.pub\n }\n":    "no pubkeys",
		"remote { auth = psk\nrevocation = strict\n }\n": "no revocation",
		"remote { cert_policy = policy\n }\n":            "object identifiers",
	} {
		if _, err := load(world.with(map[string]memFile{"espalier.conf": {data: "connections { gw {\n" + conf + "} }\n"}}), confPath); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected a word about %q, got %v", conf, want, err)
		}
	}
}

// The same from clients, once each, until they are cleared.
func TestLoadedCRLsAndRawKeys(t *testing.T) {
	p := makePKI()
	var none *Loaded
	l, err := none.WithCRL([]byte(p.crl))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := l.WithCRL([]byte(p.crl)); err != nil || again != l {
		t.Errorf("the CRL again: %v", err)
	}
	if l, err = l.WithRawKey([]byte(p.gwPub)); err != nil {
		t.Fatal(err)
	}
	if again, err := l.WithRawKey([]byte(p.gwPub)); err != nil || again != l {
		t.Errorf("the key again: %v", err)
	}
	empty, err := load(memFS{}.with(map[string]memFile{"espalier.conf": {data: "connections { }\n"}}), confPath)
	if err != nil {
		t.Fatal(err)
	}
	joined, err := Join(empty, l, nil)
	if err != nil || len(joined.Credentials.CRLs()) != 1 || len(joined.Credentials.RawKeys()) != 1 {
		t.Errorf("loaded: %v", err)
	}
	if cleared, err := Join(empty, l.WithoutCreds(), joined); err != nil || len(cleared.Credentials.CRLs())+len(cleared.Credentials.RawKeys()) != 0 {
		t.Errorf("cleared: %v", err)
	}
}

// A PKCS#12 container holds a key with its certificate and trusted CAs.
func TestContainer(t *testing.T) {
	caKey, ca := issue("ca.example.com", nil, nil)
	key, cert := issue("gw.example.com", ca, caKey)
	b, err := pkcs12.Modern2023.Encode(key, cert, []*x509.Certificate{ca}, "hush!")
	if err != nil {
		t.Fatal(err)
	}
	conf := "connections { gw {\nlocal { id = gw.example.com\n }\nremote { } } }\nsecrets { pkcs12-gw { file = gw.p12\n secret = %s\n } }\n"
	world := func(secret string) memFS {
		return memFS{}.with(map[string]memFile{"espalier.conf": {data: strings.Replace(conf, "%s", secret, 1)}, "pkcs12/gw.p12": {data: string(b)}})
	}
	cfg, err := load(world("hush!"), confPath)
	if err != nil || cfg.Credentials.String() != "credentials(0 shared keys, 1 private keys with certificate, 1 certificates, 1 CAs)" || len(cfg.Warnings) != 0 {
		t.Errorf("got %v, %v, %v", cfg.Credentials, cfg.Warnings, err)
	}
	if _, err := load(world("other"), confPath); err == nil || !strings.Contains(err.Error(), "gw.p12") || !strings.Contains(err.Error(), "passphrase") {
		t.Errorf("a wrong passphrase: %v", err)
	}
}
