package ipsecconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"maps"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/ike/auth"
	"espalier/ike/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// disk are files in a folder; absolute paths begin there.
type disk struct{ dir string }

func (d disk) Read(path string) ([]byte, error) { return os.ReadFile(filepath.Join(d.dir, path)) }
func (d disk) Glob(pattern string) ([]string, error) {
	list, err := filepath.Glob(filepath.Join(d.dir, pattern))
	for i := range list {
		list[i] = strings.TrimPrefix(list[i], d.dir)
	}
	return list, err
}

// memory are files in a map.
type memory map[string]string

func (m memory) Read(path string) ([]byte, error) {
	s, ok := m[path]
	if !ok {
		return nil, os.ErrNotExist
	}
	return []byte(s), nil
}

func (m memory) Glob(pattern string) (list []string, err error) {
	for path := range maps.Keys(m) {
		ok, err := filepath.Match(pattern, path)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, path)
		}
	}
	return list, nil
}

// fixed is the schema without some things that it may come to have, so that the
// golden files stay as they are then.
type fixed struct{ *config.Schema }

func (f fixed) Refusal(section []string, key, value string) string {
	last := section[len(section)-1]
	switch {
	case strings.HasPrefix(last, "eap-"), strings.HasPrefix(value, "eap"), strings.HasPrefix(value, "3des"),
		slices.Contains([]string{"ca_id", "crl_uris", "ah_proposals", "eap_id"}, key):
		return "expected something that this test supports"
	}
	return f.Schema.Refusal(section, key, value)
}

// TestGolden converts real-world configurations. What comes out is what the golden
// file says, and Espalier reads it without a complaint.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/ipsec.conf")
	if err != nil || len(cases) < 15 {
		t.Fatalf("expected at least 15 configurations, got %d, %v", len(cases), err)
	}
	for _, path := range cases {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			in := Input{Files: disk{dir}, Path: "/ipsec.conf", Local: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
			if _, err := os.Stat(filepath.Join(dir, "ipsec.secrets")); err == nil {
				in.Secrets = "/ipsec.secrets"
			}
			out, err := convert(in, fixed{config.NewSchema()})
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join(dir, "espalier.conf")
			if *update {
				if err := os.WriteFile(golden, []byte(out.Conf), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out.Conf != string(want) {
				t.Errorf("got\n%s\nwant\n%s", out.Conf, want)
			}
			loads(t, out.Conf)
		})
	}
}

// loads shows the text to Espalier, with files for all the certificates that it names.
func loads(t *testing.T, text string) {
	t.Helper()
	dir := t.TempDir()
	tree, err := config.Parse("espalier.conf", text)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificates(tree, func(folder, file, id string) {
		cert, key := certificate(t, id, folder == "x509ca")
		write(folder+"/"+file, "CERTIFICATE", cert)
		write("private/"+file, "PRIVATE KEY", key)
	})
	path := filepath.Join(dir, "espalier.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// Passphrases for files that are not there are the operator's to bring.
	if _, err := config.Load(path); err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			if !strings.Contains(line, "/private/old") {
				t.Errorf("the result is refused: %s\n%s", line, text)
			}
		}
	}
}

// certificates calls f for each certificate that a section names.
func certificates(sec *config.Section, f func(folder, file, id string)) {
	var id, files, ca string
	for _, it := range sec.Items {
		switch it := it.(type) {
		case *config.Section:
			certificates(it, f)
		case *config.Setting:
			switch it.Key {
			case "id":
				id = it.Value
			case "certs":
				files = it.Value
			case "cacert":
				ca = it.Value
			}
		}
	}
	if ca != "" {
		f("x509ca", ca, "")
	}
	for _, file := range strings.Split(files, ",") {
		if file = strings.TrimSpace(file); file != "" {
			f("x509", file, id)
		}
	}
}

// certificate makes one that holds an identity.
func certificate(t *testing.T, id string, ca bool) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true}
	switch name := strings.TrimPrefix(id, "@"); {
	case strings.Contains(id, "="):
		parsed, err := auth.ParseID(id)
		if err != nil {
			t.Fatal(err)
		}
		template.RawSubject = []byte(parsed.Data)
	case strings.Contains(name, "@"):
		template.EmailAddresses = []string{name}
	case name != "":
		template.DNSNames = []string{name}
	}
	if cert, err = x509.CreateCertificate(rand.Reader, &template, &template, k.Public(), k); err != nil {
		t.Fatal(err)
	}
	if key, err = x509.MarshalPKCS8PrivateKey(k); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestSecretsStayUnsaid shows that no note repeats what may be a secret, not even
// when the files are named the wrong way round.
func TestSecretsStayUnsaid(t *testing.T) {
	const word = "hunter2"
	files := memory{"/s": "a b : PSK " + word + " " + word + "\n: RSA key " + word + "\nnoise " + word + "\n: TOKEN " + word + "\nu : XAUTH " + word +
		"\nu : EAP " + word + "\n: PSK 0x" + word + "\n: " + word + "\n", "/c": "conn x\n\tleft=192.0.2.1\n"}
	for _, in := range []Input{{Path: "/c", Secrets: "/s"}, {Path: "/s"}} {
		in.Files = files
		out, err := Convert(in)
		if err != nil {
			t.Fatal(err)
		}
		if !out.Lost() || len(out.Notes) < 3 {
			t.Errorf("expected notes, got %v", out.Notes)
		}
		for _, n := range out.Notes {
			if strings.Contains(n.String(), word) {
				t.Errorf("a note holds a secret: %s", n)
			}
		}
	}
}

// TestDefaults shows the defaults that differ between the programs and from ours.
func TestDefaults(t *testing.T) {
	for _, c := range []struct {
		dialect Dialect
		lines   []string
	}{
		{StrongSwan, []string{"reauth_time = 10260s", "keyingtries = 3", "unique = replace", "rekey_time = 3060s", "life_time = 3600s", "rand_time = 540s"}},
		{Libreswan, []string{"mobike = no", "keyingtries = 0", "unique = replace", "over_time = 540s", "rekey_time = 28260s", "life_time = 28800s"}},
	} {
		out, err := Convert(Input{Files: memory{"/c": "config setup\nconn x\n left=192.0.2.1\n right=192.0.2.2\n authby=secret\n auto=add\n"}, Path: "/c", Dialect: c.dialect})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range c.lines {
			if !strings.Contains(out.Conf, " "+l+"\n") {
				t.Errorf("%s: expected %q in\n%s", c.dialect, l, out.Conf)
			}
		}
		if !strings.Contains(out.Conf, "read as "+c.dialect.String()) || out.Lost() {
			t.Errorf("%s: got\n%s", c.dialect, out.Conf)
		}
	}
}

// TestHuge shows that sections that inherit from each other, files that include
// each other and products of subnets end.
func TestHuge(t *testing.T) {
	var chain, wide strings.Builder
	for i := range 3000 {
		chain.WriteString("conn c" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i/26%60) + "\n also=" + "c\n")
	}
	nets := strings.Repeat("10.0.0.0/24 ", 400)
	wide.WriteString("conn w\n left=192.0.2.1\n right=192.0.2.2\n authby=secret\n auto=add\n leftsubnets={" + nets + "}\n rightsubnets={" + nets + "}\n")
	var deep strings.Builder
	for i := range 1000 {
		deep.WriteString("conn d" + strings.Repeat("z", i) + "\n left=192.0.2.1\n auto=add\n also=d" + strings.Repeat("z", i+1) + "\n")
	}
	many := "config setup\nconn m\n left=192.0.2.1\n right=192.0.2.2\n authby=secret\n auto=add\n ike=" + strings.Repeat("aes256-sha256-modp2048,3des,", 100000) + "\n"
	files := memory{"/many": many, "/chain": chain.String(), "/wide": wide.String(), "/deep": deep.String(), "/loop": "include /loop2\n", "/loop2": "include /loop\n", "/self": "include /s*\n"}
	ids := Input{Files: memory{"/c": "", "/s": strings.Repeat("a.example ", 500000) + ": PSK x\n"}, Path: "/c", Secrets: "/s"}
	if out, err := Convert(ids); err != nil || !out.Lost() {
		t.Errorf("identities: expected a note, got %v", err)
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		out, err := Convert(Input{Files: files, Path: path})
		if err != nil || path != "/chain" && !out.Lost() {
			t.Errorf("%s: expected notes, got %v", path, err)
		}
	}
}

// FuzzConvert shows that whatever is converted parses, and that each setting is
// one that the schema takes.
func FuzzConvert(f *testing.F) {
	cases, _ := filepath.Glob("testdata/*/ipsec.conf")
	for _, path := range cases {
		conf, _ := os.ReadFile(path)
		sec, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "ipsec.secrets"))
		f.Add(string(conf), string(sec), false)
		f.Add(string(conf), string(sec), true)
	}
	f.Fuzz(func(t *testing.T, conf, secrets string, libreswan bool) {
		in := Input{Files: memory{"/c": conf, "/s": secrets}, Path: "/c", Secrets: "/s", Dialect: StrongSwan}
		if libreswan {
			in.Dialect = Libreswan
		}
		out, err := Convert(in)
		if err != nil {
			return
		}
		tree, err := config.Parse("espalier.conf", out.Conf)
		if err != nil {
			t.Fatalf("%v\n%s", err, out.Conf)
		}
		accepted(t, config.NewSchema(), nil, tree)
		for _, n := range out.Notes {
			if strings.ContainsAny(n.String(), "\n\x1b") {
				t.Errorf("a note of several lines: %q", n)
			}
		}
	})
}

// accepted shows every setting to the schema.
func accepted(t *testing.T, s *config.Schema, path []string, sec *config.Section) {
	t.Helper()
	for _, it := range sec.Items {
		switch it := it.(type) {
		case *config.Section:
			sub := append(slices.Clone(path), it.Name)
			if why := s.Refusal(sub, "", ""); why != "" && it.Name != "children" {
				t.Errorf("section %v: %s", sub, why)
			}
			accepted(t, s, sub, it)
		case *config.Setting:
			if why := s.Refusal(path, it.Key, it.Value); why != "" {
				t.Errorf("%v.%s: %s", path, it.Key, why)
			}
		}
	}
}
