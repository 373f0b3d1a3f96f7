package event

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bus hands every published event to every subscriber. Publishing never waits:
// a subscriber that does not keep up loses its oldest records, and their number
// is counted. The zero value is ready; its methods are safe for concurrent use.
type Bus struct {
	subs atomic.Pointer[[]*Subscription] // copied on change, so Publish takes no bus lock
	mu   sync.Mutex                      // orders Subscribe and Close
}

// Subscription is one reader's bounded ring of records.
type Subscription struct {
	bus     *Bus
	wake    chan struct{}
	mu      sync.Mutex
	ring    []Record
	head, n int
	dropped uint64
}

// Subscribe adds a reader whose ring holds size records, at least 1.
func (b *Bus) Subscribe(size int) *Subscription {
	s := &Subscription{bus: b, wake: make(chan struct{}, 1), ring: make([]Record, max(size, 1))}
	b.mu.Lock()
	defer b.mu.Unlock()
	var next []*Subscription
	if old := b.subs.Load(); old != nil {
		next = append(next, *old...)
	}
	next = append(next, s)
	b.subs.Store(&next)
	return s
}

// Watched reports whether anybody is subscribed: for events that are dear to make.
func (b *Bus) Watched() bool {
	subs := b.subs.Load()
	return subs != nil && len(*subs) > 0
}

// Publish hands e to every subscriber with the given time.
func (b *Bus) Publish(now time.Time, e Event) {
	subs := b.subs.Load()
	if subs == nil {
		return
	}
	for _, s := range *subs {
		s.put(Record{now, e})
	}
}

func (s *Subscription) put(r Record) {
	s.mu.Lock()
	if s.n == len(s.ring) {
		s.ring[s.head] = r
		s.head = (s.head + 1) % len(s.ring)
		s.dropped++
	} else {
		s.ring[(s.head+s.n)%len(s.ring)] = r
		s.n++
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Wait is readable when records may be waiting; then call Next until it says no.
func (s *Subscription) Wait() <-chan struct{} { return s.wake }

// Next takes the oldest waiting record.
func (s *Subscription) Next() (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		return Record{}, false
	}
	r := s.ring[s.head]
	s.ring[s.head] = Record{}
	s.head = (s.head + 1) % len(s.ring)
	s.n--
	return r, true
}

// Dropped is the number of records lost because the reader was too slow.
func (s *Subscription) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Close ends the subscription; what waits in its ring stays readable.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	old := s.bus.subs.Load()
	var next []*Subscription
	for _, o := range *old {
		if o != s {
			next = append(next, o)
		}
	}
	s.bus.subs.Store(&next)
}
