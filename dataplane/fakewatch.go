package dataplane

// fakeWatchRoom is how many changes wait for the reader of a Fake's watch.
const fakeWatchRoom = 256

// fakeWatch is one reader of the Fake's changes.
type fakeWatch struct {
	ch   chan SAChange
	lost bool
}

// WatchSAs implements SAWatcher.
func (f *Fake) WatchSAs() (<-chan SAChange, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, nil, ErrClosed
	}
	w := &fakeWatch{ch: make(chan SAChange, fakeWatchRoom)}
	f.watches = append(f.watches, w)
	return w.ch, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, o := range f.watches {
			if o == w {
				f.watches = append(f.watches[:i], f.watches[i+1:]...)
				close(w.ch)
				return
			}
		}
	}, nil
}

// HasSA implements SAWatcher.
func (f *Fake) HasSA(k SAKey) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false, ErrClosed
	}
	return f.sas[saIDOf(&k)] != nil, nil
}

// tell reports what stands under id now.
func (f *Fake) tell(id saID) {
	if len(f.watches) == 0 {
		return
	}
	c := SAChange{SA: InstalledSA{SAKey: id.key()}, Gone: true}
	if s := f.sas[id]; s != nil {
		c = SAChange{SA: s.installedSA(id)}
	}
	for _, w := range f.watches {
		w.put(c)
	}
}

// put never waits; the last place is kept for the word that something was lost.
func (w *fakeWatch) put(c SAChange) {
	if len(w.ch) < cap(w.ch)-1 {
		w.lost = false
		w.ch <- c
	} else if !w.lost {
		w.lost = true
		w.ch <- SAChange{Lost: true}
	}
}

// Foreign installs an SA, or removes it, as another program would.
func (f *Fake) Foreign(sa InstalledSA, gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := saIDOf(&sa.SAKey)
	if gone {
		delete(f.sas, id)
	} else {
		s := &fakeSA{src: sa.Src.Unmap().As16(), reqID: sa.ReqID, ifID: sa.IfID, mode: sa.Mode, reserved: sa.Reserved, installed: f.now().UnixNano()}
		f.setEncap(s, sa.Encap)
		f.sas[id] = s
	}
	f.tell(id)
}

// LoseChanges tells the readers that changes were lost.
func (f *Fake) LoseChanges() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.watches {
		select {
		case w.ch <- SAChange{Lost: true}:
			w.lost = true
		default: // one waits already
		}
	}
}

var _ SAWatcher = (*Fake)(nil)
