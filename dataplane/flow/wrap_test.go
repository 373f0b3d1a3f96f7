package flow

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/dptest"
)

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
	other = netip.MustParseAddr("192.0.2.3")
)

func isHere(k *dataplane.SAKey) bool { return k.Dst == here }

// wrapFake wraps an empty Fake with an empty table.
func wrapFake(t *testing.T, table *fakeTable) (*wrapped, *dataplane.Fake) {
	t.Helper()
	f := dataplane.NewFake(dataplane.FakeOptions{})
	w, err := wrap(f, newSPIKeeper(table, zerolog.Nop(), isHere), newMSSKeeper(newFakeMSS(), zerolog.Nop(), func(_, _ netip.Addr) int { return 1500 }), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	eventually(t, "first list", func() bool { _, inStep := table.state(); return inStep })
	return w, f
}

func TestWrapSuite(t *testing.T) {
	dptest.Run(t, func(t *testing.T) dataplane.DataPlane {
		w, f := wrapFake(t, newFakeTable())
		return struct { // so that the suite can watch, too
			*wrapped
			dataplane.SAWatcher
		}{w, f}
	})
}

func sa(dir dataplane.Direction, dst netip.Addr, spi uint32) dataplane.SA {
	s := dataplane.SA{
		SAKey: dataplane.SAKey{Dst: dst, Proto: dataplane.ESP, SPI: spi}, Src: here, Dir: dir, Mode: dataplane.Tunnel, ReqID: 7,
		AEAD: dataplane.Algorithm{Name: gcm, Key: make([]byte, 20), ICVBits: 128}, ReplayWindow: 32,
	}
	if dir == dataplane.In {
		s.Src = there
	}
	return s
}

// seen is a Fake that looks at the table in the middle of its operations.
type seen struct {
	*dataplane.Fake
	look func()
}

func (s seen) Apply(ops []dataplane.Op) error {
	s.look()
	return s.Fake.Apply(ops)
}

// TestTableLeadsAndFollows: an entry is there before the kernel has the SA, and
// until it has it no more.
func TestTableLeadsAndFollows(t *testing.T) {
	table := newFakeTable()
	var during int
	s := seen{dataplane.NewFake(dataplane.FakeOptions{}), func() { during, _ = table.state() }}
	w, err := wrap(s, newSPIKeeper(table, zerolog.Nop(), isHere), nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	in, out := sa(dataplane.In, here, 0x1000), sa(dataplane.Out, there, 0x2000)
	for _, c := range []struct {
		name          string
		ops           []dataplane.Op
		during, after int
	}{
		{"install", []dataplane.Op{dataplane.InstallSA{SA: in}, dataplane.InstallSA{SA: out}}, 2, 2},
		{"move", []dataplane.Op{dataplane.MoveSA{Key: out.SAKey, Dir: dataplane.Out, NewDst: other}}, 3, 2},
		{"delete", []dataplane.Op{dataplane.DeleteSA{Key: in.SAKey}}, 2, 1},
		{"there and back", []dataplane.Op{dataplane.InstallSA{SA: in}, dataplane.DeleteSA{Key: in.SAKey}}, 1, 1},
	} {
		if err := w.Apply(c.ops); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if after, _ := table.state(); during != c.during || after != c.after {
			t.Errorf("%s: %d entries during, %d after, expected %d and %d", c.name, during, after, c.during, c.after)
		}
	}
	if a, ok := table.get(Key{dataplane.Out, other, 0x2000}); !ok || !a.Own || a.ReqID != 7 {
		t.Errorf("the moved SA: %+v, %v", a, ok)
	}
}

func TestTableUndoes(t *testing.T) {
	table := newFakeTable()
	w, f := wrapFake(t, table)
	in, out := sa(dataplane.In, here, 0x1000), sa(dataplane.Out, there, 0x2000)
	if err := w.Apply([]dataplane.Op{dataplane.InstallSA{SA: in}}); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	f.FailNext(func(op dataplane.Op) error {
		if _, last := op.(dataplane.DeletePolicy); last {
			return boom
		}
		return nil
	})
	ops := []dataplane.Op{
		dataplane.DeleteSA{Key: in.SAKey}, dataplane.InstallSA{SA: out},
		dataplane.InstallSA{SA: sa(dataplane.In, here, 0x1001)}, dataplane.DeletePolicy{},
	}
	if err := w.Apply(ops); !errors.Is(err, boom) {
		t.Fatalf("Apply: %v, expected boom", err)
	}
	if n, _ := table.state(); n != 1 {
		t.Errorf("%d entries after the undo, expected 1", n)
	}
	if _, ok := table.get(Key{dataplane.In, here, 0x1000}); !ok {
		t.Error("the SA whose deletion was undone is gone")
	}
}

// TestReservedIsKnown: the guard knows an SPI before its peer can.
func TestReservedIsKnown(t *testing.T) {
	table := newFakeTable()
	w, f := wrapFake(t, table)
	spi, err := w.ReserveSPI(dataplane.SPIRequest{Src: there, Dst: here, Proto: dataplane.ESP, Mode: dataplane.Tunnel, ReqID: 7, Min: 0x1000, Max: 0x1fff})
	if err != nil {
		t.Fatal(err)
	}
	key := Key{dataplane.In, here, spi}
	if a, ok := table.get(key); !ok || !a.Reserved || !a.Own {
		t.Fatalf("the reserved SPI: %+v, %v", a, ok)
	}
	if err := w.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa(dataplane.In, here, spi)}}); err != nil {
		t.Fatal(err)
	}
	if a, ok := table.get(key); !ok || a.Reserved {
		t.Errorf("the installed SA: %+v, %v", a, ok)
	}
	// The kernel ends it.
	if err := w.Apply([]dataplane.Op{dataplane.UpdateSA{SA: func() dataplane.SA {
		s := sa(dataplane.In, here, spi)
		s.Limits.HardPackets = 1
		return s
	}()}}); err != nil {
		t.Fatal(err)
	}
	if err := f.Count(dataplane.SAKey{Dst: here, Proto: dataplane.ESP, SPI: spi}, 1, 100); err != nil {
		t.Fatal(err)
	}
	eventually(t, "expired SA leaves the table", func() bool { _, ok := table.get(key); return !ok })
	// A reservation that is not wanted any more.
	f.FailReserve(errors.New("no"))
	if _, err := w.ReserveSPI(dataplane.SPIRequest{Src: there, Dst: here, Proto: dataplane.ESP, Min: 0x1000, Max: 0x1fff}); err == nil {
		t.Error("expected the kernel's error")
	}
	if n, _ := table.state(); n != 0 {
		t.Errorf("%d entries, expected none", n)
	}
}

// TestForeign: SAs of others come and go with the kernel's word, also when some
// of its words were lost.
func TestForeign(t *testing.T) {
	table := newFakeTable()
	w, f := wrapFake(t, table)
	installed := func(dst netip.Addr, spi, mark uint32) dataplane.InstalledSA {
		return dataplane.InstalledSA{SAKey: dataplane.SAKey{Dst: dst, Proto: dataplane.ESP, SPI: spi, Mark: dataplane.Mark{Value: mark, Mask: mark}}, Src: other, ReqID: 99}
	}
	in, out := Key{dataplane.In, here, 0x3000}, Key{dataplane.Out, there, 0x4000}
	f.Foreign(installed(here, 0x3000, 0), false)
	f.Foreign(installed(there, 0x4000, 0), false)
	f.Foreign(installed(there, 0x4000, 5), false)
	f.Foreign(dataplane.InstalledSA{SAKey: dataplane.SAKey{Dst: here, Proto: dataplane.AH, SPI: 0x5000}, Src: other}, false)
	eventually(t, "foreign SAs", func() bool {
		a, ok := table.get(in)
		_, ok2 := table.get(out)
		return ok && ok2 && !a.Own && a.ReqID == 99
	})
	if n, _ := table.state(); n != 2 {
		t.Errorf("%d entries, expected 2: AH is not in the table", n)
	}
	// Two SAs with one destination and SPI: the entry goes with the last.
	f.Foreign(installed(there, 0x4000, 0), true)
	f.Foreign(installed(here, 0x3000, 0), true)
	eventually(t, "gone SA", func() bool { _, ok := table.get(in); return !ok })
	if _, ok := table.get(out); !ok {
		t.Error("the entry went with the first of two SAs")
	}
	f.Foreign(installed(there, 0x4000, 5), true)
	eventually(t, "second gone SA", func() bool { _, ok := table.get(out); return !ok })

	// Words are lost: one SA more, one less than the table has.
	f.Foreign(installed(here, 0x3001, 0), false)
	eventually(t, "another SA", func() bool { _, ok := table.get(Key{dataplane.In, here, 0x3001}); return ok })
	own := sa(dataplane.In, here, 0x1000)
	if err := w.Apply([]dataplane.Op{dataplane.InstallSA{SA: own}}); err != nil {
		t.Fatal(err)
	}
	w.spis.mu.Lock() // the reader waits: its room fills
	for n := range uint32(1000) {
		f.Foreign(installed(here, 0x10000+n, 0), false)
	}
	for n := range uint32(990) {
		f.Foreign(installed(here, 0x10000+n, 0), true)
	}
	f.Foreign(installed(here, 0x3001, 0), true)
	w.spis.mu.Unlock()
	eventually(t, "the table as the kernel", func() bool { n, inStep := table.state(); return n == 11 && inStep })
	if a, ok := table.get(Key{dataplane.In, here, 0x1000}); !ok || !a.Own {
		t.Errorf("the own SA after the list: %+v, %v", a, ok)
	}
}

// TestFullTable: what finds no room makes the guard careful, and gets its place
// when one comes free.
func TestFullTable(t *testing.T) {
	table := newFakeTable()
	table.room = 2
	w, _ := wrapFake(t, table)
	for spi := range uint32(3) {
		if err := w.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa(dataplane.In, here, 0x1000+spi)}}); err != nil {
			t.Fatal(err)
		}
	}
	if n, inStep := table.state(); n != 2 || inStep {
		t.Errorf("%d entries, in step %v, expected 2 and not in step", n, inStep)
	}
	if err := w.Apply([]dataplane.Op{dataplane.DeleteSA{Key: sa(dataplane.In, here, 0x1000).SAKey}}); err != nil {
		t.Fatal(err)
	}
	if n, inStep := table.state(); n != 2 || !inStep {
		t.Errorf("after one has gone: %d entries, in step %v, expected 2 and in step", n, inStep)
	}
	if _, ok := table.get(Key{dataplane.In, here, 0x1002}); !ok {
		t.Error("the SA that found no room is still without an entry")
	}
}

// TestTurn: an address comes to the box, and a stranger's SA turns inbound.
func TestTurn(t *testing.T) {
	table := newFakeTable()
	own := map[netip.Addr]bool{here: true}
	k := newSPIKeeper(table, zerolog.Nop(), func(k *dataplane.SAKey) bool { return own[k.Dst] })
	f := dataplane.NewFake(dataplane.FakeOptions{})
	defer f.Close()
	f.Foreign(dataplane.InstalledSA{SAKey: dataplane.SAKey{Dst: other, Proto: dataplane.ESP, SPI: 0x1000}, Src: there}, false)
	if err := k.resync(f.List); err != nil {
		t.Fatal(err)
	}
	own[other] = true
	k.turn()
	if _, ok := table.get(Key{dataplane.In, other, 0x1000}); !ok || len(table.entries) != 1 {
		t.Errorf("expected the SA inbound, got %+v", table.entries)
	}
}

// TestListIsOlder: what changes while the kernel's list is on its way is newer
// than the list.
func TestListIsOlder(t *testing.T) {
	table := newFakeTable()
	f := dataplane.NewFake(dataplane.FakeOptions{})
	w := &wrapped{DataPlane: f, spis: newSPIKeeper(table, zerolog.Nop(), isHere), stopWatch: func() {}}
	defer w.Close()
	gone, come := sa(dataplane.In, here, 0x1000), sa(dataplane.In, here, 0x1001)
	if err := w.Apply([]dataplane.Op{dataplane.InstallSA{SA: gone}}); err != nil {
		t.Fatal(err)
	}
	err := w.spis.resync(func() (dataplane.Snapshot, error) {
		snap, err := f.List()
		if _, inStep := table.state(); inStep {
			t.Error("in step before the list is read")
		}
		if err := w.Apply([]dataplane.Op{dataplane.DeleteSA{Key: gone.SAKey}, dataplane.InstallSA{SA: come}}); err != nil {
			t.Fatal(err)
		}
		return snap, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := table.get(Key{dataplane.In, here, 0x1001}); !ok || len(table.entries) != 1 || !table.inStep {
		t.Errorf("expected the new SA alone, in step, got %+v", table.entries)
	}
}

// TestOldNews: the word that an SA has gone is older than its successor of the same
// key.
func TestOldNews(t *testing.T) {
	table := newFakeTable()
	f := dataplane.NewFake(dataplane.FakeOptions{})
	w := &wrapped{DataPlane: f, spis: newSPIKeeper(table, zerolog.Nop(), isHere), stopWatch: func() {}}
	defer w.Close()
	s := sa(dataplane.In, here, 0x1000)
	if err := w.Apply([]dataplane.Op{dataplane.InstallSA{SA: s}}); err != nil {
		t.Fatal(err)
	}
	gone := dataplane.SAChange{SA: dataplane.InstalledSA{SAKey: s.SAKey}, Gone: true}
	w.spis.follow(f, &gone)
	if n, _ := table.state(); n != 1 {
		t.Error("the entry of an SA that stands went with its predecessor")
	}
	f.Foreign(dataplane.InstalledSA{SAKey: s.SAKey}, true)
	w.spis.follow(f, &gone)
	if n, _ := table.state(); n != 0 {
		t.Error("the entry of an SA that the kernel ended stays")
	}
}

// TestCountsFollowMoves: an SA that gets other addresses goes on as the same, by our
// own move and by another daemon's.
func TestCountsFollowMoves(t *testing.T) {
	table := newFakeTable()
	f := dataplane.NewFake(dataplane.FakeOptions{})
	w := &wrapped{DataPlane: f, spis: newSPIKeeper(table, zerolog.Nop(), isHere), stopWatch: func() {}}
	defer w.Close()
	out := sa(dataplane.Out, there, 0x2000)
	apply := func(ops ...dataplane.Op) {
		t.Helper()
		if err := w.Apply(ops); err != nil {
			t.Fatal(err)
		}
	}
	apply(dataplane.InstallSA{SA: out})
	apply(dataplane.MoveSA{Key: out.SAKey, Dir: dataplane.Out, NewDst: other})
	from, to := Key{dataplane.Out, there, 0x2000}, Key{dataplane.Out, other, 0x2000}
	if got, ok := table.moved[from]; !ok || got != to {
		t.Errorf("own move: %+v, expected from %+v to %+v", table.moved, from, to)
	}
	table.moved = map[Key]Key{}

	foreign := func(dst netip.Addr, spi, reqID uint32) dataplane.InstalledSA {
		return dataplane.InstalledSA{SAKey: dataplane.SAKey{Dst: dst, Proto: dataplane.ESP, SPI: spi}, Src: here, ReqID: reqID}
	}
	resync := func(gone, come []dataplane.InstalledSA) {
		t.Helper()
		for _, s := range gone {
			f.Foreign(s, true)
		}
		for _, s := range come {
			f.Foreign(s, false)
		}
		if err := w.spis.resync(f.List); err != nil {
			t.Fatal(err)
		}
	}
	a, b, c := foreign(there, 0x3000, 5), foreign(there, 0x3001, 6), foreign(there, 0x3002, 0)
	resync(nil, []dataplane.InstalledSA{a, b, c})
	resync([]dataplane.InstalledSA{a, b, c}, []dataplane.InstalledSA{foreign(other, 0x3000, 5), foreign(other, 0x3001, 7), foreign(other, 0x3002, 0)})
	from, to = Key{dataplane.Out, there, 0x3000}, Key{dataplane.Out, other, 0x3000}
	if got, ok := table.moved[from]; !ok || got != to || len(table.moved) != 1 {
		t.Errorf("another daemon's: %+v, expected from %+v to %+v and no other", table.moved, from, to)
	}
}
