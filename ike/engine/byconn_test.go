package engine

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

// TestByConn moves sessions between names at random and compares with plain
// lists.
func TestByConn(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{"", "a", "b", "c"}
	b := byConn{}
	xs := make([]*session, 20)
	for i := range xs {
		xs[i] = &session{}
	}
	want := map[string][]*session{} // the youngest last
	for range 10000 {
		x, name := xs[rnd.IntN(len(xs))], names[rnd.IntN(len(names))]
		if old := x.links.conn; old != name {
			want[old] = slices.DeleteFunc(want[old], func(y *session) bool { return y == x })
			want[name] = append(want[name], x)
		}
		b.list(x, name)
		for _, n := range names[1:] {
			got := slices.Collect(b.of(n))
			slices.Reverse(got)
			if !slices.Equal(got, want[n]) {
				t.Fatalf("%s: expected %v, got %v", n, want[n], got)
			}
		}
	}
	for _, x := range xs {
		b.list(x, "")
	}
	if len(b) != 0 {
		t.Errorf("%d names are left", len(b))
	}
}

// TestSessionsOf: a connection's sessions and the one with an id are found, and
// nothing else is looked at.
func TestSessionsOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{satest.Conn("moon", "sun.example.org", "*.example.org", "10.2.0.0/16", "10.0.0.0/8")}, fourShards)
		moon := newBox(t, f, moonAddr, manyConns(5), fourShards)
		for i := range 5 {
			if err := moon.Initiate(t.Context(), connName(i), "net", false); err != nil {
				t.Fatal(err)
			}
		}
		all := moon.infos()
		of := func(b *box, conn string, id uint64) (ids []uint64) {
			asked := b.dp.Queried()
			b.SessionsOf(conn, id, func(i sa.Info) bool {
				ids = append(ids, i.UniqueID)
				return true
			})
			if n := b.dp.Queried() - asked; n != 2*len(ids) {
				t.Errorf("%q, %d: %d SAs were asked for, expected those of %d sessions", conn, id, n, len(ids))
			}
			return ids
		}
		for i := range all {
			info := &all[i]
			for _, got := range [][]uint64{of(moon, info.Conn, 0), of(moon, "", info.UniqueID), of(moon, info.Conn, info.UniqueID)} {
				if !slices.Equal(got, []uint64{info.UniqueID}) {
					t.Errorf("%s, %d: got %v", info.Conn, info.UniqueID, got)
				}
			}
			if got := of(moon, "other", info.UniqueID); got != nil {
				t.Errorf("of another connection: %v", got)
			}
		}
		if got := of(sun, "moon", 0); len(got) != 5 || !slices.IsSortedFunc(got, func(a, b uint64) int { return cmp.Compare(b, a) }) {
			t.Errorf("all of one connection: %v", got)
		}
		moon.stop()
		sun.stop()
	})
}
