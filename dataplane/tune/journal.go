package tune

import "time"

// Entry is one decision: what was decided when and why, and what became of it.
type Entry struct {
	At      time.Time
	Planned Planned
	Advised bool   // only said, since the mode is Advise
	Error   string // why it could not be carried out; empty when it was
}

// journalSize bounds the journal; the oldest entries go.
const journalSize = 1024

// journal is a ring.
type journal struct {
	ring []Entry
	next int
}

func (j *journal) add(e Entry) {
	if len(j.ring) < journalSize {
		j.ring = append(j.ring, e)
		return
	}
	j.ring[j.next] = e
	j.next = (j.next + 1) % journalSize
}

func (j *journal) entries() []Entry {
	return append(append([]Entry(nil), j.ring[j.next:]...), j.ring[:j.next]...)
}
