//go:build lab

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// TestFragmentation authenticates with certificate chains of 6 KB each way, over links of 1280 octets on which no fragment of IP passes (RFC 7383).
func TestFragmentation(t *testing.T) {
	l := newLab(t, topo.Config{MTU: 1280}, false)
	for _, gw := range []*topo.Host{l.ours, l.theirs} {
		dropFragments(t, gw)
	}
	if err := l.ours.Ping(t.Context(), l.theirs.Outer(topo.IPv4), 1); err != nil {
		t.Fatal(err)
	}
	if out, err := l.ours.Run(t.Context(), "ping", "-c", "1", "-W", "1", "-s", "3000", l.theirs.Outer(topo.IPv4).String()); err == nil {
		t.Fatalf("fragments of IP pass: %s", out)
	}
	root := l.pki.ca(t, topo.RSA)
	chains := map[*topo.Host]map[string][]byte{l.ours: chain(t, root, l.ours), l.theirs: chain(t, root, l.theirs)}
	for _, outer := range []topo.Family{topo.IPv4, topo.IPv6} {
		for _, weStart := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, we start: %t", outer, weStart), func(t *testing.T) {
				s := shapes[0]
				s.outer = outer
				ours, theirs := l.sides(string(topo.RSA), suites[0], s)
				l.startWith(t, files{ours.conf(), chains[l.ours]}, files{theirs.conf(), chains[l.theirs]})
				l.mustInitiate(t, weStart)
				l.traffic(t, s, false)
				if c := l.counts(t); c.Fragments != 0 {
					t.Errorf("expected no fragments of IP, got %+v", c)
				}
				log := l.swan.Log()[l.swanLog:]
				for _, want := range []string{"splitting IKE message", "reassembled fragmented IKE message"} {
					if !strings.Contains(log, want) {
						t.Errorf("strongSwan's log does not say %q", want)
					}
				}
				l.end(t, "conn down")
			})
		}
	}
}

// dropFragments makes a host drop the fragments of IP that arrive, before it puts them together.
func dropFragments(t *testing.T, h *topo.Host) {
	t.Helper()
	_, err := h.RunInput(t.Context(), `table inet nofragments {
	chain pre { type filter hook prerouting priority -450; ip frag-off & 0x3fff != 0 drop; exthdr frag exists drop; }
}
`, "nft", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
}

// chain is a certificate of the gateway below two authorities of its own, with so many names that they have more than 6 KB, and what stands beside it.
func chain(t *testing.T, root *topo.Cert, gw *topo.Host) map[string][]byte {
	t.Helper()
	upper, err := root.Intermediate(topo.RSA, gw.Name+" Upper")
	if err != nil {
		t.Fatal(err)
	}
	lower, err := upper.Intermediate(topo.RSA, gw.Name+" Lower")
	if err != nil {
		t.Fatal(err)
	}
	var addrs []net.IP
	for i := range 250 {
		addrs = append(addrs, net.ParseIP(fmt.Sprintf("2001:db8:ffff::%x", i)))
	}
	end, err := lower.Issue(topo.RSA, gw.Name+".example", addrs...)
	if err != nil {
		t.Fatal(err)
	}
	if n := (len(end.Cert) + len(lower.Cert) + len(upper.Cert)) * 3 / 4; n < 6000 {
		t.Fatalf("the chain has only %d octets", n)
	}
	return map[string][]byte{"x509/end.pem": end.Cert, "private/end.pem": end.Key, "x509ca/root.pem": root.Cert,
		"x509ca/upper.pem": upper.Cert, "x509ca/lower.pem": lower.Cert}
}
