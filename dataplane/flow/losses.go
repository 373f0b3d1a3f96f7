package flow

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"espalier/dataplane"
)

// Loss is what the kernel counts of an SA's packets that it refused, since the SA was
// made. The kernel does not say whether the SA is an inbound one; outbound ones lose
// nothing in these ways.
type Loss struct {
	Key      Key
	ReqID    uint32
	Window   uint32 // replay window, packets; 0: not known, or none
	Late     uint64 // left of the window
	Repeated uint64 // in the window, and seen before
	Forged   uint64 // failed the integrity check
}

// Losses lists the kernel's SAs of this network namespace: with ten thousand of them
// it takes tens of milliseconds.
func Losses() ([]Loss, error) {
	states, err := netlink.XfrmStateList(netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("the kernel's SAs: %w", err)
	}
	out := make([]Loss, 0, len(states))
	for i := range states {
		s := &states[i]
		for _, a := range []*netlink.XfrmStateAlgo{s.Auth, s.Crypt, s.Aead} {
			if a != nil {
				clear(a.Key)
			}
		}
		dst, ok := netip.AddrFromSlice(s.Dst)
		if !ok {
			continue
		}
		out = append(out, Loss{Key: Key{dataplane.In, dst.Unmap(), uint32(s.Spi)}, ReqID: uint32(s.Reqid),
			Late: uint64(s.Statistics.ReplayWindow), Repeated: uint64(s.Statistics.Replay), Forged: uint64(s.Statistics.Failed)})
	}
	return out, nil
}

// Losses is Losses with the replay windows of own SAs.
func (f *Flow) Losses() ([]Loss, error) {
	out, err := Losses()
	for i := range out {
		out[i].Window = f.keep.replayWindow(out[i].Key)
	}
	return out, err
}
