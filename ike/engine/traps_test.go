package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

func trapped(c *sa.Connection) { c.Children[0].Trap = true }

// trapPolicy is the standing outbound policy of a box.
func (b *box) outPolicy() (p dataplane.Policy) {
	snap, err := b.dp.List()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, q := range snap.Policies {
		if q.Dir == dataplane.Out {
			p = q
		}
	}
	return p
}

// acquire reports a packet that met the outbound policy.
func (b *box) acquire() {
	p := b.outPolicy()
	if len(p.Templates) != 1 {
		b.t.Fatalf("no policy that could report a packet: %+v", p)
	}
	b.dp.Inject(dataplane.Acquire{
		Policy: p.PolicyKey, ReqID: p.Templates[0].ReqID, Src: p.Templates[0].Src, Dst: p.Templates[0].Dst,
		Packet: dataplane.Selector{
			Src: netip.MustParsePrefix("10.1.0.10/32"), Dst: netip.MustParsePrefix("10.2.0.10/32"),
			Proto: 17, SrcPort: 1234, SrcPortMask: 0xffff, DstPort: 7, DstPortMask: 0xffff,
		},
	})
}

func trapPair(t *testing.T, f *fabric, opts ...satest.Option) (moon, sun *box) {
	moon = newBox(t, f, moonAddr, []*sa.Connection{moonConn(append(opts, trapped)...)}, fourShards)
	sun = newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, fourShards)
	synctest.Wait()
	return moon, sun
}

// TestTrapForVirtualAddress: a client that has no virtual address yet sends with any other of the box's of the family that it
// is to get, whatever the family of the outer one.
func TestTrapForVirtualAddress(t *testing.T) {
	dynamic := func(c *sa.Connection) {
		c.Children[0].LocalTS = []selector.Spec{satest.Must(selector.Parse("dynamic"))}
	}
	for _, c := range []struct {
		vips  []netip.Addr
		addrs []string // of the box, beside the outer one
		want  string   // sources of the outbound policies
	}{
		{nil, []string{"10.1.0.1"}, "192.0.2.1/32"},
		{[]netip.Addr{netip.IPv4Unspecified()}, []string{"10.1.0.1", "2001:db8::1"}, "10.1.0.1/32 192.0.2.1/32"},
		{[]netip.Addr{netip.IPv6Unspecified()}, []string{"10.1.0.1", "2001:db8::1"}, "2001:db8::1/128"},
	} {
		synctest.Test(t, func(t *testing.T) {
			everything := func(conn *sa.Connection) {
				conn.VIPs = c.vips
				conn.Children[0].RemoteTS = []selector.Spec{satest.Must(selector.Parse("10.2.0.0/16")), satest.Must(selector.Parse("2001:db8:2::/48"))}
			}
			moon := newBox(t, newFabric(), moonAddr, []*sa.Connection{moonConn(dynamic, everything, trapped)}, func(o *Options) {
				o.Addrs = func() (out []netip.Addr, err error) {
					for _, a := range append(c.addrs, moonAddr) {
						out = append(out, netip.MustParseAddr(a))
					}
					return out, nil
				}
			})
			synctest.Wait()
			var got []string
			for _, p := range satest.Must(moon.dp.List()).Policies {
				if p.Dir == dataplane.Out {
					got = append(got, p.Selector.Src.String())
				}
			}
			slices.Sort(got)
			if strings.Join(got, " ") != c.want {
				t.Errorf("vips %v: traps for packets from %v, expected %s", c.vips, got, c.want)
			}
			moon.stop()
		})
	}
}

func TestTrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moon, sun := trapPair(t, newFabric())
		moon.holds(0, 3)
		trap := moon.outPolicy()
		if trap.Templates[0].ReqID == 0 || trap.Templates[0].Dst != netip.MustParseAddr(sunAddr) || moon.Stats().Traps != 1 {
			t.Errorf("trap: %+v", trap)
		}
		moon.dp.Inject(dataplane.Acquire{Policy: trap.PolicyKey, ReqID: trap.Templates[0].ReqID + 1}) // not the trap's
		synctest.Wait()
		if s := moon.Stats(); s.Sessions != 0 || s.AcquiresIgnored != 1 {
			t.Errorf("another policy's packet: %+v", s)
		}
		for range 99 {
			moon.acquire()
		}
		synctest.Wait()
		moon.holds(2, 3)
		if s := moon.Stats(); s.Sessions != 1 || s.AcquiresIgnored != 99 {
			t.Errorf("100 packets: %d sessions, %d ignored, expected 1 and 99", s.Sessions, s.AcquiresIgnored)
		}
		up := moon.outPolicy()
		if up.Owner == trap.Owner || up.Templates[0].ReqID != trap.Templates[0].ReqID {
			t.Errorf("trap and CHILD SA: %+v and %+v, expected two owners and one request id", trap, up)
		}

		// The peer deletes the child: the trap shows again and brings it back, on
		// the same IKE SA.
		time.Sleep(5 * time.Second)
		info := sun.infos()[0]
		if err := sun.Terminate(t.Context(), Target{IKE: info.UniqueID, Child: info.Children[0].UniqueID}, false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		moon.holds(0, 3)
		if got := moon.outPolicy(); got.Owner != trap.Owner {
			t.Errorf("after the delete: %+v, expected the trap", got)
		}
		moon.acquire()
		synctest.Wait()
		moon.holds(2, 3)
		if s := moon.Stats(); s.Sessions != 1 || s.Established != 1 {
			t.Errorf("expected the child on the IKE SA that was there, got %+v", s)
		}
		moon.stop()
		sun.stop()
	})
}

// TestTrapBesideChild: the peer opens the child, a packet outside of what it was
// narrowed to changes nothing.
func TestTrapBesideChild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		moon, sun := trapPair(t, f)
		trap := moon.outPolicy()
		if err := sun.Initiate(t.Context(), "moon", "net", false); err == nil {
			t.Fatal("sun has no address to go to")
		}
		sun.Apply([]*sa.Connection{sunConn(to(moonAddr))}, testCreds(), DefaultSettings(), Changes{})
		if err := sun.Initiate(t.Context(), "moon", "net", false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		moon.holds(2, 3)
		if got := moon.outPolicy(); got.Owner == trap.Owner {
			t.Errorf("%+v, expected the CHILD SA's policy", got)
		}
		moon.dp.Inject(dataplane.Acquire{Policy: trap.PolicyKey, ReqID: trap.Templates[0].ReqID})
		moon.dp.Inject(dataplane.Acquire{Policy: trap.PolicyKey, ReqID: 4711})
		time.Sleep(time.Minute)
		moon.holds(2, 3)
		if s := moon.Stats(); s.Sessions != 1 || s.AcquiresIgnored != 2 {
			t.Errorf("expected nothing new, got %+v", s)
		}
		sun.stop()
		synctest.Wait()
		moon.holds(0, 3)
		moon.stop()
	})
}

// TestTrapTriesAgain: a failed attempt pauses, longer each time; then the kernel
// is told to report the next packet.
func TestTrapTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moon, sun := trapPair(t, newFabric(), satest.ESP("aes256gcm16"))
		idle := func() bool {
			moon.traps.mu.Lock()
			defer moon.traps.mu.Unlock()
			return moon.traps.byName[ChildName{"sun", "net"}].state == trapIdle
		}
		dropped := 0
		moon.dp.FailNext(func(op dataplane.Op) error {
			if d, ok := op.(dataplane.DeleteSA); ok && d.Key.Dst == netip.MustParseAddr(sunAddr) {
				dropped++
			}
			return nil
		})
		began := time.Now()
		for tries := 1; tries <= 4; tries++ {
			moon.acquire()
			synctest.Wait()
			moon.acquire() // while it pauses
			for !idle() {
				time.Sleep(10 * time.Millisecond)
			}
		}
		if d := time.Since(began); d < 15*time.Second || d > 17*time.Second {
			t.Errorf("4 failed attempts took %v, expected the pauses 1 + 2 + 4 + 8 s", d)
		}
		synctest.Wait()
		if dropped != 4 {
			t.Errorf("%d records of a packet dropped, expected one after each of 4 pauses", dropped)
		}
		if s := moon.Stats(); s.AcquiresIgnored != 4 {
			t.Errorf("%d reports ignored, expected the 4 during the pauses", s.AcquiresIgnored)
		}
		moon.holds(0, 3)
		sun.Apply([]*sa.Connection{sunConn(satest.ESP("aes256gcm16"))}, testCreds(), DefaultSettings(), Changes{})
		if err := moon.Terminate(t.Context(), Target{IKE: moon.infos()[0].UniqueID}, false); err != nil {
			t.Fatal(err)
		}
		moon.acquire()
		synctest.Wait()
		moon.holds(2, 3)
		moon.stop()
		sun.stop()
	})
}

// TestTrapBounds: attempts wait for their turn, and what is beyond is dropped.
func TestTrapBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		var conns []*sa.Connection
		for _, n := range []string{"a", "b", "c", "d"} {
			conns = append(conns, satest.Conn(n, n+".example.org", "sun.example.org", "10.1.0.0/16", "10.2."+string('0'+n[0]-'a')+".0/24", to(sunAddr), trapped))
		}
		moon := newBox(t, f, moonAddr, conns, nil)
		synctest.Wait()
		moon.traps.mu.Lock()
		moon.traps.maxAttempts, moon.traps.maxWaiting = 1, 2
		moon.traps.mu.Unlock()
		snap, _ := moon.dp.List()
		for _, p := range snap.Policies {
			if p.Dir == dataplane.Out {
				moon.dp.Inject(dataplane.Acquire{Policy: p.PolicyKey, ReqID: p.Templates[0].ReqID})
			}
		}
		synctest.Wait()
		if s := moon.Stats(); s.Acquires != 4 || s.AcquiresDropped != 1 || s.Sessions != 1 {
			t.Errorf("expected one attempt, two that wait and one dropped, got %+v", s)
		}
		time.Sleep(10 * time.Minute) // nobody answers
		synctest.Wait()
		if n := f.sent; n != 3*6 {
			t.Errorf("%d messages, expected the 6 of each of 3 attempts", n)
		}
		moon.stop()
	})
}

func TestTrapByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		moon, sun := pair(t, f, fourShards)
		ctx := t.Context()
		for range 2 {
			if err := moon.Install(ctx, "sun", "net"); err != nil {
				t.Fatal(err)
			}
			moon.holds(0, 3)
		}
		moon.trap(ChildName{"sun", "net"}) // as dpd_action does
		synctest.Wait()
		moon.holds(0, 3)
		for _, name := range []string{"mars", "net"} {
			if err := moon.Install(ctx, name, "nix"); !errors.Is(err, ErrNotFound) {
				t.Errorf("Install of nothing: %v", err)
			}
		}
		// A reload that keeps the child keeps the trap, with what changed.
		change := func(c *sa.Connection) { c.Children[0].Priority = 7 }
		if err := moon.Apply([]*sa.Connection{moonConn(change)}, testCreds(), DefaultSettings(), Changes{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		moon.holds(0, 3)
		if p := moon.outPolicy(); p.Priority != 7 {
			t.Errorf("priority %d, expected the new configuration's 7", p.Priority)
		}
		if err := moon.Uninstall("sun", "net"); err != nil {
			t.Error(err)
		}
		moon.holds(0, 0)
		if err := moon.Uninstall("sun", "net"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Uninstall of nothing: %v", err)
		}
		// What the configuration wants comes and goes with it.
		for _, opts := range [][]satest.Option{{trapped}, {}} {
			if err := moon.Apply([]*sa.Connection{moonConn(opts...)}, testCreds(), DefaultSettings(), Changes{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			moon.holds(0, 3*len(opts))
		}
		if n := moon.Stats().ReqIDs; n != 0 {
			t.Errorf("%d request ids in use, expected none", n)
		}
		moon.stop()
		sun.stop()
	})
}

// TestTrapWaitsForAnAddress: without a way to the peer the trap comes later, and
// follows the peer's name to another address.
func TestTrapWaitsForAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		named := func(c *sa.Connection) { c.RemoteAddrs = []sa.AddrSpec{{Host: "sun.example.org"}} }
		var addr atomic.Pointer[string]
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(named, trapped)}, func(o *Options) {
			o.Resolve = func(string) ([]netip.Addr, error) {
				if a := addr.Load(); a != nil {
					return []netip.Addr{netip.MustParseAddr(*a)}, nil
				}
				return nil, errBoom
			}
		})
		time.Sleep(10 * time.Second)
		moon.holds(0, 0)
		for _, a := range []string{"192.0.2.7", "192.0.2.8"} {
			addr.Store(&a)
			time.Sleep(trapRefresh + time.Second)
			moon.holds(0, 3)
			if got := moon.outPolicy().Templates[0].Dst.String(); got != a {
				t.Errorf("the trap leads to %s, expected %s", got, a)
			}
		}
		moon.stop()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := moon.Install(ctx, "sun", "net"); !errors.Is(err, ErrStopping) {
			t.Errorf("Install after the stop: %v", err)
		}
	})
}

// TestBothTrap: packets on both sides meet a trap at the same time, so that both
// begin an IKE SA, or a CHILD SA on the one that there is. One CHILD SA stands.
func TestBothTrap(t *testing.T) {
	for name, policy := range map[string]sa.Uniqueness{"no": sa.UniquenessNo, "never": sa.UniquenessNever, "keep": sa.UniquenessKeep, "replace": sa.UniquenessReplace} {
		for seed := range uint64(12) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFabric()
					trap := func(c *sa.Connection) {
						c.Unique, c.Children[0].Trap = policy, true
						c.Children[0].CloseAction, c.Children[0].DPDAction = sa.FollowTrap, sa.FollowTrap
					}
					moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(trap)}, fourShards)
					sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(trap, to(moonAddr))}, fourShards)
					synctest.Wait()
					f.delay(seed, 50*time.Millisecond)
					both := func(when string) {
						t.Helper()
						moon.acquire()
						time.Sleep(time.Duration(seed%3) * 10 * time.Millisecond)
						sun.acquire()
						time.Sleep(time.Minute)
						synctest.Wait()
						for _, b := range []*box{moon, sun} {
							b.holds(2, 3)
							if is := b.infos(); len(is) != 1 || len(is[0].Children) != 1 {
								t.Errorf("%s: %d IKE SAs: %+v", when, len(is), is)
							}
						}
						if a, b := moon.infos(), sun.infos(); a[0].SPIi != b[0].SPIi {
							t.Errorf("%s: the two sides have kept another one each", when)
						}
					}
					both("no IKE SA before")
					if t.Failed() {
						return
					}
					info := moon.infos()[0]
					if err := moon.Terminate(t.Context(), Target{IKE: info.UniqueID, Child: info.Children[0].UniqueID}, false); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
					moon.holds(0, 3)
					both("on the IKE SA")
				})
			})
		}
	}
}

// reservations is a data plane that tells what SPIs were asked for.
type reservations struct {
	*dataplane.Fake
	asked []dataplane.SPIRequest
}

func (r *reservations) ReserveSPI(q dataplane.SPIRequest) (uint32, error) {
	r.asked = append(r.asked, q)
	return r.Fake.ReserveSPI(q)
}

// TestTrapBeginsAfresh: a packet may have asked for the trap's SA before the trap was there, of what a run that was killed has left; the kernel's record of that
// would keep all others waiting. It goes when the trap comes.
func TestTrapBeginsAfresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dp *reservations
		moon := newBox(t, newFabric(), moonAddr, []*sa.Connection{moonConn(trapped)}, func(o *Options) {
			dp = &reservations{Fake: o.DataPlane.(*dataplane.Fake)}
			o.DataPlane = dp
		})
		synctest.Wait()
		tmpl := moon.outPolicy().Templates[0]
		if len(dp.asked) != 1 || dp.asked[0].ReqID != tmpl.ReqID || dp.asked[0].Src != tmpl.Src || dp.asked[0].Dst != tmpl.Dst {
			t.Errorf("expected the record of template %+v to be taken over once, got %+v", tmpl, dp.asked)
		}
		moon.holds(0, 3) // and given back
	})
}

// TestTrapsInOrder: request ids count in the order of the configuration. A trap
// whose name has to be looked up holds nobody up.
func TestTrapsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conns []*sa.Connection
		for i := range byte(20) {
			conns = append(conns, satest.Conn(string('a'+i), "moon.example.org", "sun.example.org", "10.1.0.0/16", fmt.Sprintf("10.2.%d.0/24", i), to(sunAddr), trapped))
		}
		conns[3].RemoteAddrs = []sa.AddrSpec{{Host: "sun.example.org"}}
		unknown := make(chan struct{})
		moon := newBox(t, newFabric(), moonAddr, conns, func(o *Options) {
			o.Resolve = func(string) ([]netip.Addr, error) {
				<-unknown
				return nil, errors.New("nobody knows")
			}
		})
		synctest.Wait()
		snap, err := moon.dp.List()
		if err != nil {
			t.Fatal(err)
		}
		got := map[netip.Prefix]uint32{}
		for _, p := range snap.Policies {
			if p.Dir == dataplane.Out {
				got[p.Selector.Dst] = p.Templates[0].ReqID
			}
		}
		want := uint32(1)
		for i := range 20 {
			if i == 3 {
				continue
			}
			if dst := netip.MustParsePrefix(fmt.Sprintf("10.2.%d.0/24", i)); got[dst] != want {
				t.Errorf("%s: request id %d, expected %d", dst, got[dst], want)
			}
			want++
		}
		close(unknown)
		moon.stop()
	})
}

// TestTrapRoutes: the box's own traffic is led to a trap as it is into a tunnel,
// and kept from it where a shunt lets it pass.
func TestTrapRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network dataplane.FakeNetwork
		moon := newBox(t, newFabric(), moonAddr, []*sa.Connection{moonConn(trapped, to(sunAddr))}, func(o *Options) {
			o.Network, o.Settings.InstallRoutes = &network, true
			o.Addrs = func() ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr(moonAddr), netip.MustParseAddr("10.1.0.1")}, nil
			}
		})
		stands := func(when, routes, spared string) {
			t.Helper()
			synctest.Wait()
			if r, s := fmt.Sprint(network.Routes()), fmt.Sprint(network.Spared()); r != routes || s != spared {
				t.Errorf("%s: routes %s, spared %s, expected %s and %s", when, r, s, routes, spared)
			}
		}
		apply := func(s Settings, conns ...*sa.Connection) {
			t.Helper()
			if err := moon.Apply(conns, testCreds(), s, Changes{}); err != nil {
				t.Fatal(err)
			}
		}
		on := moon.opts.Settings
		off := on
		off.InstallRoutes = false
		const trap = "[10.2.0.0/16 from 10.1.0.0/16]"
		stands("a trap", trap, "[]")
		apply(on)
		stands("none", "[]", "[]")
		apply(on, moonConn(trapped, to(sunAddr)), shunts(false, true))
		stands("beside a shunt", trap, "[10.2.7.0/24]")
		apply(on, moonConn(trapped, to(sunAddr)), shunts(true, true))
		stands("beside one that drops", trap, "[]")
		apply(off, moonConn(trapped, to(sunAddr)), shunts(false, true))
		stands("install_routes = no", "[]", "[]")
		apply(on, moonConn(trapped, to(sunAddr)))
		stands("install_routes = yes", trap, "[]")
		moon.stop()
		stands("after the stop", "[]", "[]")
	})
}
