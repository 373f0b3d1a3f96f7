//go:build lab

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// The virtual addresses that the first client of a pool gets.
var (
	vip4 = netip.MustParseAddr("10.3.0.1")
	vip6 = netip.MustParseAddr("2001:db8:3::1")
)

const pools = `pools {
  four {
    addrs = 10.3.0.0/24
    dns = 10.1.0.53
  }
  six { addrs = 2001:db8:3::/64 }
}
`

// TestVirtualIP: strongSwan gets addresses from our pools, we get some from its, and what was put on a box goes again.
func TestVirtualIP(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	t.Run("served", l.virtualServed)
	t.Run("everything", l.virtualEverything)
	t.Run("reauthenticated", l.virtualReauthenticated)
	t.Run("received", l.virtualReceived)
	t.Run("trapped", l.virtualTrapped)
}

// virtualTrapped: a packet with an address of the box's brings up the tunnel through which the next ones go with the virtual address, and after its end again.
func (l *lab) virtualTrapped(t *testing.T) {
	ours, theirs := l.sides(psk, suites[0], shapes[0])
	ours.child = "start_action = trap"
	client, server := l.virtualSides(ours, theirs)
	l.startWith(t, files{client, l.pki.files(t, ours)}, files{server, l.pki.files(t, theirs)})
	l.event(t, "trap installed", "child", "net")
	for _, f := range []topo.Family{topo.IPv4, topo.IPv6} {
		to := l.theirs.Inner(f)
		l.eventually(t, "answers through the tunnel", func() error { return trial(t, l.ours, to) })
		l.virtualPing(t, l.ours, l.client(l.theirs), false)
		if err := l.strongSwan(t.Context(), "terminate", "ike", "peer", "timeout", "30000"); err != nil {
			t.Fatal(err)
		}
		l.expectBox(t, false, true)
	}
	if c := l.counts(t); c.Clear != 0 {
		t.Errorf("expected no clear text, got %+v", c)
	}
	if err := l.esp.Stop(); err != nil {
		t.Fatal(err)
	}
}

// virtualSides are a client that asks for addresses of both families, and a server.
func (l *lab) virtualSides(client, server side) (clientConf, serverConf string) {
	nets := server.self.Subnet(topo.IPv4).String() + ", " + server.self.Subnet(topo.IPv6).String()
	client.localTS, client.remoteTS, server.localTS, server.remoteTS = "", nets, nets, ""
	server.more = pools
	line := func(text, line string) string {
		return strings.Replace(text, "  version = 2\n", "  version = 2\n  "+line+"\n", 1)
	}
	return line(client.conf(), "vips = 0.0.0.0, ::"), line(server.conf(), "pools = four, six")
}

// virtualPing pings into the other's network with the virtual addresses as source, and shows that the wire has ESP only.
func (l *lab) virtualPing(t *testing.T, from *topo.Host, to *topo.Host, chosen bool) {
	t.Helper()
	before := l.counts(t)
	for _, p := range []struct{ src, dst netip.Addr }{{vip4, to.Inner(topo.IPv4)}, {vip6, to.Inner(topo.IPv6)}} {
		ping := func(ctx context.Context, dst netip.Addr, n int) error { return from.PingFrom(ctx, p.src, dst, n) }
		if !chosen {
			ping = from.Ping
		}
		if err := ping(t.Context(), p.dst, 3); err != nil {
			t.Error(err)
		}
	}
	if after := l.counts(t); after.ESP-before.ESP != 12 || after.Clear != 0 {
		t.Errorf("expected 12 packets of ESP and nothing in clear, got %+v after %+v", after, before)
	}
}

func (l *lab) virtualServed(t *testing.T) {
	ours, theirs := l.sides(psk, suites[0], shapes[0])
	client, server := l.virtualSides(theirs, ours)
	l.startWith(t, files{server, l.pki.files(t, ours)}, files{client, l.pki.files(t, theirs)})
	l.mustInitiate(t, false)
	if e := l.event(t, "virtual addresses given to the peer"); fmt.Sprint(e["addresses"]) != fmt.Sprintf("[%s %s]", vip4, vip6) {
		t.Errorf("given: %v", e)
	}
	if log := l.swan.Log()[l.swanLog:]; !strings.Contains(log, "CPRP(ADDR ADDR6 DNS)") || !strings.Contains(log, "installing new virtual IP "+vip4.String()) {
		t.Error("strongSwan did not see address and DNS server")
	}
	l.virtualPing(t, l.theirs, l.client(l.ours), true)
	// A reauthentication is make-before-break: the new session asks for the address of the old one, which still has it.
	for _, how := range [][]string{{"ike", "peer"}, {"ike", "peer", "reauth", "yes"}} {
		if err := l.strongSwan(t.Context(), "rekey", how...); err != nil {
			t.Fatal(err)
		}
		want := "IKE SA rekeyed"
		if len(how) > 2 {
			want = "IKE SA closed"
		}
		l.event(t, want)
		l.virtualPing(t, l.theirs, l.client(l.ours), true)
	}
	for _, m := range l.lines(t) {
		if m["message"] == "virtual addresses given to the peer" && fmt.Sprint(m["addresses"]) != fmt.Sprintf("[%s %s]", vip4, vip6) {
			t.Errorf("after reauthentication: %v", m)
		}
	}
}

// box is what espalierd puts on our gateway: virtual addresses, its routing table, its rules.
func (l *lab) box(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, argv := range []string{"ip -br addr show out0", "ip route show table 220", "ip -6 route show table 220", "ip rule show priority 220", "ip -6 rule show priority 220"} {
		s, err := l.ours.Run(t.Context(), strings.Fields(argv)...)
		if err != nil && !strings.Contains(err.Error(), "does not exist") {
			t.Fatal(err)
		}
		out.WriteString(s)
	}
	return out.String()
}

// expectBox waits until the box has its virtual addresses and routes, or nothing of them.
func (l *lab) expectBox(t *testing.T, has bool, rules bool) {
	t.Helper()
	l.eventually(t, fmt.Sprintf("virtual addresses and routes: %v, rules: %v", has, rules), func() error {
		b := l.box(t)
		for _, s := range []string{vip4.String() + "/32", vip6.String() + "/128", "10.2.0.0/24 via 192.0.2.2 dev out0", "src " + vip4.String(), "2001:db8:2::/64 dev out0"} {
			if strings.Contains(b, s) != has {
				return errors.New(b)
			}
		}
		if strings.Contains(b, "220:") != rules {
			return errors.New(b)
		}
		return nil
	})
}

// virtualEverything: all that the box sends goes through the tunnel, with its virtual address, but for what goes to the peer itself and to the local
// network.
func (l *lab) virtualEverything(t *testing.T) {
	ours, theirs := l.sides(psk, suites[0], shapes[0])
	client, server := l.virtualSides(ours, theirs)
	client = strings.Replace(client, "remote_ts = "+theirs.self.Subnet(topo.IPv4).String(), "remote_ts = 0.0.0.0/0", 1)
	server = strings.Replace(server, "local_ts = "+theirs.self.Subnet(topo.IPv4).String(), "local_ts = 0.0.0.0/0", 1)
	client += "espalier { bypass_lan = yes }\n"
	l.startWith(t, files{client, l.pki.files(t, ours)}, files{server, l.pki.files(t, theirs)})
	for range 2 { // the second time with what the first left
		l.mustInitiate(t, true)
		for _, p := range []struct {
			to         netip.Addr
			esp, clear uint64
		}{{l.theirs.Inner(topo.IPv4), 6, 0}, {l.theirs.Outer(topo.IPv4), 0, 6}, {l.client(l.ours).Inner(topo.IPv4), 0, 0}} {
			before := l.counts(t)
			if err := l.ours.Ping(t.Context(), p.to, 3); err != nil {
				t.Errorf("%v\n%s", err, l.box(t))
			}
			if after := l.counts(t); uint64(after.ESP-before.ESP) != p.esp || uint64(after.Clear-before.Clear) != p.clear {
				t.Errorf("to %s: expected %d packets of ESP and %d in clear, got %+v after %+v", p.to, p.esp, p.clear, after, before)
			}
		}
		if err := l.strongSwan(t.Context(), "rekey", "ike", "peer"); err != nil {
			t.Fatal(err)
		}
		l.event(t, "IKE SA rekeyed")
		if err := l.espalier(t.Context(), "terminate", "ike", "peer"); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.esp.Stop(); err != nil { // it is bypass_lan that has policies still
		t.Fatal(err)
	}
	l.expectBox(t, false, false)
}

// virtualReauthenticated: our new session asks for the addresses of the old one; what strongSwan gives is on the box, and nothing of the old one is left.
func (l *lab) virtualReauthenticated(t *testing.T) {
	ours, theirs := l.sides(psk, suites[0], shapes[0])
	client, server := l.virtualSides(ours, theirs)
	client = strings.Replace(client, "  vips = ", "  reauth_time = 5s\n  vips = ", 1)
	l.startWith(t, files{client, l.pki.files(t, ours)}, files{server, l.pki.files(t, theirs)})
	l.mustInitiate(t, true)
	l.event(t, "IKE SA closed")
	l.virtualPing(t, l.ours, l.client(l.theirs), false)
	l.expectBox(t, true, true)
}

// TestVirtualIPThroughRouter: everything through a tunnel, when the way to the peer is a gateway, and the box's network changes. IPv6 is
// the family in which the kernel looks for the gateway where the tunnel's route leads away.
func TestVirtualIPThroughRouter(t *testing.T) {
	l := newLab(t, topo.Config{NAT: true}, false)
	ours, theirs := l.sides(psk, suites[0], shapes[1])
	client, server := l.virtualSides(ours, theirs)
	nets := theirs.self.Subnet(topo.IPv4).String() + ", " + theirs.self.Subnet(topo.IPv6).String()
	client = strings.Replace(client, "remote_ts = "+nets, "remote_ts = 0.0.0.0/0, ::/0", 1)
	server = strings.Replace(server, "local_ts = "+nets, "local_ts = 0.0.0.0/0, ::/0", 1)
	l.startWith(t, files{client, l.pki.files(t, ours)}, files{server, l.pki.files(t, theirs)})
	l.mustInitiate(t, true)
	for _, what := range []string{"add", "del"} {
		for _, f := range []topo.Family{topo.IPv4, topo.IPv6} {
			before := l.counts(t)
			if err := l.ours.Ping(t.Context(), l.theirs.Inner(f), 3); err != nil {
				t.Errorf("%v\n%s", err, l.box(t))
			}
			if after := l.counts(t); after.UDPESP-before.UDPESP != 6 || after.Clear != before.Clear {
				t.Errorf("expected 6 packets of ESP in UDP, got %+v after %+v", after, before)
			}
		}
		from := len(l.lines(t))
		if _, err := l.ours.Run(t.Context(), "ip", "addr", what, "203.0.113.9/32", "dev", "in0"); err != nil {
			t.Fatal(err)
		}
		l.eventually(t, "the change to be noticed", func() error {
			for _, m := range l.lines(t)[from:] {
				if m["message"] == "addresses or default routes have changed, checking the paths to the peers" {
					return nil
				}
			}
			return errors.New("not there")
		})
	}
	if err := l.espalier(t.Context(), "terminate", "ike", "peer"); err != nil {
		t.Fatal(err)
	}
	for _, m := range l.lines(t) {
		if m["message"] == "negotiation failed" {
			t.Error(m)
		}
	}
}

func (l *lab) virtualReceived(t *testing.T) {
	ours, theirs := l.sides(psk, suites[0], shapes[0])
	client, server := l.virtualSides(ours, theirs)
	l.startWith(t, files{client, l.pki.files(t, ours)}, files{server, l.pki.files(t, theirs)})
	l.mustInitiate(t, true)
	l.expectBox(t, true, true)
	if e := l.event(t, "virtual addresses received"); fmt.Sprint(e["addresses"]) != fmt.Sprintf("[%s %s]", vip4, vip6) || fmt.Sprint(e["dns"]) != "[10.1.0.53]" {
		t.Errorf("received: %v", e)
	}
	l.virtualPing(t, l.ours, l.client(l.theirs), false)
	for _, how := range [][]string{{"ike", "peer"}, {"child", "net"}} {
		if err := l.strongSwan(t.Context(), "rekey", how...); err != nil {
			t.Fatal(err)
		}
		l.event(t, map[string]string{"ike": "IKE SA rekeyed", "child": "CHILD SA removed"}[how[0]])
		l.virtualPing(t, l.ours, l.client(l.theirs), false)
	}
	// A crash leaves them; the next start removes them.
	l.esp.Kill()
	l.expectBox(t, true, true)
	if err := l.esp.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.expectBox(t, false, false)
	l.mustInitiate(t, true)
	l.expectBox(t, true, true)
	l.virtualPing(t, l.ours, l.client(l.theirs), false)
	if err := l.espalier(t.Context(), "terminate", "ike", "peer"); err != nil {
		t.Fatal(err)
	}
	l.expectBox(t, false, true)
	if err := l.esp.Stop(); err != nil {
		t.Fatal(err)
	}
	l.expectBox(t, false, false)
}
