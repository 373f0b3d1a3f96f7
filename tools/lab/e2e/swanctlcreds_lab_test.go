//go:build lab

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// oddConf says what others say in other words: references, sections that inherit, lists in quotes, units, ranges, wildcards, and options of IKEv1.
const oddConf = `base {
  version = 2
  local {
    auth = PSK
    id = "@#0102"
  }
  remote
  {
    auth = psk
  }
}
spare-child {
  life_time = 1000s
  life_bytes = 500m
  life_packets = 1000
}
connections {
  odd : base {
    remote_addrs = %any6, 192.0.2.0/24
    proposals = "aes128-sha256-modp1536, aes256-sha1-modp1024,"
    unique = replace
    dpd_delay = 1 m # every minute
    dpd_timeout = 150s
    reauth_time = 1d
    over_time = 10m
    dscp = 101110
    mobike = false
    remote {
      auth = psk
      id = "C=CH, O=Espalier, CN=*"
    }
    children {
      lists : spare-child {
        local_ts = dynamic, 10.1.0.1-10.1.0.9
        remote_ts = 10.2.0.0/16,::/0,
        start_action = trap
        close_action = restart
        dpd_action = restart
        ipcomp = 1
        inactivity = 5m
      }
      for-ever {
        life_time = 0
        mode = transport
        mark_in = 0x10/0xff
        mark_out = %unique
      }
    }
  }
}
`

// TestSwanctlCredentials has Debian's swanctl load raw public keys, a CRL, a group too small for today and a configuration that is written in other ways
// than usual: charon lists the same of it, a tunnel with raw keys comes up from either side, and nobody with a revoked certificate gets in.
func TestSwanctlCredentials(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	ca := l.pki.ca(t, topo.ECDSA)
	revoked := l.pki.end(t, topo.ECDSA, topo.ECDSA, l.theirs.Name+"-revoked")
	crl, err := ca.CRL(revoked)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := l.credsConf(t, l.ours, l.theirs, nil), l.credsConf(t, l.theirs, l.ours, revoked)
	ours.beside["x509crl/ca.crl"] = crl
	theirs.beside["conf.d/odd.conf"], ours.beside["conf.d/odd.conf"] = []byte(oddConf), []byte(oddConf)
	if err := l.swan.Configure(theirs.conf, theirs.beside); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.configure(t, files{"connections { }\n", nil})
	dir := filepath.Join(t.TempDir(), "swanctl")
	if err := topo.WriteFiles(dir, "swanctl.conf", ours.conf, ours.beside); err != nil {
		t.Fatal(err)
	}
	esp := &swanctlRun{l: l, run: func(argv ...string) (string, error) {
		return l.esp.Command(t.Context(), append([]string{"env", "SWANCTL_DIR=" + dir}, argv...)...)
	}}
	esp.expect(t, "--load-all --noprompt", "(?s)successfully loaded 3 connections, 0 unloaded.*exit 0")
	esp.expect(t, "--list-certs", "(?s)List of Raw Public Keys.*-raw.*List of X.509 CRLs.*1 revoked")
	want, err := l.swan.Swanctl(t.Context(), "--list-conns", "--raw")
	if err != nil {
		t.Fatal(err)
	}
	odd := regexp.MustCompile(`(?m)^list-conn event \{odd .*$`)
	if got, want := odd.FindString(esp.quietly(t, "--list-conns --raw")[0].text), odd.FindString(want); want == "" || comparable("--list-conns", got) != comparable("--list-conns", want) {
		t.Errorf("list-conns:\n%s\nwant, from charon:\n%s", got, want)
	}
	esp.expect(t, "--initiate --timeout 30 --child raw", "initiate completed successfully\nexit 0")
	esp.expect(t, "--terminate --timeout 30 --ike raw", "terminate completed successfully\nexit 0")
	if err := l.swan.Initiate(t.Context(), "raw"); err != nil {
		t.Errorf("raw keys, begun by charon: %v", err)
	}
	esp.expect(t, "--list-sas --raw --ike raw", "raw .*state=ESTABLISHED.*dh-group=MODP_1024")
	esp.expect(t, "--terminate --timeout 30 --ike raw", "terminate completed successfully\nexit 0")
	esp.expect(t, "--initiate --timeout 30 --child cert", "(?s)revoked.*exit [1-9]")
	if err := l.swan.Initiate(t.Context(), "cert"); err == nil {
		t.Error("a peer with a revoked certificate got in")
	}
	if t.Failed() {
		t.Logf("log of espalierd:\n%s", l.log())
	}
}

// credsConf is an /etc/swanctl with a tunnel by raw public keys and one by certificates; peers know this end by end, or by one of its own.
func (l *lab) credsConf(t *testing.T, self, peer *topo.Host, end *topo.Cert) files {
	t.Helper()
	own, other := l.pki.end(t, topo.ECDSA, topo.ECDSA, self.Name+"-raw"), l.pki.end(t, topo.ECDSA, topo.ECDSA, peer.Name+"-raw")
	name := self.Name + "-revoked"
	if end == nil {
		name = self.Name + "-good"
		end = l.pki.end(t, topo.ECDSA, topo.ECDSA, name)
	}
	net := map[bool]int{true: 84, false: 85}
	var b strings.Builder
	fmt.Fprintf(&b, "include conf.d/*.conf\nconnections {\n")
	for i, c := range []struct{ name, local, remote, proposals string }{
		{"raw", "pubkeys = own.pub\n    id = " + self.Name + "-raw.example", "pubkeys = other.pub\n    id = " + peer.Name + "-raw.example", "aes256-sha256-modp1024"},
		{"cert", "certs = end.pem\n    id = " + name + ".example", "cacerts = ca.pem", "aes256-sha256-x25519"},
	} {
		fmt.Fprintf(&b, `  %s {
    version = 2
    local_addrs = %s
    remote_addrs = %s
    proposals = %s
    local {
    %s
    }
    remote {
    %s
    }
    children {
      %s {
        local_ts = 10.%d.%d.0/24
        remote_ts = 10.%d.%d.0/24
      }
    }
  }
`, c.name, self.Outer(topo.IPv4), peer.Outer(topo.IPv4), c.proposals, c.local, c.remote, c.name, net[self.Name < peer.Name], i, net[self.Name > peer.Name], i)
	}
	b.WriteString("}\n")
	return files{b.String(), map[string][]byte{
		"pubkey/own.pub": own.Public(), "pubkey/other.pub": other.Public(), "private/raw.pem": own.Key,
		"x509/end.pem": end.Cert, "private/end.pem": end.Key, "x509ca/ca.pem": l.pki.ca(t, topo.ECDSA).Cert,
	}}
}
