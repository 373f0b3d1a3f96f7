package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/tune"
	"espalier/ike/engine"
	"espalier/internal/event"
)

// childSAs knows which CHILD SA an inbound SPI is, and is how the tuner asks the
// engine about them: it is a tune.IKE.
type childSAs struct {
	engine atomic.Pointer[engine.Engine] // nil: it has not begun
	stop   chan struct{}
	done   sync.WaitGroup
	mu     sync.Mutex
	bySPI  map[uint32]childSA
	paths  map[uint64]tune.Path // by unique id of the IKE SA

	windows *dataplane.Windows // nil: they stay as they are
	mss     atomic.Bool        // TCP is fitted to the tunnels
}

// childSA is one of them.
type childSA struct {
	engine.Target
	conn, name string
	reqID      uint32 // that of the SAs of single CPUs beside it as well
	canSplit   bool
	bound      bool // it is one CPU's itself
}

var (
	_ tune.IKE     = (*childSAs)(nil)
	_ tune.Renewer = (*childSAs)(nil)
)

// childEvents is how many events may wait for childSAs.
const childEvents = 4096

func followChildren(bus *event.Bus) *childSAs {
	c := &childSAs{stop: make(chan struct{}), bySPI: map[uint32]childSA{}, paths: map[uint64]tune.Path{}}
	sub := bus.Subscribe(childEvents)
	c.done.Go(func() {
		defer sub.Close()
		for {
			select {
			case <-c.stop:
				return
			case <-sub.Wait():
			}
			for r, ok := sub.Next(); ok; r, ok = sub.Next() {
				c.take(r.Event)
			}
		}
	})
	return c
}

func (c *childSAs) take(e event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch ev := e.(type) {
	case event.ChildUp:
		c.bySPI[ev.Child.SPIIn] = childSA{Target: engine.Target{IKE: ev.IKE.UniqueID, Child: ev.Child.UniqueID},
			conn: ev.Conn, name: ev.Child.Name, reqID: ev.Child.ReqID, canSplit: ev.Child.PerCPU, bound: ev.Child.CPU != nil}
	case event.ChildDown:
		delete(c.bySPI, ev.Child.SPIIn)
	case event.PathMTU:
		c.paths[ev.IKE.UniqueID] = tune.Path{Name: ev.Conn, MTU: int(ev.MTU)}
		if ev.MTU == 0 {
			delete(c.paths, ev.IKE.UniqueID)
		}
	case event.IKEDown:
		delete(c.paths, ev.IKE.UniqueID)
	}
}

func (c *childSAs) of(spi uint32) (childSA, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.bySPI[spi]
	return s, ok
}

// name is the name of an inbound SPI's CHILD SA, connection and child; empty: not known.
func (c *childSAs) name(spi uint32) string {
	s, ok := c.of(spi)
	if !ok {
		return ""
	}
	return s.conn + "/" + s.name
}

// Know implements tune.IKE.
func (c *childSAs) Know(sas []tune.SA) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range sas {
		if s, ok := c.bySPI[sas[i].SPI]; ok {
			sas[i].Group, sas[i].CanSplit = s.reqID, s.canSplit
		}
	}
}

// Whole implements tune.IKE.
func (c *childSAs) Whole(spi uint32) string {
	s, ok := c.of(spi)
	e := c.engine.Load()
	switch {
	case !ok:
		return "it is not one of this daemon's"
	case s.canSplit || s.bound || e == nil:
		return ""
	}
	return e.WhyWhole(s.conn, s.name)
}

// askTime bounds how long the tuner waits for the engine to take a wish.
const askTime = 2 * time.Second

// Split implements tune.IKE.
func (c *childSAs) Split(ctx context.Context, spi uint32, cpu int) error {
	return c.ask(ctx, spi, func(ctx context.Context, e *engine.Engine, t engine.Target) error {
		return e.SplitChild(ctx, t, uint32(cpu))
	})
}

// Join implements tune.IKE.
func (c *childSAs) Join(ctx context.Context, spi uint32) error {
	return c.ask(ctx, spi, func(ctx context.Context, e *engine.Engine, t engine.Target) error { return e.JoinChild(ctx, t) })
}

var errNoChild = errors.New("no CHILD SA of this daemon")

func (c *childSAs) ask(ctx context.Context, spi uint32, f func(context.Context, *engine.Engine, engine.Target) error) error {
	s, ok := c.of(spi)
	e := c.engine.Load()
	if !ok || e == nil {
		return errNoChild
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return f(ctx, e, s.Target)
}

// Renew implements tune.Renewer.
func (c *childSAs) Renew(ctx context.Context, spi uint32) error {
	return c.ask(ctx, spi, func(ctx context.Context, e *engine.Engine, t engine.Target) error { return e.Rekey(ctx, t) })
}

// Widen implements tune.Renewer.
func (c *childSAs) Widen(spi, window uint32) error {
	s, ok := c.of(spi)
	if !ok || c.windows == nil {
		return errNoChild
	}
	c.windows.Widen(s.reqID, window)
	return nil
}

// tell adds to an observation what IKE and the configuration know.
func (c *childSAs) tell(o *tune.Observation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(c.paths)) {
		o.Paths = append(o.Paths, c.paths[id])
	}
	o.System.MSS = c.mss.Load()
}

func (c *childSAs) close() {
	close(c.stop)
	c.done.Wait()
}
