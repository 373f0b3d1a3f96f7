//go:build lab

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// datagrams sends some from our client to theirs; whether they get there is not its business.
func (l *lab) datagrams(t *testing.T, port uint16) {
	t.Helper()
	var c net.Conn
	err := l.client(l.ours).Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(l.client(l.theirs).Inner(topo.IPv4), port).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range datagrams {
		_, _ = c.Write(make([]byte, 64)) // an earlier one may have been refused
	}
}

const datagrams = 20

// TestShunts has a tunnel to everywhere, and what does not go into it: one port in clear, one nowhere, and what stays within the local network.
func TestShunts(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	ours, theirs := l.sides(psk, suites[1], shapes[0])
	ours.remoteTS, theirs.localTS, ours.child = "0.0.0.0/0", "0.0.0.0/0", "start_action = trap"
	a, b := l.client(l.ours), l.client(l.theirs)
	shunt := func(name, mode string, port int) string {
		return fmt.Sprintf("%s { local_ts = %s\n remote_ts = %s[udp/%d]\n mode = %s\n start_action = trap }\n", name, a.Subnet(topo.IPv4), b.Subnet(topo.IPv4), port, mode)
	}
	// Without exceptions the routes into the tunnel would take the local network, too.
	plain := files{conf: ours.conf() + "espalier { install_routes = no }\n"}
	ours.more = "connections { exceptions { children {\n" + shunt("clear", "pass", 5007) + shunt("nowhere", "drop\n priority = 1000", 5008) + "} } }\nespalier { bypass_lan = yes }\n"
	excepted := files{conf: ours.conf()}
	tunnel := func(when string) {
		t.Helper()
		before := l.counts(t)
		l.eventually(t, "answers through the tunnel "+when, func() error { return trial(t, a, b.Inner(topo.IPv4)) })
		if after := l.counts(t); after.Clear != before.Clear || after.ESP < before.ESP+4 {
			t.Errorf("%s: expected 4 packets of ESP more and no clear text, got %+v after %+v", when, after, before)
		}
	}
	// The gateway's own address is within the tunnel's selectors, too.
	lan := func() error {
		_, err := a.Run(t.Context(), "ping", "-n", "-q", "-c", "1", "-W", "1", l.ours.Inner(topo.IPv4).String())
		return err
	}
	// passed is how many packets the wire saw of datagrams to the port.
	passed := func(port uint16) (esp, clear int) {
		t.Helper()
		before := l.counts(t)
		l.datagrams(t, port)
		after := l.counts(t)
		return after.ESP - before.ESP, after.Clear - before.Clear
	}
	l.startWith(t, excepted, files{conf: theirs.conf()})
	l.event(t, "trap installed", "child", "net")
	tunnel("beside exceptions")
	if err := lan(); err != nil {
		t.Errorf("bypass_lan: %v", err)
	}
	if esp, clear := passed(5007); esp != 0 || clear != datagrams {
		t.Errorf("mode = pass: %d packets of ESP, %d in clear, expected %d in clear", esp, clear, datagrams)
	}
	if esp, clear := passed(5008); esp+clear != 0 {
		t.Errorf("mode = drop: %d packets of ESP, %d in clear, expected none", esp, clear)
	}
	// A network that comes and goes while the daemon runs.
	for _, what := range []string{"add", "del"} {
		if _, err := l.ours.Run(t.Context(), "ip", "addr", what, "10.7.0.1/24", "dev", "in0"); err != nil {
			t.Fatal(err)
		}
		l.eventually(t, "the policies to follow ip addr "+what, func() error {
			k, err := kernelOf(l.ours)
			if n := strings.Count(k.String(), "policy 10.7.0.0/24 > 10.7.0.0/24"); err == nil && (n == 3) != (what == "add") {
				err = fmt.Errorf("%d of 3 policies\n%s", n, k)
			}
			return err
		})
	}
	if err := l.esp.Stop(); err != nil {
		t.Fatal(err)
	}
	l.expectNothing(t, l.ours, "after the first stop")

	// The same without, so that the test has a point.
	l.configure(t, plain)
	l.event(t, "trap installed", "child", "net")
	tunnel("without exceptions")
	if lan() == nil {
		t.Error("the tunnel's policies leave the local network alone")
	}
	for _, port := range []uint16{5007, 5008} {
		if esp, clear := passed(port); esp < datagrams || clear != 0 {
			t.Errorf("port %d without exceptions: %d packets of ESP, %d in clear", port, esp, clear)
		}
	}
	if err := l.esp.Stop(); err != nil {
		t.Error(err)
	}
	l.expectNothing(t, l.ours, "after the stop")
}
