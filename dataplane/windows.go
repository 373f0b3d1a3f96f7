package dataplane

import "sync"

// Windows gives inbound SAs wider replay windows than they were asked for, by request
// id, which an SA hands on to those that replace it. The zero value widens none. Its
// methods are safe for concurrent use.
type Windows struct {
	mu    sync.Mutex
	least map[uint32]uint32
}

// Widen gives the SAs with the request id that are installed from now on a window of
// at least so many packets, MaxReplayWindow at most. It never narrows one.
func (w *Windows) Widen(reqID, packets uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.least == nil {
		w.least = map[uint32]uint32{}
	}
	w.least[reqID] = min(max(w.least[reqID], packets), MaxReplayWindow)
}

// Wrap is the data plane whose SAs get them.
func (w *Windows) Wrap(dp DataPlane) DataPlane { return widened{dp, w} }

type widened struct {
	DataPlane
	windows *Windows
}

// Apply implements DataPlane.
func (w widened) Apply(ops []Op) error { return w.DataPlane.Apply(w.windows.widen(ops)) }

// widen returns the operations with their windows; the caller's stay as they are. An
// SA without a window has asked for no check at all.
func (w *Windows) widen(ops []Op) []Op {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.least) == 0 {
		return ops
	}
	var out []Op
	for i, op := range ops {
		in, is := op.(InstallSA)
		if !is || in.SA.Dir != In || in.SA.ReplayWindow == 0 || in.SA.ReplayWindow >= w.least[in.SA.ReqID] {
			continue
		}
		if out == nil {
			out = append(out, ops...)
		}
		in.SA.ReplayWindow = w.least[in.SA.ReqID]
		out[i] = in
	}
	if out == nil {
		return ops
	}
	return out
}
