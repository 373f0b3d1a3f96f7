package flow

import (
	"cmp"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/internal/event"
)

const (
	// dropLook is how often lost packets are looked for.
	dropLook = 10 * time.Second
	// dropPause is between two events of one SA and reason.
	dropPause = time.Minute
	// dropEvents is how many there are of one look; those with most packets come first.
	dropEvents = 20
	// spareNames is how many names are kept of SAs that are not in the table.
	spareNames = 1024
)

// dropWatch turns the counts of lost packets into events: at most one a minute of
// an SA and reason, with what was lost since the last one.
type dropWatch struct {
	began bool // what was counted before is known
	sas   map[nameKey]map[Reason]*told
	names map[nameKey]childName
}

// told is what has been said of an SA and reason.
type told struct {
	packets uint64
	at      time.Time
}

// nameKey finds the CHILD SA of an entry, wherever its addresses move; the peer's
// SPIs are unique with the request id only.
type nameKey struct {
	dir   dataplane.Direction
	spi   uint32
	reqID uint32
}

type childName struct{ conn, child string }

func newDropWatch() *dropWatch {
	return &dropWatch{sas: map[nameKey]map[Reason]*told{}, names: map[nameKey]childName{}}
}

// childUp notes the names of a CHILD SA, childDown forgets them.
func (w *dropWatch) childUp(ev *event.ChildUp) {
	name := childName{ev.Conn, ev.Child.Name}
	w.names[nameKey{dataplane.In, ev.Child.SPIIn, ev.Child.ReqID}] = name
	w.names[nameKey{dataplane.Out, ev.Child.SPIOut, ev.Child.ReqID}] = name
}

func (w *dropWatch) childDown(ev *event.ChildDown) {
	delete(w.names, nameKey{dataplane.In, ev.Child.SPIIn, ev.Child.ReqID})
	delete(w.names, nameKey{dataplane.Out, ev.Child.SPIOut, ev.Child.ReqID})
}

// look compares the table with what was said. The first one says nothing: what is
// counted then, a former run's reader has seen. window is an SA's replay window,
// 0 when it is not known.
func (w *dropWatch) look(now time.Time, list []SPI, window func(Key) uint32) []event.Dropped {
	var out []event.Dropped
	var tell []*told
	sas := make(map[nameKey]map[Reason]*told)
	for i := range list {
		s := &list[i]
		id := nameKey{s.Dir, s.SPI, s.ReqID}
		for _, d := range s.Drops {
			if sas[id] == nil {
				sas[id] = w.sas[id]
			}
			if sas[id] == nil {
				sas[id] = map[Reason]*told{}
			}
			t := sas[id][d.Reason]
			if t == nil {
				t = &told{}
				sas[id][d.Reason] = t
			}
			if d.Packets < t.packets {
				*t = told{} // another SA has the SPI now
			}
			switch {
			case !w.began:
				t.packets = d.Packets
			case d.Packets > t.packets && (t.at.IsZero() || now.Sub(t.at) >= dropPause):
				out = append(out, w.event(s, d, d.Packets-t.packets, window))
				tell = append(tell, t)
			}
		}
	}
	w.began, w.sas = true, sas
	w.forgetNames(list)
	return said(now, out, tell)
}

// said keeps the events that are most worth it, and notes them.
func said(now time.Time, out []event.Dropped, tell []*told) []event.Dropped {
	order := make([]int, len(out))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(out[b].Packets, out[a].Packets) })
	var kept []event.Dropped
	for _, i := range order[:min(len(order), dropEvents)] {
		kept = append(kept, out[i])
		tell[i].packets += out[i].Packets
		tell[i].at = now
	}
	return kept
}

func (w *dropWatch) event(s *SPI, d Drop, packets uint64, window func(Key) uint32) event.Dropped {
	name := w.names[nameKey{s.Dir, s.SPI, s.ReqID}]
	why, fix := explainDrop(d.Reason, s.Dir, window(s.Key))
	return event.Dropped{
		Conn: name.conn, Child: name.child, Inbound: s.Dir == dataplane.In, Dst: s.Dst, SPI: s.SPI, ReqID: s.ReqID,
		Reason: d.Reason.String(), Packets: packets, Total: d.Packets, Why: why, Fix: fix,
	}
}

// forgetNames keeps the names of SAs that ended unheard from piling up.
func (w *dropWatch) forgetNames(list []SPI) {
	if len(w.names) <= len(list)+spareNames {
		return
	}
	names := make(map[nameKey]childName)
	for i := range list {
		k := nameKey{list[i].Dir, list[i].SPI, list[i].ReqID}
		if n, ok := w.names[k]; ok {
			names[k] = n
		}
	}
	w.names = names
}
