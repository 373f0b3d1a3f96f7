package table

// homeSlots are the slots of a bucket: its first SAs get them, if they are free
// (HOME_SLOTS of headers/layout.h). Which slot an SA has is a matter of speed only.
const homeSlots = 2

// none ends a list.
const none = 1<<32 - 1

// queue is the free slots in the order in which they became free. Any of them can
// be taken out.
type queue struct {
	next, previous []uint32 // of a slot that is free
	isFree         []bool
	first, last    uint32
	n              int
}

func newQueue(slots int) queue {
	return queue{next: make([]uint32, slots), previous: make([]uint32, slots), isFree: make([]bool, slots), first: none, last: none}
}

func (q *queue) len() int { return q.n }

// put adds a slot that is not free, as the last.
func (q *queue) put(s uint32) {
	q.isFree[s], q.next[s], q.previous[s] = true, none, q.last
	if q.last == none {
		q.first = s
	} else {
		q.next[q.last] = s
	}
	q.last = s
	q.n++
}

// take takes a free one of the home slots that begin at home; the first of the
// queue when there is none. The queue must not be empty.
func (q *queue) take(home uint32) uint32 {
	s := q.first
	for i := range uint32(homeSlots) {
		if h := home + i; int(h) < len(q.isFree) && q.isFree[h] {
			s = h
			break
		}
	}
	if p := q.previous[s]; p == none {
		q.first = q.next[s]
	} else {
		q.next[p] = q.next[s]
	}
	if n := q.next[s]; n == none {
		q.last = q.previous[s]
	} else {
		q.previous[n] = q.previous[s]
	}
	q.isFree[s] = false
	q.n--
	return s
}
