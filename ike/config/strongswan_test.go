package config

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

const strongSwanText = `
charon {
    retransmit_timeout = 2.5
    retransmit_tries = 3
    retransmit_base = 1.5
    retransmit_limit = 30
    port = 1500
    port_nat_t = 14500
    install_routes = no
    install_virtual_ip = no
    half_open_timeout = 20
    fragment_size = 1400
    interfaces_use = eth0, eth1
    keep_alive = 0s
    send_vendor_id = yes
    threads = 8
    init_limit_half_open = 0
    block_threshold = 7
    prefer_configured_proposals = no
    cookie_threshold = 0
    group = vpn
    ikesa_table_size = 256
    plugins {
        include strongswan.d/*.conf
        attr { dns = 10.1.0.53 }
    }
    filelog {
        main : levels { path = /var/log/charon.log
            ike = 2 }
        stderr { knl = 3 }
    }
    syslog { identifier = vpn
        daemon { default = 0
            net = -1 } }
}
levels { cfg = 2 }
charon { ikesa_table_segments = 4 }
charon-systemd { port = 2500
    journal { default = -1 } }
swanctl { load = pem }
# A later one counts.
charon { retransmit_tries = 4 }
`

// worldWith is a configuration beside a strongswan.conf.
func worldWith(conf, strongSwan string) memFS {
	return memFS{}.with(map[string]memFile{
		"espalier.conf": {data: conf}, "/etc/strongswan.conf": {data: strongSwan},
		"/etc/strongswan.d/vici.conf": {data: "vici { load = yes\n socket = unix:///x }\n"}, "/etc/strongswan.d/aes.conf": {data: "aes { load = yes }\n"},
	})
}

// TestStrongSwan reads what matters, names what does not, and lets section espalier
// have the last word.
func TestStrongSwan(t *testing.T) {
	o := Options{StrongSwan: DefaultStrongSwan}
	cfg, err := loadWith(worldWith("espalier { fragment_size = 1300 }\n", strongSwanText), confPath, o)
	if err != nil {
		t.Fatal(err)
	}
	s := cfg.Settings
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"retransmit_timeout", s.SA.RetransmitTimeout, 2500 * time.Millisecond},
		{"retransmit_tries", s.SA.RetransmitTries, 4},
		{"retransmit_base", s.SA.RetransmitBase, 1.5},
		{"retransmit_limit", s.SA.RetransmitLimit, 30 * time.Second},
		{"port of charon-systemd", s.SA.Port, uint16(2500)},
		{"port_nat_t", s.SA.NATTPort, uint16(14500)},
		{"install_routes", s.SA.InstallRoutes, false},
		{"install_virtual_ip", s.VirtualIP, false},
		{"half_open_timeout", s.SA.HalfOpenTimeout, 20 * time.Second},
		{"fragment_size of espalier", s.SA.FragmentSize, 1300},
		{"interfaces_use", strings.Join(s.Interfaces, " "), "eth0 eth1"},
		{"keep_alive", s.SA.KeepAlive, time.Duration(0)},
		{"send_vendor_id", s.SA.SendVendorID, true},
		{"threads", cfg.StrongSwan.Threads, 8},
		{"init_limit_half_open", s.HalfOpenLimit, int(never)},
		{"block_threshold", s.HalfOpenPerPrefix, 7},
		{"cookie_threshold", s.CookieThreshold, int(never)},
		{"prefer_configured_proposals", s.SA.PreferPeerProposal, true},
		{"group", s.SocketGroup, "vpn"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %v, want %v", c.what, c.got, c.want)
		}
	}
	want := []string{"charon.filelog.main.path", "charon.ikesa_table_segments", "charon.ikesa_table_size", "charon.plugins.attr.dns",
		"charon.plugins.vici.socket", "charon.syslog.identifier"}
	if !slices.Equal(cfg.StrongSwan.Unused, want) {
		t.Errorf("unused: got %q, want %q", cfg.StrongSwan.Unused, want)
	}
	// Each logger says what it says; the most talkative counts.
	if want := map[string]int{"default": 1, "ike": 2, "knl": 3, "cfg": 2, "net": 1}; !maps.Equal(cfg.StrongSwan.Levels, want) {
		t.Errorf("levels: got %v, want %v", cfg.StrongSwan.Levels, want)
	}
	for _, key := range []string{"charon-systemd.port", "charon.threads", "charon-systemd.journal.default", "charon.filelog.main.cfg"} {
		if !slices.Contains(cfg.StrongSwan.Used, key) {
			t.Errorf("expected %s among what is used, got %q", key, cfg.StrongSwan.Used)
		}
	}
	if again, err := loadWith(worldWith("espalier { fragment_size = 1300 }\n", strongSwanText+"charon { keep_alive = 9 }\n"), confPath, o); err != nil ||
		!slices.Equal(Diff(cfg, again).Settings, []string{"keep_alive"}) {
		t.Errorf("a change is not seen: %v, %v", err, Diff(cfg, again).Settings)
	}
}

// TestStrongSwanValues shows values that mean something else here, or nothing.
func TestStrongSwanValues(t *testing.T) {
	for _, c := range []struct {
		line   string
		unused bool
		check  func(s *Settings) bool
	}{
		{"dos_protection = no", false, func(s *Settings) bool {
			return s.CookieThreshold == s.HalfOpenLimit && s.HalfOpenPerPrefix == int(never) && s.FastPath.InitRate == 0
		}},
		{"dos_protection = yes", false, func(s *Settings) bool { return s.CookieThreshold == 30 && s.FastPath.InitRate == 100 }},
		{"fragment_size = 0", false, func(s *Settings) bool { return s.SA.FragmentSize == 1280 }},
		{"port = 0", true, func(s *Settings) bool { return s.SA.Port == 500 }},
		{"retransmit_tries = many", true, func(s *Settings) bool { return s.SA.RetransmitTries == 5 }},
		{"keep_alive = 1m", false, func(s *Settings) bool { return s.SA.KeepAlive == time.Minute }},
		{"keep_alive =", false, func(s *Settings) bool { return s.SA.KeepAlive == 20*time.Second }},
		{"cookie_threshold = 100000", false, func(s *Settings) bool { return s.CookieThreshold == s.HalfOpenLimit }},
		{"retransmit_timeout = -1", true, func(s *Settings) bool { return s.SA.RetransmitTimeout == 4*time.Second }},
		{"threads = 0", true, func(*Settings) bool { return true }},
	} {
		cfg, err := loadWith(worldWith("", "charon { "+c.line+" }\n"), confPath, Options{StrongSwan: DefaultStrongSwan})
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		if (len(cfg.StrongSwan.Unused) > 0) != c.unused || !c.check(&cfg.Settings) {
			t.Errorf("%s: unused %q, settings %+v", c.line, cfg.StrongSwan.Unused, cfg.Settings)
		}
	}
}

// TestStrongSwanMissing shows that only a file that was named must be there and sound.
func TestStrongSwanMissing(t *testing.T) {
	for _, c := range []struct {
		text               string
		mistakes, warnings int
	}{{"", 0, 0}, {"charon { port = 1500\n", 1, 1}, {"charon : nobody { port = 1500 }\n", 1, 1}} {
		files := worldWith("", c.text)
		if c.text == "" {
			delete(files, DefaultStrongSwan)
			if _, err := loadWith(files, confPath, Options{StrongSwan: DefaultStrongSwan}); err == nil || !strings.Contains(err.Error(), "no such file") {
				t.Errorf("a named file that is not there: %v", err)
			}
		} else if _, err := loadWith(files, confPath, Options{StrongSwan: DefaultStrongSwan}); err == nil {
			t.Errorf("%q: no mistake", c.text)
		}
		cfg, err := loadWith(files, confPath, Options{StrongSwan: DefaultStrongSwan, Optional: true})
		if err != nil || len(cfg.Warnings) != c.warnings || cfg.Settings.SA.Port != 500 {
			t.Errorf("%q: got %v, %+v", c.text, err, cfg)
		}
	}
}
