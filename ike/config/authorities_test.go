package config

import "testing"

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
