package flow

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"espalier/bpf"
	"espalier/dataplane"
	"espalier/internal/event"
)

const (
	replay    = Reason(bpf.DropReplay)
	integrity = Reason(bpf.DropIntegrity)
)

// lossy is an entry of the table with drops.
func lossy(spi uint32, drops ...Drop) SPI {
	return SPI{Key: Key{dataplane.In, here, spi}, Generation: 1, ReqID: 7, Drops: drops}
}

func TestDropEvents(t *testing.T) {
	w := newDropWatch()
	now := time.Now()
	window := func(Key) uint32 { return 32 }
	look := func(after time.Duration, list ...SPI) string {
		now = now.Add(after)
		var b strings.Builder
		for _, ev := range w.look(now, list, window) {
			fmt.Fprintf(&b, "%s/%s %x %s %d of %d; ", ev.Conn, ev.Child, ev.SPI, ev.Reason, ev.Packets, ev.Total)
		}
		return b.String()
	}
	w.childUp(&event.ChildUp{IKE: event.IKE{Conn: "net"}, Child: event.Child{Name: "net-1", SPIIn: 1, SPIOut: 9, ReqID: 7}})
	w.childUp(&event.ChildUp{IKE: event.IKE{Conn: "other"}, Child: event.Child{Name: "x", SPIIn: 2, SPIOut: 9, ReqID: 8}})
	for i, step := range []struct {
		after time.Duration
		list  []SPI
		want  string
	}{
		{0, []SPI{lossy(1, Drop{replay, 5})}, ""}, // of a former run
		{time.Second, []SPI{lossy(1, Drop{replay, 5})}, ""},
		{time.Second, []SPI{lossy(1, Drop{replay, 8}), lossy(2)}, "net/net-1 1 replay 3 of 8; "},
		{time.Second, []SPI{lossy(1, Drop{replay, 9}, Drop{integrity, 1})}, "net/net-1 1 integrity 1 of 1; "}, // replays were just told
		{time.Minute, []SPI{lossy(1, Drop{replay, 20}, Drop{integrity, 1})}, "net/net-1 1 replay 12 of 20; "},
		{time.Second, []SPI{lossy(1, Drop{replay, 20}), lossy(2, Drop{replay, 1}), lossy(3, Drop{replay, 4})}, "/ 3 replay 4 of 4; / 2 replay 1 of 1; "},
	} {
		if got := look(step.after, step.list...); got != step.want {
			t.Errorf("look %d: %q, expected %q", i, got, step.want)
		}
	}
	// The slot's next SA begins at nothing.
	next := lossy(1, Drop{replay, 2})
	next.Generation = 3
	w.childDown(&event.ChildDown{IKE: event.IKE{Conn: "net"}, Child: event.Child{Name: "net-1", SPIIn: 1, SPIOut: 9, ReqID: 7}})
	if got, want := look(time.Second, next), "/ 1 replay 2 of 2; "; got != want {
		t.Errorf("a later SA: %q, expected %q", got, want)
	}
}

// TestDropEventsBounded: ten thousand lossy SAs make no more events than a reader
// can follow, the worst first, and nothing is kept of SAs that have gone.
func TestDropEventsBounded(t *testing.T) {
	w := newDropWatch()
	now := time.Now()
	window := func(Key) uint32 { return 0 }
	var list []SPI
	for n := range uint32(10_000) {
		list = append(list, lossy(n, Drop{replay, uint64(n)}))
		w.childUp(&event.ChildUp{Child: event.Child{SPIIn: n, SPIOut: n, ReqID: 7}})
	}
	w.look(now, nil, window)
	if len(w.names) != 0 {
		t.Errorf("%d names of no SA, expected none", len(w.names))
	}
	got := w.look(now, list, window)
	if len(got) != dropEvents || got[0].Packets != 9999 || got[dropEvents-1].Packets != 10_000-dropEvents {
		t.Errorf("%d events from %d packets on, expected the %d with most", len(got), got[0].Packets, dropEvents)
	}
	got = w.look(now.Add(time.Second), list, window)
	if len(got) != dropEvents || got[0].Packets != 9999-dropEvents {
		t.Errorf("then %d events from %d packets on, expected the next %d", len(got), got[0].Packets, dropEvents)
	}
	w.look(now, nil, window)
	if len(w.sas) != 0 {
		t.Errorf("%d SAs are kept, expected none", len(w.sas))
	}
}

// TestDropWords: each reason is explained, and how many packets a window has.
func TestDropWords(t *testing.T) {
	for r := Reason(1); int(r) < len(reasons); r++ {
		why, fix := explainDrop(r, dataplane.In, 32)
		if _, known := dropWords[r]; why == "" || fix == "" || !known && r != replay && r != Reason(bpf.DropOther) {
			t.Errorf("%s: %q, %q, expected why and what helps", r, why, fix)
		}
	}
	for _, c := range []struct {
		window uint32
		dir    dataplane.Direction
		has    string
	}{
		{32, dataplane.In, "window of 32 packets|replay_window = 128;"}, {2000, dataplane.In, "window of 2000|replay_window = 4096;"},
		{4096, dataplane.In, "4096 packets late|repeats"}, {0, dataplane.In, "window allows|a larger replay_window;"}, {32, dataplane.Out, "used up|rekey earlier"},
	} {
		why, fix := explainDrop(replay, c.dir, c.window)
		first, second, _ := strings.Cut(c.has, "|")
		if !strings.Contains(why, first) || !strings.Contains(fix, second) {
			t.Errorf("window %d, %s: %q, %q, expected %q", c.window, c.dir, why, fix, c.has)
		}
	}
}

// TestDropsArePublished: what the programs count under an SA of a tunnel comes out
// as an event with its name, and the window that it was installed with.
func TestDropsArePublished(t *testing.T) {
	pins := needKernel(t)
	f := open(t, options(t, pins))
	defer f.Close()
	w, err := f.Wrap(dataplane.NewFake(dataplane.FakeOptions{}))
	must(t, err)
	defer w.Close()
	in := sa(dataplane.In, here, 0x1000)
	must(t, w.Apply([]dataplane.Op{dataplane.InstallSA{SA: in}}))
	drops, bus := newDropWatch(), new(event.Bus)
	sub := bus.Subscribe(10)
	f.tellDrops(drops, bus)
	drops.childUp(&event.ChildUp{IKE: event.IKE{Conn: "net"}, Child: event.Child{Name: "net-1", SPIIn: 0x1000, ReqID: in.ReqID}})
	slot, _ := f.tab.Lookup(bpf.MakeKey(bpf.DirIn, here, 0x1000))
	counted(t, f.tab, slot, bpf.Counters{}, 9)
	f.hooks[hook{"x", atTrace, 0}] = &attached{} // or the kernel's own counters would be asked
	f.tellDrops(drops, bus)
	delete(f.hooks, hook{"x", atTrace, 0})
	r, ok := sub.Next()
	if !ok {
		t.Fatal("no event")
	}
	var log bytes.Buffer
	l := zerolog.New(&log)
	l.WithLevel(r.Event.Level()).EmbedObject(r.Event).Msg(r.Event.Message())
	want := `{"level":"warn","conn":"net","child":"net-1","dir":"in","dst":"` + here.String() + `","spi":"00001000","reqid":7,"reason":"replay","packets":9,"total":9,` +
		`"why":"they came twice, or later than the replay window of 32 packets allows",` +
		`"fix":"when packets overtake each other on the path, replay_window = 128; otherwise something repeats them","message":"packets of an SA were lost"}` + "\n"
	if log.String() != want {
		t.Errorf("%s, expected %s", log.String(), want)
	}
	must(t, w.Apply([]dataplane.Op{dataplane.DeleteSA{Key: in.SAKey}}))
}
