package table

// none ends a list.
const none = 1<<32 - 1

// queue is the free slots in the order in which they became free.
type queue struct {
	next        []uint32 // of a slot that is free
	first, last uint32
	n           int
}

func newQueue(slots int) queue {
	return queue{next: make([]uint32, slots), first: none, last: none}
}

func (q *queue) len() int { return q.n }

// put adds a slot that is not free, as the last.
func (q *queue) put(s uint32) {
	q.next[s] = none
	if q.last == none {
		q.first = s
	} else {
		q.next[q.last] = s
	}
	q.last = s
	q.n++
}

// take takes the first. The queue must not be empty.
func (q *queue) take() uint32 {
	s := q.first
	if q.first = q.next[s]; q.first == none {
		q.last = none
	}
	q.n--
	return s
}
