package engine

// byConn finds a shard's sessions by the name of their connection, so that what
// concerns one connection does not look at all sessions: a list through the
// sessions for each name, the youngest first. A gateway may have one session a
// connection in many connections, or many thousands in one.
type byConn map[string]*session

// links are a session's place in byConn.
type links struct {
	conn       string // the name it is listed under; empty: not listed
	prev, next *session
}

// list puts x under its connection's name, or takes it out when the name is
// empty; it is cheap when nothing changed.
func (b byConn) list(x *session, conn string) {
	l := &x.links
	if l.conn == conn {
		return
	}
	if l.conn != "" {
		if l.prev != nil {
			l.prev.links.next = l.next
		} else if l.next != nil {
			b[l.conn] = l.next
		} else {
			delete(b, l.conn)
		}
		if l.next != nil {
			l.next.links.prev = l.prev
		}
	}
	*l = links{conn: conn}
	if conn == "" {
		return
	}
	if head := b[conn]; head != nil {
		l.next, head.links.prev = head, x
	}
	b[conn] = x
}

// of yields the sessions of a connection; the one that is yielded may be taken
// out of the list, others may not.
func (b byConn) of(conn string) func(yield func(*session) bool) {
	return func(yield func(*session) bool) {
		for x := b[conn]; x != nil; {
			next := x.links.next
			if !yield(x) {
				return
			}
			x = next
		}
	}
}
