//go:build lab

package topo

import (
	"fmt"
	"strings"
	"testing"
)

// pskConf is a swanctl.conf for one gateway of a PSK tunnel between the clients' networks.
func pskConf(self, peer *Host, outer, inner Family, secret string) string {
	return fmt.Sprintf(`connections { peer {
  local_addrs = %s
  remote_addrs = %s
  proposals = aes256-sha256-modp2048
  local { auth = psk
    id = %s.example }
  remote { auth = psk
    id = %s.example }
  children { net {
    local_ts = %s
    remote_ts = %s
    esp_proposals = aes256gcm16-modp2048 } }
} }
secrets { ike-1 { secret = %q } }
`, self.Outer(outer), peer.PublicAddr(outer), self.Name, peer.Name, self.Subnet(inner), peer.Subnet(inner), secret)
}

// tunnel starts strongSwan in both gateways and brings the tunnel up from gw1.
func tunnel(t *testing.T, n *Net, outer, inner Family) {
	t.Helper()
	if _, err := n.GW2.StartStrongSwan(t.Context(), StrongSwanConfig{Conf: pskConf(n.GW2, n.GW1, outer, inner, "correct horse")}); err != nil {
		t.Fatal(err)
	}
	s, err := n.GW1.StartStrongSwan(t.Context(), StrongSwanConfig{Conf: pskConf(n.GW1, n.GW2, outer, inner, "correct horse")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Initiate(t.Context(), "net"); err != nil {
		t.Fatal(err)
	}
	if sas, err := s.SAs(t.Context()); err != nil || !strings.Contains(sas, "ESTABLISHED") {
		t.Fatalf("expected an established IKE SA, got %q (%v)", sas, err)
	}
}

func counts(t *testing.T, c *Capture) Counts {
	t.Helper()
	got, err := c.Counts()
	if err != nil {
		t.Fatal(err)
	}
	if got.Lost != 0 {
		t.Fatalf("the capture lost %d packets", got.Lost)
	}
	return got
}

// TestStrongSwanPair shows that the lab works: strongSwan talks to strongSwan, and what the clients send is ESP on the wire.
func TestStrongSwanPair(t *testing.T) {
	for _, c := range []struct {
		name         string
		cfg          Config
		outer, inner Family
	}{
		{"4in4", Config{}, IPv4, IPv4},
		{"6in6", Config{}, IPv6, IPv6},
		{"6in4 small MTU", Config{MTU: 1400}, IPv4, IPv6},
		{"NAT", Config{NAT: true}, IPv4, IPv4},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := New(t, c.cfg)
			capture, err := n.Capture()
			if err != nil {
				t.Fatal(err)
			}
			defer capture.Close()
			tunnel(t, n, c.outer, c.inner)
			if got := counts(t, capture); got.IKE < 4 || got.Clear != 0 || got.Protected() != 0 {
				t.Fatalf("after the negotiation: expected at least 4 IKE messages and nothing else, got %+v", got)
			}
			if err := n.Client1.Ping(t.Context(), n.Client2.Inner(c.inner), 5); err != nil {
				t.Fatal(err)
			}
			got := counts(t, capture)
			if got.Clear != 0 || got.Protected() != 10 || (got.UDPESP > 0) != c.cfg.NAT {
				t.Fatalf("after 5 pings: expected 10 ESP packets, in UDP only behind NAT, and no clear text, got %+v", got)
			}
			const size = 300_000
			if _, err := n.Client2.Transfer(t.Context(), n.Client1, n.Client1.Inner(c.inner), size); err != nil {
				t.Fatal(err)
			}
			if got := counts(t, capture); got.Clear != 0 || got.Bytes < size {
				t.Fatalf("after %d bytes of TCP: expected them in ESP and no clear text, got %+v", size, got)
			}
		})
	}
}

// TestClearIsSeen shows that the capture can tell: without a tunnel, the same ping is clear text on the wire.
func TestClearIsSeen(t *testing.T) {
	n := New(t, Config{})
	capture, err := n.Capture()
	if err != nil {
		t.Fatal(err)
	}
	defer capture.Close()
	for _, f := range []Family{IPv4, IPv6} {
		if err := capture.Reset(); err != nil {
			t.Fatal(err)
		}
		if err := n.Client1.Ping(t.Context(), n.Client2.Inner(f), 3); err != nil {
			t.Fatal(err)
		}
		if got := counts(t, capture); got.Clear != 6 || got.Protected() != 0 {
			t.Errorf("%s: expected 6 clear packets, got %+v", f, got)
		}
	}
}

// TestWrongSecret shows that a tunnel that must not come up does not.
func TestWrongSecret(t *testing.T) {
	n := New(t, Config{})
	if _, err := n.GW2.StartStrongSwan(t.Context(), StrongSwanConfig{Conf: pskConf(n.GW2, n.GW1, IPv4, IPv4, "correct horse")}); err != nil {
		t.Fatal(err)
	}
	s, err := n.GW1.StartStrongSwan(t.Context(), StrongSwanConfig{Conf: pskConf(n.GW1, n.GW2, IPv4, IPv4, "battery staple")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Initiate(t.Context(), "net"); err == nil || !strings.Contains(err.Error(), "AUTHENTICATION_FAILED") && !strings.Contains(s.Log(), "AUTH_FAILED") {
		t.Fatalf("expected the peer to refuse the secret, got %v", err)
	}
}

// TestCertificates shows that strongSwan takes the certificates that the lab makes.
func TestCertificates(t *testing.T) {
	for _, kind := range []KeyKind{RSA, ECDSA, ECDSA384, Ed25519} {
		t.Run(string(kind), func(t *testing.T) {
			n := New(t, Config{})
			ca, err := NewCA(kind, "Root")
			if err != nil {
				t.Fatal(err)
			}
			var swans []*StrongSwan
			for _, pair := range [][2]*Host{{n.GW1, n.GW2}, {n.GW2, n.GW1}} {
				self, peer := pair[0], pair[1]
				end, err := ca.Issue(kind, self.Name+".example")
				if err != nil {
					t.Fatal(err)
				}
				conf := fmt.Sprintf(`connections { peer {
  local_addrs = %s
  remote_addrs = %s
  proposals = aes128gcm16-prfsha256-x25519
  local { auth = pubkey
    id = %s.example
    certs = end.pem }
  remote { auth = pubkey
    id = %s.example }
  children { net {
    local_ts = %s
    remote_ts = %s
    esp_proposals = aes128gcm16 } }
} }
`, self.Outer(IPv4), peer.Outer(IPv4), self.Name, peer.Name, self.Subnet(IPv4), peer.Subnet(IPv4))
				s, err := self.StartStrongSwan(t.Context(), StrongSwanConfig{Conf: conf,
					Files: map[string][]byte{"x509/end.pem": end.Cert, "private/end.pem": end.Key, "x509ca/ca.pem": ca.Cert}})
				if err != nil {
					t.Fatal(err)
				}
				swans = append(swans, s)
			}
			if err := swans[0].Initiate(t.Context(), "net"); err != nil {
				t.Fatal(err)
			}
			if err := n.Client1.Ping(t.Context(), n.Client2.Inner(IPv4), 2); err != nil {
				t.Fatal(err)
			}
		})
	}
}
