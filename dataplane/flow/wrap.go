package flow

import (
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
)

// wrapped is a DataPlane whose SAs are in the table of SPIs: before the kernel
// has them, until after it has them no more.
type wrapped struct {
	dataplane.DataPlane
	spis *spiKeeper
	mss  *mssKeeper // nil: nobody clamps

	stopWatch func()
	done      sync.WaitGroup
	close     sync.Once
}

// resyncPause is between two attempts to list the kernel's SAs.
const resyncPause = time.Second

// wrap makes the decorator and begins to watch the SAs of others, if dp can
// tell of them; without, the table is never in step and the guard only logs.
func wrap(dp dataplane.DataPlane, spis *spiKeeper, mss *mssKeeper, log zerolog.Logger) (*wrapped, error) {
	w := &wrapped{DataPlane: dp, spis: spis, mss: mss, stopWatch: func() {}}
	watcher, ok := dp.(dataplane.SAWatcher)
	if !ok {
		return w, nil
	}
	changes, stop, err := watcher.WatchSAs()
	if err != nil {
		return nil, err
	}
	quit := make(chan struct{})
	w.stopWatch = sync.OnceFunc(func() { close(quit); stop() })
	w.done.Add(1)
	go func() {
		defer w.done.Done()
		lost := true // what was there before
		for {
			if lost {
				err := spis.resync(dp.List)
				if lost = err != nil; lost {
					if errors.Is(err, dataplane.ErrClosed) {
						return
					}
					log.Warn().Err(err).Msg("the kernel's SAs could not be listed: the guard only logs")
					select {
					case <-time.After(resyncPause):
					case <-quit:
						return
					}
				}
				continue
			}
			c, ok := <-changes
			switch {
			case !ok:
				return
			case c.Lost:
				log.Info().Msg("changes of the kernel's SAs were lost, listing them anew")
				lost = true
			default:
				spis.follow(watcher, &c)
			}
		}
	}()
	return w, nil
}

// ReserveSPI implements dataplane.DataPlane: the SPI is known to the guard
// before anybody else learns it.
func (w *wrapped) ReserveSPI(r dataplane.SPIRequest) (uint32, error) {
	if r.Proto != dataplane.ESP {
		return w.DataPlane.ReserveSPI(r)
	}
	w.spis.mu.Lock()
	defer w.spis.mu.Unlock()
	spi, err := w.DataPlane.ReserveSPI(r)
	if err != nil {
		return 0, err
	}
	k := dataplane.SAKey{Dst: r.Dst, Proto: r.Proto, SPI: spi, Mark: r.Mark}
	w.spis.setLocked(k, entry{keyOf(&k, dataplane.In), Attrs{Own: true, Reserved: true, ReqID: r.ReqID, IfID: r.IfID}})
	return spi, nil
}

// Apply implements dataplane.DataPlane. What the operations add is in the table
// before they are performed; what they remove goes afterwards, and what could
// not be added goes again.
func (w *wrapped) Apply(ops []dataplane.Op) error {
	w.spis.mu.Lock()
	defer w.spis.mu.Unlock()
	after, moves := w.spis.planLocked(ops)
	before := map[dataplane.SAKey]entry{}
	for k, e := range after {
		if e == nil {
			continue
		}
		if old, had := w.spis.sas[k]; had {
			before[k] = old
		} else {
			w.spis.setLocked(k, *e)
		}
	}
	if err := w.DataPlane.Apply(ops); err != nil {
		for k, e := range after {
			if _, had := before[k]; !had && e != nil {
				w.spis.dropLocked(k)
			}
		}
		return err
	}
	w.spis.followLocked(after, moves)
	if w.mss != nil {
		w.mss.applied(ops)
	}
	return nil
}

// followLocked makes the table what the operations have made of the kernel.
func (s *spiKeeper) followLocked(after map[dataplane.SAKey]*entry, moves map[dataplane.SAKey]dataplane.SAKey) {
	for k, e := range after {
		if e != nil {
			s.setLocked(k, *e)
		}
	}
	for k, e := range after {
		if e != nil {
			continue
		}
		if to, moved := moves[k]; moved {
			s.moveLocked(k, to)
		} else {
			s.dropLocked(k)
		}
	}
}

// planLocked says what the operations make of the SAs they are about: the entry
// that each has in the end, nil when it is gone, and what those are now that moved.
func (s *spiKeeper) planLocked(ops []dataplane.Op) (after map[dataplane.SAKey]*entry, moves map[dataplane.SAKey]dataplane.SAKey) {
	after, moves = map[dataplane.SAKey]*entry{}, map[dataplane.SAKey]dataplane.SAKey{}
	now := func(k dataplane.SAKey) *entry {
		if e, ok := after[k]; ok {
			return e
		}
		if e, ok := s.sas[k]; ok {
			return &e
		}
		return nil
	}
	for _, op := range ops {
		switch o := op.(type) {
		case dataplane.InstallSA:
			if o.SA.Proto == dataplane.ESP {
				after[o.SA.SAKey] = &entry{keyOf(&o.SA.SAKey, o.SA.Dir), installedAttrs(&o.SA)}
			}
		case dataplane.MoveSA:
			if o.Key.Proto != dataplane.ESP || !o.NewDst.IsValid() || o.NewDst == o.Key.Dst {
				continue
			}
			old := now(o.Key)
			if old == nil {
				continue // moved already
			}
			k, moved := o.Key, *old
			k.Dst = o.NewDst
			moved.key = keyOf(&k, o.Dir)
			after[o.Key], after[k] = nil, &moved
			moves[o.Key] = k
		case dataplane.DeleteSA:
			if o.Key.Proto == dataplane.ESP {
				after[o.Key] = nil
			}
		}
	}
	return after, moves
}

// Close implements dataplane.DataPlane. The entries stay: so do the SAs.
func (w *wrapped) Close() error {
	var err error
	w.close.Do(func() {
		w.stopWatch()
		err = w.DataPlane.Close()
		w.done.Wait()
	})
	return err
}

func installedAttrs(sa *dataplane.SA) Attrs {
	a := Attrs{Own: true, ReqID: sa.ReqID, IfID: sa.IfID, ReplayWindow: sa.ReplayWindow}
	if sa.CPU != nil {
		a.PerCPU, a.CPU = true, *sa.CPU
	}
	return a
}
