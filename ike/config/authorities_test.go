package config

import (
	"slices"
	"testing"

	"espalier/ike/pki"
)

func TestAuthoritiesKeepTheirNames(t *testing.T) {
	cfg := mustLoad(t, "authorities {\n lab { cacert = ca.pem }\n again { cacert = ca.pem }\n}\n")
	if len(cfg.Authorities) != 2 || cfg.Authorities[0].Name != "lab" || cfg.Authorities[1].Name != "again" || !cfg.Authorities[1].CACert.IsCA {
		t.Errorf("got %+v", cfg.Authorities)
	}
	if !cfg.Settings.SwanctlOn {
		t.Error("swanctl_socket: expected yes where nothing is said")
	}
	off := mustLoad(t, "espalier { swanctl_socket = no }\n")
	if off.Settings.SwanctlOn || len(Diff(cfg, off).Settings) != 1 {
		t.Errorf("swanctl_socket = no: %v, difference %v", off.Settings.SwanctlOn, Diff(cfg, off).Settings)
	}
}

// What is fetched from an authority's crl_uris counts, in what the file says as well as
// in what clients load beside it.
func TestFetchedCRLs(t *testing.T) {
	p := makePKI()
	cache := &pki.CRLCache{}
	world := box("connections { }\nauthorities { a { cacert = ca.pem\n crl_uris = http://x/ca.crl, file:///ca.crl\n }\nb { cacert = ca.pem\n crl_uris = http://x/ca.crl\n } }\n")
	cfg, err := loadWith(world, confPath, Options{CRLs: cache})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.CRLURIs(); !slices.Equal(got, []string{"file:///ca.crl", "http://x/ca.crl"}) {
		t.Errorf("to be fetched: got %q", got)
	}
	crl, err := pki.ParseCRL([]byte(p.crl), "")
	if err != nil {
		t.Fatal(err)
	}
	cache.Put("http://x/ca.crl", crl)
	var none *Loaded
	l, err := none.WithRawKey([]byte(p.gwPub))
	if err != nil {
		t.Fatal(err)
	}
	joined, err := Join(cfg, l, nil)
	if err != nil || len(cfg.Credentials.CRLs()) != 1 || len(joined.Credentials.CRLs()) != 1 {
		t.Errorf("what was fetched does not count: %v", err)
	}
}
