package fetch

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"espalier/ike/pki"
)

var start = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

func list(t *testing.T, next time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: start.Add(-100 * time.Hour), NextUpdate: next}, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestFetch(t *testing.T) {
	der := list(t, start.Add(time.Hour))
	asked := make(chan string, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ca.crl" {
			_, _ = w.Write(der)
		} else {
			http.NotFound(w, r)
		}
		asked <- r.URL.Path
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.crl")
	if err := os.WriteFile(file, der, 0o600); err != nil {
		t.Fatal(err)
	}
	f := New(&pki.CRLCache{}, zerolog.Nop())
	for uri, want := range map[string]string{
		server.URL + "/ca.crl": "", "file://" + file: "", server.URL + "/none": "404", "file:///none": "no such file", "file://" + t.TempDir(): "is a directory",
	} {
		crl, err := f.get(t.Context(), uri)
		if want == "" && (err != nil || crl == nil) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", uri, err, want)
		}
	}
	for len(asked) > 0 {
		<-asked
	}
	f.Set([]string{server.URL + "/ca.crl", server.URL + "/none"})
	for range 2 {
		<-asked
	}
	f.Set([]string{server.URL + "/none"}) // ends the one, and does not begin the other anew
	if len(f.running) != 1 {
		t.Errorf("%d places are followed, expected one", len(f.running))
	}
	if err := f.Close(); err != nil || len(f.running) != 0 || len(asked) != 0 {
		t.Errorf("closed: %v, %d running, %d asked", err, len(f.running), len(asked))
	}
}

func TestPause(t *testing.T) {
	for next, want := range map[time.Duration]time.Duration{time.Hour: time.Hour, -time.Hour: soonest, time.Second: soonest, 90 * time.Hour: latest} {
		crl, err := pki.ParseCRL(list(t, start.Add(next)), "")
		if err != nil {
			t.Fatal(err)
		}
		if got := Pause(crl, start); got != want {
			t.Errorf("next update after %s: got %s, want %s", next, got, want)
		}
	}
}

func TestCheckURI(t *testing.T) {
	for _, good := range []string{"http://crl.example.com/a.crl", "https://x", "file:///a/b"} {
		if err := CheckURI(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "ca.crl", "ldap://x/y", "http://", "file://x/y", "%zz", "[ \"http://x\" ]"} {
		if CheckURI(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
