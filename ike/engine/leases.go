package engine

import (
	"sync"

	"espalier/ike/lease"
	"espalier/ike/sa"
)

// leases are the pools of virtual addresses, part of the registry. Like request
// ids they are asked for by kernel queues, not by shards.
type leases struct {
	mu    sync.Mutex
	pools lease.Pools
}

// leaseGrant is the registry's answer to AskLease.
type leaseGrant struct{ lease.Grant }

func (l *leases) take(a sa.AskLease) leaseGrant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return leaseGrant{l.pools.Take(a.Ask)}
}

func (l *leases) release(g leaseGrant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pools.Release(g.Grant)
}

// releaseLease gives back the virtual addresses of a session that has ended.
func (s *shard) releaseLease(x *session) {
	if x.lease != nil {
		s.e.reg.leases.release(*x.lease)
		x.lease = nil
	}
}

// SetPools replaces the pools that connections name. Leases survive as long as
// the pool of the same name still has their address; a session keeps what it
// has in any case. It may be called before Run.
func (e *Engine) SetPools(pools []*lease.Pool) {
	e.applying.Lock()
	defer e.applying.Unlock()
	e.reg.leases.mu.Lock()
	e.reg.leases.pools.Set(pools)
	e.reg.leases.mu.Unlock()
	e.pools = pools
	c := *e.config.Load()
	c.set = c.set.WithPools(pools)
	e.config.Store(&c)
	e.logIf(e.applyStanding(), "policies could not all be brought in line with the pools")
}

// Pools lists the pools with their leases, in the order of the configuration.
func (e *Engine) Pools() []lease.Status {
	e.reg.leases.mu.Lock()
	defer e.reg.leases.mu.Unlock()
	return e.reg.leases.pools.List()
}
