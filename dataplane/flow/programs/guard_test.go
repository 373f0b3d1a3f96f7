package programs

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"espalier/bpf"
)

// message is IKE from an address to ours.
func message(src string, l layer) packet {
	return packet{eth(ethIP4), ip4(src, us4, 17, udp(500, 500, l), l), udp(500, 500, l), l}
}

func unknownESP(src string) packet {
	return packet{eth(ethIP4), ip4(src, us4, 50, esp(0xdead0000, 5)), esp(0xdead0000, 5)}
}

func TestGuard(t *testing.T) {
	here(t)
	b := inboundBox(t)
	const initiator, response = 8, 32
	v1 := ike(peerIKE, 0, 34, initiator)
	v1.b[17] = 0x10
	short := ike(peerIKE, ownIKE, 37, initiator)
	short.b[27] = 27
	natt := func(l layer) packet {
		return packet{eth(ethIP6), ip6(peer6, us6, 17, udp(4500, 4500, marker(), l), marker(), l), udp(4500, 4500, marker(), l), marker(), l}
	}
	peersOnly := func(c *bpf.Config) { c.GuardPeers = 1 }
	for _, c := range []struct {
		name   string
		packet packet
		set    func(*bpf.Config)
		always []bpf.Total // counted whatever the guard's mode
		why    bpf.Total   // the guard's reason; Totals: it has none
	}{
		{"ESP that is nobody's", unknownESP(peer4), nil, []bpf.Total{bpf.TotalESPUnknown}, bpf.TotalGuardUnknownSPI},
		{"ESP in UDP that is nobody's", packet{eth(ethIP4), ip4(peer4, us4, 17, udp(9, 4500, esp(0xdead, 1)), esp(0xdead, 1)), udp(9, 4500, esp(0xdead, 1)),
			esp(0xdead, 1)}, nil, []bpf.Total{bpf.TotalESPUnknown}, bpf.TotalGuardUnknownSPI},
		{"SPI 1", packet{eth(ethIP4), ip4(peer4, us4, 50, esp(1, 1)), esp(1, 1)}, nil, nil, bpf.TotalGuardMalformed},
		{"SPI 1 of others", packet{eth(ethIP4), ip4(peer4, else4, 50, esp(1, 1)), esp(1, 1)}, nil, nil, bpf.Totals},
		{"IKE_SA_INIT", message(else4, ike(peerIKE, 0, 34, initiator)), nil, []bpf.Total{bpf.TotalIKE}, bpf.Totals},
		{"IKE_SA_INIT of a peer", message(peer4, ike(peerIKE, 0, 34, initiator)), peersOnly, []bpf.Total{bpf.TotalIKE}, bpf.Totals},
		{"IKE_SA_INIT of no peer", message(else4, ike(peerIKE, 0, 34, initiator)), peersOnly, []bpf.Total{bpf.TotalIKE}, bpf.TotalGuardNotPeer},
		{"IKE_SA_INIT of a peer, IPv6", natt(ike(peerIKE, 0, 34, initiator)), peersOnly, []bpf.Total{bpf.TotalIKE}, bpf.Totals},
		{"IKE_SESSION_RESUME of no peer", message(else4, ike(peerIKE, 0, 38, initiator)), peersOnly, []bpf.Total{bpf.TotalIKE}, bpf.TotalGuardNotPeer},
		{"its answer to us", message(else4, ike(ownIKE, peerIKE, 34, response)), peersOnly, []bpf.Total{bpf.TotalIKE}, bpf.Totals},
		{"an answer with a cookie to us", message(else4, ike(ownIKE, 0, 34, response)), peersOnly, []bpf.Total{bpf.TotalIKE}, bpf.Totals},
		{"an answer that nobody asked for", message(peer4, ike(peerIKE, ownIKE, 34, response)), nil, []bpf.Total{bpf.TotalIKE}, bpf.TotalGuardIKESPI},
		{"INFORMATIONAL of an initiator", message(else4, ike(peerIKE, ownIKE, 37, initiator)), peersOnly, []bpf.Total{bpf.TotalIKE}, bpf.Totals},
		{"INFORMATIONAL of a responder", message(else4, ike(ownIKE, peerIKE, 37, 0)), nil, []bpf.Total{bpf.TotalIKE}, bpf.Totals},
		{"IKE_AUTH on port 4500, IPv6", natt(ike(peerIKE, ownIKE, 35, initiator)), nil, []bpf.Total{bpf.TotalIKE}, bpf.Totals},
		{"IKE_AUTH for nobody", natt(ike(peerIKE, 5, 35, initiator)), nil, []bpf.Total{bpf.TotalIKE}, bpf.TotalGuardIKESPI},
		{"IKEv1", message(peer4, v1), nil, []bpf.Total{bpf.TotalIKE}, bpf.TotalGuardMalformed},
		{"no initiator's SPI", message(peer4, ike(0, 0, 34, initiator)), nil, []bpf.Total{bpf.TotalIKE}, bpf.TotalGuardMalformed},
		{"a length below the header", message(peer4, short), nil, []bpf.Total{bpf.TotalIKE}, bpf.TotalGuardMalformed},
		{"IKE of others", packet{eth(ethIP4), ip4(peer4, else4, 17, udp(500, 500, short), short), udp(500, 500, short), short}, nil, nil, bpf.Totals},
	} {
		for _, mode := range []struct {
			name  string
			guard bpf.GuardMode
			tail  uint8
			alive uint32
		}{
			{"off", bpf.GuardOff, 1, later}, {"log-only", bpf.GuardLog, 1, later}, {"on", bpf.GuardOn, 1, later},
			{"on, SPIs uncertain", bpf.GuardOn, 0, later}, {"on, daemon killed", bpf.GuardOn, 1, monotonic(t)},
		} {
			for _, program := range []string{"esp_in", "esp_in_raw"} {
				t.Run(c.name+"/"+mode.name+"/"+program, func(t *testing.T) {
					run := testCase{program: program, packet: c.packet.bytes(), action: xdpPass, counts: counts{totals: c.always}}
					drop := uint32(xdpDrop)
					if program == "esp_in_raw" {
						run.packet, run.action, drop = run.packet[14:], tcNext, tcShot
					}
					run.set = func(cfg *bpf.Config) {
						cfg.Guard, cfg.TailKnown, cfg.AliveUntil = uint32(mode.guard), mode.tail, mode.alive
						if c.set != nil {
							c.set(cfg)
						}
					}
					if mode.guard != bpf.GuardOff && c.why != bpf.Totals {
						run.totals = append(run.totals[:len(run.totals):len(run.totals)], c.why)
						if mode.name == "on" {
							run.action = drop
						}
					}
					b.run(t, run)
				})
			}
		}
	}
}

// The rate of IKE_SA_INIT holds for a prefix, and is used up by nobody else.
func TestGuardRate(t *testing.T) {
	here(t)
	b := inboundBox(t)
	c := b.table.Programs()
	c.Guard, c.TailKnown, c.InitRate, c.InitBurst, c.Prefix4, c.Prefix6 = uint32(bpf.GuardOn), 1, 1, 3, 24, 56
	send := func(src string) bool {
		l := ike(peerIKE, 0, 34, 8)
		var p packet
		if netip.MustParseAddr(src).Is4() {
			p = message(src, l)
		} else {
			p = packet{eth(ethIP6), ip6(src, us6, 17, udp(500, 500, l), l), udp(500, 500, l), l}
		}
		action, _, err := b.programs["esp_in"].Test(p.bytes())
		if err != nil {
			t.Fatal(err)
		}
		return action == xdpPass
	}
	for i, s := range []struct {
		src  string
		pass bool
	}{
		{"203.0.113.1", true}, {"203.0.113.2", true}, {"203.0.113.3", true}, {"203.0.113.1", false}, {"203.0.113.200", false},
		{"203.0.112.1", true},
		{"2001:db8:1:0::1", true}, {"2001:db8:1:ff::1", true}, {"2001:db8:1:7f::9", true}, {"2001:db8:1:1::1", false}, {"2001:db8:1:100::1", true},
	} {
		if got := send(s.src); got != s.pass {
			t.Errorf("%d: %s passes: %t; expected %t", i, s.src, got, s.pass)
		}
	}
	if n := b.table.Total(bpf.TotalGuardRate); n != 3 {
		t.Errorf("%d above the rate; expected 3", n)
	}
	// Two and a half seconds later there are two more tokens: the stamp is moved instead of waiting.
	key := bpf.MakeAddrKey(netip.MustParseAddr("203.0.113.0"))
	var bucket bpf.TokenBucket
	if err := b.maps["buckets"].Lookup(key, &bucket); err != nil {
		t.Fatal(err)
	}
	bucket.Stamp -= 2_500_000_000
	bucket.Tokens = 0
	b.put("buckets", key, bucket)
	for i, want := range []bool{true, true, false} {
		if send("203.0.113.1") != want {
			t.Errorf("message %d after 2.5 seconds: expected two of three to pass", i)
		}
	}
	c.InitRate = 0
	if !send("203.0.113.1") {
		t.Error("without a rate: expected to pass")
	}
}

// A host behind us has ESP with our address: what comes back for it passes.
func TestGuardLeavesHostsBehindAlone(t *testing.T) {
	here(t)
	b := inboundBox(t)
	c := b.table.Programs()
	c.Guard, c.TailKnown = uint32(bpf.GuardOn), 1
	in := testCase{program: "esp_in", packet: unknownESP(else4).bytes(), action: xdpDrop,
		counts: counts{totals: []bpf.Total{bpf.TotalESPUnknown, bpf.TotalGuardUnknownSPI}}}
	b.run(t, in)
	out := packet{eth(ethIP4), ip4(us4, else4, 50, esp(0xbeef0000, 1)), esp(0xbeef0000, 1)}
	b.run(t, testCase{program: "esp_out", packet: out.bytes(), action: tcNext, counts: counts{totals: []bpf.Total{bpf.TotalESPOutUnknown}}})
	in.action, in.totals = xdpPass, []bpf.Total{bpf.TotalESPBehind}
	b.run(t, in)
	// A quarter of an hour later it does not any more.
	now := time.Duration(monotonic(t)) * time.Second
	b.put("behind", bpf.MakeAddrKey(netip.MustParseAddr(else4)), uint64(now-15*time.Minute))
	in.action, in.totals = xdpDrop, []bpf.Total{bpf.TotalESPUnknown, bpf.TotalGuardUnknownSPI}
	b.run(t, in)
}

// Who sends ESP that is nobody's is known, and samples say what was dropped.
func TestGuardTellsWho(t *testing.T) {
	here(t)
	b := inboundBox(t)
	samples, err := ringbuf.NewReader(b.maps["samples"])
	if err != nil {
		t.Fatal(err)
	}
	defer samples.Close()
	c := b.table.Programs()
	c.Guard = uint32(bpf.GuardLog)
	for range 3 {
		if _, _, err := b.programs["esp_in"].Test(unknownESP(else4).bytes()); err != nil {
			t.Fatal(err)
		}
	}
	var s bpf.Stranger
	if err := b.maps["strangers"].Lookup(bpf.MakeAddrKey(netip.MustParseAddr(else4)), &s); err != nil || s.Packets != 3 {
		t.Errorf("stranger %+v, %v; expected 3 packets", s, err)
	}
	samples.SetDeadline(time.Now().Add(10 * time.Second))
	r, err := samples.Read()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.RawSample) != int(unsafe.Sizeof(bpf.DropSample{})) {
		t.Fatalf("sample of %d bytes", len(r.RawSample))
	}
	d := *(*bpf.DropSample)(unsafe.Pointer(&r.RawSample[0]))
	if d.Guard != 1 || bpf.Total(d.Reason) != bpf.TotalGuardUnknownSPI || bpf.KeySPI(&d.Key) != 0xdead0000 || bpf.KeyAddr(&d.Key).String() != us4 ||
		bpf.SampleSrc(&d).String() != else4 || d.Seq != 5<<24 || d.Length != 28 {
		t.Errorf("sample %+v", d)
	}
	// A flood gives few samples.
	for range 20_000 {
		if _, _, err := b.programs["esp_in"].Test(unknownESP(else4).bytes()); err != nil {
			t.Fatal(err)
		}
	}
	samples.SetDeadline(time.Unix(1, 0))
	n := 0
	for ; ; n++ {
		if _, err := samples.Read(); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n == 0 || n > 10_000 {
		t.Errorf("%d samples of 20,000; expected some, and at most half", n)
	}
}

// later than any packet of the tests.
const later = math.MaxUint32

// monotonic is the second that the clock of the programs is in.
func monotonic(t *testing.T) uint32 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return uint32(now.Sec)
}
