package engine

import (
	"maps"
	"slices"
	"sync"

	"espalier/ike/sa"
)

// Tally is what was counted for one connection, or for all, since the start or the
// last reset.
type Tally struct {
	IKERekeysOurs, IKERekeysPeer, ChildRekeys uint64
	Invalid, InvalidSPI                       uint64 // messages left aside; of all connections only
	Messages                                  [sa.ExchangeKinds]MessageTally
}

// MessageTally counts the messages of one exchange, repetitions aside.
type MessageTally struct{ InRequests, InResponses, OutRequests, OutResponses uint64 }

// tallies are those of all connections, and of each that a session had. There are
// never more of them than names of connections.
type tallies struct {
	mu    sync.Mutex
	all   Tally
	named map[string]*Tally
}

func (t *Tally) add(n *sa.Traffic) {
	t.IKERekeysOurs += uint64(n.IKERekeysOurs)
	t.IKERekeysPeer += uint64(n.IKERekeysPeer)
	t.ChildRekeys += uint64(n.ChildRekey)
	for i := range n.Messages {
		m, c := &t.Messages[i], &n.Messages[i]
		m.InRequests += uint64(c.InRequests)
		m.InResponses += uint64(c.InResponses)
		m.OutRequests += uint64(c.OutRequests)
		m.OutResponses += uint64(c.OutResponses)
	}
}

// add counts a step of a session of the connection; conn is empty before one is
// chosen.
func (t *tallies) add(conn string, n *sa.Traffic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all.add(n)
	if conn == "" {
		return
	}
	one := t.named[conn]
	if one == nil {
		if t.named == nil {
			t.named = map[string]*Tally{}
		}
		one = new(Tally)
		t.named[conn] = one
	}
	one.add(n)
}

// dropped counts a message that no session saw.
func (t *tallies) dropped(d Drop) {
	switch d {
	case DropShort, DropVersion, DropLength, DropSPI, DropMalformed:
		t.mu.Lock()
		t.all.Invalid++
		t.mu.Unlock()
	case DropUnknownSPI:
		t.mu.Lock()
		t.all.InvalidSPI++
		t.mu.Unlock()
	}
}

// Tally is the one of a connection, or with an empty name that of all; false: nothing
// was counted for the connection.
func (e *Engine) Tally(conn string) (Tally, bool) {
	t := &e.tallies
	t.mu.Lock()
	defer t.mu.Unlock()
	if conn == "" {
		return t.all, true
	}
	one := t.named[conn]
	if one == nil {
		return Tally{}, false
	}
	return *one, true
}

// Tallied names the connections that something was counted for, sorted.
func (e *Engine) Tallied() []string {
	t := &e.tallies
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.named))
}

// ResetTally forgets what was counted for a connection, or with an empty name the sums
// of all.
func (e *Engine) ResetTally(conn string) {
	t := &e.tallies
	t.mu.Lock()
	defer t.mu.Unlock()
	if conn == "" {
		t.all = Tally{}
		return
	}
	delete(t.named, conn)
}
