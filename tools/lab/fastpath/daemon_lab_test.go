//go:build lab

package fastpath

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/dataplane/xfrm"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// daemonConf is a daemon without tunnels of its own.
const daemonConf = `
espalier {
    outside = out0
    inside = in0
    guard = on
}
`

// daemon starts espalierd in a gateway.
func daemon(t testing.TB, h *topo.Host, conf string) *topo.Espalier {
	t.Helper()
	return startDaemon(t, h, topo.EspalierConfig{Conf: conf})
}

func startDaemon(t testing.TB, h *topo.Host, cfg topo.EspalierConfig) *topo.Espalier {
	t.Helper()
	e := need[*topo.Espalier](t)(h.StartEspalier(t.Context(), cfg))
	t.Cleanup(func() {
		// What a killed one left in this namespace would stay pinned.
		if t.Failed() {
			t.Logf("log of espalierd:\n%s", e.Log())
		}
	})
	return e
}

// reader opens the pinned maps of a gateway.
func reader(t testing.TB, h *topo.Host, e *topo.Espalier) *flow.Reader {
	t.Helper()
	var r *flow.Reader
	must(t, h.Do(func() (err error) {
		r, err = flow.OpenReader(flow.ReaderOptions{State: filepath.Join(e.RunDir, "fastpath.json")})
		return err
	}))
	t.Cleanup(func() { r.Close() })
	return r
}

// counted is what the programs counted for an SA.
func counted(t testing.TB, h *topo.Host, r *flow.Reader, dir dataplane.Direction, k dataplane.SAKey) (n uint64, found bool) {
	t.Helper()
	must(t, h.Do(func() error { // what the kernel itself counts is of the namespace
		spis, err := r.SPIs()
		for _, s := range spis {
			if s.Key == (flow.Key{Dir: dir, Dst: k.Dst, SPI: k.SPI}) {
				n, found = s.Counters.Packets, true
			}
		}
		return err
	}))
	return n, found
}

// underTraffic is how many packets at least are sent while daemons come and go, in which portions, and how many a second. Beside 8,000 a second an emulated
// machine would verify programs for minutes: there User-Mode Linux has to show it, by 'make fast-test'.
func underTraffic() (atLeast, portion uint64, rate float64) {
	if emulated() {
		return 20_000, 500, 1_000
	}
	return 100_000, 5_000, 8_000
}

// TestDaemonKilled sends 100,000 packets of another program's SAs, one of them in UDP, while the daemon is killed and started again, with tables of other
// sizes, too. Its supervisor holds the IKE sockets. The kernel decrypts each packet, the programs count each once, and the guard takes none of them for a
// stranger's, nor those of an SA that is new while there is no daemon.
func TestDaemonKilled(t *testing.T) {
	n := topo.New(t, topo.Config{})
	x := dataPlane(t, n.GW1)
	sink(t, n, true)
	must(t, x.Apply(allowInbound(n.GW1, n.GW2, topo.IPv4)))
	e := startDaemon(t, n.GW1, topo.EspalierConfig{Conf: daemonConf, KeepSockets: true})
	want := []string{"espalier-0.0.0.0-4500", "espalier-0.0.0.0-500", "espalier-__-4500", "espalier-__-500"}
	if held := slices.Sorted(slices.Values(e.Supervisor().Held())); !slices.Equal(held, want) {
		t.Fatalf("expected the supervisor to hold %q, got %q", want, held)
	}
	var streams []esp.Stream
	var installed []dataplane.SAKey
	for i, kind := range []cipherKind{gcm, cbc, gcmUDP} {
		sa := inbound(n, kind, topo.IPv4, spiOf(i), 64)
		must(t, x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
		streams, installed = append(streams, esp.Stream{SA: sa, Inner: [][]byte{innerPacket(t, n, topo.IPv4, uint16(i), 200)}}), append(installed, sa.SAKey)
	}
	r := reader(t, n.GW1, e)
	until(t, "the SAs of another program in the table", func() (bool, string) {
		all := true
		for _, s := range streams {
			_, ok := counted(t, n.GW1, r, dataplane.In, s.SA.SAKey)
			all = all && ok
		}
		g := need[flow.Guard](t)(r.Guard())
		return all && g.InStep, fmt.Sprintf("%v, %+v", all, g)
	})
	const ofNew = 50
	atLeast, portion, rate := underTraffic()
	g := need[*esp.Generator](t)(esp.NewGenerator(fromWire(t, n), esp.Mix{Seed: 7}, streams...))
	s := packetSocket(t, n, 4096)
	before := datagrams(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	go func() { kept <- s.Ring().Keep(ctx, g) }()
	restarted, sent := make(chan struct{}), make(chan uint64, 1)
	go func() {
		total := uint64(0)
		defer func() { sent <- total }()
		for done := false; !done || total < atLeast; {
			r := send(t, n, s, esp.Pace{Count: portion, Rate: rate, CPU: 0})
			if total += r.Sent; r.Sent != portion {
				t.Errorf("expected %d frames to be sent, got %s", portion, r)
				return
			}
			select {
			case <-restarted:
				done = true
			default:
			}
		}
	}()
	for i, conf := range []string{daemonConf, daemonConf + "espalier { max_spis = 4096 }\n", daemonConf} {
		e.Kill()
		for _, s := range streams {
			was, had := counted(t, n.GW1, r, dataplane.In, s.SA.SAKey)
			before := packets(t, x, s.SA.SAKey)
			until(t, "counts and decryption without a daemon", func() (bool, string) {
				now, has := counted(t, n.GW1, r, dataplane.In, s.SA.SAKey)
				after := packets(t, x, s.SA.SAKey)
				return now > was && after > before, fmt.Sprintf("%s: %d counted (%v), then %d (%v), the kernel's SA had %d, then %d", s.SA.SAKey, was, had, now, has, before, after)
			})
		}
		if i == 0 {
			installed = append(installed, newSA(t, n, x, r, ofNew))
		}
		must(t, e.Configure(conf, nil))
		must(t, e.Restart(t.Context()))
		r = reader(t, n.GW1, e)
		state := daemonState(t, n.GW1, r)
		if want := map[bool]int{true: 4096, false: 65536}[i == 1]; state.Capacity != want || state.PID != e.PID() {
			t.Errorf("after restart %d: room for %d SPIs, daemon %d, expected %d and %d", i, state.Capacity, state.PID, want, e.PID())
		}
	}
	close(restarted)
	count := <-sent
	cancel()
	<-kept
	t.Logf("%d packets were sent", count)
	until(t, "packets at the client", func() (bool, string) {
		got := datagrams(t, n) - before
		return got == count+ofNew, fmt.Sprintf("expected %d, got %d; %v", count+ofNew, got, xfrmErrors(t, n.GW1))
	})
	for _, s := range streams {
		kernel := packets(t, x, s.SA.SAKey)
		if got, ok := counted(t, n.GW1, r, dataplane.In, s.SA.SAKey); !ok || got != kernel || kernel == 0 {
			t.Errorf("%s: %d counted (%v), the kernel's SA has %d", s.SA.SAKey, got, ok, kernel)
		}
	}
	guard := need[flow.Guard](t)(r.Guard())
	for _, c := range guard.Totals { // it noted what nobody had told it of, and let it pass
		if want := map[string]uint64{"guard-unknown-spi": ofNew}[c.Total.String()]; c.Count != want {
			t.Errorf("the guard objects to %d packets, expected %d: %s", c.Count, want, c.Total)
		}
	}
	// An orderly stop leaves the programs while there are SAs, and nothing when there are none.
	must(t, e.Stop())
	if _, ok := counted(t, n.GW1, reader(t, n.GW1, e), dataplane.In, streams[0].SA.SAKey); !ok {
		t.Error("an orderly stop took the counts of another program's SA down")
	}
	must(t, e.Restart(t.Context()))
	for _, key := range installed {
		must(t, x.Apply([]dataplane.Op{dataplane.DeleteSA{Key: key}}))
	}
	r = reader(t, n.GW1, e)
	until(t, "an empty table", func() (bool, string) {
		s := daemonState(t, n.GW1, r)
		return s.Used == 0, fmt.Sprintf("%d SPIs", s.Used)
	})
	must(t, e.Stop())
	must(t, n.GW1.Do(func() error {
		_, err := flow.OpenReader(flow.ReaderOptions{})
		if err != flow.ErrNotLoaded {
			t.Errorf("after the stop: %v, expected that nothing is loaded", err)
		}
		return nil
	}))
}

// newSA installs an SA while the daemon is dead: it gets its packets, as many as it is sent, though nobody tells the guard, which is on, of it any more.
func newSA(t *testing.T, n *topo.Net, x *xfrm.XFRM, r *flow.Reader, count uint64) dataplane.SAKey {
	t.Helper()
	until(t, "the guard out of step", func() (bool, string) {
		g := need[flow.Guard](t)(r.Guard())
		return !g.InStep && g.Mode == flow.GuardOn, fmt.Sprintf("%+v", g)
	})
	sa := inbound(n, gcm, topo.IPv4, spiOf(9), 64)
	must(t, x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
	g := need[*esp.Generator](t)(esp.NewGenerator(fromWire(t, n), esp.Mix{}, esp.Stream{SA: sa, Inner: [][]byte{innerPacket(t, n, topo.IPv4, 9, 100)}}))
	s := packetSocket(t, n, int(count))
	must(t, s.Ring().Fill(g, int(count)))
	send(t, n, s, esp.Pace{Count: count, CPU: 0})
	until(t, "its packets at its SA", func() (bool, string) {
		got := packets(t, x, sa.SAKey)
		return got == count, fmt.Sprintf("%d of %d", got, count)
	})
	return sa.SAKey
}

func daemonState(t testing.TB, h *topo.Host, r *flow.Reader) (s flow.State) {
	t.Helper()
	must(t, h.Do(func() (err error) {
		s, err = r.State()
		return err
	}))
	return s
}

// tc is how programs of tc are attached on this kernel.
func tc(t testing.TB) string {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	var major, minor int
	need[int](t)(fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor))
	if major > 6 || major == 6 && minor >= 6 {
		return "tcx"
	}
	return "clsact"
}

// tunnelConf is one side of a tunnel with a shared secret, of one CHILD SA: TestPerCPU of tools/lab/e2e is about those of single CPUs.
func tunnelConf(own, peer *topo.Host, f topo.Family, more string) string {
	return fmt.Sprintf(`
connections {
    peer {
        local_addrs = %s
        remote_addrs = %s
        local { auth = psk
            id = %s }
        remote { auth = psk
            id = %s }
        children { net {
            local_ts = %s
            remote_ts = %s
            per_cpu_sas = no
        } }
    }
}
secrets { ike { secret = "of the lab" } }
espalier {
    outside = out0
    inside = in0
    guard = on
    %s
}
`, own.Outer(f), peer.PublicAddr(f), own.Name, peer.Name, own.Subnet(f), peer.Subnet(f), more)
}

// TestDaemonCounts: of a tunnel of its own the daemon's programs count what the kernel's
// SAs count, both directions, to the packet; all programs are where they
// belong, and the guard, which is on, objects to nothing.
func TestDaemonCounts(t *testing.T) {
	n := topo.New(t, topo.Config{})
	e2 := daemon(t, n.GW2, tunnelConf(n.GW2, n.GW1, topo.IPv4, ""))
	e1 := daemon(t, n.GW1, tunnelConf(n.GW1, n.GW2, topo.IPv4, ""))
	if out, err := e1.Espctl(t.Context(), "conn", "up", "peer", "net"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, n.Client1.Ping(t.Context(), n.Client2.Inner(topo.IPv4), 20))
	if first, rest, ok := strings.Cut(e1.Log(), "espalierd started"); !ok || strings.Contains(first, "BPF program attached") || !strings.Contains(rest, "BPF program attached") {
		t.Errorf("expected that the daemon starts, then attaches programs:\n%s", e1.Log())
	}
	x := dataPlane(t, n.GW1)
	for _, c := range []struct {
		h *topo.Host
		e *topo.Espalier
	}{{n.GW1, e1}, {n.GW2, e2}} {
		r := reader(t, c.h, c.e)
		state := daemonState(t, c.h, r)
		var got []string
		for _, p := range state.Parts {
			got = append(got, fmt.Sprintf("%s %s/%s %s", p.Program, p.Interface, p.Direction, p.How))
			// Kernels without BTF (User-Mode Linux) have no place for these.
			if p.How == "" && !strings.HasSuffix(p.Program, "_begins") && !strings.HasSuffix(p.Program, "_ends") && !strings.HasPrefix(p.Program, "audit_") {
				t.Errorf("%s: %+v", c.h.Name, p)
			}
		}
		for _, want := range []string{"esp_in out0/ native", "esp_out out0/egress " + tc(t), "mss_in in0/ingress " + tc(t), "mss_out in0/egress " + tc(t), "mss_out out0/ingress " + tc(t)} {
			if !slices.Contains(got, want) {
				t.Errorf("%s: expected %s among %q", c.h.Name, want, got)
			}
		}
		for _, total := range need[flow.Guard](t)(r.Guard()).Totals {
			if total.Count != 0 {
				t.Errorf("%s: the guard objects to %d packets: %s", c.h.Name, total.Count, total.Total)
			}
		}
	}
	r := reader(t, n.GW1, e1)
	sas := 0
	for _, in := range need[dataplane.Snapshot](t)(x.List()).SAs {
		dir := dataplane.Out
		if in.Dst == n.GW1.Outer(topo.IPv4) {
			dir = dataplane.In
		}
		kernel := packets(t, x, in.SAKey)
		if got, ok := counted(t, n.GW1, r, dir, in.SAKey); !ok || got != kernel || kernel < 20 {
			t.Errorf("%s: %d counted (%v), the kernel's SA has %d", in.SAKey, got, ok, kernel)
		}
		sas++
	}
	if sas != 2 {
		t.Errorf("%d SAs, expected 2", sas)
	}
	must(t, e1.Stop())
	must(t, e2.Stop())
}

// TestDaemonWithoutBPF: where nothing can be loaded the tunnel works, and readers are
// told why.
func TestDaemonWithoutBPF(t *testing.T) {
	n := topo.New(t, topo.Config{})
	off := "fast_path = no"
	e2 := daemon(t, n.GW2, tunnelConf(n.GW2, n.GW1, topo.IPv4, off))
	e1 := daemon(t, n.GW1, tunnelConf(n.GW1, n.GW2, topo.IPv4, off))
	if out, err := e1.Espctl(t.Context(), "conn", "up", "peer", "net"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, n.Client1.Ping(t.Context(), n.Client2.Inner(topo.IPv4), 3))
	must(t, n.GW1.Do(func() error {
		if _, err := flow.OpenReader(flow.ReaderOptions{}); err != flow.ErrNotLoaded {
			t.Errorf("with fast_path = no: %v, expected that nothing is loaded", err)
		}
		return nil
	}))
	must(t, e1.Stop())
	must(t, e2.Stop())
}
