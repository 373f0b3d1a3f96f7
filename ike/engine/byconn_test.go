package engine

import (
	"math/rand/v2"
	"slices"
	"testing"
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
