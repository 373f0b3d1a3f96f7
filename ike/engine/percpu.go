package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/internal/event"
)

// ErrNotPerCPU: the peer, or the configuration, has one CHILD SA for all CPUs.
var ErrNotPerCPU = errors.New("no CHILD SAs of single CPUs")

// perCPU finds the CHILD SAs beside which ones of single CPUs may stand (RFC 9611)
// by their request ids, which is how the kernel reports a packet without SA.
type perCPU struct {
	mu      sync.Mutex
	byReqID map[uint32]childRef
}

func (p *perCPU) up(x *session, c *event.Child) {
	if !c.PerCPU {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byReqID == nil {
		p.byReqID = map[uint32]childRef{}
	}
	p.byReqID[c.ReqID] = childRef{x, c.UniqueID} // the newest has the policies
}

func (p *perCPU) down(c *event.Child) {
	if !c.PerCPU {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byReqID[c.ReqID].id == c.UniqueID {
		delete(p.byReqID, c.ReqID)
	}
}

func (p *perCPU) of(reqid uint32) (childRef, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref, ok := p.byReqID[reqid]
	return ref, ok
}

// acquiredCPU takes the kernel's report of a packet on a CPU that has no SA of its
// own. It never waits.
func (e *Engine) acquiredCPU(ev *dataplane.Acquire) {
	ref, ok := e.perCPU.of(ev.ReqID)
	if !ok {
		e.traps.ignored.Add(1) // of another daemon, or it has just gone
		return
	}
	e.log.Debug().Uint32("reqid", ev.ReqID).Uint32("cpu", *ev.CPU).Stringer("packet", ev.Packet).Msg("a packet asks for an SA of its CPU")
	split := sa.SplitChild{ChildID: ref.id, CPU: *ev.CPU, Acquired: true}
	e.bucketShard(ref.sess.bucket).inbox.call(func(s *shard) { s.step(ref.sess, split) })
}

// SplitChild asks the peer for a CHILD SA of a CPU beside the one that the target
// names, ahead of any packet. It returns when that has begun, or waits for its turn
// in the session; nothing is asked for when the CPU has one, or the peer takes no
// more. Errors: ErrNotFound, ErrNotPerCPU, ErrStopping.
func (e *Engine) SplitChild(ctx context.Context, t Target, cpu uint32) error {
	for _, s := range e.shards {
		found, can := false, false
		err := s.ask(ctx, func(s *shard) {
			x := s.byID[t.IKE]
			if x == nil {
				return
			}
			for _, c := range x.m.Info().Children {
				if c.UniqueID == t.Child {
					found, can = true, c.PerCPU
				}
			}
			if can {
				s.step(x, sa.SplitChild{ChildID: t.Child, CPU: cpu})
			}
		})
		switch {
		case err != nil:
			return err
		case found && !can:
			return fmt.Errorf("SA %d/%d: %w", t.IKE, t.Child, ErrNotPerCPU)
		case found:
			return nil
		}
	}
	return fmt.Errorf("SA %d/%d: %w", t.IKE, t.Child, ErrNotFound)
}
