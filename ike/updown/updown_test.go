package updown

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/internal/event"
)

var update = flag.Bool("update", false, "rewrite the golden file")

func ts(t *testing.T, s string) selector.TS {
	t.Helper()
	spec, err := selector.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return spec.TS
}

// session is one with a child, and the child as events have it.
func session(t *testing.T, id uint64, local, remote []string) (*sa.Info, event.Child) {
	t.Helper()
	c := sa.ChildInfo{UniqueID: id, Name: "net", ReqID: 7}
	for _, s := range local {
		c.LocalTS = append(c.LocalTS, ts(t, s))
	}
	for _, s := range remote {
		c.RemoteTS = append(c.RemoteTS, ts(t, s))
	}
	info := &sa.Info{UniqueID: 3, Conn: "gw", Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4500"),
		LocalID: "berlin", RemoteID: "C=CH, CN=lisbon", Children: []sa.ChildInfo{{UniqueID: id + 1000}, c}}
	return info, event.Child{Name: "net", UniqueID: id, ReqID: 7, LocalTS: local, RemoteTS: remote}
}

// TestEnvironment writes the environments of some CHILD SAs down.
func TestEnvironment(t *testing.T) {
	var b strings.Builder
	show := func(title string, cfg *sa.ChildConfig, info *sa.Info, child event.Child, dns ...string) {
		var servers []netip.Addr
		for _, s := range dns {
			servers = append(servers, netip.MustParseAddr(s))
		}
		r := newRun(cfg, child, info, servers)
		r.link = "out0"
		fmt.Fprintf(&b, "# %s\n", title)
		for i := range r.variables {
			verb, env := r.environment("/bin", i, i%2 == 0)
			if !slices.Contains(env, "PLUTO_VERB="+verb) {
				t.Errorf("the verb %s is not in %q", verb, env)
			}
			b.WriteString(strings.Join(env, "\n") + "\n\n")
		}
	}
	info, child := session(t, 1, []string{"10.1.0.0/24", "fd00:1::/64", "192.0.2.1/32"}, []string{"10.2.0.0-10.2.0.9", "fd00:2::/64"})
	show("pairs of one family each, a range, a host", &sa.ChildConfig{}, info, child)

	info, child = session(t, 1, []string{"10.1.0.0/24[tcp/80]"}, []string{"10.2.0.0/24[tcp/1024-2047]", "10.2.0.0/24[udp]"})
	info.NATRemote, info.RemoteEAPID = true, "alice"
	c := &info.Children[1]
	c.MarkIn, c.MarkOut, c.IfIDIn, c.IfIDOut, c.CPIIn, c.Proto = dataplane.Mark{Value: 42, Mask: 0xffffffff}, dataplane.Mark{Value: 1, Mask: 0xff}, 5, 6, 1, dataplane.AH
	info.LocalVIPs = []netip.Addr{netip.MustParseAddr("10.3.0.1"), netip.MustParseAddr("fd00:3::1"), netip.MustParseAddr("10.3.0.2")}
	info.RemoteVIPs = []netip.Addr{netip.MustParseAddr("fd00:4::1")}
	show("all variables", &sa.ChildConfig{HostAccess: true}, info, child, "10.1.0.53", "fd00::53", "10.1.0.54")

	info, child = session(t, 1, []string{"192.0.2.1/32[icmp/8]"}, []string{"192.0.2.2/32[icmp]"})
	info.RemoteID = "a\x00b\nPATH=/tmp"
	show("ICMP, and an identity that would be lines", &sa.ChildConfig{}, info, child)
	const golden = "testdata/environment.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// recorder stands in the place of the shell.
type recorder struct {
	mu    sync.Mutex
	runs  []string
	err   error
	hold  chan struct{} // runs wait for it, unless it is nil
	lines int
}

func (r *recorder) run(ctx context.Context, s Script, line func(string)) error {
	var conn, verb string
	for _, v := range s.Env {
		if x, ok := strings.CutPrefix(v, "PLUTO_VERB="); ok {
			verb = x
		}
		if x, ok := strings.CutPrefix(v, "PLUTO_MY_CLIENT="); ok {
			conn = x
		}
	}
	r.mu.Lock()
	r.runs = append(r.runs, verb+" "+conn)
	hold := r.hold
	r.mu.Unlock()
	for range r.lines {
		line(strings.Repeat("x", 5000))
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return r.err
}

func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := strings.Join(r.runs, ", ")
	r.runs = nil
	return out
}

func scripts(r *recorder, bus *event.Bus, log zerolog.Logger) *Scripts {
	return New(Options{Run: r.run, Limit: time.Minute, Bus: bus, Log: log, Interface: func(netip.Addr, netip.Addr) string { return "out0" }})
}

var script = &sa.ChildConfig{Name: "net", Updown: "script"}

// TestOrder shows that each script runs in order, once for what a rekeying replaces,
// and that waiting ones do not pile up.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		s := scripts(r, new(event.Bus), zerolog.Nop())
		up := func(id uint64, net string) {
			info, child := session(t, id, []string{net}, []string{"10.2.0.0/24"})
			s.ChildUp(script, child, info)
		}
		expect := func(when, want string) {
			t.Helper()
			synctest.Wait()
			if got := r.take(); got != want {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
		up(1, "10.1.0.0/24")
		expect("up", "up-client 10.1.0.0/24")
		up(2, "10.1.0.0/24")
		s.ChildDown(1)
		expect("rekeyed", "")
		s.ChildDown(99) // one without a script
		s.ChildDown(2)
		expect("down", "down-client 10.1.0.0/24")

		r.hold = make(chan struct{})
		up(3, "10.1.0.0/24")
		synctest.Wait()
		for id := uint64(4); id < 1000; id++ {
			s.ChildDown(id - 1)
			up(id, "10.1.0.0/24")
		}
		up(2000, "10.9.0.0/24") // another one does not wait
		expect("while one runs", "up-client 10.1.0.0/24, up-client 10.9.0.0/24")
		close(r.hold)
		expect("after much coming and going", "down-client 10.1.0.0/24, up-client 10.1.0.0/24")
		s.ChildDown(999)
		s.ChildDown(2000)
		s.Close()
		got := strings.Split(r.take(), ", ")
		slices.Sort(got)
		if strings.Join(got, ", ") != "down-client 10.1.0.0/24, down-client 10.9.0.0/24" {
			t.Errorf("at the end: got %q", got)
		}
		if len(s.kinds)+len(s.children)+len(s.dns) != 0 {
			t.Errorf("left: %v %v %v", s.kinds, s.children, s.dns)
		}
	})
}

// TestFailures shows that a script that fails or hangs is an event, and that its
// output is bounded.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		bus := new(event.Bus)
		sub := bus.Subscribe(10)
		r := &recorder{err: errors.New("exit status 3"), lines: 100}
		s := scripts(r, bus, zerolog.New(&log))
		info, child := session(t, 1, []string{"10.1.0.0/24"}, []string{"10.2.0.0/24"})
		s.ChildUp(script, child, info)
		synctest.Wait()
		want := event.ScriptFailed{Conn: "gw", ChildName: "net", Verb: "up-client", Command: "script", Reason: "exit status 3"}
		if got, _ := sub.Next(); got.Event != want {
			t.Errorf("got %+v, want %+v", got.Event, want)
		}
		if n := strings.Count(log.String(), "updown script says\""); n != maxLines || log.Len() > 2*maxLines*maxLine {
			t.Errorf("expected %d lines in the log, got %d, %d bytes", maxLines, n, log.Len())
		}
		r.err, r.lines, r.hold = nil, 0, make(chan struct{})
		s.ChildDown(1)
		s.Close()
		got, _ := sub.Next()
		if f, ok := got.Event.(event.ScriptFailed); !ok || f.Verb != "down-client" || f.Reason != "it took longer than 1m0s" {
			t.Errorf("got %+v", got.Event)
		}
		// Nobody writes events to the log any more.
		if !strings.Contains(log.String(), "updown script failed") {
			t.Errorf("the log lacks the last failure: %s", log.String()[max(0, log.Len()-300):])
		}
	})
}

// TestNameServers shows whose name servers a script is told.
func TestNameServers(t *testing.T) {
	s := scripts(&recorder{}, new(event.Bus), zerolog.Nop())
	s.NameServers(3, []netip.Addr{netip.MustParseAddr("10.1.0.53")})
	s.NameServers(4, []netip.Addr{netip.MustParseAddr("10.1.0.54")})
	info, child := session(t, 1, []string{"10.1.0.0/24"}, []string{"10.2.0.0/24"})
	s.ChildUp(script, child, info)
	s.mu.Lock()
	common := s.children[1].wanted.common
	s.mu.Unlock()
	if !slices.Contains(common, "PLUTO_DNS4_1=10.1.0.53") || len(common) != 1 {
		t.Errorf("got %q", common)
	}
	s.IKEDown(3)
	s.IKEDown(4)
	s.ChildDown(1)
	s.Close()
	if len(s.dns) != 0 {
		t.Errorf("left: %v", s.dns)
	}
}

// TestFirewall shows what a packet filter is to let through, with a script or
// without, and that a script always finds it open.
func TestFirewall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		r := &recorder{}
		s := New(Options{Limit: time.Minute, Bus: new(event.Bus), Log: zerolog.Nop(),
			Run: func(ctx context.Context, sc Script, line func(string)) error {
				got = append(got, "script")
				return r.run(ctx, sc, line)
			},
			Firewall: func(p Pass, up bool) error {
				got = append(got, fmt.Sprintf("%d forward=%v host=%v up=%v", p.ReqID, p.Forward, p.Host, up))
				return errors.New("no nft")
			}})
		for i, c := range []struct {
			cfg   sa.ChildConfig
			local string
			vip   bool
			want  string
		}{
			{sa.ChildConfig{}, "10.1.0.0/24", false, "7 forward=true host=false up=true, 7 forward=true host=false up=false"},
			{sa.ChildConfig{HostAccess: true}, "10.1.0.0/24", false, "7 forward=true host=true up=true, 7 forward=true host=true up=false"},
			{sa.ChildConfig{}, "10.1.0.0/24", true, "7 forward=true host=true up=true, 7 forward=true host=true up=false"},
			{sa.ChildConfig{Updown: "x"}, "192.0.2.1/32", false, "7 forward=false host=true up=true, script, script, 7 forward=false host=true up=false"},
		} {
			if !s.Wants(&c.cfg) {
				t.Errorf("%+v is not wanted", c.cfg)
			}
			info, child := session(t, uint64(i), []string{c.local}, []string{"10.2.0.0/24"})
			if c.vip {
				info.LocalVIPs = []netip.Addr{netip.MustParseAddr("10.3.0.1")}
			}
			s.ChildUp(&c.cfg, child, info)
			synctest.Wait()
			s.ChildDown(uint64(i))
			synctest.Wait()
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("%+v: got %s, want %s", c, text, c.want)
			}
			got = nil
		}
		s.Close()
		if plain := scripts(r, new(event.Bus), zerolog.Nop()); plain.Wants(&sa.ChildConfig{}) || !plain.Wants(script) {
			t.Error("without a firewall only children with a script are wanted")
		}
	})
}
