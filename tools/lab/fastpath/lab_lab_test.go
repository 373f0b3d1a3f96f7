//go:build lab

package fastpath

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/xfrm"
	"espalier/ike/engine/sockets"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// must ends the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func need[V any](t testing.TB) func(V, error) V {
	return func(v V, err error) V {
		t.Helper()
		must(t, err)
		return v
	}
}

// dataPlane opens a gateway's XFRM.
func dataPlane(t testing.TB, h *topo.Host) *xfrm.XFRM {
	t.Helper()
	ns := need[*os.File](t)(os.Open(filepath.Join("/run/netns", h.Name)))
	t.Cleanup(func() { ns.Close() })
	x := need[*xfrm.XFRM](t)(xfrm.Open(xfrm.Options{JournalDir: t.TempDir(), NetNS: ns, Log: zerolog.Nop()}))
	t.Cleanup(func() { x.Close() })
	return x
}

// cipherKind is how an SA protects.
type cipherKind struct {
	name   string
	change func(*dataplane.SA)
}

func key(n int) []byte {
	k := make([]byte, n)
	for i := range k {
		k[i] = byte(3*i + n)
	}
	return k
}

var (
	gcm = cipherKind{"AES-GCM", func(sa *dataplane.SA) {
		sa.AEAD = dataplane.Algorithm{Name: "rfc4106(gcm(aes))", Key: key(20), ICVBits: 128}
	}}
	gcmUDP = cipherKind{"AES-GCM in UDP", func(sa *dataplane.SA) {
		gcm.change(sa)
		sa.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 4500}
	}}
	gcmESN = cipherKind{"AES-GCM ESN", func(sa *dataplane.SA) { gcm.change(sa); sa.ESN = true }}
	cbc    = cipherKind{"AES-CBC SHA2-512", func(sa *dataplane.SA) {
		sa.Crypt = dataplane.Algorithm{Name: "cbc(aes)", Key: key(32)}
		sa.Auth = dataplane.Algorithm{Name: "hmac(sha512)", Key: key(64), ICVBits: 256}
	}}
)

// inbound is an SA from the second gateway to the first.
func inbound(n *topo.Net, kind cipherKind, outer topo.Family, spi, window uint32) dataplane.SA {
	return between(n.GW2, n.GW1, kind, outer, spi, window)
}

func between(from, to *topo.Host, kind cipherKind, outer topo.Family, spi, window uint32) dataplane.SA {
	sa := dataplane.SA{
		SAKey: dataplane.SAKey{Dst: to.PublicAddr(outer), Proto: dataplane.ESP, SPI: spi},
		Src:   from.PublicAddr(outer), Dir: dataplane.In, Mode: dataplane.Tunnel, ReqID: reqID, ReplayWindow: window,
	}
	kind.change(&sa)
	return sa
}

const reqID = 42

// allowInbound is the policies that let a gateway's SAs deliver: any inner packet of these networks.
func allowInbound(own, peer *topo.Host, outer topo.Family) []dataplane.Op {
	var ops []dataplane.Op
	for _, inner := range []topo.Family{topo.IPv4, topo.IPv6} {
		ops = append(ops, inboundPolicies(own, peer, outer, inner)...)
	}
	return ops
}

func inboundPolicies(own, peer *topo.Host, outer, inner topo.Family) []dataplane.Op {
	var ops []dataplane.Op
	sel := dataplane.Selector{Src: peer.Subnet(inner), Dst: own.Subnet(inner)}
	tmpl := dataplane.Template{Src: peer.PublicAddr(outer), Dst: own.PublicAddr(outer), Proto: dataplane.ESP, Mode: dataplane.Tunnel, ReqID: reqID}
	for _, dir := range []dataplane.Direction{dataplane.In, dataplane.Fwd} {
		ops = append(ops, dataplane.InstallPolicy{Policy: dataplane.Policy{PolicyKey: dataplane.PolicyKey{Selector: sel, Dir: dir}, Owner: 1,
			Priority: dataplane.Priority(sel), Templates: []dataplane.Template{tmpl}}})
	}
	return ops
}

// ethernet is the address of a host's device.
func ethernet(t testing.TB, h *topo.Host, device string) net.HardwareAddr {
	t.Helper()
	var dev *net.Interface
	must(t, h.Do(func() (err error) {
		dev, err = net.InterfaceByName(device)
		return err
	}))
	return dev.HardwareAddr
}

// fromWire is the Ethernet header of frames from the wire to the first gateway, as if the second one had sent them.
func fromWire(t testing.TB, n *topo.Net) esp.Link {
	t.Helper()
	return esp.Link{Src: ethernet(t, n.GW2, "out0"), Dst: ethernet(t, n.GW1, "out0")}
}

// passXDP attaches a program that lets everything pass: a veth takes XDP frames from its other end only then.
func passXDP(t testing.TB, h *topo.Host, device string) {
	t.Helper()
	prog := need[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{Name: "pass", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}}))
	t.Cleanup(func() { prog.Close() })
	attachXDP(t, h, device, prog)
}

func attachXDP(t testing.TB, h *topo.Host, device string, prog *ebpf.Program) link.Link {
	t.Helper()
	var l link.Link
	must(t, h.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: dev.Index, Flags: link.XDPDriverMode})
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}

// liveFrames opens a sender on the wire's port to the first gateway.
func liveFrames(t testing.TB, n *topo.Net, frames int) *esp.LiveFrames {
	t.Helper()
	var s *esp.LiveFrames
	must(t, n.Wire.Do(func() (err error) {
		s, err = esp.NewLiveFrames("port1", frames)
		return err
	}))
	t.Cleanup(func() { s.Close() })
	return s
}

func packetSocket(t testing.TB, n *topo.Net, frames int) *esp.PacketSocket {
	t.Helper()
	ring := need[*esp.Ring](t)(esp.NewRing(frames))
	var s *esp.PacketSocket
	must(t, n.Wire.Do(func() (err error) {
		s, err = esp.NewPacketSocket("port1", ring)
		return err
	}))
	t.Cleanup(func() { s.Close() })
	return s
}

// send sends in the wire's namespace.
func send(t testing.TB, n *topo.Net, s esp.Sender, p esp.Pace) esp.Report {
	t.Helper()
	var r esp.Report
	must(t, n.Wire.Do(func() (err error) {
		r, err = esp.Send(t.Context(), s, p)
		return err
	}))
	return r
}

// innerPacket is a UDP packet from a host behind the second gateway to the first client's sink.
func innerPacket(t testing.TB, n *topo.Net, f topo.Family, flow uint16, size int) []byte {
	t.Helper()
	return need[[]byte](t)(esp.UDP(netip.AddrPortFrom(n.Client2.Inner(f), 20000+flow), netip.AddrPortFrom(n.Client1.Inner(f), sinkPort), size))
}

const sinkPort = 9009

// sink makes the first client ready to get the inner packets, who is known to its gateway from now on: a queue of packets that wait for
// a neighbour's address is short. It opens the sockets that the inner packets are for, and reads them if asked to: the
// kernel counts a datagram when it is read, or when there is no room for it.
func sink(t testing.TB, n *topo.Net, read bool) {
	t.Helper()
	sinkOf(t, n.GW1, n.Client1, read)
}

// sinkOf is sink of another client.
func sinkOf(t testing.TB, gateway, client *topo.Host, read bool) {
	t.Helper()
	must(t, client.Do(func() error {
		for _, f := range []topo.Family{topo.IPv4, topo.IPv6} {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(client.Inner(f), sinkPort)))
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			if !read {
				continue
			}
			go func() {
				buf := make([]byte, 2048)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
				}
			}()
		}
		return nil
	}))
	for _, f := range []topo.Family{topo.IPv4, topo.IPv6} {
		must(t, gateway.Ping(t.Context(), client.Inner(f), 1))
	}
}

// datagrams counts what the sink got, read or not, whose checksum was right.
func datagrams(t testing.TB, n *topo.Net) uint64 {
	t.Helper()
	return datagramsOf(t, n.Client1)
}

func datagramsOf(t testing.TB, client *topo.Host) uint64 {
	t.Helper()
	out := need[string](t)(client.Run(t.Context(), "cat", "/proc/net/snmp", "/proc/net/snmp6"))
	var sum uint64
	lines := strings.Split(out, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && (f[0] == "Udp6InDatagrams" || f[0] == "Udp6RcvbufErrors" || f[0] == "Udp6MemErrors"):
			sum += number(t, f[1])
		case len(f) > 2 && f[0] == "Udp:" && i+1 < len(lines) && strings.HasPrefix(lines[i+1], "Udp: ") && f[1] == "InDatagrams":
			v := strings.Fields(lines[i+1])
			for j := range f {
				if f[j] == "InDatagrams" || f[j] == "RcvbufErrors" || f[j] == "MemErrors" {
					sum += number(t, v[j])
				}
			}
		}
	}
	return sum
}

func number(t testing.TB, s string) uint64 {
	t.Helper()
	return need[uint64](t)(strconv.ParseUint(s, 10, 64))
}

// xfrmErrors is what a namespace's XFRM counted as lost, by the kernel's names, those that are not zero.
func xfrmErrors(t testing.TB, h *topo.Host) map[string]uint64 {
	t.Helper()
	out := need[string](t)(h.Run(t.Context(), "cat", "/proc/net/xfrm_stat"))
	errs := map[string]uint64{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && f[1] != "0" {
			errs[f[0]] = number(t, f[1])
		}
	}
	return errs
}

// until polls until ok, for packets that are on their way; the last state is in the error.
func until(t testing.TB, what string, ok func() (bool, string)) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(25 * time.Millisecond) {
		done, state := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, state)
		}
	}
}

// packets is an SA's counter in the kernel.
func packets(t testing.TB, x *xfrm.XFRM, k dataplane.SAKey) uint64 {
	t.Helper()
	return need[dataplane.SAStatus](t)(x.QuerySA(k)).Packets
}

// encapSockets holds the sockets that decapsulate ESP in UDP, as systemd does for the daemon.
func encapSockets(t testing.TB, h *topo.Host) {
	t.Helper()
	must(t, h.Do(func() error {
		set, err := sockets.Open(sockets.Options{Port: 500, NATTPort: 4500})
		if err == nil {
			t.Cleanup(func() { set.Close() })
		}
		return err
	}))
}

// userModeLinux: the kernel is a program of this machine, and as fast.
func userModeLinux() bool { return topo.Processors("User Mode Linux") }

// emulated: each instruction is translated, at a tenth of the speed or less. What is about a rate or many packets makes do with less then, and 'make
// fast-test' runs it as a whole.
func emulated() bool { return topo.Emulated() }

// spiOf numbers SAs.
func spiOf(i int) uint32 { return 0x1000_0000 + uint32(i) }
