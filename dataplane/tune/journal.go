package tune

import (
	"slices"
	"time"
)

// Entry is one decision: what was decided when and why, and what became of it.
type Entry struct {
	ID      uint64 // counts from 1
	At      time.Time
	Loads   []Load // what was seen: the CPUs
	Planned Planned
	Advised bool   // only said, since the mode is Advise
	Error   string // why it could not be carried out; empty when it was
	Note    string // how it was carried out
	// Outcome says whether it helped, as soon as that is known, Helped the same in a word.
	Outcome string
	Helped  bool
	Unknown bool // it cannot be told
	// Times is how often the same was decided in a row, At when last.
	Times int
}

// journalSize bounds the journal; the oldest entries go.
const journalSize = 1024

// journal is a ring.
type journal struct {
	ring []*Entry
	next int
	ids  uint64
}

// add enters a decision. The same advice again and again is one entry, and not fresh.
func (j *journal) add(e Entry) (fresh bool) {
	if old := j.find(func(o *Entry) bool { return o.Advised && e.Advised && same(o.Planned.Action, e.Planned.Action) }, advised); old != nil {
		e.ID, e.Times = old.ID, old.Times+1
		*old = e
		return false
	}
	j.ids++
	e.ID, e.Times = j.ids, 1
	if len(j.ring) < journalSize {
		j.ring = append(j.ring, &e)
		return true
	}
	j.ring[j.next] = &e
	j.next = (j.next + 1) % journalSize
	return true
}

// advised is how far back the same advice is looked for.
const advised = 128

// find is the latest entry of the last n that fits.
func (j *journal) find(fits func(*Entry) bool, n int) *Entry {
	for i := range min(n, len(j.ring)) {
		at := (j.next - 1 - i + 2*len(j.ring)) % len(j.ring)
		if e := j.ring[at]; fits(e) {
			return e
		}
	}
	return nil
}

// judge writes down what came of actions.
func (j *journal) judge(v *Verdict) {
	for _, a := range v.Actions {
		e := j.find(func(e *Entry) bool { return same(e.Planned.Action, a) && e.Outcome == "" }, journalSize)
		if e != nil && !e.Advised && e.Error == "" {
			e.Outcome, e.Helped, e.Unknown = v.Text, v.Helped, v.Unknown
		}
	}
}

// same compares actions, whatever their SAs are called.
func same(a, b Action) bool { return withName(a, "") == withName(b, "") }

// withName is an action whose SA has a name.
func withName(a Action, name string) Action {
	switch a := a.(type) {
	case Move:
		a.Name = name
		return a
	case Split:
		a.Name = name
		return a
	case Join:
		a.Name = name
		return a
	case Leave:
		a.Name = name
		return a
	case Renew:
		a.Name = name
		return a
	}
	return a
}

// spiOf is the SPI of an action's SA; 0 when it has none.
func spiOf(a Action) uint32 {
	switch a := a.(type) {
	case Move:
		return inboundSPI(a.Clear, a.SPI)
	case Split:
		return a.SPI
	case Join:
		return a.SPI
	case Leave:
		return inboundSPI(a.Clear, a.SPI)
	case Renew:
		return a.SPI
	}
	return 0
}

// inboundSPI is that of an SA, 0 of a group of clear connections.
func inboundSPI(isClear bool, spi uint32) uint32 {
	if isClear {
		return 0
	}
	return spi
}

// entries are copies, the oldest first.
func (j *journal) entries() []Entry {
	var out []Entry
	for _, e := range slices.Concat(j.ring[j.next:], j.ring[:j.next]) {
		out = append(out, *e)
	}
	return out
}
