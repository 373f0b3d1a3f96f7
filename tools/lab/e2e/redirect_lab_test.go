//go:build lab

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// otherGateway is a second address of the gateway that redirects: to its client it is another gateway.
var otherGateway = netip.AddrFrom4([4]byte{192, 0, 2, 77})

// TestRedirect has the gateway send its client to another one (RFC 5685), and back after the gateway has rekeyed the IKE SA, once with strongSwan as the gateway
// and once with Espalier, under a running ping. (Some of its answers get lost, for here both gateways are one box: it answers through the new tunnel before the
// client has it.)
func TestRedirect(t *testing.T) {
	for _, weGo := range []bool{true, false} {
		t.Run(map[bool]string{true: "we go", false: "strongSwan goes"}[weGo], func(t *testing.T) {
			l := newLab(t, topo.Config{}, false)
			s := shapes[0]
			client, gateway := l.ours, l.theirs
			if !weGo {
				client, gateway = gateway, client
			}
			l.ip(t, gateway, "addr add "+otherGateway.String()+"/24 dev out0")
			ours, theirs := l.sides(psk, suites[1], s)
			both := func(d side) files {
				text := d.conf()
				if d.self == gateway {
					text = strings.Replace(text, "local_addrs = ", "local_addrs = "+otherGateway.String()+", ", 1)
				}
				return files{text, nil}
			}
			l.startWith(t, both(ours), both(theirs))
			l.mustInitiate(t, weGo)
			ping := l.pingMeanwhile(t)
			for i, to := range []netip.Addr{otherGateway, gateway.Outer(s.outer), otherGateway} {
				l.redirect(t, weGo, to)
				l.awaitPair(t, client.Outer(s.outer), to)
				l.passes(t)
				if n := l.messages(t, "IKE SA established"); n != i+2 {
					t.Errorf("%d IKE SAs since the start, expected %d", n, i+2)
				}
				rekeyed := l.messages(t, "IKE SA rekeyed")
				l.rekey(t, !weGo)
				l.eventually(t, "the gateway's rekeying", func() error {
					if n := l.messages(t, "IKE SA rekeyed"); n != rekeyed+1 {
						return fmt.Errorf("%d before, %d after", rekeyed, n)
					}
					return nil
				})
			}
			ping(3)
			l.end(t, "conn down")
		})
	}
}

// redirect has the gateway send its client elsewhere.
func (l *lab) redirect(t *testing.T, weGo bool, to netip.Addr) {
	t.Helper()
	if weGo {
		if out, err := l.swan.Swanctl(t.Context(), "--redirect", "--ike", "peer", "--gateway", to.String()); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	if out, err := l.esp.Espctl(t.Context(), "conn", "redirect", "peer", to.String()); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// rekey has one side rekey the IKE SA.
func (l *lab) rekey(t *testing.T, ours bool) {
	t.Helper()
	do := l.strongSwan
	if ours {
		do = l.espalier
	}
	if err := do(t.Context(), "rekey", "ike", "peer"); err != nil {
		t.Fatal(err)
	}
}
