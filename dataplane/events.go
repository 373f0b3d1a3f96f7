package dataplane

import "sync"

// EventQueue is the bounded stream of events that a data plane hands out.
// Pushing never waits: what does not fit is dropped, and one Overrun as the
// last element of the full queue stands for all of it.
type EventQueue struct {
	mu       sync.Mutex
	ch       chan Event
	overrun  bool // the newest element of ch is an Overrun
	closed   bool
	dropped  uint64
	overruns uint64
}

// NewEventQueue returns a queue of n events, at least 2.
func NewEventQueue(n int) *EventQueue {
	return &EventQueue{ch: make(chan Event, max(n, 2))}
}

// C is the reader's end; Close closes it.
func (q *EventQueue) C() <-chan Event { return q.ch }

// Push appends an event. The last place is kept for an Overrun: an event that
// would take it is dropped, and so is everything after it until there is room.
func (q *EventQueue) Push(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if _, lost := e.(Overrun); !lost && len(q.ch) < cap(q.ch)-1 {
		q.overrun = false
		q.ch <- e
		return
	} else if !lost {
		q.dropped++
	}
	if q.overrun && len(q.ch) > 0 {
		return // one is waiting already, and nothing came after it
	}
	// There is room: only an Overrun ever takes the last place.
	q.overrun = true
	q.overruns++
	q.ch <- Overrun{}
}

// Dropped counts the events that did not fit.
func (q *EventQueue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Close ends the stream; the reader still gets what is queued.
func (q *EventQueue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.ch)
	}
}
