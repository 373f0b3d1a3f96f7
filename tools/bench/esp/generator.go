package esp

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"sort"

	"espalier/dataplane"
)

// Source makes frames, one after the other. It is for one goroutine at a time.
type Source interface {
	// Append appends the next frame, Ethernet header first.
	Append(dst []byte) ([]byte, error)
}

// Stream is what is sent through one SA.
type Stream struct {
	SA dataplane.SA
	// Inner are the inner packets, taken in turn: at least one.
	Inner [][]byte
}

// Mix is how streams share the packets.
type Mix struct {
	// Skew is the exponent of a Zipf distribution over the streams, the first
	// being the most frequent: 1 is common in networks. 0: each in turn.
	Skew float64
	// Seed of the choice.
	Seed uint64
}

// Generator makes valid ESP of one SA or of many.
type Generator struct {
	streams []stream
	sums    []float64 // of the streams' weights; nil: each in turn
	rng     *rand.Rand
	turn    int
}

type stream struct {
	sealer *Sealer
	eth    []byte
	inner  [][]byte
	turn   int
	count  uint64
}

var _ Source = (*Generator)(nil)

// NewGenerator checks the streams and makes a generator of them.
func NewGenerator(link Link, mix Mix, streams ...Stream) (*Generator, error) {
	if len(streams) == 0 || mix.Skew < 0 || math.IsNaN(mix.Skew) {
		return nil, fmt.Errorf("expected at least one stream and a skew from 0 on, got %d and %g", len(streams), mix.Skew)
	}
	g := &Generator{rng: rand.New(rand.NewPCG(mix.Seed, 1))}
	total := 0.0
	for i, s := range streams {
		if len(s.Inner) == 0 {
			return nil, fmt.Errorf("%s: expected at least one inner packet", s.SA.SAKey)
		}
		sealer, err := NewSealer(s.SA)
		if err != nil {
			return nil, err
		}
		eth, err := link.header(s.SA.Dst.Is6())
		if err != nil {
			return nil, err
		}
		g.streams = append(g.streams, stream{sealer: sealer, eth: eth, inner: s.Inner})
		if mix.Skew > 0 {
			total += math.Pow(float64(i+1), -mix.Skew)
			g.sums = append(g.sums, total)
		}
	}
	return g, nil
}

// Append implements Source.
func (g *Generator) Append(dst []byte) ([]byte, error) {
	s := &g.streams[g.pick()]
	inner := s.inner[s.turn]
	s.turn = (s.turn + 1) % len(s.inner)
	dst, err := s.sealer.Append(append(dst, s.eth...), inner)
	if err == nil {
		s.count++
	}
	return dst, err
}

// pick is the next packet's stream.
func (g *Generator) pick() int {
	if g.sums == nil {
		i := g.turn
		g.turn = (g.turn + 1) % len(g.streams)
		return i
	}
	at := g.rng.Float64() * g.sums[len(g.sums)-1]
	return min(sort.SearchFloat64s(g.sums, at), len(g.sums)-1)
}

// Counts is how many packets were made for each stream so far.
func (g *Generator) Counts() []uint64 {
	out := make([]uint64, len(g.streams))
	for i := range g.streams {
		out[i] = g.streams[i].count
	}
	return out
}

// Forger makes ESP that nobody can decrypt: random SPIs and random contents.
type Forger struct {
	// Keep says which SPIs are random: those that it accepts. nil: all.
	Keep func(spi uint32) bool
	// Sources are the source addresses, taken at random from its hosts.
	Sources netip.Prefix

	head, rest []byte
	v6         bool
	rng        *rand.ChaCha8
}

var _ Source = (*Forger)(nil)

// NewForger makes ESP for dst with sources of a prefix of the same family. The
// packets have size bytes from their IP header on.
func NewForger(link Link, sources netip.Prefix, dst netip.Addr, size int, seed uint64) (*Forger, error) {
	eth, err := link.header(dst.Is6())
	if err != nil {
		return nil, err
	}
	head := append(eth, ipHeader(dst, dst, protoESP)...)
	least := len(head) - len(eth) + headerLen
	if !sources.IsValid() || sources.Addr().Is4() != dst.Is4() || size < least || size > 65535 {
		return nil, fmt.Errorf("forged ESP from %s to %s: expected one family and %d to 65535 bytes, got %d", sources, dst, least, size)
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return &Forger{Sources: sources.Masked(), head: head, rest: make([]byte, size-(len(head)-len(eth))), v6: dst.Is6(), rng: rand.NewChaCha8(key)}, nil
}

// Append implements Source.
func (f *Forger) Append(dst []byte) ([]byte, error) {
	for {
		_, _ = f.rng.Read(f.rest) // never fails
		spi := uint32(f.rest[0])<<24 | uint32(f.rest[1])<<16 | uint32(f.rest[2])<<8 | uint32(f.rest[3])
		if spi > 255 && (f.Keep == nil || f.Keep(spi)) { // smaller ones are reserved (RFC 4303 2.1)
			break
		}
	}
	start := len(dst)
	dst = append(append(dst, f.head...), f.rest...)
	ip := dst[start+len(f.head)-ipv4Len:]
	at := 12
	if f.v6 {
		ip, at = dst[start+len(f.head)-ipv6Len:], 8
	}
	src := f.source()
	copy(ip[at:], src.AsSlice())
	finishIP(ip)
	return dst, nil
}

// source is a random host of the prefix.
func (f *Forger) source() netip.Addr {
	b := f.Sources.Addr().AsSlice()
	for i := range b {
		keep := min(max(f.Sources.Bits()-8*i, 0), 8)
		mask := byte(0xff >> keep)
		b[i] = b[i]&^mask | byte(f.rng.Uint64())&mask
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
