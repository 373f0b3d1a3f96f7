//go:build lab

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// swanctlListings are the commands of swanctl that only read.
var swanctlListings = [][]string{
	{"--list-conns"}, {"--list-sas"}, {"--list-certs"}, {"--list-pols"}, {"--list-pools", "--leases"}, {"--list-authorities"},
	{"--list-algs"}, {"--counters"}, {"--counters", "--all"}, {"--stats"}, {"--version", "--daemon"},
}

// TestSwanctlListings asks charon and espalierd the same with Debian's swanctl, both with one configuration, in one place, with one peer, and compares
// what it prints: names and their order are equal, and values, too, but for those that cannot be.
func TestSwanctlListings(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	_, theirs := l.sides(psk, proposals{ike: "aes256-sha256-x25519", esp: "aes256gcm16-x25519"}, shape{outer: topo.IPv4, inner: topo.IPv4})
	if err := l.swan.Configure(theirs.conf(), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	end := l.pki.end(t, topo.ECDSA, topo.ECDSA, l.ours.Name)
	conf := files{swanctlConf(l), map[string][]byte{"x509/end.pem": end.Cert, "private/end.pem": end.Key, "x509ca/ca.pem": l.pki.ca(t, topo.ECDSA).Cert}}

	charon, err := l.ours.StartStrongSwan(t.Context(), topo.StrongSwanConfig{Conf: conf.conf, Files: conf.beside})
	if err != nil {
		t.Fatal(err)
	}
	if err := charon.Initiate(t.Context(), "net"); err != nil {
		t.Fatal(err)
	}
	want := swanctlOutputs(t, &swanctlRun{l: l, uri: "--uri " + charon.URI, run: func(argv ...string) (string, error) { return l.ours.Run(t.Context(), argv...) }})
	if err := charon.Terminate(t.Context(), "peer"); err != nil {
		t.Error(err)
	}
	if err := charon.Stop(); err != nil {
		t.Error(err)
	}

	l.configure(t, conf)
	// Without --uri: espalierd listens where swanctl looks.
	swanctl := &swanctlRun{l: l, run: func(argv ...string) (string, error) { return l.esp.Command(t.Context(), argv...) }}
	swanctl.expect(t, "--initiate --child net --timeout 30", "exit 0")
	got := swanctlOutputs(t, swanctl)
	for i, args := range swanctlListings {
		for form, name := range []string{"plain", "--raw", "--pretty"} {
			if w, g := comparable(args[0], want[i][form]), comparable(args[0], got[i][form]); w != g || w == "" {
				t.Errorf("swanctl %q, %s:\n%s\nwant, from charon:\n%s", args, name, g, w)
			}
		}
	}
	for _, r := range swanctl.quietly(t, "--counters --reset\n--reload-settings\n--terminate --ike peer --timeout 30") {
		if !strings.HasSuffix(r.text, "exit 0") {
			t.Errorf("swanctl %s:\n%s", r.call, r.text)
		}
	}
	if t.Failed() {
		t.Logf("log of espalierd:\n%s", l.log())
	}
}

// swanctlOutputs are what each listing prints: plain, raw and pretty.
func swanctlOutputs(t *testing.T, swanctl *swanctlRun) [][3]string {
	t.Helper()
	var calls strings.Builder
	for _, args := range swanctlListings {
		for _, form := range []string{"", " --raw", " --pretty"} {
			fmt.Fprintln(&calls, strings.Join(args, " ")+form)
		}
	}
	out := make([][3]string, len(swanctlListings))
	for i, r := range swanctl.quietly(t, calls.String()) {
		text, ok := strings.CutSuffix(r.text, "exit 0")
		if !ok {
			t.Errorf("swanctl %s:\n%s", r.call, r.text)
		}
		out[i/3][i%3] = text
	}
	return out
}

// What differs from run to run: SPIs, times, and what a daemon says of itself.
var swanctlVarying = []struct {
	in   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\b[0-9a-f]{16}(_[ir])`), "SPI$1"},
	{regexp.MustCompile(`(-spi ?= ?)[0-9a-f]{16}`), "${1}SPI"},
	{regexp.MustCompile(`(spi-(in|out) ?= ?)[0-9a-f]{8}`), "${1}SPI"},
	{regexp.MustCompile(`\b((in|out) +)[0-9a-f]{8},`), "${1}SPI,"},
	{regexp.MustCompile(`((established|rekey-time|life-time|install-time) ?= ?)\d+`), "${1}TIME"},
	{regexp.MustCompile(`(established |installed |rekeying in |expires in )\d+s`), "${1}TIME"},
	{regexp.MustCompile(`(running ?= ?|since ?= ?|uptime: )[^}\n]*?( since|}|$)`), "${1}TIME$2"},
	{regexp.MustCompile(`since[ =]+[A-Z][a-z]{2} [0-9: ]+`), "since TIME"},
	{regexp.MustCompile(`\d+ (seconds?|minutes?)`), "TIME"},
	{regexp.MustCompile(`(daemon ?= ?)\S+`), "${1}DAEMON"},
	{regexp.MustCompile(`(version ?= ?)[^=\n]+( sysname|\n)`), "${1}VERSION$2"},
	{regexp.MustCompile(`strongSwan .* \(`), "VERSION ("},
}

// swanctlNumbers are the figures of a daemon's inside, swanctlAlgorithms what it is made of.
var swanctlNumbers, swanctlAlgorithms = regexp.MustCompile(`\d+`), regexp.MustCompile(`[A-Z0-9_]+ ?[=\[] ?[a-z0-9]+\]?`)

// defaultProposals are those that a listing of a later release than 6.0 has where the configuration names none: each daemon has its own. They are known by the
// second one, or in what is indented by lists of several lines.
var defaultProposals = regexp.MustCompile(`proposals \{0 \{[^{}]*\} 1 \{[^{}]*\}\}|proposals \{\s+0 \{[^{}]*\}\s+1 \{[^{}]*\}\s+\}`)

// comparable is a listing without what may differ. Of the algorithms and the statistics the names of the parts are left, and their order.
func comparable(command, text string) string {
	for _, v := range swanctlVarying {
		text = v.in.ReplaceAllString(text, v.with)
	}
	switch command {
	case "--list-conns":
		text = defaultProposals.ReplaceAllString(text, "proposals {DEFAULT}")
	case "--list-algs":
		text = strings.Join(strings.Fields(swanctlAlgorithms.ReplaceAllString(text, "")), "")
	case "--stats":
		text = swanctlNumbers.ReplaceAllString(text, "N")
		text = regexp.MustCompile(`(?s)(plugins ?[=:] ?)(\[[^\]]*\]|[^\n]*)`).ReplaceAllString(text, "$1")
	}
	return strings.TrimSpace(text)
}

// swanctlConf has what swanctl lists, in words that both daemons understand.
func swanctlConf(l *lab) string {
	return fmt.Sprintf(`connections {
  peer {
    version = 2
    local_addrs = %s
    remote_addrs = %s
    proposals = aes256-sha256-x25519
    dpd_delay = 60s
    unique = replace
    local {
      auth = psk
      id = gw1.example
    }
    remote {
      auth = psk
      id = gw2.example
    }
    children {
      net {
        esp_proposals = aes256gcm16-x25519
        local_ts = %s
        remote_ts = %s
        dpd_action = restart
      }
      trapped {
        esp_proposals = aes256gcm16
        local_ts = 10.77.0.0/24, 10.78.0.1/32
        remote_ts = 10.79.0.3-10.79.0.9
        start_action = trap
        close_action = trap
        rekey_bytes = 1000000
        rekey_packets = 50000
      }
    }
  }
  certs {
    version = 2
    remote_addrs = 203.0.113.0/24, 198.51.100.7-198.51.100.9
    reauth_time = 3h
    pools = p4, p6
    local {
      auth = pubkey
      certs = end.pem
      id = gw1.example
    }
    remote {
      auth = pubkey
      id = *.example
      cacerts = ca.pem
    }
    children { dyn { mode = transport } }
  }
  shunts {
    version = 2
    remote_addrs = 127.0.0.1
    children {
      passed {
        mode = pass
        local_ts = 10.88.0.0/16
        remote_ts = 10.89.0.0/16
        start_action = trap
      }
      dropped {
        mode = drop
        local_ts = 10.90.0.0/16
        remote_ts = 10.91.0.0/16
        start_action = trap
      }
    }
  }
}
pools {
  p4 {
    addrs = 10.66.0.0/24
    dns = 10.66.0.1
  }
  p6 { addrs = fd66::/112 }
}
authorities { lab { cacert = ca.pem } }
secrets {
  ike-1 {
    secret = %q
    id = gw2.example
  }
}
`, l.ours.Outer(topo.IPv4), l.theirs.Outer(topo.IPv4), l.ours.Subnet(topo.IPv4), l.theirs.Subnet(topo.IPv4), secret)
}
