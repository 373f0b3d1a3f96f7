package engine

import (
	"net/netip"
	"sync"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// lastUse keeps what went through SAs that have just left the data plane, until
// those who follow CHILD SAs are told that they are gone.
type lastUse struct {
	mu   sync.Mutex
	last map[useKey]sa.Usage
}

// useKey names an SA by what its CHILD SA tells of it.
type useKey struct {
	dst   netip.Addr
	proto dataplane.Proto
	spi   uint32
}

// lastUses bounds them: of SAs that nobody is told of the counts would stay.
const lastUses = 4096

// keep asks for the counts of the SAs that are about to be deleted.
func (l *lastUse) keep(e *Engine, ops []dataplane.Op) {
	for _, op := range ops {
		d, ok := op.(dataplane.DeleteSA)
		if !ok {
			continue
		}
		u := e.usage(d.Key)
		if u == (sa.Usage{}) {
			continue
		}
		l.mu.Lock()
		if l.last == nil || len(l.last) >= lastUses {
			l.last = map[useKey]sa.Usage{}
		}
		l.last[useKey{d.Key.Dst, d.Key.Proto, d.Key.SPI}] = u
		l.mu.Unlock()
	}
}

// take returns a CHILD SA's counts and forgets them.
func (l *lastUse) take(c *sa.ChildInfo) (in, out sa.Usage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range []struct {
		of  *sa.Usage
		key useKey
	}{{&in, useKey{c.Local.Addr(), c.Proto, c.SPIIn}}, {&out, useKey{c.Remote.Addr(), c.Proto, c.SPIOut}}} {
		*u.of = l.last[u.key]
		delete(l.last, u.key)
	}
	return in, out
}
