package engine

import (
	"iter"
	"slices"
)

// outbound finds a shard's CHILD SAs by their outbound SPIs. Those are the peers'
// choice, so several may have the same one.
type outbound struct {
	inbound map[uint32]uint32   // by outbound SPI the inbound one of the first
	more    map[uint32][]uint32 // and of the others; nearly always empty
}

func newOutbound() outbound {
	return outbound{inbound: map[uint32]uint32{}, more: map[uint32][]uint32{}}
}

// add lists a CHILD SA by its SPIs.
func (o *outbound) add(p spiPair) {
	switch in, taken := o.inbound[p.out]; {
	case !taken:
		o.inbound[p.out] = p.in
	case in != p.in && !slices.Contains(o.more[p.out], p.in):
		o.more[p.out] = append(o.more[p.out], p.in)
	}
}

// remove takes it out again, if it is in.
func (o *outbound) remove(p spiPair) {
	more := o.more[p.out]
	if i := slices.Index(more, p.in); i >= 0 {
		more = slices.Delete(more, i, i+1)
	} else if in, ok := o.inbound[p.out]; !ok || in != p.in {
		return
	} else if len(more) == 0 {
		delete(o.inbound, p.out)
	} else {
		o.inbound[p.out], more = more[0], more[1:]
	}
	if len(more) == 0 {
		delete(o.more, p.out)
		return
	}
	o.more[p.out] = more
}

// of yields the inbound SPIs of the CHILD SAs with the outbound one.
func (o *outbound) of(spi uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		in, ok := o.inbound[spi]
		if !ok || !yield(in) {
			return
		}
		for _, in := range o.more[spi] {
			if !yield(in) {
				return
			}
		}
	}
}
