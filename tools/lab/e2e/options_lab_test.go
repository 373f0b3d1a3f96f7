//go:build lab

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// option is a tunnel with options that both daemons understand, and what the kernel of ours holds then.
type option struct {
	name  string
	esp   string
	child string // lines of both
	ours  string // further ones of ours
	hosts bool   // the two clients only
	// squeezes: what goes through is smaller on the wire than it was.
	squeezes bool
	iface    bool     // what comes and goes passes an xfrm interface with the child's id
	states   []string // in the output of ip xfrm state
	policies []string // of ip xfrm policy
}

var options = []option{
	{name: "IPComp, ESN, large window", esp: "aes128gcm16-esn", child: "ipcomp = yes\n    replay_window = 128", squeezes: true,
		states: []string{"proto comp", "comp deflate", "mode transport", "replay_window 128"}, policies: []string{"proto comp", "level use"}},
	{name: "SHA-256 cut, fixed ids, forward policies", esp: "aes128-sha256",
		child:  "sha256_96 = yes\n    reqid = 77\n    policies_fwd_out = yes\n    priority = 1234\n    copy_dscp = yes\n    copy_ecn = no\n    copy_df = no",
		states: []string{"reqid 77", "hmac(sha256)", " 96\n", "decap-dscp"}, policies: []string{"priority 1234", "dir fwd"}},
	{name: "padding, ICMP errors", esp: "aes256gcm16", child: "tfc_padding = 900", ours: "icmp = yes\n    interface = out0",
		states: []string{"flag", "icmp"}, policies: []string{"flag icmp", "dev out0"}},
	{name: "unique interface id", esp: "aes128gcm16", ours: "if_id_in = %unique\n    if_id_out = %unique", iface: true,
		states: []string{"if_id 0x"}, policies: []string{"if_id 0x"}},
	{name: "BEET", esp: "aes128gcm16", child: "mode = beet", hosts: true, states: []string{"mode beet"}, policies: []string{"mode beet"}},
}

// TestOptions brings up a tunnel with each set of options, uses it, has the other side rekey it, and uses it again.
func TestOptions(t *testing.T) {
	l := newLab(t, topo.Config{}, false, "send_vendor_id = yes")
	s := shapes[0]
	for i, o := range options {
		t.Run(o.name+", "+initiators[i%2], func(t *testing.T) {
			weStart := i%2 == 0
			ours, theirs := l.sides(psk, suites[1], s)
			ours.esp, theirs.esp = o.esp, o.esp
			ours.child, theirs.child = o.child+"\n    "+o.ours, o.child
			if o.hosts {
				ours.localTS, ours.remoteTS = l.client(l.ours).Inner(s.inner).String(), l.client(l.theirs).Inner(s.inner).String()
				theirs.localTS, theirs.remoteTS = ours.remoteTS, ours.localTS
			}
			l.start(t, ours, theirs)
			l.mustInitiate(t, weStart)
			l.holds(t, o)
			if o.iface {
				l.xfrmInterface(t, s)
			}
			l.traffic(t, s, false)
			l.squeezed(t, s, o)
			// The other side rekeys, so either is initiator and responder once.
			var err error
			if weStart {
				err = l.strongSwan(t.Context(), "rekey", "child", "net")
			} else {
				err = l.espalier(t.Context(), "rekey", "child", "net")
			}
			if err != nil {
				t.Fatal(err)
			}
			l.eventually(t, "a second CHILD SA", func() error {
				n := 0
				for _, m := range l.lines(t) {
					if m["message"] == "CHILD SA installed" {
						n++
					}
				}
				if n < 2 {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
			l.holds(t, o)
			l.traffic(t, s, false)
			l.end(t, "conn down")
		})
	}
}

// holds shows what the kernel of ours has.
func (l *lab) holds(t *testing.T, o option) {
	t.Helper()
	for object, want := range map[string][]string{"state": o.states, "policy": o.policies} {
		out, err := l.ours.Run(t.Context(), "ip", "-d", "xfrm", object)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("expected %q in the kernel's %s:\n%s", w, object, out)
			}
		}
	}
}

// xfrmInterface makes an interface with the id of the SAs and leads the peer's network through it, until the case ends.
func (l *lab) xfrmInterface(t *testing.T, s shape) {
	t.Helper()
	k, err := kernelOf(l.ours)
	if err != nil || len(k.states) == 0 || k.states[0].Ifid == 0 {
		t.Fatalf("expected SAs with an interface id, got %v\n%s", err, k)
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := l.ours.Run(t.Context(), append([]string{"ip"}, args...)...); err != nil {
			t.Fatalf("ip %q: %v: %s", args, err, out)
		}
	}
	ip("link", "add", "ipsec0", "type", "xfrm", "dev", "out0", "if_id", fmt.Sprint(k.states[0].Ifid))
	t.Cleanup(func() { _, _ = l.ours.Run(context.Background(), "ip", "link", "del", "ipsec0") })
	ip("link", "set", "ipsec0", "up")
	net := l.theirs.Subnet(s.inner)
	ip("route", "add", netip.PrefixFrom(net.Addr(), net.Bits()+1).String(), "dev", "ipsec0") // before the route that is there
}

// TestIPTFS has an espalierd on either side, for Debian's strongSwan does not know the mode yet. Debian's kernels do not either: then it is a
// tunnel, and both say so.
func TestIPTFS(t *testing.T) {
	n, err := topo.Build(t.Context(), topo.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{Net: n, ours: n.GW1, theirs: n.GW2, pki: &pkis{}}
	ours, theirs := l.sides(psk, suites[1], shapes[0])
	ours.child, theirs.child = "mode = iptfs", "mode = iptfs"
	var daemons []*topo.Espalier
	for _, s := range []side{ours, theirs} {
		e, err := s.self.StartEspalier(t.Context(), topo.EspalierConfig{Conf: s.conf(), Plain: true})
		if err != nil {
			t.Fatal(err)
		}
		daemons = append(daemons, e)
	}
	l.esp = daemons[0]
	l.mustInitiate(t, true)
	want := "mode iptfs"
	if strings.Contains(daemons[0].Log(), `"iptfs":false`) {
		want = "mode tunnel"
		for _, d := range daemons {
			if n := strings.Count(d.Log(), `"the kernel lacks what a child asks for"`); n != 1 {
				t.Errorf("expected %s to say once that the kernel lacks IPTFS, got %d times", d.Conf, n)
			}
		}
	}
	for _, h := range []*topo.Host{n.GW1, n.GW2} {
		if out, err := h.Run(t.Context(), "ip", "xfrm", "state"); err != nil || strings.Count(out, want) != 2 && strings.Count(out, "mode 5") != 2 {
			t.Errorf("expected two SAs in %s, got %v\n%s", want, err, out)
		}
	}
	for range 2 {
		if _, err := n.Client1.Transfer(t.Context(), n.Client2, n.Client2.Inner(topo.IPv4), transferSize); err != nil {
			t.Error(err)
		}
		if err := l.espalier(t.Context(), "rekey", "child", "net"); err != nil {
			t.Error(err)
		}
	}
	for _, d := range daemons {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}
	l.expectNothing(t, n.GW1, "after the stop")
	l.expectNothing(t, n.GW2, "after the stop")
}

// squeezed sends zeros through, and shows whether they are fewer on the wire.
func (l *lab) squeezed(t *testing.T, s shape, o option) {
	t.Helper()
	const packets, size = 10, 1000
	before := l.counts(t)
	if _, err := l.client(l.ours).Echo(t.Context(), topo.Echo{To: l.client(l.theirs).Inner(s.inner), Count: packets, Size: size}); err != nil {
		t.Fatal(err)
	}
	if got := l.counts(t).Bytes - before.Bytes; (got < 2*packets*size/2) != o.squeezes {
		t.Errorf("%d bytes of zeros were %d on the wire; expected compression: %v", 2*packets*size, got, o.squeezes)
	}
}
