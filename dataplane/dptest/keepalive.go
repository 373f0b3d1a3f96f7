package dptest

import (
	"net/netip"
	"testing"
	"time"

	"espalier/dataplane"
)

// kept is an outbound SA behind a NAT.
type kept struct {
	dp dataplane.DataPlane
	sa dataplane.SA
}

// every is an encapsulation with keepalives.
func every(d time.Duration) *dataplane.Encap {
	return &dataplane.Encap{SrcPort: 4500, DstPort: 4500, Keepalive: d}
}

// want asserts on the keepalives that the SA has.
func (k *kept) want(t *testing.T, when string, d time.Duration) {
	t.Helper()
	if !k.dp.Features().NATKeepalive {
		d = 0
	}
	got := findSA(t, k.dp, k.sa.SAKey)
	if got == nil || got.Encap == nil {
		t.Fatalf("%s: %+v, expected an SA in UDP", when, got)
	}
	if got.Encap.Keepalive != d {
		t.Fatalf("%s: keepalives every %s, expected every %s", when, got.Encap.Keepalive, d)
	}
}

func (k *kept) update(t *testing.T, e *dataplane.Encap, flags dataplane.SAFlags) {
	t.Helper()
	s := &k.sa
	mustApply(t, k.dp, dataplane.UpdateSA{SA: dataplane.SA{SAKey: s.SAKey, Src: s.Src, Dir: s.Dir, Mode: s.Mode, ReqID: s.ReqID,
		Encap: e, Flags: flags, Limits: dataplane.Limits{HardBytes: 1 << 30}}})
}

func (k *kept) move(t *testing.T, to netip.Addr, e *dataplane.Encap) {
	t.Helper()
	mustApply(t, k.dp, dataplane.MoveSA{Key: k.sa.SAKey, Dir: dataplane.Out, NewSrc: here4, NewDst: to, Encap: e})
	k.sa.Dst = to
}

// keepalives come with the encapsulation of an outbound SA, stay in updates that
// say the same, follow it on moves, and go when those say nothing of them.
func keepalives(t *testing.T, dp dataplane.DataPlane) {
	k := &kept{dp, outSA(0x1001)}
	k.sa.Encap = every(1500 * time.Millisecond)
	mustApply(t, dp, dataplane.InstallSA{SA: k.sa})
	k.want(t, "installed", 2*time.Second)
	if err := dp.AdvanceReplay(k.sa.SAKey, dataplane.Replay{Out: 500}); err != nil {
		t.Fatal(err)
	}
	k.want(t, "advanced", 2*time.Second)
	k.update(t, every(2*time.Second), 0)
	k.want(t, "updated", 2*time.Second)
	k.update(t, every(2*time.Second), dataplane.NoECN)
	k.want(t, "updated with other flags", 2*time.Second)
	k.update(t, every(30*time.Second), dataplane.NoECN)
	k.want(t, "updated with another time", 30*time.Second)
	k.move(t, other4, every(30*time.Second))
	k.want(t, "moved", 30*time.Second)
	k.move(t, there4, every(0))
	k.want(t, "moved without", 0)
	k.move(t, other4, every(time.Second))
	k.want(t, "moved with, again", time.Second)
	mustFail(t, dp, dataplane.MoveSA{Key: k.sa.SAKey, Dir: dataplane.Out, NewSrc: here4, NewDst: there4, Encap: every(0)})
	k.want(t, "after the undo of a move", time.Second)
	mustFail(t, dp, dataplane.DeleteSA{Key: k.sa.SAKey})
	k.want(t, "after the undo of a delete", time.Second)
	k.move(t, there4, nil)
	if got := findSA(t, dp, k.sa.SAKey); got == nil || got.Encap != nil {
		t.Fatalf("moved to where no NAT is: %+v, expected no encapsulation", got)
	}
	k.move(t, other4, every(time.Second))
	k.want(t, "behind a NAT again", time.Second)
	k.update(t, every(0), dataplane.NoECN)
	k.want(t, "updated without", 0)
	if st, err := dp.QuerySA(k.sa.SAKey); err != nil || st.Replay.Out < 500 {
		t.Errorf("sequence %d, %v, expected at least 500", st.Replay.Out, err)
	}
}

// keepalivesInbound are refused.
func keepalivesInbound(t *testing.T, dp dataplane.DataPlane) {
	sa := inSA(0x1002)
	sa.Encap = every(0)
	mustApply(t, dp, dataplane.InstallSA{SA: sa})
	sa.Encap = every(time.Second)
	for name, op := range map[string]dataplane.Op{
		"update": dataplane.UpdateSA{SA: sa},
		"move":   dataplane.MoveSA{Key: sa.SAKey, Dir: dataplane.In, NewSrc: other4, Encap: sa.Encap},
	} {
		if err := dp.Apply([]dataplane.Op{op}); err == nil {
			t.Errorf("%s of an inbound SA with keepalives: done, expected an error", name)
		}
	}
}
