package engine

import (
	"context"
	"net/netip"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// watchDataPlane passes on what the data plane reports until ctx ends or the
// data plane is closed. It must keep reading: the stream is bounded.
func (e *Engine) watchDataPlane(ctx context.Context) {
	events := e.dp.Events()
	for {
		select {
		case <-ctx.Done():
			return
		case ev, ok := <-events:
			if !ok {
				return
			}
			e.dataPlaneEvent(ev)
		}
	}
}

func (e *Engine) dataPlaneEvent(ev dataplane.Event) {
	switch ev := ev.(type) {
	case dataplane.Expire:
		if ev.Hard {
			e.counters.hardExpires.Add(1)
		} else {
			e.counters.softExpires.Add(1)
		}
		e.log.Info().Stringer("sa", ev.Key).Uint32("reqid", ev.ReqID).Bool("hard", ev.Hard).Msg("the kernel's SA reached a limit")
		if ev.Key.Proto == dataplane.ESP {
			// Inbound SPIs would name the bucket, outbound ones are the peer's
			// choice; the key does not say which it is, so all shards look.
			for _, s := range e.shards {
				s.inbox.call(func(s *shard) { s.expired(ev.Key, ev.ReqID, ev.Hard) })
			}
		}
	case dataplane.Acquire:
		e.counters.acquires.Add(1)
		if ev.CPU != nil {
			e.acquiredCPU(&ev)
			return
		}
		e.acquired(&ev)
	case dataplane.Mapping:
		e.counters.mappings.Add(1)
		s := e.bucketShard(sa.BucketOfChild(ev.Key.SPI))
		s.inbox.call(func(s *shard) {
			if ref, ok := s.children[ev.Key.SPI]; ok {
				s.step(ref.sess, sa.Mapped{SPI: ev.Key.SPI, Remote: ev.NewAddr})
			}
		})
	case dataplane.Overrun:
		e.counters.overruns.Add(1)
		e.log.Warn().Msg("events of the data plane were lost, comparing with what is installed")
		e.reconcile()
	}
}

// reconcile deletes the CHILD SAs of which the data plane has lost a direction:
// their Expire was among the events that were lost.
func (e *Engine) reconcile() {
	asked := e.now()
	snap, err := e.dp.List()
	if err != nil {
		e.log.Error().Err(err).Msg("the data plane could not be listed")
		return
	}
	type end struct {
		dst netip.Addr
		spi uint32
	}
	live := make(map[end]bool, len(snap.SAs))
	for _, s := range snap.SAs {
		if s.Proto == dataplane.ESP && !s.Reserved {
			live[end{s.Dst, s.SPI}] = true
		}
	}
	for _, s := range e.shards {
		s.inbox.call(func(s *shard) {
			for _, x := range s.byID {
				info := x.m.Info()
				for _, c := range info.Children {
					if c.State.InKernel() && c.State != sa.ChildSAUpdating && c.PlacedAt.Before(asked) &&
						!(live[end{c.Local.Addr(), c.SPIIn}] && (c.InboundOnly || live[end{c.Remote.Addr(), c.SPIOut}])) {
						s.step(x, sa.Expired{ChildID: c.UniqueID, Hard: true})
					}
				}
			}
		})
	}
}

// expired tells the CHILD SA of which one direction has reached a limit.
func (s *shard) expired(key dataplane.SAKey, reqid uint32, hard bool) {
	if ref, ok := s.children[key.SPI]; ok && hasChild(ref.sess, func(c *sa.ChildInfo) bool {
		return c.UniqueID == ref.id && c.Local.Addr() == key.Dst
	}) {
		s.step(ref.sess, sa.Expired{ChildID: ref.id, Hard: hard})
		return
	}
	for in := range s.outbound.of(key.SPI) {
		ref := s.children[in]
		x := ref.sess
		if hasChild(x, func(c *sa.ChildInfo) bool {
			return c.UniqueID == ref.id && c.Remote.Addr() == key.Dst && c.SPIOut == key.SPI && c.ReqID == reqid
		}) {
			s.step(x, sa.Expired{ChildID: ref.id, Hard: hard})
			return
		}
	}
}
