package dataplane

import (
	"fmt"
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
	spared []netip.Prefix
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

// Spare implements Network.
func (f *FakeNetwork) Spare(nets []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spared = slices.Clone(nets)
	return nil
}

// Spared are the networks that routes are kept off.
func (f *FakeNetwork) Spared() []netip.Prefix {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.spared)
}

// Addrs implements Network: the addresses that somebody wishes, in order.
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

// Outside implements Network: there is no way.
func (f *FakeNetwork) Outside(remote netip.Addr) (netip.Addr, error) {
	return netip.Addr{}, fmt.Errorf("route to %s: none in memory", remote)
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
