package dataplane

import (
	"net/netip"
	"slices"
	"sync"
)

// FakeNetwork is a Network in memory. The zero value is ready.
type FakeNetwork struct {
	// Fail, when set, is asked before each Want.
	Fail func(owner uint64, w Wish) error

	mu     sync.Mutex
	wishes map[uint64]Wish
}

var _ Network = (*FakeNetwork)(nil)

// Want implements Network.
func (f *FakeNetwork) Want(owner uint64, w Wish) error {
	if f.Fail != nil {
		if err := f.Fail(owner, w); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wishes == nil {
		f.wishes = map[uint64]Wish{}
	}
	if w.Empty() {
		delete(f.wishes, owner)
	} else {
		f.wishes[owner] = Wish{w.Local, w.Peer, slices.Clone(w.Addrs), slices.Clone(w.Routes)}
	}
	return nil
}

// Addrs are the addresses that somebody wishes, in order.
func (f *FakeNetwork) Addrs() []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []netip.Addr
	for _, w := range f.wishes {
		out = append(out, w.Addrs...)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// Routes are the routes that somebody wishes, as text, in order.
func (f *FakeNetwork) Routes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, w := range f.wishes {
		for _, r := range w.Routes {
			out = append(out, r.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
