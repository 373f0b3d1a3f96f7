//go:build lab

package e2e

import (
	"slices"
	"testing"

	"espalier/tools/lab/topo"
)

// pairwise returns few rows in which every two values of every two columns meet; sizes are the columns' numbers of values. It is greedy: each
// row begins with a pair that is still missing and takes, column by column, the value that adds most.
func pairwise(sizes []int) [][]int {
	type pair struct{ c1, v1, c2, v2 int }
	missing, order := map[pair]bool{}, []pair(nil)
	for c1 := range sizes {
		for c2 := c1 + 1; c2 < len(sizes); c2++ {
			for v1 := range sizes[c1] {
				for v2 := range sizes[c2] {
					p := pair{c1, v1, c2, v2}
					missing[p] = true
					order = append(order, p)
				}
			}
		}
	}
	key := func(c1, v1, c2, v2 int) pair {
		if c1 > c2 {
			return pair{c2, v2, c1, v1}
		}
		return pair{c1, v1, c2, v2}
	}
	var rows [][]int
	used := make([][]int, len(sizes)) // how often each value stands in a row, so that free choices rotate
	for c := range used {
		used[c] = make([]int, sizes[c])
	}
	for _, first := range order {
		if !missing[first] {
			continue
		}
		row := slices.Repeat([]int{-1}, len(sizes))
		row[first.c1], row[first.c2] = first.v1, first.v2
		for c := range row {
			if row[c] >= 0 {
				continue
			}
			best, gain := 0, -1
			for v := range sizes[c] {
				g := 0
				for o, w := range row {
					if w >= 0 && missing[key(c, v, o, w)] {
						g++
					}
				}
				if g > gain || g == gain && used[c][v] < used[c][best] {
					best, gain = v, g
				}
			}
			row[c] = best
		}
		for c1, v1 := range row {
			used[c1][v1]++
			for c2 := c1 + 1; c2 < len(row); c2++ {
				delete(missing, pair{c1, v1, c2, row[c2]})
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// proposals are one suite of the matrix.
type proposals struct{ name, ike, esp string }

// shape is one way to wrap packets.
type shape struct {
	name         string
	outer, inner topo.Family
	transport    bool
	any          bool // 0.0.0.0/0 on both sides
}

// The columns of the matrix.
var (
	initiators = []string{"espalier initiates", "strongSwan initiates"}
	auths      = []string{psk, string(topo.RSA), string(topo.ECDSA), string(topo.Ed25519)}
	suites     = []proposals{
		{"classic", "aes256-sha256-modp2048", "aes256gcm16-modp2048"},
		{"AEAD", "aes128gcm16-prfsha256-x25519", "aes128gcm16"},
		{"CBC", "aes128-sha256-ecp256", "aes128-sha256"},
		{"ChaCha", "chacha20poly1305-prfsha512-ecp384", "chacha20poly1305"},
	}
	shapes = []shape{
		{name: "4in4", outer: topo.IPv4, inner: topo.IPv4},
		{name: "6in6", outer: topo.IPv6, inner: topo.IPv6},
		{name: "6in4", outer: topo.IPv4, inner: topo.IPv6},
		{name: "4in6", outer: topo.IPv6, inner: topo.IPv4},
		{name: "transport4", outer: topo.IPv4, inner: topo.IPv4, transport: true},
		{name: "transport6", outer: topo.IPv6, inner: topo.IPv6, transport: true},
		{name: "all of IPv4", outer: topo.IPv4, inner: topo.IPv4, any: true},
	}
	encaps = []string{"bare", "espalier asks for UDP", "strongSwan asks for UDP"}
	ends   = []string{"SIGTERM", "conn down", "strongSwan terminates", "SIGKILL"}
)

// TestPairwise shows that the matrix is what it says: every two values meet.
func TestPairwise(t *testing.T) {
	sizes := []int{len(initiators), len(auths), len(suites), len(shapes), len(encaps), len(ends)}
	rows := pairwise(sizes)
	if len(rows) > 36 {
		t.Errorf("expected few rows, got %d", len(rows))
	}
	for c1 := range sizes {
		for c2 := c1 + 1; c2 < len(sizes); c2++ {
			for v1 := range sizes[c1] {
				for v2 := range sizes[c2] {
					if !slices.ContainsFunc(rows, func(r []int) bool { return r[c1] == v1 && r[c2] == v2 }) {
						t.Errorf("value %d of column %d and value %d of column %d never meet", v1, c1, v2, c2)
					}
				}
			}
		}
	}
}
