//go:build lab

package fastpath

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/dataplane"
	"espalier/dataplane/xfrm"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// TestMain mounts a BPF file system, which daemons share with us: each of them has its own view of what is mounted later.
func TestMain(m *testing.M) {
	if err := os.MkdirAll("/sys/fs/bpf", 0o755); err == nil {
		_ = unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "") // fails where it is mounted
	}
	// A sender, and what keeps a CPU busy, do not let go of a processor of Go's: those who fill rings and read sockets have others.
	runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	os.Exit(m.Run())
}

// gateway is the first gateway with espalierd, which has no connections: its tunnels have static keys, that the test installs.
type gateway struct {
	testing.TB
	n   *topo.Net
	x   *xfrm.XFRM
	esp *topo.Espalier
}

// newGateway builds the network and starts the daemon with these settings of the fast path.
func newGateway(t testing.TB, settings string) *gateway {
	t.Helper()
	g := networkOnly(t)
	g.start(settings)
	return g
}

// networkOnly is newGateway without the daemon, which start starts.
func networkOnly(t testing.TB) *gateway {
	t.Helper()
	n := topo.New(t, topo.Config{})
	return &gateway{TB: t, n: n, x: dataPlane(t, n.GW1)}
}

func (g *gateway) start(settings string) {
	g.Helper()
	conf := "espalier {\n outside = out0\n inside = in0\n" + settings + "\n}\n"
	g.esp = need[*topo.Espalier](g)(g.n.GW1.StartEspalier(g.Context(), topo.EspalierConfig{Conf: conf}))
	g.Cleanup(g.takeDown)
	g.attached("esp_in", "esp_out")
}

// attached fails the test, with the kernel's reason, unless these programs are at their places.
func (g *gateway) attached(programs ...string) {
	g.Helper()
	var h hostState
	g.espctl(&h, "host", "show", "--brief")
	for _, want := range programs {
		if !slices.ContainsFunc(h.Parts, func(p hostPart) bool { return p.Program == want && p.How != "" }) {
			g.Fatalf("%s is not attached: %+v", want, h.Parts)
		}
	}
}

// takeDown removes what a killed daemon leaves pinned: the next test's gateway is another one.
func (g *gateway) takeDown() {
	pins, _ := filepath.Glob("/sys/fs/bpf/espalier/*")
	for _, p := range pins {
		if err := os.RemoveAll(p); err != nil {
			g.Error(err)
		}
	}
}

// Prints of espctl, as far as the tests need them.
type (
	spiList struct {
		Version int
		SPIs    []spiEntry
	}
	spiEntry struct {
		Dir, Dst, SPI, Owner string
		CPU                  *int
		Packets, Bytes       uint64
		Drops                []struct {
			Reason  string
			Packets uint64
		}
	}
	totals []struct {
		Name    string
		Packets uint64
	}
	hostPart  struct{ Program, Interface, How, Reason string }
	hostState struct {
		Parts []hostPart
		Fast  *struct{ Totals totals } `json:"fast_path"`
	}
)

func (t totals) of(name string) uint64 {
	for _, c := range t {
		if c.Name == name {
			return c.Packets
		}
	}
	return 0
}

// espctl runs espctl in the gateway and reads its JSON.
func (g *gateway) espctl(into any, args ...string) {
	g.Helper()
	out := need[string](g)(g.esp.Espctl(g.Context(), append([]string{"-j"}, args...)...))
	if err := json.Unmarshal([]byte(out), into); err != nil {
		g.Fatalf("espctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// entries are what the fast path has of SAs, by direction and SPI.
func (g *gateway) entries() map[string]spiEntry {
	g.Helper()
	var list spiList
	g.espctl(&list, "spi", "show")
	out := map[string]spiEntry{}
	for _, e := range list.SPIs {
		out[e.Dir+" "+e.SPI] = e
	}
	return out
}

func entryOf(sa *dataplane.SA) string { return fmt.Sprintf("%s %08x", sa.Dir, sa.SPI) }

// known waits until the fast path knows the SAs, which the daemon learns of by itself.
func (g *gateway) known(sas ...dataplane.SA) {
	g.Helper()
	until(g, "SAs in the table of the fast path", func() (bool, string) {
		have := g.entries()
		for i := range sas {
			if _, ok := have[entryOf(&sas[i])]; !ok {
				return false, fmt.Sprintf("expected %s, have %v", entryOf(&sas[i]), have)
			}
		}
		return true, ""
	})
}

// totals are the counters beside the SAs.
func (g *gateway) totals() totals {
	g.Helper()
	var h hostState
	g.espctl(&h, "host", "show", "--brief")
	if h.Fast == nil {
		g.Fatalf("the fast path is not loaded: %+v\n%s", h, g.esp.Log())
	}
	return h.Fast.Totals
}

// install adds SAs and waits until they are known.
func (g *gateway) install(sas ...dataplane.SA) {
	g.Helper()
	for _, sa := range sas {
		must(g, g.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
	}
	g.known(sas...)
}

// generator makes packets for the SAs in turn, small ones to the first client's sink.
func (g *gateway) generator(inner topo.Family, sas ...dataplane.SA) *esp.Generator {
	g.Helper()
	var streams []esp.Stream
	for i, sa := range sas {
		streams = append(streams, esp.Stream{SA: sa, Inner: [][]byte{innerPacket(g, g.n, inner, uint16(i), 100)}})
	}
	return need[*esp.Generator](g)(esp.NewGenerator(fromWire(g, g.n), esp.Mix{}, streams...))
}

// forged sends ESP with random SPIs to the gateway.
func (g *gateway) forger(n int) *esp.Forger {
	g.Helper()
	f := need[*esp.Forger](g)(esp.NewForger(fromWire(g, g.n), g.n.GW2.Subnet(topo.IPv4), g.n.GW1.Outer(topo.IPv4), 100, uint64(n)))
	f.Keep = func(spi uint32) bool { return spi>>28 != 1 } // ours begin so: see spiOf
	return f
}

// tunnel protects all traffic between the clients' networks with static keys, in both gateways.
func (g *gateway) tunnel(kind cipherKind, outer topo.Family) (in, out dataplane.SA) {
	g.Helper()
	return g.tunnelOf(kind, outer, 64)
}

// tunnelOf is tunnel with another replay window, in packets.
func (g *gateway) tunnelOf(kind cipherKind, outer topo.Family, replay uint32) (in, out dataplane.SA) {
	g.Helper()
	n := g.n
	x2 := dataPlane(g, n.GW2)
	in, out = between(n.GW2, n.GW1, kind, outer, spiOf(0xaaa), replay), between(n.GW1, n.GW2, kind, outer, spiOf(0xbbb), replay)
	out.Dir = dataplane.Out
	in2, out2 := out, in
	in2.Dir, out2.Dir = dataplane.In, dataplane.Out
	policies := func(own, peer *topo.Host) []dataplane.Op {
		return append(allowInbound(own, peer, outer), outbound(own, peer, outer)...)
	}
	must(g, x2.Apply(append(policies(n.GW2, n.GW1), dataplane.InstallSA{SA: in2}, dataplane.InstallSA{SA: out2})))
	must(g, g.x.Apply(policies(n.GW1, n.GW2)))
	g.install(in, out)
	return in, out
}

// outbound is the policies that send what is for the peer's network through the tunnel.
func outbound(own, peer *topo.Host, outer topo.Family) []dataplane.Op {
	var ops []dataplane.Op
	for _, inner := range []topo.Family{topo.IPv4, topo.IPv6} {
		sel := dataplane.Selector{Src: own.Subnet(inner), Dst: peer.Subnet(inner)}
		tmpl := dataplane.Template{Src: own.PublicAddr(outer), Dst: peer.PublicAddr(outer), Proto: dataplane.ESP, Mode: dataplane.Tunnel, ReqID: reqID}
		ops = append(ops, dataplane.InstallPolicy{Policy: dataplane.Policy{PolicyKey: dataplane.PolicyKey{Selector: sel, Dir: dataplane.Out}, Owner: 1,
			Priority: dataplane.Priority(sel), Templates: []dataplane.Template{tmpl}}})
	}
	return ops
}
