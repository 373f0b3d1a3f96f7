package dataplane

import "testing"

// opsSeen notes what is applied.
type opsSeen struct {
	DataPlane
	ops []Op
}

func (o *opsSeen) Apply(ops []Op) error { o.ops = ops; return nil }

func TestWindows(t *testing.T) {
	var w Windows
	inner := &opsSeen{}
	dp := w.Wrap(inner)
	in := func(reqID, window uint32) Op {
		return InstallSA{SA: SA{Dir: In, ReqID: reqID, ReplayWindow: window}}
	}
	ops := []Op{in(1, 32), in(2, 32), in(1, 0), in(1, 2048), InstallSA{SA: SA{Dir: Out, ReqID: 1, ReplayWindow: 32}}, DeleteSA{}}
	check := func(want ...uint32) {
		t.Helper()
		if err := dp.Apply(ops); err != nil || len(inner.ops) != len(ops) {
			t.Fatalf("%v, %d operations", err, len(inner.ops))
		}
		for i, n := range want {
			if got := inner.ops[i].(InstallSA).SA.ReplayWindow; got != n {
				t.Errorf("SA %d has a window of %d, expected %d", i, got, n)
			}
		}
		if ops[0].(InstallSA).SA.ReplayWindow != 32 {
			t.Error("the caller's own operation was changed")
		}
	}
	check(32, 32, 0, 2048, 32)
	w.Widen(1, 256)
	check(256, 32, 0, 2048, 32)
	w.Widen(1, 64) // never narrower
	w.Widen(2, MaxReplayWindow+1)
	check(256, MaxReplayWindow, 0, 2048, 32)
}
