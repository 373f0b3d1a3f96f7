package dptest

import (
	"testing"
	"time"

	"espalier/dataplane"
)

// watch follows what is told of SAs that come, move and go: at each step what
// the changes add up to is what List has.
func watch(t *testing.T, dp dataplane.DataPlane) {
	w, ok := dp.(dataplane.SAWatcher)
	if !ok {
		t.Skip("tells nobody of its SAs")
	}
	changes, stop, err := w.WatchSAs()
	if err != nil {
		t.Fatalf("WatchSAs: %v", err)
	}
	known := map[dataplane.SAKey]dataplane.InstalledSA{}
	follow := func(what string) {
		t.Helper()
		for deadline := time.After(10 * time.Second); !sameSAs(known, mustList(t, dp).SAs); {
			select {
			case c := <-changes:
				switch {
				case c.Lost:
					clear(known)
					for _, sa := range mustList(t, dp).SAs {
						known[sa.SAKey] = sa
					}
				case c.Gone:
					delete(known, c.SA.SAKey)
				default:
					known[c.SA.SAKey] = c.SA
				}
			case <-deadline:
				t.Fatalf("%s: the changes make %+v, expected %+v", what, known, mustList(t, dp).SAs)
			}
		}
	}
	in, out := inSA(0x1001), outSA(0x2001)
	in.Mark = dataplane.Mark{Value: 5, Mask: 255}
	has := func(want bool) {
		t.Helper()
		if got, err := w.HasSA(in.SAKey); err != nil || got != want {
			t.Errorf("HasSA: %v, %v, expected %v", got, err, want)
		}
	}
	has(false)
	mustApply(t, dp, dataplane.InstallSA{SA: in}, dataplane.InstallSA{SA: out})
	follow("installed")
	has(true)
	if len(known) != 2 || known[in.SAKey].ReqID != in.ReqID || known[out.SAKey].Src != out.Src {
		t.Errorf("told of %+v, expected both SAs", known)
	}
	mustApply(t, dp, dataplane.MoveSA{Key: out.SAKey, Dir: dataplane.Out, NewSrc: out.Src, NewDst: other4})
	follow("moved")
	mustApply(t, dp, dataplane.DeleteSA{Key: in.SAKey})
	follow("deleted")
	has(false)
	stop()
	for range changes { // ends
	}
	stop()
	if _, stopped, err := w.WatchSAs(); err != nil {
		t.Errorf("WatchSAs again: %v", err)
	} else {
		defer stopped()
	}
}

// sameSAs compares by key and source.
func sameSAs(known map[dataplane.SAKey]dataplane.InstalledSA, list []dataplane.InstalledSA) bool {
	if len(known) != len(list) {
		return false
	}
	for _, sa := range list {
		if got, ok := known[sa.SAKey]; !ok || got.Src != sa.Src {
			return false
		}
	}
	return true
}
