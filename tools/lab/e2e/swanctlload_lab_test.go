//go:build lab

package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// said is what one call of swanctl printed, and how it ended.
type said struct{ call, text string }

// swanctlRun is swanctl against one daemon, with the folder that it loads from.
type swanctlRun struct {
	l         *lab
	run       func(argv ...string) (string, error)
	uri       string // further arguments
	configure func(conf string, files map[string][]byte) error
	said      []said
}

// swanctl makes calls, one a line, and keeps what they say to be compared.
func (s *swanctlRun) swanctl(t *testing.T, calls string) {
	t.Helper()
	s.said = append(s.said, s.quietly(t, calls)...)
}

// quietly makes calls whose words are not compared. All are made by one shell: in an emulated machine each process takes its time.
func (s *swanctlRun) quietly(t *testing.T, calls string) []said {
	t.Helper()
	var script strings.Builder
	var out []said
	for call := range strings.Lines(calls) {
		call = strings.TrimSpace(call)
		fmt.Fprintf(&script, "swanctl %s %s 2>&1; echo \"exit $?\"; echo '%s'\n", call, s.uri, endOfCall)
		out = append(out, said{call: call})
	}
	text, err := s.run("sh", "-c", script.String())
	if err != nil {
		t.Fatalf("swanctl %q: %v", calls, err)
	}
	for i, part := range strings.SplitN(text, endOfCall, len(out)) {
		out[i].text = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(part), endOfCall))
	}
	return out
}

const endOfCall = "-- end of call --"

// expect makes one call, which has to say something, at last.
func (s *swanctlRun) expect(t *testing.T, call, what string) {
	t.Helper()
	pattern := regexp.MustCompile(what)
	s.l.eventually(t, fmt.Sprintf("%q of swanctl %s", what, call), func() error {
		if text := s.quietly(t, call)[0].text; !pattern.MatchString(text) {
			return fmt.Errorf("%s", text)
		}
		return nil
	})
}

// TestSwanctlLoads has Debian's swanctl load a plain /etc/swanctl into charon and into espalierd, change it, and drive what it loaded: tunnels with a
// shared key, with ECDSA and with RSA certificates. Both times it prints the same.
func TestSwanctlLoads(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	ours, theirs := l.loadedConf(t, l.ours, l.theirs, true), l.loadedConf(t, l.theirs, l.ours, false)
	if err := l.swan.Configure(theirs.conf, theirs.beside); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	charon, err := l.ours.StartStrongSwan(t.Context(), topo.StrongSwanConfig{Conf: ours.conf, Files: ours.beside})
	if err != nil {
		t.Fatal(err)
	}
	first := &swanctlRun{l: l, configure: charon.Configure, uri: "--uri " + charon.URI, run: func(argv ...string) (string, error) {
		return l.ours.Run(t.Context(), append([]string{"env", "SWANCTL_DIR=" + charon.Dir}, argv...)...)
	}}
	first.script(t, ours)
	if err := charon.Stop(); err != nil {
		t.Error(err)
	}
	l.expectNothing(t, l.ours, "after charon's stop")

	l.configure(t, files{"connections { }\n", nil})
	second := &swanctlRun{l: l, configure: charon.Configure, run: func(argv ...string) (string, error) {
		return l.esp.Command(t.Context(), append([]string{"env", "SWANCTL_DIR=" + charon.Dir}, argv...)...)
	}}
	second.script(t, ours)
	for i := range min(len(first.said), len(second.said)) {
		w, g := first.said[i], second.said[i]
		command, _, _ := strings.Cut(w.call, " ")
		if want, got := comparable(command, w.text), comparable(command, g.text); want != got {
			t.Errorf("%d. swanctl %s:\n%s\nwant, from charon:\n%s", i, w.call, got, want)
		}
	}
	l.noSecret(t)
	if t.Failed() {
		t.Logf("log of espalierd:\n%s", l.log())
	}
}

// script is what an operator does, from the first load to the last tunnel's end.
func (s *swanctlRun) script(t *testing.T, conf files) {
	t.Helper()
	load := func(conf string, files map[string][]byte) {
		t.Helper()
		if err := s.configure(conf, files); err != nil {
			t.Fatal(err)
		}
	}
	load(conf.conf, conf.beside)
	s.swanctl(t, `--load-all --noprompt
		--load-conns --raw
		--list-conns --raw
		--list-pools
		--list-authorities --raw`)
	log, err := s.l.ours.Start(nil, strings.Fields("stdbuf -oL swanctl --log "+s.uri)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range []string{"net", "ec", "rsa"} {
		s.expect(t, "--initiate --timeout 30 --child "+child, "initiate completed successfully\nexit 0")
	}
	followed := regexp.MustCompile(`(?m)^\d\d\[IKE\] .*\brsa\b.* established|^\d\d\[IKE\] .* established.*\brsa\b`)
	s.l.eventually(t, "words about the last tunnel from swanctl --log", func() error {
		if !followed.MatchString(log.Log()) {
			return fmt.Errorf("%s", log.Log())
		}
		return nil
	})
	log.Kill()
	s.swanctl(t, `--list-sas --pretty
		--list-certs --raw`)

	// A connection less, a child changed: what is up stays up.
	_, less, _ := strings.Cut(conf.conf, "# more\n")
	changed := strings.Replace(less, "rekey_time = 50m", "rekey_time = 40m", 1)
	load(changed, nil)
	s.swanctl(t, `--load-conns
		--list-conns --raw
		--list-pols
		--list-sas --raw`)
	// What nobody can mean: the other connections are loaded, and that one stays as it was.
	load(strings.Replace(changed, "dpd_delay = 60s", "dpd_delay = soon", 1), nil)
	s.expect(t, "--load-conns", "(?s)loading connection 'peer' failed: .*dpd_delay.*loaded 2 of 3 connections, 1 failed to load, 0 unloaded\n.*exit 22")
	s.swanctl(t, `--list-conns --raw
		--rekey --child net
		--install --child spare
		--list-pols --raw
		--uninstall --child spare
		--uninstall --child spare
		--install --child nobody
		--install --child past
		--list-pols
		--uninstall --child past
		--list-pols
		--flush-certs
		--list-certs --raw
		--reload-settings
		--redirect --ike nobody --gateway 192.0.2.9
		--terminate --ike nobody
		--rekey --ike nobody`)
	s.expect(t, "--list-sas --raw --ike peer", `net-([5-9]|\d\d+) \{name=net uniqueid=\d+ reqid=2 state=INSTALLED`)
	s.expect(t, "--terminate --timeout 30 --ike peer", "terminate completed successfully\nexit 0")

	// Whoever loads less unloads the rest. Sessions stay.
	load("connections { }\n", nil)
	s.swanctl(t, `--load-conns
		--load-pools
		--load-authorities
		--list-conns --raw
		--list-pools
		--list-sas --raw`)
	s.expect(t, "--terminate --timeout 30 --ike ec", "terminate completed successfully\nexit 0")
	s.expect(t, "--terminate --timeout 30 --ike rsa", "terminate completed successfully\nexit 0")
}

// loadedConf is an /etc/swanctl with tunnels by a shared key, by ECDSA and by RSA. What stands before "# more" is taken away later.
func (l *lab) loadedConf(t *testing.T, self, peer *topo.Host, more bool) files {
	t.Helper()
	certs := map[string][]byte{"x509ca/ca.pem": l.pki.ca(t, topo.ECDSA).Cert}
	var b strings.Builder
	if more {
		b.WriteString(`connections {
  extra {
    version = 2
    remote_addrs = 203.0.113.7
    local { auth = psk }
    remote { auth = psk }
    children {
      trapped {
        local_ts = 10.70.0.0/24
        remote_ts = 10.71.0.0/24
        start_action = trap
      }
    }
  }
}
# more
`)
	}
	common := func(name string) string {
		return fmt.Sprintf("  %s {\n    version = 2\n    local_addrs = %s\n    remote_addrs = %s\n    proposals = aes256-sha256-x25519\n", name, self.Outer(topo.IPv4), peer.Outer(topo.IPv4))
	}
	fmt.Fprintf(&b, `connections {
%s    dpd_delay = 60s
    local {
      auth = psk
      id = %s.example
    }
    remote {
      auth = psk
      id = %s.example
    }
    children {
      net {
        esp_proposals = aes256gcm16-x25519
        local_ts = %s
        remote_ts = %s
        rekey_time = 50m
      }
      spare {
        local_ts = 10.72.0.0/24
        remote_ts = 10.73.0.0/24
      }
      past {
        mode = pass
        local_ts = 10.74.0.0/24
        remote_ts = 10.75.0.0/24
      }
    }
  }
`, common("peer"), self.Name, peer.Name, self.Subnet(topo.IPv4), peer.Subnet(topo.IPv4))
	for i, kind := range []topo.KeyKind{topo.ECDSA, topo.RSA} {
		name := []string{"ec", "rsa"}[i]
		end := l.pki.end(t, topo.ECDSA, kind, self.Name+"-"+name)
		certs["x509/"+name+".pem"], certs[filepath.Join([]string{"ecdsa", "private"}[i], name+".pem")] = end.Cert, end.Key
		ts := map[string]int{self.Name: 80, peer.Name: 81}
		if self.Name > peer.Name {
			ts = map[string]int{self.Name: 81, peer.Name: 80}
		}
		pools := "" // who has one gives a tunnel only to those that ask for an address
		if more {
			pools = "    pools = road\n"
		}
		fmt.Fprintf(&b, `%s    local {
      auth = pubkey
      certs = %s.pem
      id = %s-%s.example
    }
    remote {
      auth = pubkey
      id = %s-%s.example
      cacerts = ca.pem
    }
    children {
      %s {
        esp_proposals = aes256gcm16
        local_ts = 10.%d.%d.0/24
        remote_ts = 10.%d.%d.0/24
      }
    }
  }
`, common(name)+pools, name, self.Name, name, peer.Name, name, name, ts[self.Name], i, ts[peer.Name], i)
	}
	fmt.Fprintf(&b, `}
pools {
  road {
    addrs = 10.66.0.0/24
    dns = 10.66.0.1, 10.66.0.2
  }
}
authorities { lab { cacert = ca.pem } }
secrets {
  ike-1 {
    secret = %q
    id-1 = %s.example
    id-2 = %s.example
  }
}
`, secret, self.Name, peer.Name)
	return files{b.String(), maps.Clone(certs)}
}
