package engine

import (
	"container/heap"
	"time"
)

// timers is a shard's heap of sessions by their next deadline. One runtime
// timer a shard serves it; a session knows its place.
type timers []*session

var _ heap.Interface = (*timers)(nil)

// noTimer is the place of a session that waits for no deadline.
const noTimer = -1

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].deadline.Before(t[j].deadline) }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].place, t[j].place = i, j
}

// Push is heap.Interface's; callers use set.
func (t *timers) Push(x any) {
	s := x.(*session)
	s.place = len(*t)
	*t = append(*t, s)
}

// Pop is heap.Interface's; callers use set.
func (t *timers) Pop() any {
	old := *t
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	s.place = noTimer
	return s
}

// set moves a session to its new deadline; zero takes it out.
func (t *timers) set(s *session, deadline time.Time) {
	switch {
	case deadline.IsZero():
		if s.place != noTimer {
			heap.Remove(t, s.place)
		}
	case s.place == noTimer:
		s.deadline = deadline
		heap.Push(t, s)
	case !deadline.Equal(s.deadline):
		s.deadline = deadline
		heap.Fix(t, s.place)
	}
}

// due returns the session whose deadline has passed the longest, nil if none.
func (t timers) due(now time.Time) *session {
	if len(t) == 0 || t[0].deadline.After(now) {
		return nil
	}
	return t[0]
}

// next is the earliest deadline; false when there is none.
func (t timers) next() (time.Time, bool) {
	if len(t) == 0 {
		return time.Time{}, false
	}
	return t[0].deadline, true
}
