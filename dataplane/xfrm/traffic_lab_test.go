//go:build lab

package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

func natT(sa *dataplane.SA) { sa.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 4500} }

func extended(sa *dataplane.SA) { sa.ESN, sa.ReplayWindow = true, 128 }

// TestTraffic: packets go through, encrypted, and are counted on both sides.
func TestTraffic(t *testing.T) {
	for name, w := range map[string]tunnel{
		"Tunnel4in4":   {mode: dataplane.Tunnel},
		"Tunnel6in6":   {mode: dataplane.Tunnel, outer6: true, inner6: true},
		"Tunnel6in4":   {mode: dataplane.Tunnel, inner6: true},
		"Tunnel4in6":   {mode: dataplane.Tunnel, outer6: true},
		"Transport4":   {mode: dataplane.Transport},
		"Transport6":   {mode: dataplane.Transport, outer6: true},
		"TunnelUDP":    {mode: dataplane.Tunnel, change: natT},
		"Tunnel6UDP":   {mode: dataplane.Tunnel, outer6: true, inner6: true, change: natT},
		"BEET4":        {mode: dataplane.BEET},
		"BEET6in4":     {mode: dataplane.BEET, inner6: true},
		"IPTFS4":       {mode: dataplane.IPTFS},
		"IPTFS6in4":    {mode: dataplane.IPTFS, inner6: true},
		"IPComp4":      {mode: dataplane.Tunnel, comp: true},
		"IPComp6":      {mode: dataplane.Tunnel, comp: true, outer6: true, inner6: true},
		"TransportUDP": {mode: dataplane.Transport, change: natT},
		"ESN":          {mode: dataplane.Tunnel, change: extended},
		"NoWindow":     {mode: dataplane.Tunnel, change: func(sa *dataplane.SA) { sa.ReplayWindow = 0 }},
		"LargeWindow":  {mode: dataplane.Tunnel, change: func(sa *dataplane.SA) { sa.ReplayWindow = dataplane.MaxReplayWindow }},
		"Flags": {mode: dataplane.Tunnel, change: func(sa *dataplane.SA) {
			sa.Flags = dataplane.NoECN | dataplane.DecapDSCP | dataplane.NoPMTUDisc | dataplane.DontEncapDSCP | dataplane.ICMP
		}},
		"TFCPad":  {mode: dataplane.Tunnel, change: func(sa *dataplane.SA) { sa.TFCPad = 512 }},
		"SetMark": {mode: dataplane.Tunnel, change: func(sa *dataplane.SA) { sa.SetMark = dataplane.Mark{Value: 1, Mask: 1} }},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			if w.mode == dataplane.IPTFS && !a.x.features.IPTFS {
				return // as Debian's kernels, see TestFeatures
			}
			for _, s := range []*side{a, b} {
				outer, _ := w.addrs(s)
				s.openESPinUDP(outer)
			}
			if w.comp && w.outer6 {
				t.Cleanup(func() { flushIPComp6(t, a, b) })
			}
			w.up(t, a, b)
			tap := a.capture()
			if err := w.echo(a, b, 3); err != nil {
				t.Fatalf("%v\n%s", err, a.xfrmStat()+b.xfrmStat())
			}
			plain, esp := tap.frames()
			if len(plain) != 0 || len(esp) < 3 {
				t.Errorf("on the wire: %d packets in clear text, %d of ESP; expected 0 and 3", len(plain), len(esp))
			}
			if raw, err := a.x.getSA(&w.ab.SAKey); err != nil || raw.uint32(nl.XFRMA_TFCPAD) != w.ab.TFCPad {
				// Not on the wire: with ESP offload built in, kernels do not pad.
				t.Errorf("the kernel has no padding to %d bytes, %v", w.ab.TFCPad, err)
			}
			for _, st := range []dataplane.SAStatus{a.status(w.ab.SAKey), b.status(w.ab.SAKey), b.status(w.ba.SAKey), a.status(w.ba.SAKey)} {
				// IPv6 transport mode protects neighbour discovery too.
				if st.Packets < 3 || st.Packets > 3 && name != "Transport6" || st.Bytes < uint64(3*len(magic)) || st.LastUsed.IsZero() {
					t.Errorf("status %+v, expected 3 packets", st)
				}
			}
			if out, in := a.status(w.ab.SAKey).Replay.Out, b.status(w.ab.SAKey).Replay.In; out < 3 || in != out && w.ab.ReplayWindow != 0 {
				t.Errorf("sequence numbers %d sent, %d received, expected both alike, from 3 on", out, in)
			}
		})
	}
}

// flushIPComp6 takes the SAs away before their namespaces go. Kernel 7.3.4 crashes now and then when a namespace ends
// with an IPComp SA over IPv6: its xfrm6_tunnel SA is destroyed after what the module keeps of the namespace.
func flushIPComp6(t *testing.T, sides ...*side) {
	t.Helper()
	for _, s := range sides {
		s.enter()
		must(t, netlink.XfrmStateFlush(0))
	}
	time.Sleep(time.Second) // the kernel's collector of SAs runs by itself and cannot be asked
}

// TestAlgorithms: every algorithm that IKE negotiates carries traffic.
func TestAlgorithms(t *testing.T) {
	aead := func(name string, key, icv int) func(*dataplane.SA) {
		return func(sa *dataplane.SA) {
			sa.AEAD = dataplane.Algorithm{Name: name, Key: fill(key), ICVBits: icv}
		}
	}
	both := func(crypt string, key int, auth string, authKey, icv int) func(*dataplane.SA) {
		return func(sa *dataplane.SA) {
			sa.AEAD = dataplane.Algorithm{}
			sa.Crypt = dataplane.Algorithm{Name: crypt, Key: fill(key)}
			sa.Auth = dataplane.Algorithm{Name: auth, Key: fill(authKey), ICVBits: icv}
		}
	}
	cases := map[string]func(*dataplane.SA){
		"chacha20poly1305": aead("rfc7539esp(chacha20,poly1305)", 36, 128),
	}
	for _, key := range []int{16, 24, 32} {
		for _, icv := range []int{64, 96, 128} {
			cases[fmt.Sprintf("aes%dgcm%d", key*8, icv/8)] = aead("rfc4106(gcm(aes))", key+4, icv)
		}
		cases[fmt.Sprintf("aes%dctr-sha256", key*8)] = both("rfc3686(ctr(aes))", key+4, "hmac(sha256)", 32, 128)
		cases[fmt.Sprintf("aes%d-sha256", key*8)] = both("cbc(aes)", key, "hmac(sha256)", 32, 128)
	}
	cases["aes128-sha1"] = both("cbc(aes)", 16, "hmac(sha1)", 20, 96)
	cases["aes128-sha384"] = both("cbc(aes)", 16, "hmac(sha384)", 48, 192)
	cases["aes128-sha512"] = both("cbc(aes)", 16, "hmac(sha512)", 64, 256)
	cases["aes128-xcbc"] = both("cbc(aes)", 16, "xcbc(aes)", 16, 96)
	cases["aes128-cmac"] = both("cbc(aes)", 16, "cmac(aes)", 16, 96)
	a, b := pair(t)
	for name, change := range cases {
		w := tunnel{mode: dataplane.Tunnel, change: change}
		w.up(t, a, b)
		tap := a.capture()
		if err := w.echo(a, b, 1); err != nil {
			t.Errorf("%s: %v\n%s", name, err, a.xfrmStat()+b.xfrmStat())
		}
		if plain, esp := tap.frames(); len(plain) != 0 || len(esp) == 0 {
			t.Errorf("%s: %d packets in clear text, %d of ESP", name, len(plain), len(esp))
		}
		w.down(t, a, b)
	}
}

func fill(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// TestRefusalsSayWhy: what the kernel does not have is named.
func TestRefusalsSayWhy(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel}
	sa := w.sa(a, b, 0x1000, dataplane.Out)
	sa.AEAD.Name = "rfc4106(gcm(nonsense))"
	err := a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}})
	if err == nil || !containsAll(err.Error(), "rfc4106(gcm(nonsense))", "module") {
		t.Errorf("unknown algorithm: %v, expected one that names it", err)
	}
	if sas, _, err := a.counts(); err != nil || sas != 0 {
		t.Errorf("%d SAs, %v: expected none", sas, err)
	}
}

// TestReplayIsCounted: a packet seen before and one left of the window.
func TestReplayIsCounted(t *testing.T) {
	for name, change := range map[string]func(*dataplane.SA){
		"Plain": nil, "ESN": extended,
		"SmallWindow": func(sa *dataplane.SA) { sa.ReplayWindow = 32 }, // the shorter form of the state
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			w := tunnel{mode: dataplane.Tunnel, change: change}
			w.up(t, a, b)
			tap := a.capture()
			must(t, w.echo(a, b, 2))
			_, esp := tap.frames()
			if len(esp) == 0 {
				t.Fatal("no ESP captured")
			}
			_, err := unix.Write(tap.fd, esp[0])
			must(t, err)
			must(t, w.echo(a, b, 1)) // after it on the same queue
			if st := b.status(w.ab.SAKey); st.ReplayDropped != 1 || st.ReplayWindowDropped != 0 || st.Packets != 3 {
				t.Errorf("after a repeated packet: %+v, expected one replay", st)
			}
			// Moved ahead within the window: what was skipped counts as seen.
			in := b.status(w.ab.SAKey).Replay.In
			must(t, b.x.AdvanceReplay(w.ab.SAKey, dataplane.Replay{In: in + 20}))
			w.send(t, a, b, 3)
			if st := b.status(w.ab.SAKey); st.ReplayDropped != 4 || st.Packets != 3 {
				t.Errorf("after packets that were skipped: %+v, expected 4 replays", st)
			}
			must(t, a.x.AdvanceReplay(w.ab.SAKey, dataplane.Replay{Out: in + 20}))
			must(t, w.echo(a, b, 1))
			in = b.status(w.ab.SAKey).Replay.In
			must(t, b.x.AdvanceReplay(w.ab.SAKey, dataplane.Replay{In: in + 1000}))
			w.send(t, a, b, 5)
			w.patience = short
			if err := w.echo(a, b, 1); !errors.Is(err, errSilence) {
				t.Errorf("a packet left of the window: %v, expected silence", err)
			}
			// With ESN such a number means one of the next 2^32, and the check of
			// integrity, which covers the upper half, finds out (RFC 4303 A2.2).
			st := b.status(w.ab.SAKey)
			if n := st.ReplayWindowDropped; !w.ab.ESN && n != 6 || w.ab.ESN && st.IntegrityFailed != 6 {
				t.Errorf("after packets left of the window: %+v, expected 6 of them", st)
			}
			// With the sender moved ahead as far, packets go through again.
			must(t, a.x.AdvanceReplay(w.ab.SAKey, dataplane.Replay{Out: in + 1000}))
			w.patience = 0
			must(t, w.echo(a, b, 2))
		})
	}
}

// TestESNBeyond32Bits: traffic goes on where the lower half of the number wraps.
func TestESNBeyond32Bits(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel, change: func(sa *dataplane.SA) {
		extended(sa)
		sa.Seq = dataplane.Replay{Out: 7<<32 - 3, In: 7<<32 - 3}
	}}
	w.up(t, a, b)
	must(t, w.echo(a, b, 8))
	if out, in := a.status(w.ab.SAKey).Replay.Out, b.status(w.ab.SAKey).Replay.In; out != 7<<32+5 || in != out {
		t.Errorf("sequence numbers %#x sent, %#x received, expected %#x", out, in, uint64(7<<32+5))
	}
}

// TestPlainSequenceNumbersEnd: an SA without ESN has a packet limit in the
// kernel, the user's smaller one stays.
func TestPlainSequenceNumbersEnd(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel}
	limits := func(spi uint32, change func(*dataplane.SA)) (soft, hard uint64) {
		sa := w.sa(a, b, spi, dataplane.Out)
		change(&sa)
		must(t, a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
		raw, err := a.x.getSA(&sa.SAKey)
		must(t, err)
		return native.Uint64(raw.b[saLimits+16:]), native.Uint64(raw.b[saLimits+24:])
	}
	if soft, hard := limits(0x1000, func(*dataplane.SA) {}); hard >= 1<<32 || soft >= hard || soft < 1<<31 {
		t.Errorf("packet limits %d, %d: expected soft < hard < 2^32", soft, hard)
	}
	if _, hard := limits(0x1001, func(sa *dataplane.SA) { sa.Limits.HardPackets = 1 << 40 }); hard >= 1<<32 {
		t.Errorf("hard limit %d: expected below 2^32", hard)
	}
	if soft, hard := limits(0x1002, func(sa *dataplane.SA) { sa.Limits.HardPackets = 500 }); hard != 500 || soft != infinity {
		t.Errorf("limits %d, %d: expected none and 500", soft, hard)
	}
	if soft, hard := limits(0x1003, extended); hard != infinity || soft != infinity {
		t.Errorf("limits with ESN %d, %d: expected none", soft, hard)
	}
	if _, hard := limits(0x1004, func(sa *dataplane.SA) { sa.Seq.Out = 1 << 31 }); hard > 1<<31 {
		t.Errorf("limit %d of an SA that starts at 2^31: expected at most 2^31", hard)
	}
}

// TestMoveCarriesTraffic: a moved SA goes on with the same key and never
// repeats a number, by the kernel's move and without it.
func TestMoveCarriesTraffic(t *testing.T) {
	for _, migrate := range []bool{true, false} {
		for name, change := range map[string]func(*dataplane.SA){"Plain": nil, "ESN": extended, "CBC": cbc} {
			t.Run(fmt.Sprintf("%s/migrate=%v", name, migrate), func(t *testing.T) {
				a, b := pair(t)
				// Without the kernel's move, both runs are the other way.
				migrate := migrate && a.x.features.Migrate
				a.x.features.Migrate, b.x.features.Migrate = migrate, migrate
				w := tunnel{mode: dataplane.Tunnel, change: change}
				w.up(t, a, b)
				must(t, w.echo(a, b, 5))
				before := a.status(w.ab.SAKey)
				// A has another address now; both ends know. Encapsulation comes with it.
				enc := &dataplane.Encap{SrcPort: 4500, DstPort: 4500}
				b.openESPinUDP(b.outer4)
				a.openESPinUDP(a.moved4)
				moved := w.ba.SAKey
				moved.Dst = a.moved4
				for s, ops := range map[*side][]dataplane.Op{
					a: {dataplane.MoveSA{Key: w.ab.SAKey, Dir: dataplane.Out, NewSrc: a.moved4, Encap: enc},
						dataplane.MoveSA{Key: w.ba.SAKey, Dir: dataplane.In, NewDst: a.moved4, Encap: enc}},
					b: {dataplane.MoveSA{Key: w.ab.SAKey, Dir: dataplane.In, NewSrc: a.moved4, Encap: enc},
						dataplane.MoveSA{Key: w.ba.SAKey, Dir: dataplane.Out, NewDst: a.moved4, Encap: enc}},
				} {
					must(t, s.x.Apply(ops))
				}
				was := a.outer4
				a.outer4 = a.moved4
				must(t, a.x.Apply(w.policies(a, b)))
				must(t, b.x.Apply(w.policies(b, a)))
				tap := a.capture()
				if err := w.echo(a, b, 5); err != nil {
					t.Fatalf("after the move from %s: %v\n%s", was, err, a.xfrmStat()+b.xfrmStat())
				}
				if plain, esp := tap.frames(); len(plain) != 0 || len(esp) < 5 {
					t.Errorf("%d packets in clear text, %d in UDP", len(plain), len(esp))
				}
				after := a.status(w.ab.SAKey)
				if after.Replay.Out < before.Replay.Out+5 || after.Packets != 10 || after.Installed != before.Installed {
					t.Errorf("moved SA: %+v, before %+v: expected numbers, counters and age to go on", after, before)
				}
				if !migrate && after.Replay.Out < before.Replay.Out+seqMargin {
					t.Errorf("number %d after %d: expected a jump of at least %d", after.Replay.Out, before.Replay.Out, seqMargin)
				}
				if _, err := b.x.QuerySA(w.ba.SAKey); !errors.Is(err, dataplane.ErrNotFound) {
					t.Errorf("the SA at the old address: %v, expected ErrNotFound", err)
				}
			})
		}
	}
}

func cbc(sa *dataplane.SA) {
	sa.AEAD = dataplane.Algorithm{}
	sa.Crypt = dataplane.Algorithm{Name: "cbc(aes)", Key: fill(16)}
	sa.Auth = dataplane.Algorithm{Name: "hmac(sha256)", Key: fill(32), ICVBits: 128}
}

// TestUpdateKeepsTraffic: an update in place and one that needs the SA to be
// installed again both leave keys and counters as they were.
func TestUpdateKeepsTraffic(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel}
	w.up(t, a, b)
	must(t, w.echo(a, b, 2))
	up := dataplane.SA{SAKey: w.ab.SAKey, Src: w.ab.Src, Dir: dataplane.Out, Limits: dataplane.Limits{HardBytes: 1 << 40}}
	must(t, a.x.Apply([]dataplane.Op{dataplane.UpdateSA{SA: up}}))
	must(t, w.echo(a, b, 2))
	if st := a.status(w.ab.SAKey); st.Packets != 4 || st.Replay.Out != 4 {
		t.Errorf("after an update in place: %+v, expected 4 packets", st)
	}
	up.Flags = dataplane.NoECN
	must(t, a.x.Apply([]dataplane.Op{dataplane.UpdateSA{SA: up}}))
	must(t, w.echo(a, b, 2))
	raw, err := a.x.getSA(&w.ab.SAKey)
	must(t, err)
	if st := raw.status(); st.Packets != 6 || st.Replay.Out != seqMargin+6 || raw.b[saFl]&stateNoECN == 0 || native.Uint64(raw.b[saLimits+8:]) != 1<<40 {
		t.Errorf("after an update of flags: %+v, flags %#x: expected 6 packets, the margin, NOECN and the limit", st, raw.b[saFl])
	}
}

// TestPerCPU: an SA of one CPU is installed as such.
func TestPerCPU(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel}
	sa := w.sa(a, b, 0x1000, dataplane.Out)
	cpu := uint32(0)
	sa.CPU = &cpu
	must(t, a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
	raw, err := a.x.getSA(&sa.SAKey)
	must(t, err)
	v := find(raw.attrs(), nl.XFRMA_SA_PCPU, 4)
	if has := v != nil && native.Uint32(v) == 0; has != a.x.features.PerCPU {
		t.Errorf("XFRMA_SA_PCPU %v, expected CPU 0: %v", v, a.x.features.PerCPU)
	}
}

// TestRanges: what Expand makes of a port range is what the kernel protects.
func TestRanges(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Transport}
	host := func(s *side, from, to uint16) dataplane.Range {
		return dataplane.Range{Start: s.outer4, End: s.outer4, Proto: 17, StartPort: from, EndPort: to}
	}
	sels, err := dataplane.Expand(host(a, 0, 65535), host(b, 7, 9), 10)
	must(t, err)
	for _, sel := range sels { // 7 and 8-9
		must(t, a.x.Apply([]dataplane.Op{dataplane.InstallPolicy{Policy: dataplane.Policy{
			PolicyKey: dataplane.PolicyKey{Selector: sel, Dir: dataplane.Out}, Owner: 1, Priority: dataplane.Priority(sel), Verdict: dataplane.Block,
		}}}))
	}
	for port := uint16(5); port < 12; port++ {
		err := a.sendTo(netip.AddrPortFrom(b.outer4, port))
		if blocked := port >= 7 && port <= 9; blocked != (err != nil) {
			t.Errorf("port %d: %v, expected blocked: %v", port, err, blocked)
		}
	}
	_ = w
}
