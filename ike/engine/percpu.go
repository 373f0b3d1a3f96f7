package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/internal/event"
)

// Errors about CHILD SAs of single CPUs.
var (
	// ErrNotPerCPU: the peer, or the configuration, has one CHILD SA for all CPUs, or
	// this one is bound already.
	ErrNotPerCPU = errors.New("no CHILD SAs of single CPUs")
	// ErrMaxQueue: the peer has answered TS_MAX_QUEUE, and none has gone since.
	ErrMaxQueue = errors.New("the peer takes no further CHILD SA of a single CPU")
	// ErrSending: packets of ours still go through the CHILD SA.
	ErrSending = errors.New("packets are still sent through it")
)

// joinIdle is for how long nothing must have been sent through a CHILD SA of a
// single CPU before JoinChild ends it.
const joinIdle = time.Minute

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
// in the session; nothing is asked for when the CPU has one. Errors: ErrNotFound,
// ErrNotPerCPU, ErrMaxQueue, ErrStopping.
func (e *Engine) SplitChild(ctx context.Context, t Target, cpu uint32) error {
	for _, s := range e.shards {
		found, can, most := false, false, false
		err := s.ask(ctx, func(s *shard) {
			x := s.byID[t.IKE]
			if x == nil {
				return
			}
			for _, c := range x.m.Info().Children {
				if c.UniqueID == t.Child {
					found, can, most = true, c.PerCPU, c.MaxQueue
				}
			}
			if can { // nothing happens after TS_MAX_QUEUE
				s.step(x, sa.SplitChild{ChildID: t.Child, CPU: cpu})
			}
		})
		switch {
		case err != nil:
			return err
		case found && !can:
			return fmt.Errorf("SA %d/%d: %w", t.IKE, t.Child, ErrNotPerCPU)
		case most:
			return fmt.Errorf("SA %d/%d: %w", t.IKE, t.Child, ErrMaxQueue)
		case found:
			return nil
		}
	}
	return fmt.Errorf("SA %d/%d: %w", t.IKE, t.Child, ErrNotFound)
}

// JoinChild ends the CHILD SA of a single CPU that the target names, unless that
// CPU sends: the fallback takes over. It returns as soon as that has begun. Errors:
// ErrNotFound, ErrNotPerCPU, ErrSending, ErrStopping.
func (e *Engine) JoinChild(ctx context.Context, t Target) error {
	err := ErrNotFound
	for info := range func(yield func(sa.Info) bool) { e.SessionsOf("", t.IKE, yield) } {
		for _, c := range info.Children {
			switch {
			case c.UniqueID != t.Child:
			case c.CPU == nil:
				err = ErrNotPerCPU
			case time.Since(c.Out.LastUse) < joinIdle:
				err = ErrSending
			default:
				return e.Terminate(ctx, t, true)
			}
		}
	}
	return fmt.Errorf("SA %d/%d: %w", t.IKE, t.Child, err)
}

// WhyWhole says why no CHILD SAs of single CPUs may stand beside one of this name,
// as the configuration is now.
func (e *Engine) WhyWhole(conn, child string) string {
	var ch *sa.ChildConfig
	cfg := e.config.Load()
	if c := cfg.set.ByName(conn); c != nil {
		ch = c.Child(child)
	}
	switch {
	case ch == nil:
		return "its configuration has gone"
	case ch.PerCPU == sa.PerCPUNo:
		return "its configuration has per_cpu_sas = no"
	case ch.IPComp:
		return "its configuration has ipcomp = yes"
	case e.lacks.PerCPU:
		return "this kernel has none (6.13 and newer do)"
	}
	return "the peer has not announced that it takes them"
}
