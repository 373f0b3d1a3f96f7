//go:build lab

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// updownScript writes down what it is told, and has a table of its own for each child. An emulated machine takes long to start programs, so it starts few.
const updownScript = `#!/bin/sh
export -p > "$1/$PLUTO_CONNECTION $PLUTO_VERB"
case $PLUTO_VERB in
up-client) nft "add table inet $PLUTO_CONNECTION; add chain inet $PLUTO_CONNECTION in { type filter hook input priority 0; };
	add rule inet $PLUTO_CONNECTION in meta ipsec exists ip saddr $PLUTO_PEER iifname $PLUTO_INTERFACE counter accept" || exit 1 ;;
down-client) nft delete table inet "$PLUTO_CONNECTION" ;;
esac
echo "told $PLUTO_VERB"
echo "$PLUTO_CONNECTION $PLUTO_VERB" >> "$1/done"
`

// TestUpdown runs one script for the same tunnels first under charon, then under espalierd, and compares the environments, variable by variable. espalierd
// has firewall = yes, with a packet filter that lets nothing through and hides everything. Terminating a tunnel and a peer that is dead both have the script
// run, and rules go; at the end the filter is as it was.
func TestUpdown(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	dir := t.TempDir()
	script := filepath.Join(dir, "updown")
	if err := os.WriteFile(script, []byte(updownScript), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Configure(l.updownServer(), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"charon", "espalierd"} {
		if err := os.Mkdir(filepath.Join(dir, who), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	conf := func(who string) string { return l.updownClient(script + " " + filepath.Join(dir, who)) }

	charon, err := l.ours.StartStrongSwan(t.Context(), topo.StrongSwanConfig{Conf: conf("charon"), Options: []string{"plugins { updown { dns_handler = yes } }"}})
	if err != nil {
		t.Fatal(err)
	}
	socket := strings.TrimPrefix(charon.URI, "unix://")
	want := l.updownRuns(t, filepath.Join(dir, "charon"), func(ctx context.Context, command string, args ...string) error {
		return control(ctx, socket, command, args)
	})
	if err := charon.Stop(); err != nil {
		t.Error(err)
	}

	before := l.boxFilter(t)
	ours := filepath.Join(dir, "espalierd")
	l.configure(t, files{conf: conf("espalierd") + "espalier { firewall = yes }\n"})
	compareUpdown(t, want, l.updownRuns(t, ours, l.espalier))
	l.event(t, "updown script says", "line", "told up-client", "child", "net")
	if err := os.Remove(filepath.Join(ours, "done")); err != nil {
		t.Fatal(err)
	}
	l.ask(t, "initiate", "ike", "peer", "child", "net", "timeout", "30000")
	l.updownDone(t, ours, "net up-", 2)
	l.passesFilter(t)

	// A peer that is dead. The short wait is for that alone.
	if err := l.esp.Configure(conf("espalierd")+"espalier { firewall = yes\n retransmit_tries = 0\n retransmit_timeout = 1s }\n", nil); err != nil {
		t.Fatal(err)
	}
	l.reload(t)
	l.swan.Kill()
	l.updownDone(t, ours, "net down-", 2)
	l.updownTables(t, "")
	if err := l.esp.Stop(); err != nil {
		t.Fatal(err)
	}
	if after := l.rules(t); after != before {
		t.Errorf("packet filter after the stop:\n%s\nbefore:\n%s", after, before)
	}
	if t.Failed() {
		t.Logf("log of espalierd:\n%s", l.esp.Log())
	}
}

// boxFilter is a gateway's own packet filter: it forwards nothing, and hides what leaves behind its address.
const boxFilter = `table inet box {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
		ip saddr 10.0.0.0/8 iifname out0 drop
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname out0 masquerade
	}
}
`

// rules are what nftables has in our gateway.
func (l *lab) rules(t *testing.T) string {
	t.Helper()
	out, err := l.ours.Run(t.Context(), "nft", "list", "ruleset")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// boxFilter gives our gateway a filter of its own, returns its rules, and adds what a crash of ours could have left.
func (l *lab) boxFilter(t *testing.T) string {
	t.Helper()
	if _, err := l.ours.RunInput(t.Context(), boxFilter, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	before := l.rules(t)
	if _, err := l.ours.Run(t.Context(), "nft", "insert rule inet box forward accept comment \"espalier:99\""); err != nil {
		t.Fatal(err)
	}
	return before
}

// passesFilter pushes packets through the tunnel both ways, between networks and to the gateway itself. A masqueraded one would leave in clear.
func (l *lab) passesFilter(t *testing.T) {
	t.Helper()
	if err := l.wire.Reset(); err != nil {
		t.Fatal(err)
	}
	a, b := l.client(l.ours), l.client(l.theirs)
	for _, p := range []struct {
		from *topo.Host
		to   netip.Addr
	}{{a, b.Inner(topo.IPv4)}, {a, b.Inner(topo.IPv6)}, {b, a.Inner(topo.IPv4)}, {b, l.ours.Inner(topo.IPv4)}} {
		if err := p.from.Ping(t.Context(), p.to, 1); err != nil {
			t.Errorf("%v\n%s", err, l.rules(t))
		}
	}
	if c := l.counts(t); c.Clear != 0 || c.ESP != 8 {
		t.Errorf("expected 8 packets of ESP and none in clear, got %+v\n%s", c, l.rules(t))
	}
}

// updownRuns brings three children up and down again and returns what the script was told, by child and verb.
func (l *lab) updownRuns(t *testing.T, dir string, ask func(ctx context.Context, command string, args ...string) error) map[string][]string {
	t.Helper()
	for _, c := range [][2]string{{"peer", "net"}, {"peer", "host"}, {"client", "roam"}} {
		if err := ask(t.Context(), "initiate", "ike", c[0], "child", c[1], "timeout", "30000"); err != nil {
			t.Fatal(err)
		}
		// One after the other: they are given numbers.
		l.updownDone(t, dir, c[1]+" up-", map[string]int{"net": 2, "host": 1, "roam": 1}[c[1]])
	}
	l.updownTables(t, "net roam")
	// What a rekeying replaces is not told.
	if err := ask(t.Context(), "rekey", "child", "net"); err != nil {
		t.Error(err)
	}
	for _, ike := range []string{"peer", "client"} {
		if err := ask(t.Context(), "terminate", "ike", ike, "timeout", "30000"); err != nil {
			t.Error(err)
		}
	}
	l.updownDone(t, dir, "net down-", 2)
	l.updownDone(t, dir, "host down-", 1)
	l.updownDone(t, dir, "roam down-", 1)
	l.updownTables(t, "")
	list, err := filepath.Glob(filepath.Join(dir, "* *"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, path := range list {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(b), "\n") {
			if v, ok := strings.CutPrefix(line, "export PLUTO_"); ok {
				out[filepath.Base(path)] = append(out[filepath.Base(path)], v)
			}
		}
		slices.Sort(out[filepath.Base(path)])
	}
	return out
}

// updownDone waits until the script has been run so many times for a kind.
func (l *lab) updownDone(t *testing.T, dir, kind string, count int) {
	t.Helper()
	l.eventually(t, fmt.Sprintf("%d runs of the script for %s", count, kind), func() error {
		b, err := os.ReadFile(filepath.Join(dir, "done"))
		if err != nil {
			return err
		}
		if n := strings.Count("\n"+string(b), "\n"+kind); n != count {
			return fmt.Errorf("%d: %q", n, b)
		}
		return nil
	})
}

// updownTables waits until the script's tables are these.
func (l *lab) updownTables(t *testing.T, want string) {
	t.Helper()
	l.eventually(t, fmt.Sprintf("tables %q", want), func() error {
		out, err := l.ours.Run(t.Context(), "nft", "list", "tables")
		if err != nil {
			return err
		}
		var names []string
		for _, line := range strings.Split(out, "\n") {
			if f := strings.Fields(line); len(f) == 3 && slices.Contains([]string{"net", "host", "roam"}, f[2]) {
				names = append(names, f[2])
			}
		}
		if slices.Sort(names); strings.Join(names, " ") != want {
			return errors.New(out)
		}
		return nil
	})
}

// compareUpdown compares the runs and their variables. All of them are equal.
func compareUpdown(t *testing.T, want, got map[string][]string) {
	t.Helper()
	if w, g := slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)); !slices.Equal(w, g) || len(w) != 8 {
		t.Errorf("runs under espalierd: %q, under charon: %q", g, w)
	}
	for run, w := range want {
		if g := got[run]; !slices.Equal(g, w) || len(g) < 15 {
			t.Errorf("%s: under espalierd:\n%s\nunder charon:\n%s", run, strings.Join(g, "\n"), strings.Join(w, "\n"))
		}
	}
}

// updownClient is our side: networks of both families, one port (protocols by number: the root has no names of them), and a client with virtual addresses behind a pretended NAT.
func (l *lab) updownClient(script string) string {
	text := ""
	for _, c := range []struct{ name, id, more, children string }{
		{"peer", "gw1.example", "", fmt.Sprintf(`net {
      local_ts = %s, %s
      remote_ts = %s, %s
      hostaccess = yes
      UPDOWN
    }
    host {
      mode = transport
      local_ts = dynamic[6]
      remote_ts = dynamic[6/8000]
      mark_out = 0x2a/0xff
      UPDOWN
    }`, l.ours.Subnet(topo.IPv4), l.ours.Subnet(topo.IPv6), l.theirs.Subnet(topo.IPv4), l.theirs.Subnet(topo.IPv6))},
		{"client", "C=CH, CN=carol of the lab", "encap = yes\n  vips = 0.0.0.0", fmt.Sprintf("roam {\n      remote_ts = %s\n      UPDOWN\n    }", l.theirs.Subnet(topo.IPv4))},
	} {
		text += fmt.Sprintf(`  %s {
  local_addrs = %s
  remote_addrs = %s
  proposals = aes256-sha256-x25519
  dpd_delay = 1s
  %s
  local {
    auth = psk
    id = %q
  }
  remote {
    auth = psk
    id = gw2.example
  }
  children {
    %s
  } }
`, c.name, l.ours.Outer(topo.IPv4), l.theirs.Outer(topo.IPv4), c.more, c.id, strings.ReplaceAll(c.children, "UPDOWN", "updown = "+script))
	}
	return "connections {\n" + text + fmt.Sprintf("}\nsecrets { ike-1 { secret = %q } }\n", secret)
}

// updownServer is the other side.
func (l *lab) updownServer() string {
	return fmt.Sprintf(`connections {
  peer {
    local { auth = psk
      id = gw2.example }
    remote { auth = psk
      id = gw1.example }
    children {
      net { local_ts = %s, %s
        remote_ts = %s, %s }
      host { mode = transport
        local_ts = dynamic[6/8000]
        remote_ts = dynamic[6] }
    }
  }
  client {
    pools = clients
    local { auth = psk
      id = gw2.example }
    remote { auth = psk
      id = "C=CH, CN=carol of the lab" }
    children { roam { local_ts = %s } }
  }
}
pools { clients { addrs = 10.3.0.0/24
  dns = 10.2.0.53 } }
secrets { ike-1 { secret = %q } }
`, l.theirs.Subnet(topo.IPv4), l.theirs.Subnet(topo.IPv6), l.ours.Subnet(topo.IPv4), l.ours.Subnet(topo.IPv6), l.theirs.Subnet(topo.IPv4), secret)
}
