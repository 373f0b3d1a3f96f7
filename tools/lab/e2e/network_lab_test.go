//go:build lab

package e2e

import (
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// TestBehindNAT has Espalier behind a router that masquerades.
func TestBehindNAT(t *testing.T) {
	l := newLab(t, topo.Config{NAT: true}, false)
	l.throughNAT(t, true)
}

// TestPeerBehindNAT has strongSwan there.
func TestPeerBehindNAT(t *testing.T) {
	l := newLab(t, topo.Config{NAT: true}, true)
	l.throughNAT(t, false)
}

func (l *lab) throughNAT(t *testing.T, weStart bool) {
	for i, auth := range []string{psk, string(topo.ECDSA), psk} {
		s := shapes[i*2] // 4in4, 6in4 and transport4
		t.Run(s.name+" "+auth, func(t *testing.T) {
			ours, theirs := l.sides(auth, suites[i], s)
			if weStart {
				theirs.remote = "%any"
			} else {
				ours.remote = "%any"
			}
			l.start(t, ours, theirs)
			l.mustInitiate(t, weStart)
			line := l.event(t, "IKE SA established")
			if line["nat_local"] != weStart || line["nat_remote"] == weStart {
				t.Errorf("expected to find the NAT on one side, got %v", line)
			}
			l.traffic(t, s, true)
			l.end(t, ends[i*2%len(ends)])
		})
	}
}

// TestRouteBased gives XFRM interfaces on both sides all of IPv4; routes choose what goes through.
func TestRouteBased(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	s := shape{outer: topo.IPv4, inner: topo.IPv4, any: true}
	ours, theirs := l.sides(psk, suites[1], s)
	ours.child, theirs.child = "if_id_in = 42\n    if_id_out = 42", "if_id_in = 42\n    if_id_out = 42"
	for _, h := range []*topo.Host{l.ours, l.theirs} {
		far := l.Client1
		if h == l.GW1 {
			far = l.Client2
		}
		for _, line := range []string{"link add ipsec0 type xfrm dev out0 if_id 42", "link set ipsec0 up", "route replace " + far.Subnet(topo.IPv4).String() + " dev ipsec0"} {
			if _, err := h.Run(t.Context(), append([]string{"ip"}, strings.Fields(line)...)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.start(t, ours, theirs)
	l.mustInitiate(t, true)
	s.any = false // the clients' traffic goes through, unlike with policies alone
	l.traffic(t, s, false)
	l.end(t, "strongSwan terminates")
}

// TestCookies has either side ask the other for a cookie.
func TestCookies(t *testing.T) {
	l := newLab(t, topo.Config{}, false, "cookie_threshold = 1")
	ours, theirs := l.sides(psk, suites[1], shapes[0])
	t.Run("we ask", func(t *testing.T) {
		always := ours
		always.more = "espalier { cookie_threshold = 0 }\n"
		l.start(t, always, theirs)
		l.mustInitiate(t, false)
		l.expectCookie(t)
	})
	t.Run("they ask", func(t *testing.T) {
		// A first attempt whose answers are lost and whose daemon dies leaves strongSwan with something half-open.
		l.start(t, ours, theirs)
		if _, err := l.ours.RunInput(t.Context(), "table inet lose { chain in { type filter hook input priority 0; udp sport { 500, 4500 } drop; }; }", "nft", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		if err := l.espalier(t.Context(), "initiate", "ike", "peer", "child", "net", "timeout", "1000"); err == nil {
			t.Fatal("expected no tunnel while the answers are lost")
		}
		l.esp.Kill()
		if _, err := l.ours.Run(t.Context(), "nft", "delete table inet lose"); err != nil {
			t.Fatal(err)
		}
		if err := l.wire.Reset(); err != nil {
			t.Fatal(err)
		}
		if err := l.esp.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.mustInitiate(t, true)
		l.expectCookie(t)
	})
}

// expectCookie shows that IKE_SA_INIT was asked for twice, because of a cookie, and that the tunnel works.
func (l *lab) expectCookie(t *testing.T) {
	t.Helper()
	if got := l.counts(t).IKE; got != 6 {
		t.Errorf("expected 6 IKE messages, two more than without a cookie, got %d", got)
	}
	if !strings.Contains(l.swan.Log()[l.swanLog:], "N(COOKIE)") {
		t.Error("expected strongSwan to log the cookie")
	}
	l.traffic(t, shapes[0], false)
}
