package vici

import (
	"context"
	"sync"
)

// queue holds the segments that wait for one client's socket, bounded in octets.
// Many may push, one takes.
type queue struct {
	limit int           // octets; one segment always fits into an empty queue
	wake  chan struct{} // segments may be waiting
	room  chan struct{} // room may have come

	mu       sync.Mutex
	segments [][]byte
	octets   int
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// push waits for room and appends. Errors: ctx's, when that ends first.
func (q *queue) push(ctx context.Context, segment []byte) error {
	for !q.tryPush(segment) {
		select {
		case <-q.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// tryPush appends when there is room, and never waits.
func (q *queue) tryPush(segment []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.octets > 0 && q.octets+len(segment) > q.limit {
		return false
	}
	q.segments = append(q.segments, segment)
	q.octets += len(segment)
	signal(q.wake)
	if q.octets < q.limit {
		signal(q.room) // the next one that waits may fit, too
	}
	return true
}

// takeAll empties the queue; nil when nothing waits.
func (q *queue) takeAll() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.segments
	q.segments, q.octets = nil, 0
	signal(q.room)
	return out
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
