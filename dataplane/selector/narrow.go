package selector

import "net/netip"

// MaxNarrowed bounds what Narrow returns: more selectors than a TS payload can
// count (RFC 7296 3.13) are of no use to anybody.
const MaxNarrowed = 255

// maxCandidates bounds the work of Narrow against long lists from the network.
const maxCandidates = 4096

// Contains reports whether every packet that b matches is matched by t, too.
func (t TS) Contains(b TS) bool {
	if t.Start.Is4() != b.Start.Is4() || b.Start.Less(t.Start) || t.End.Less(b.End) {
		return false
	}
	if t.Proto != 0 && t.Proto != b.Proto {
		return false
	}
	switch {
	case t.AnyPort():
		return true
	case t.Opaque() || b.Opaque():
		return t.Opaque() && b.Opaque()
	}
	return t.StartPort <= b.StartPort && b.EndPort <= t.EndPort
}

// ContainsAddr reports whether the address is within the selector's range.
func (t TS) ContainsAddr(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.Is4() == t.Start.Is4() && a.IsValid() && !a.Less(t.Start) && !t.End.Less(a)
}

// Intersect returns the selector of the packets that both match; false when
// there are none.
func Intersect(a, b TS) (TS, bool) {
	var r TS
	if a.Start.Is4() != b.Start.Is4() {
		return TS{}, false
	}
	switch {
	case a.Proto == b.Proto || b.Proto == 0:
		r.Proto = a.Proto
	case a.Proto == 0:
		r.Proto = b.Proto
	default:
		return TS{}, false
	}
	switch {
	case a.AnyPort():
		r.StartPort, r.EndPort = b.StartPort, b.EndPort
	case b.AnyPort():
		r.StartPort, r.EndPort = a.StartPort, a.EndPort
	case a.Opaque() || b.Opaque():
		if !a.Opaque() || !b.Opaque() {
			return TS{}, false
		}
		r.StartPort, r.EndPort = opaqueStart, opaqueEnd
	default:
		r.StartPort, r.EndPort = max(a.StartPort, b.StartPort), min(a.EndPort, b.EndPort)
		if r.StartPort > r.EndPort {
			return TS{}, false
		}
	}
	r.Start, r.End = a.Start, a.End
	if r.Start.Less(b.Start) {
		r.Start = b.Start
	}
	if b.End.Less(r.End) {
		r.End = b.End
	}
	if r.End.Less(r.Start) {
		return TS{}, false
	}
	return r, true
}

// Narrow returns what a responder with the policy ours may accept of the
// selectors theirs (RFC 7296 2.9): the non-empty intersections of every pair,
// without duplicates and without those that another one contains. The order is
// that of theirs, then that of ours, so that an intersection with the
// initiator's first selector, the packet's own, comes first. Empty means
// TS_UNACCEPTABLE. At most MaxNarrowed selectors come back; what is beyond is
// left out, which RFC 7296 2.9 permits.
//
// Invalid selectors in either list are passed over.
func Narrow(ours, theirs []TS) []TS {
	var found []TS
	seen := map[TS]bool{}
	tried := 0
outer:
	for _, t := range theirs {
		if !t.Valid() {
			continue
		}
		for _, o := range ours {
			if tried++; tried > maxCandidates {
				break outer
			}
			if !o.Valid() {
				continue
			}
			if r, ok := Intersect(o, t); ok && !seen[r] {
				seen[r] = true
				found = append(found, r)
			}
		}
	}
	return compact(found[:0], found)
}

// Compact removes selectors that an other one of the list contains, and cuts
// the list at MaxNarrowed. A selector that contains earlier ones takes the
// place of the first of them. The list is not changed; the result may be the
// list itself.
func Compact(list []TS) []TS {
	if len(list) < 2 {
		return list
	}
	return compact(nil, list)
}

// compact is Compact into the room of kept, which may be that of the list: what
// is kept is never longer than what was looked at.
func compact(kept, list []TS) []TS {
next:
	for _, t := range list {
		for _, k := range kept {
			if k.Contains(t) {
				continue next
			}
		}
		kept = absorb(kept, t)
		if len(kept) > MaxNarrowed {
			kept = kept[:MaxNarrowed]
		}
	}
	return kept
}

// absorb adds t to the list in the place of the first element it contains, or
// at the end, and drops the other elements it contains.
func absorb(kept []TS, t TS) []TS {
	placed := false
	out := kept[:0]
	for _, k := range kept {
		switch {
		case !t.Contains(k):
			out = append(out, k)
		case !placed:
			out = append(out, t)
			placed = true
		}
	}
	if !placed {
		out = append(out, t)
	}
	return out
}
