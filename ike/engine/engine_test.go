package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
)

// The tests run in synctest bubbles: time is the bubble's, and a goroutine that
// outlives its engine fails the test.

func inline(o *Options)     { o.Inline = true }
func fourShards(o *Options) { o.Settings.Shards, o.Settings.Workers = 4, 3 }

func TestSetUpAndDelete(t *testing.T) {
	for name, change := range map[string]func(*Options){"inline": inline, "threads": fourShards} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				moon, sun := pair(t, newFabric(), change)
				ctx := t.Context()
				if err := moon.Initiate(ctx, "sun", "net", false); err != nil {
					t.Fatalf("Initiate: %v\n%s\n%s", err, moon.saw(), sun.saw())
				}
				synctest.Wait()
				moon.holds(2, 3)
				sun.holds(2, 3)
				if err := moon.Initiate(ctx, "sun", "net", false); err != nil || moon.Stats().Sessions != 1 {
					t.Errorf("a child that is up: err %v, %d sessions, expected success and 1", err, moon.Stats().Sessions)
				}
				infos := sun.infos()
				if len(infos) != 1 || infos[0].Conn != "moon" || infos[0].UniqueID != 1 || len(infos[0].Children) != 1 || infos[0].Children[0].ReqID != 1 {
					t.Fatalf("sun's sessions: %+v", infos)
				}
				if sun.Stats().HalfOpen != 0 || sun.Stats().Established != 1 {
					t.Errorf("sun: %+v", sun.Stats())
				}
				for _, e := range []struct{ b *box }{{moon}, {sun}} {
					if s := e.b.saw(); !strings.Contains(s, "IKE SA established") || !strings.Contains(s, "CHILD SA installed") {
						t.Errorf("events: %s", s)
					}
				}
				id := moon.infos()[0].UniqueID
				if err := moon.Terminate(ctx, Target{IKE: id}, false); err != nil {
					t.Errorf("Terminate: %v", err)
				}
				synctest.Wait()
				moon.holds(0, 0)
				sun.holds(0, 0)
				if err := moon.Terminate(ctx, Target{IKE: id + 7}, false); !errors.Is(err, ErrNotFound) {
					t.Errorf("Terminate of nothing: %v", err)
				}
				time.Sleep(time.Minute) // lingering ends
				synctest.Wait()
				for _, b := range []*box{moon, sun} {
					if s := b.Stats(); s.Sessions != 0 || s.ReqIDs != 0 || s.Timers != 0 {
						t.Errorf("after the end: %+v", s)
					}
				}
				moon.stop()
				sun.stop()
			})
		})
	}
}

// TestInterface: the index of a child's network interface is asked for when the
// CHILD SA comes up.
func TestInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := moonConn()
		conn.Children[0].Interface = "lan0"
		there := false
		moon := newBox(t, newFabric(), moonAddr, []*sa.Connection{conn}, func(o *Options) {
			o.Interface = func(name string) (*net.Interface, error) {
				if name != "lan0" || !there {
					return nil, errBoom
				}
				return &net.Interface{Index: 9}, nil
			}
		})
		sun := newBox(t, moon.tr.f, sunAddr, []*sa.Connection{sunConn()}, nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err == nil || !strings.Contains(err.Error(), "lan0") {
			t.Errorf("without the interface: %v", err)
		}
		there = true
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Error(err)
		}
		found := false
		for _, p := range satest.Must(moon.dp.List()).Policies {
			found = found || p.Dir == dataplane.Out && p.IfIndex == 9
		}
		if !found {
			t.Error("no outbound policy for interface 9")
		}
		moon.stop()
		sun.stop()
	})
}

// TestLacks: what the kernel does not have is told once for each child when the
// configuration comes, and the CHILD SA is up without.
func TestLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		modern := func(c *sa.Connection) { c.Children[0].Mode = dataplane.IPTFS }
		var log bytes.Buffer
		f := newFabric()
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(modern)}, func(o *Options) {
			o.DataPlane = dataplane.NewFake(dataplane.FakeOptions{Features: &dataplane.Features{}})
			o.Log = zerolog.New(&log).Level(zerolog.WarnLevel)
		})
		moon.dp = moon.opts.DataPlane.(*dataplane.Fake)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(modern)}, nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, b := range []*box{moon, sun} {
			for _, s := range satest.Must(b.dp.List()).SAs {
				if s.Mode != dataplane.Tunnel {
					t.Errorf("mode %s", s.Mode)
				}
			}
		}
		moon.stop()
		sun.stop()
		if n := strings.Count(log.String(), "the kernel lacks what a child asks for"); n != 1 {
			t.Errorf("told %d times:\n%s", n, log.String())
		}
	})
}

// TestDSCP: what a connection with a DSCP says, from the first message on, and
// only that, carries it.
func TestDSCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		conn := moonConn()
		conn.DSCP = 46
		moon := newBox(t, f, moonAddr, []*sa.Connection{conn}, inline)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, inline)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		f.mu.Lock()
		if f.marked[46] != 2 || f.sent != 4 {
			t.Errorf("%v of %d messages carry a DSCP, expected moon's 2 of 4", f.marked, f.sent)
		}
		f.mu.Unlock()
		moon.stop()
		sun.stop()
	})
}

func TestStopTellsThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moon, sun := pair(t, newFabric(), nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		moon.stop()
		if d := time.Since(begin); d > time.Second {
			t.Errorf("a stop with a peer that answers took %v", d)
		}
		synctest.Wait()
		sun.holds(0, 0)
		sun.stop()
		if err := moon.Initiate(t.Context(), "sun", "net", false); !errors.Is(err, ErrStopping) {
			t.Errorf("Initiate after the stop: %v", err)
		}
		moon.Sessions(func(sa.Info) bool { t.Error("a session after the stop"); return false })
	})
}

func TestStopWithSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		moon, sun := pair(t, f, fourShards)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		f.setPass(func(_, _ netip.AddrPort, _ []byte) bool { return false })
		begin := time.Now()
		moon.stop() // checks that the kernel holds nothing
		if d := time.Since(begin); d < 2*time.Second || d > 4*time.Second {
			t.Errorf("a stop with a silent peer took %v, expected the 2 s of Settings.StopTimeout", d)
		}
		sun.stop()
	})
}

func TestRetransmissionUnderLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		copies := map[string]int{}
		f.setPass(func(_, _ netip.AddrPort, data []byte) bool {
			copies[string(data)]++
			return copies[string(data)] > 1 // each message arrives with its second transmission
		})
		moon, sun := pair(t, f, fourShards)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatalf("%v\n%s\n%s", err, moon.saw(), sun.saw())
		}
		if err := moon.Terminate(t.Context(), Target{IKE: 1}, false); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := sun.Stats().Established; n != 1 {
			t.Errorf("sun established %d sessions, expected 1: a repeated request must meet its session", n)
		}
		moon.holds(0, 0)
		sun.holds(0, 0)
		f.setPass(nil)
		moon.stop()
		sun.stop()
	})
}

func TestPeerTimeoutIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(started)}, nil)
		err := moon.Initiate(t.Context(), "sun", "net", false) // joins the start's attempt
		if err == nil || !strings.Contains(err.Error(), "PEER_TIMEOUT") {
			t.Errorf("expected PEER_TIMEOUT, got %v", err)
		}
		time.Sleep(10 * time.Minute)
		if f.sent != 6 {
			t.Errorf("expected one cycle of 6 transmissions, got %d", f.sent)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := moon.Initiate(ctx, "sun", "net", false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("expected the context's end, got %v", err)
		}
		moon.stop()
	})
}

func TestFailures(t *testing.T) {
	other := func(c *sa.Connection) { c.Remote[0].ID = satest.Must(auth.ParseID("mars.example.org")) }
	for want, conn := range map[string]*sa.Connection{
		"NO_PROPOSAL_CHOSEN":    moonConn(satest.IKE("aes256-sha512-modp2048")),
		"AUTHENTICATION_FAILED": moonConn(other),
	} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFabric()
				moon := newBox(t, f, moonAddr, []*sa.Connection{conn}, nil)
				sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
				err := moon.Initiate(t.Context(), "sun", "net", false)
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("expected %s, got %v", want, err)
				}
				time.Sleep(2 * time.Minute)
				for _, b := range []*box{moon, sun} {
					if s := b.Stats(); s.Sessions != 0 || s.HalfOpen != 0 || s.ReqIDs != 0 {
						t.Errorf("left: %+v", s)
					}
					b.stop()
				}
			})
		})
	}
}

func TestKernelRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moon, sun := pair(t, newFabric(), nil)
		moon.dp.FailNext(func(op dataplane.Op) error {
			if _, ok := op.(dataplane.InstallSA); ok {
				return errBoom
			}
			return nil
		})
		err := moon.Initiate(t.Context(), "sun", "net", false)
		if err == nil || !strings.Contains(err.Error(), "KERNEL_REFUSED") || !strings.Contains(err.Error(), "boom") {
			t.Errorf("expected the kernel's refusal, got %v", err)
		}
		synctest.Wait()
		moon.holds(0, 0)
		if n := moon.Stats().ReqIDs; n != 0 {
			t.Errorf("%d request ids in use, expected none", n)
		}
		moon.stop()
		sun.stop()
	})
}

func TestHardExpiryDeletesTheChild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moon, sun := pair(t, newFabric(), fourShards)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		c := moon.infos()[0].Children[0]
		synctest.Wait()
		moon.dp.Inject(dataplane.Expire{Key: dataplane.SAKey{Dst: netip.MustParseAddr(sunAddr), Proto: dataplane.ESP, SPI: c.SPIOut}, ReqID: c.ReqID, Hard: true})
		moon.dp.Inject(dataplane.Expire{Key: dataplane.SAKey{Dst: netip.MustParseAddr(sunAddr), Proto: dataplane.ESP, SPI: c.SPIOut + 1}, ReqID: c.ReqID, Hard: true})
		synctest.Wait()
		moon.holds(0, 0)
		sun.holds(0, 0)
		if s := moon.Stats(); s.Sessions != 1 || s.HardExpires != 2 || s.ReqIDs != 0 {
			t.Errorf("expected the IKE SA to live: %+v", s)
		}
		moon.stop()
		sun.stop()
	})
}

func TestThousands(t *testing.T) {
	const n = 2000
	conns := make([]*sa.Connection, n)
	for i := range conns {
		conns[i] = satest.Conn(fmt.Sprintf("c%d", i), fmt.Sprintf("c%d.example.org", i), "sun.example.org",
			fmt.Sprintf("10.1.%d.%d/32", i>>8, i&255), "10.2.0.0/16", to(sunAddr))
	}
	answer := sunConn()
	answer.Remote[0].ID = auth.ID{}
	synctest.Test(t, func(t *testing.T) {
		change := func(o *Options) {
			fourShards(o)
			o.Settings.MaxHalfOpenPerPrefix = n
		}
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{answer}, change)
		moon := newBox(t, f, moonAddr, conns, change)
		var wg sync.WaitGroup
		var failed sync.Once
		for _, c := range conns {
			wg.Go(func() {
				if err := moon.Initiate(t.Context(), c.Name, "net", false); err != nil {
					failed.Do(func() { t.Errorf("%s: %v\n%s", c.Name, err, sun.saw()) })
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		moon.holds(2*n, 3*n)
		infos := moon.infos()
		if len(infos) != n || !slices.IsSortedFunc(infos, func(a, b sa.Info) int { return int(a.UniqueID) - int(b.UniqueID) }) {
			t.Errorf("%d sessions, expected %d in order", len(infos), n)
		}
		reqids, spis := map[uint32]bool{}, map[uint32]bool{}
		for _, i := range infos {
			reqids[i.Children[0].ReqID], spis[i.Children[0].SPIIn] = true, true
			if sa.BucketOf(i.SPIi) != uint8(i.Children[0].SPIIn>>24) {
				t.Fatalf("ESP SPI %08x is not of the bucket of %s", i.Children[0].SPIIn, i.SPIi)
			}
		}
		if len(reqids) != n || len(spis) != n || !reqids[1] || !reqids[n] {
			t.Errorf("%d request ids and %d SPIs for %d children", len(reqids), len(spis), n)
		}
		moon.stop()
		synctest.Wait()
		sun.holds(0, 0)
		sun.stop()
	})
}

func TestStartRetriesOnlyWithoutAWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		tries := 0
		begin := time.Now()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(started)}, func(o *Options) {
			o.Route = func(netip.Addr) (netip.Addr, error) {
				if tries++; tries <= 3 {
					return netip.Addr{}, fmt.Errorf("route: %w", syscall.ENETUNREACH)
				}
				return netip.MustParseAddr(moonAddr), nil
			}
		})
		for moon.Stats().Established == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		if d := time.Since(begin); d < 7*time.Second || d > 8*time.Second {
			t.Errorf("up after %v, expected the pauses 1 + 2 + 4 s", d)
		}
		moon.stop()
		sun.stop()
	})
}

func TestHostNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		named := func(c *sa.Connection) { c.RemoteAddrs = []sa.AddrSpec{{Host: "sun.example.org"}} }
		fail := true
		resolve := func(o *Options) {
			o.Resolve = func(host string) ([]netip.Addr, error) {
				if fail || host != "sun.example.org" {
					return nil, errBoom
				}
				return []netip.Addr{netip.MustParseAddr(sunAddr)}, nil
			}
		}
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(named)}, resolve)
		synctest.Wait()
		if err := moon.Initiate(t.Context(), "sun", "net", false); !errors.Is(err, errLookup) {
			t.Errorf("expected a failed lookup, got %v", err)
		}
		fail = false
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Error(err)
		}
		if a := moon.hosts.lookup("sun.example.org"); len(a) != 1 {
			t.Errorf("the cache has %v", a)
		}
		moon.stop()
		sun.stop()
	})
}

func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		const n = 3
		conns := make([]*sa.Connection, n)
		for i := range conns {
			conns[i] = satest.Conn(fmt.Sprintf("c%d", i), fmt.Sprintf("c%d.example.org", i), "sun.example.org",
				fmt.Sprintf("10.1.%d.0/24", i), "10.2.0.0/16", to(sunAddr), started)
		}
		answer := sunConn()
		answer.Remote[0].ID = auth.ID{}
		sun := newBox(t, f, sunAddr, []*sa.Connection{answer}, nil)
		moon := newBox(t, f, moonAddr, conns[:2], nil)
		synctest.Wait()
		before := map[string]wire.SPI{}
		for _, i := range moon.infos() {
			before[i.Conn] = i.SPIi
		}
		if len(before) != 2 {
			t.Fatalf("expected c0 and c1 up, got %v", before)
		}
		err := moon.Apply(conns[1:], testCreds(), DefaultSettings(), Changes{
			RemovedConns: []string{"c0"}, Start: []ChildName{{"c2", "net"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		after := map[string]wire.SPI{}
		for _, i := range moon.infos() {
			after[i.Conn] = i.SPIi
		}
		if len(after) != 2 || after["c1"] != before["c1"] || after["c2"] == 0 {
			t.Errorf("before %v, after %v: expected c0 gone, c1 untouched, c2 new", before, after)
		}
		moon.holds(4, 6)
		// A changed child that is up lives on, even with Start.
		if err := moon.Apply(conns[1:], testCreds(), DefaultSettings(), Changes{Start: []ChildName{{"c1", "net"}}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := moon.infos(); len(got) != 2 || got[0].SPIi != before["c1"] {
			t.Errorf("a changed child did not live on: %d sessions", len(got))
		}
		if err := moon.Apply(conns[1:], testCreds(), DefaultSettings(), Changes{RemovedChildren: []ChildName{{"c1", "net"}}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		moon.holds(2, 3)
		moon.stop()
		sun.stop()
	})
}

// A connection that is only forgotten leaves its sessions as they are; what is
// said to end with it ends, and with its last child the session.
func TestApplyForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		conns := make([]*sa.Connection, 3)
		for i := range conns {
			conns[i] = satest.Conn(fmt.Sprintf("c%d", i), fmt.Sprintf("c%d.example.org", i), "sun.example.org",
				fmt.Sprintf("10.1.%d.0/24", i), "10.2.0.0/16", to(sunAddr), started)
		}
		answer := sunConn()
		answer.Remote[0].ID = auth.ID{}
		sun := newBox(t, f, sunAddr, []*sa.Connection{answer}, nil)
		moon := newBox(t, f, moonAddr, conns, nil)
		synctest.Wait()
		err := moon.Apply(conns[2:], testCreds(), DefaultSettings(), Changes{Ended: []ChildName{{"c1", "net"}, {"c2", "other"}}})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var left []string
		for _, i := range moon.infos() {
			left = append(left, i.Conn)
			if err := moon.Rekey(t.Context(), Target{IKE: i.UniqueID, Child: i.Children[0].UniqueID}); err != nil {
				t.Errorf("rekeying a child of %s: %v", i.Conn, err)
			}
		}
		if slices.Sort(left); !slices.Equal(left, []string{"c0", "c2"}) {
			t.Errorf("expected c1 gone with its only child, and c0 and c2 untouched, got %v", left)
		}
		if err := moon.Initiate(t.Context(), "c0", "net", false); !errors.Is(err, ErrNotFound) {
			t.Errorf("initiating what is forgotten: %v", err)
		}
		time.Sleep(time.Minute) // what was rekeyed is gone by then
		moon.holds(4, 6)
		moon.stop()
		sun.stop()
	})
}

func TestOverrunReconciles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moon, sun := pair(t, newFabric(), fourShards)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		moon.dp.Inject(dataplane.Overrun{})
		synctest.Wait()
		moon.holds(2, 3) // nothing is missing: nothing happens
		c := moon.infos()[0].Children[0]
		key := dataplane.SAKey{Dst: netip.MustParseAddr(moonAddr), Proto: dataplane.ESP, SPI: c.SPIIn}
		if err := moon.dp.Apply([]dataplane.Op{dataplane.DeleteSA{Key: key}}); err != nil {
			t.Fatal(err)
		}
		moon.dp.Inject(dataplane.Overrun{})
		synctest.Wait()
		moon.holds(0, 0)
		sun.holds(0, 0)
		if n := moon.Stats().Overruns; n != 2 {
			t.Errorf("%d overruns counted", n)
		}
		moon.stop()
		sun.stop()
	})
}

// TestOverrunBetweenRekeying: a new child whose outbound SA waits for the peer's delete of the old one lacks nothing.
func TestOverrunBetweenRekeying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		moon, sun := pair(t, f, fourShards)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		f.setPass(func(_, _ netip.AddrPort, data []byte) bool {
			h, err := wire.ParseHeader(data)
			return err == nil && h.Exchange != wire.ExchangeInformational
		})
		info := moon.infos()[0]
		if err := moon.Rekey(t.Context(), Target{IKE: info.UniqueID, Child: info.Children[0].UniqueID}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		sun.holds(3, 3)
		if s := states(sun); s != "REKEYED INSTALLED" {
			t.Errorf("sun has %s", s)
		}
		sun.dp.Inject(dataplane.Overrun{})
		synctest.Wait()
		sun.holds(3, 3)
		if s := states(sun); s != "REKEYED INSTALLED" {
			t.Errorf("after the overrun sun has %s", s)
		}
		f.setPass(nil)
		time.Sleep(20 * time.Second)
		sun.dp.Inject(dataplane.Overrun{})
		synctest.Wait()
		sun.holds(2, 3)
		moon.holds(2, 3)
		moon.stop()
		sun.stop()
	})
}

// states are those of a box's CHILD SAs.
func states(b *box) string {
	var out []string
	for _, i := range b.infos() {
		for _, c := range i.Children {
			out = append(out, c.State.String())
		}
	}
	return strings.Join(out, " ")
}

// TestStopAtAnyMoment stops an initiator and a responder in the middle of many
// set-ups: nothing may stay behind, and no job may touch what has been wiped.
func TestStopAtAnyMoment(t *testing.T) {
	const n = 20
	conns := make([]*sa.Connection, n)
	for i := range conns {
		conns[i] = satest.Conn(fmt.Sprintf("c%d", i), fmt.Sprintf("c%d.example.org", i), "sun.example.org",
			fmt.Sprintf("10.1.%d.0/24", i), "10.2.0.0/16", to(sunAddr))
	}
	answer := sunConn()
	answer.Remote[0].ID = auth.ID{}
	for messages := range 26 { // 20 set-ups are 80 messages
		synctest.Test(t, func(t *testing.T) {
			f := newFabric()
			sun := newBox(t, f, sunAddr, []*sa.Connection{answer}, fourShards)
			moon := newBox(t, f, moonAddr, conns, fourShards)
			reached := make(chan struct{})
			var once sync.Once
			left := 3 * messages
			f.setPass(func(_, _ netip.AddrPort, _ []byte) bool {
				if left--; left <= 0 {
					once.Do(func() { close(reached) })
				}
				return true
			})
			for _, c := range conns {
				if err := moon.Initiate(t.Context(), c.Name, "net", true); err != nil {
					t.Error(err)
				}
			}
			<-reached
			if messages%2 == 0 {
				moon.stop()
				sun.stop()
			} else {
				sun.stop()
				moon.stop()
			}
		})
	}
}

// slowPlane reserves SPIs only when the gate opens.
type slowPlane struct {
	*dataplane.Fake
	asked, gate chan struct{}
}

func (s *slowPlane) ReserveSPI(r dataplane.SPIRequest) (uint32, error) {
	s.asked <- struct{}{}
	<-s.gate
	return s.Fake.ReserveSPI(r)
}

func TestLateSPIIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		slow := &slowPlane{asked: make(chan struct{}), gate: make(chan struct{})}
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, func(o *Options) {
			slow.Fake = o.DataPlane.(*dataplane.Fake)
			o.DataPlane = slow
		})
		if err := moon.Initiate(t.Context(), "sun", "net", true); err != nil {
			t.Fatal(err)
		}
		<-slow.asked
		// A shard does not wait for the kernel: it ends the session meanwhile.
		if err := moon.Terminate(t.Context(), Target{IKE: 1}, true); err != nil {
			t.Error(err)
		}
		close(slow.gate)
		synctest.Wait()
		moon.holds(0, 0)
		if n := moon.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions, expected the aborted one gone", n)
		}
		moon.stop()
		sun.stop()
	})
}
