package sa_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// child is an option that changes the child of a fixture.
func child(f func(*sa.ChildConfig)) satest.Option {
	return func(c *sa.Connection) { f(c.Children[0]) }
}

func inMode(m dataplane.Mode) satest.Option { return child(func(c *sa.ChildConfig) { c.Mode = m }) }

var ipcomp = child(func(c *sa.ChildConfig) { c.IPComp = true })

// beet has one host on either side.
func beet(c *sa.Connection) {
	ch := c.Children[0]
	ch.Mode = dataplane.BEET
	for _, ts := range []*[]selector.Spec{&ch.LocalTS, &ch.RemoteTS} {
		(*ts)[0].TS.End = (*ts)[0].TS.Start
	}
}

// installed is what a node's data plane holds, in order.
func installed(t *testing.T, n *satest.Node) (sas []dataplane.SA, policies []dataplane.Policy) {
	t.Helper()
	snap := satest.Must(n.DP.List())
	for _, s := range snap.SAs {
		if s.Reserved {
			t.Errorf("%s: %s is reserved still", n.Addr, s.SAKey)
			continue
		}
		full, ok := n.DP.SA(s.SAKey)
		if !ok {
			t.Fatalf("%s: %s is listed and not there", n.Addr, s.SAKey)
		}
		sas = append(sas, full)
	}
	slices.SortFunc(sas, func(a, b dataplane.SA) int {
		if a.Proto != b.Proto {
			return int(a.Proto) - int(b.Proto)
		}
		return int(a.Dir) - int(b.Dir)
	})
	return sas, snap.Policies
}

// shape is a word for each SA and policy: what a kernel is asked for.
func shape(t *testing.T, n *satest.Node) string {
	t.Helper()
	sas, policies := installed(t, n)
	var words []string
	for _, s := range sas {
		words = append(words, fmt.Sprintf("%s/%s/%s", s.Proto, s.Dir, s.Mode))
	}
	for _, p := range policies {
		w := p.Dir.String()
		for _, tm := range p.Templates {
			w += fmt.Sprintf(":%s/%s", tm.Proto, tm.Mode)
			if tm.Optional {
				w += "?"
			}
		}
		words = append(words, w)
	}
	slices.Sort(words[len(sas):])
	return fmt.Sprint(words)
}

const (
	plainTunnel   = "[ESP/in/TUNNEL ESP/out/TUNNEL fwd:ESP/TUNNEL in:ESP/TUNNEL out:ESP/TUNNEL]"
	withIPComp    = "[ESP/in/TRANSPORT ESP/out/TRANSPORT IPCOMP/in/TUNNEL IPCOMP/out/TUNNEL fwd:IPCOMP/TUNNEL?:ESP/TRANSPORT in:IPCOMP/TUNNEL?:ESP/TRANSPORT out:IPCOMP/TUNNEL:ESP/TRANSPORT]"
	transportComp = "[ESP/in/TRANSPORT ESP/out/TRANSPORT IPCOMP/in/TRANSPORT IPCOMP/out/TRANSPORT in:IPCOMP/TRANSPORT?:ESP/TRANSPORT out:IPCOMP/TRANSPORT:ESP/TRANSPORT]"
)

// TestTerms: what two sides make of their wishes, the same after rekeyings by
// either, and gone at the end.
func TestTerms(t *testing.T) {
	both := func(o ...satest.Option) [2][]satest.Option { return [2][]satest.Option{o, o} }
	one := func(o ...satest.Option) [2][]satest.Option { return [2][]satest.Option{o, nil} }
	inner6 := child(func(c *sa.ChildConfig) {
		net := []selector.Spec{satest.Must(selector.Parse("fd00:1::/32"))}
		c.LocalTS, c.RemoteTS = net, net
	})
	for _, c := range []struct {
		name  string
		opts  [2][]satest.Option // moon's and sun's
		lacks [2]sa.Lacks
		want  string
	}{
		{name: "tunnel", opts: both(), want: plainTunnel},
		{name: "BEET", opts: both(beet), want: "[ESP/in/BEET ESP/out/BEET fwd:ESP/BEET in:ESP/BEET out:ESP/BEET]"},
		{name: "IPTFS", opts: both(inMode(dataplane.IPTFS)), want: "[ESP/in/IPTFS ESP/out/IPTFS fwd:ESP/IPTFS in:ESP/IPTFS out:ESP/IPTFS]"},
		{name: "BEET on one side", opts: one(beet), want: plainTunnel},
		{name: "IPTFS on one side", opts: one(inMode(dataplane.IPTFS)), want: plainTunnel},
		{name: "IPTFS that moon's kernel lacks", opts: both(inMode(dataplane.IPTFS)), lacks: [2]sa.Lacks{{IPTFS: true}, {}}, want: plainTunnel},
		{name: "IPTFS that sun's kernel lacks", opts: both(inMode(dataplane.IPTFS)), lacks: [2]sa.Lacks{{}, {IPTFS: true}}, want: plainTunnel},
		{name: "BEET of networks", opts: both(inMode(dataplane.BEET)), want: plainTunnel},
		{name: "IPComp", opts: both(ipcomp), want: withIPComp},
		{name: "IPComp in transport mode", opts: both(transport, ipcomp), want: transportComp},
		{name: "IPComp on one side", opts: one(ipcomp), want: plainTunnel},
		{name: "IPComp that moon's kernel lacks", opts: both(ipcomp), lacks: [2]sa.Lacks{{IPComp: true}, {}}, want: plainTunnel},
		{name: "IPComp that sun's kernel lacks", opts: both(ipcomp), lacks: [2]sa.Lacks{{}, {IPComp: true}}, want: plainTunnel},
		{name: "IPComp of another family", opts: both(ipcomp, inner6), want: plainTunnel},
		{name: "forward policies", opts: both(child(func(c *sa.ChildConfig) { c.PoliciesFwdOut = true })),
			want: "[ESP/in/TUNNEL ESP/out/TUNNEL fwd fwd:ESP/TUNNEL in:ESP/TUNNEL out:ESP/TUNNEL]"},
		{name: "forward policies of everything", opts: both(child(func(c *sa.ChildConfig) {
			all := []selector.Spec{satest.Must(selector.Parse("0.0.0.0/0"))}
			c.PoliciesFwdOut, c.LocalTS, c.RemoteTS = true, all, all
		})), want: "[ESP/in/TUNNEL ESP/out/TUNNEL fwd:ESP/TUNNEL? in:ESP/TUNNEL out:ESP/TUNNEL]"},
	} {
		for _, moonStarts := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", c.name, moonStarts), func(t *testing.T) {
				w := satest.New(7)
				w.RoundTrip = moonStarts
				moon, sun := pairOf(w, c.opts)
				moon.Env.Lacks, sun.Env.Lacks = c.lacks[0], c.lacks[1]
				if moonStarts {
					moon.Initiate("sun", "", sunAddr)
				} else {
					sun.Initiate("moon", "", moon.Addr)
				}
				w.Settle(100)
				look := func(when string) {
					t.Helper()
					assertUp(t, moon, sun)
					noErrors(t, moon, sun)
					for _, n := range []*satest.Node{moon, sun} {
						if got := shape(t, n); got != c.want {
							t.Errorf("%s %s:\n%s, want\n%s", n.Addr, when, got, c.want)
						}
					}
					sameCPIs(t, moon, sun)
				}
				look("at first")
				for i, n := range []*satest.Node{moon, sun} {
					n.Do(0, sa.Rekey{ChildID: n.Live()[0].Info().Children[0].UniqueID})
					w.Advance(time.Minute)
					look(fmt.Sprintf("after the rekeying of side %d", i))
				}
				moon.Do(0, sa.Rekey{})
				w.Advance(time.Minute)
				moon.Do(0, sa.Rekey{ChildID: moon.Live()[0].Info().Children[0].UniqueID})
				w.Advance(time.Minute)
				look("on a rekeyed IKE SA")
				for i, n := range []*satest.Node{moon, sun} {
					said := 0
					for _, e := range n.Events {
						if _, ok := e.(event.FellBack); ok {
							said++
						}
					}
					// Those that wished for something and did not get it say so once.
					if want := c.want == plainTunnel && len(c.opts[i]) > 0; want != (said == 1) || !want && said != 0 {
						t.Errorf("%s said %d times that it fell back", n.Addr, said)
					}
				}
				sun.Do(0, sa.Terminate{})
				w.Advance(time.Minute)
				assertNothing(t, moon)
				assertNothing(t, sun)
			})
		}
	}
}

// pairOf is satest.Pair with options for each side.
func pairOf(w *satest.World, opts [2][]satest.Option) (moon, sun *satest.Node) {
	n := 0
	each := func(c *sa.Connection) {
		for _, o := range opts[n] {
			o(c)
		}
		n++
	}
	return satest.Pair(w, each)
}

func sameCPIs(t *testing.T, moon, sun *satest.Node) {
	t.Helper()
	a, b := moon.Live()[0].Info().Children[0], sun.Live()[0].Info().Children[0]
	if a.CPIIn != b.CPIOut || a.CPIOut != b.CPIIn || a.CPIIn != 0 && a.CPIIn < sa.MinCPI {
		t.Errorf("CPIs %d/%d and %d/%d", a.CPIIn, a.CPIOut, b.CPIIn, b.CPIOut)
	}
}

// TestCPIsGiveWay: a tunnel stands without compression when no CPI is left, and
// nothing stays reserved.
func TestCPIsGiveWay(t *testing.T) {
	for _, who := range []string{"initiator", "responder"} {
		t.Run(who, func(t *testing.T) {
			w := satest.New(3)
			moon, sun := satest.Pair(w, ipcomp)
			n := map[string]*satest.Node{"initiator": moon, "responder": sun}[who]
			n.NoCPI = true
			moon.Initiate("sun", "", sunAddr)
			w.Settle(100)
			assertUp(t, moon, sun)
			for _, n := range []*satest.Node{moon, sun} {
				if got := shape(t, n); got != plainTunnel {
					t.Errorf("%s: %s", n.Addr, got)
				}
			}
			moon.Do(0, sa.Terminate{})
			w.Advance(time.Minute)
			assertNothing(t, moon)
			assertNothing(t, sun)
		})
	}
}

// TestTermsRefused: an initiator does not take what it did not ask for, and the
// peer is told to drop it; nothing stays.
func TestTermsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		opts []satest.Option
		add  wire.Payload
	}{
		"transport":                     {nil, notify(wire.NotifyUseTransportMode)},
		"IPTFS":                         {nil, notify(wire.NotifyUseAGGFRAG, 0)},
		"BEET":                          {[]satest.Option{func(c *sa.Connection) { c.Children = append(c.Children, &sa.ChildConfig{Mode: dataplane.BEET}) }}, notify(40961)},
		"IPTFS with congestion control": {[]satest.Option{inMode(dataplane.IPTFS)}, notify(wire.NotifyUseAGGFRAG, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			w := satest.New(4)
			moon, sun := satest.Pair(w, c.opts...)
			f := &forger{}
			done := f.answerOnce(w, sun, wire.ExchangeIKEAuth, func(ps []wire.Payload) []wire.Payload {
				ps = slices.DeleteFunc(ps, func(p wire.Payload) bool {
					n, ok := p.(*wire.Notify)
					return ok && n.NotifyType == wire.NotifyUseAGGFRAG
				})
				return append(ps, c.add)
			})
			moon.Initiate("sun", "", sunAddr)
			w.Advance(time.Minute)
			if !*done || len(moon.Live()) != 1 || len(moon.Live()[0].Info().Children) != 0 || len(sun.Live()[0].Info().Children) != 0 {
				t.Fatalf("expected an IKE SA without child; events:%s\n%s", dump(moon), dump(sun))
			}
			for _, n := range []*satest.Node{moon, sun} {
				if s, r, p := n.DP.Counts(); s+r+p != 0 {
					t.Errorf("%s: %d SAs, %d reserved, %d policies left", n.Addr, s, r, p)
				}
			}
		})
	}
}

// TestForeignBEETNotify: without the vendor id, a notify of private use says
// nothing.
func TestForeignBEETNotify(t *testing.T) {
	w := satest.New(4)
	moon, sun := satest.Pair(w)
	f := &forger{}
	f.answerOnce(w, sun, wire.ExchangeIKEAuth, func(ps []wire.Payload) []wire.Payload { return append(ps, notify(40961)) })
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	assertUp(t, moon, sun)
}

// TestSAOptions: what a child's configuration asks of its SAs is there, in the
// direction that it is meant for.
func TestSAOptions(t *testing.T) {
	opts := child(func(c *sa.ChildConfig) {
		c.TFCPad, c.SHA256By96, c.ICMP, c.ReplayWindow = 512, true, true, 256
	})
	for _, noTFC := range []bool{false, true} {
		w := satest.New(5)
		moon, sun := satest.Pair(w, opts, satest.ESP("aes128-sha256-esn"))
		f := &forger{}
		if noTFC {
			f.answerOnce(w, sun, wire.ExchangeIKEAuth, func(ps []wire.Payload) []wire.Payload {
				return append(ps, notify(wire.NotifyESPTFCPaddingNotSupported))
			})
		}
		moon.Initiate("sun", "", sunAddr)
		w.Settle(100)
		assertUp(t, moon, sun)
		sas, policies := installed(t, moon)
		in, out := sas[0], sas[1]
		if pad := out.TFCPad; in.TFCPad != 0 || noTFC && pad != 0 || !noTFC && pad != 512 {
			t.Errorf("padding %d in, %d out; the peer takes none: %v", in.TFCPad, pad, noTFC)
		}
		if in.Auth.ICVBits != 96 || out.Auth.ICVBits != 96 || !in.ESN || !out.ESN || in.ReplayWindow != 256 {
			t.Errorf("in %+v, out %+v", in, out)
		}
		if in.Flags&dataplane.ICMP == 0 || policies[0].Flags&dataplane.PolicyICMP == 0 {
			t.Errorf("ICMP errors: flags %x, policy %x", in.Flags, policies[0].Flags)
		}
	}
}

// TestBEETSelectors: the kernel learns the inner addresses from the SAs.
func TestBEETSelectors(t *testing.T) {
	_, moon, _ := established(t, 1, false, beet)
	sas, _ := installed(t, moon)
	if in, out := sas[0].Selector, sas[1].Selector; in == nil || out == nil ||
		out.Src.String() != "10.1.0.0/32" || out.Dst.String() != "10.2.0.0/32" || in.Src != out.Dst || in.Dst != out.Src {
		t.Errorf("selectors in %v, out %v", in, out)
	}
}
