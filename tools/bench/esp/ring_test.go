package esp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
)

func generator(t *testing.T, mix Mix, spis ...uint32) *Generator {
	t.Helper()
	var streams []Stream
	for _, spi := range spis {
		streams = append(streams, Stream{SA: testSA(spi, false, nil), Inner: [][]byte{innerUDP(t, false, 100), innerUDP(t, true, 200)}})
	}
	g, err := NewGenerator(link, mix, streams...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// sink is a sender that notes SPIs and sequence numbers.
type sink struct {
	ring *Ring
	seen []uint64
	lose bool
}

func (s *sink) Ring() *Ring  { return s.ring }
func (s *sink) Close() error { return nil }
func (s *sink) send(n uint64) (uint64, error) {
	for i := range n {
		s.seen = append(s.seen, binary.BigEndian.Uint64(s.ring.frame(i)[ethLen+ipv4Len:]))
	}
	s.ring.take(n)
	if s.lose {
		return n, nil
	}
	return 0, nil
}

// TestRing: a small ring that is filled while it is emptied gives every packet
// once and in order.
func TestRing(t *testing.T) {
	r, err := NewRing(100)
	if err != nil {
		t.Fatal(err)
	}
	g := generator(t, Mix{}, 0x1000, 0x2000, 0x3000)
	if err := r.Fill(g, 0); err != nil || r.Len() != 128 || r.Ready() != 128 {
		t.Fatalf("expected 128 frames of 128, got %d of %d, %v", r.Ready(), r.Len(), err)
	}
	if err := r.Fill(g, 1); err == nil {
		t.Fatal("a full ring took a frame")
	}
	ctx, stop := context.WithCancel(t.Context())
	kept := make(chan error)
	go func() { kept <- r.Keep(ctx, g) }()
	s := &sink{ring: r}
	report, err := Send(ctx, s, Pace{Count: 30_000, CPU: -1})
	stop()
	if err := errors.Join(err, <-kept); err != nil {
		t.Fatal(err)
	}
	if report.Sent != 30_000 || report.Lost != 0 || len(s.seen) != 30_000 || report.CPU <= 0 || report.Took <= 0 {
		t.Fatalf("expected 30000 frames, got %s and %d", report, len(s.seen))
	}
	for i, got := range s.seen {
		if want := uint64(0x1000*(i%3+1))<<32 | uint64(i/3+1); got != want {
			t.Fatalf("frame %d: expected SPI and sequence number %#x, got %#x", i, want, got)
		}
	}
}

// TestReplay: only a full ring replays, and does so in its order.
func TestReplay(t *testing.T) {
	r, err := NewRing(4)
	if err != nil {
		t.Fatal(err)
	}
	g := generator(t, Mix{}, 0x1000)
	if err := errors.Join(r.Fill(g, 3)); err != nil || r.Replay() == nil {
		t.Fatalf("expected 3 of 4 frames not to be replayed (%v)", err)
	}
	if err := errors.Join(r.Fill(g, 1), r.Replay()); err != nil {
		t.Fatal(err)
	}
	s := &sink{ring: r, lose: true}
	report, err := Send(t.Context(), s, Pace{Count: 10, Batch: 4, CPU: -1})
	if err != nil || report.Lost != 10 || report.Sent != 0 {
		t.Fatalf("expected 10 lost frames, got %s, %v", report, err)
	}
	for i, got := range s.seen {
		if uint32(got) != uint32(i%4+1) {
			t.Fatalf("expected 1 2 3 4 1 2 ..., got %#x", s.seen)
		}
	}
}

// TestStarved: a ring that nobody fills ends the sending.
func TestStarved(t *testing.T) {
	r, err := NewRing(4)
	if err != nil {
		t.Fatal(err)
	}
	if report, err := Send(t.Context(), &sink{ring: r}, Pace{Count: 1, CPU: -1}); err == nil || report.Starved != 1 {
		t.Fatalf("expected an empty ring to be an error, got %s, %v", report, err)
	}
}

func TestMix(t *testing.T) {
	count := func(skew float64, seed uint64) []uint64 {
		g := generator(t, Mix{Skew: skew, Seed: seed}, 1000, 1001, 1002, 1003)
		for range 12_000 {
			if _, err := g.Append(nil); err != nil {
				t.Fatal(err)
			}
		}
		return g.Counts()
	}
	for _, n := range count(0, 1) {
		if n != 3000 {
			t.Errorf("even: expected 3000 each, got %d", n)
		}
	}
	// Weights 1, 1/2, 1/3, 1/4.
	first := count(1, 1)
	for i, n := range first {
		want := 12_000 / (float64(i+1) * 25 / 12)
		if f := float64(n); f < want*0.93 || f > want*1.07 {
			t.Errorf("Zipf: expected about %.0f packets of stream %d, got %d", want, i, n)
		}
	}
	if again := count(1, 1); first[0] != again[0] || first[3] != again[3] {
		t.Errorf("one seed gave %v and %v", first, again)
	}
	if other := count(1, 2); first[0] == other[0] && first[1] == other[1] && first[2] == other[2] {
		t.Errorf("two seeds gave %v", first)
	}
}

// TestForger: sources of the prefix, SPIs that are not ours, right headers.
func TestForger(t *testing.T) {
	for _, c := range []struct{ sources, dst string }{{"198.51.96.0/20", "192.0.2.1"}, {"2001:db8:77::/49", "2001:db8::1"}} {
		prefix, dst := netip.MustParsePrefix(c.sources), netip.MustParseAddr(c.dst)
		make100 := func() (frames [][]byte) {
			f, err := NewForger(link, prefix, dst, 120, 5)
			if err != nil {
				t.Fatal(err)
			}
			f.Keep = func(spi uint32) bool { return spi%2 == 1 }
			for range 100 {
				b, err := f.Append([]byte{})
				if err != nil {
					t.Fatal(err)
				}
				frames = append(frames, b)
			}
			return frames
		}
		seen := map[uint32]bool{}
		var sources []netip.Addr
		for _, b := range make100() {
			p := b[ethLen:]
			n, at, size := ipv4Len, 12, 4
			if dst.Is6() {
				n, at, size = ipv6Len, 8, 16
			}
			src, _ := netip.AddrFromSlice(p[at : at+size])
			got, _ := netip.AddrFromSlice(p[at+size : at+2*size])
			if !prefix.Contains(src) || got != dst || len(p) != 120 || n == ipv4Len && fold(sum(0, p[:n])) != 0xffff {
				t.Fatalf("from %s to %s, %d bytes: % x", src, got, len(p), p[:n])
			}
			spi := binary.BigEndian.Uint32(p[n:])
			if spi%2 != 1 || spi < 256 {
				t.Fatalf("SPI %#x", spi)
			}
			seen[spi], sources = true, append(sources, src)
		}
		if len(seen) < 99 || sources[0] == sources[1] && sources[1] == sources[2] {
			t.Errorf("%d SPIs of 100, sources %s", len(seen), sources[:3])
		}
		if first, again := make100(), make100(); !bytes.Equal(bytes.Join(first, nil), bytes.Join(again, nil)) {
			t.Error("one seed gave different packets")
		}
	}
}
