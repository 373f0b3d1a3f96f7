package dptest

import (
	"errors"
	"testing"

	"espalier/dataplane"
)

// mustFail applies the operations and an installation that clashes with an SA
// that already exists, and expects that one to fail.
func mustFail(t *testing.T, dp dataplane.DataPlane, ops ...dataplane.Op) {
	t.Helper()
	clash := inSA(0xdead)
	mustApply(t, dp, dataplane.InstallSA{SA: clash})
	ops = append(ops, dataplane.InstallSA{SA: clash}, dataplane.InstallSA{SA: inSA(0xbeef)})
	err := dp.Apply(ops)
	var op *dataplane.OpError
	if !errors.As(err, &op) || op.Index != len(ops)-2 || !errors.Is(err, dataplane.ErrExists) {
		t.Fatalf("Apply: %v, expected ErrExists of operation %d", err, len(ops)-2)
	}
	mustApply(t, dp, dataplane.DeleteSA{Key: clash.SAKey})
}

func undoInstalls(t *testing.T, dp dataplane.DataPlane) {
	mustFail(t, dp,
		dataplane.InstallSA{SA: inSA(0x1001)},
		dataplane.InstallSA{SA: outSA(0x2001)},
		dataplane.InstallPolicy{Policy: policy(1, 10)})
	wantCounts(t, dp, 0, 0)
}

func undoTakesReservationBack(t *testing.T, dp dataplane.DataPlane) {
	spi := mustReserve(t, dp, 0x1000, 0x1fff)
	sa := inSA(spi)
	mustFail(t, dp, dataplane.InstallSA{SA: sa})
	if got := findSA(t, dp, sa.SAKey); got == nil || !got.Reserved {
		t.Fatalf("after the undo: %+v, expected the reservation", got)
	}
	mustFail(t, dp, dataplane.DeleteSA{Key: sa.SAKey})
	if got := findSA(t, dp, sa.SAKey); got == nil || !got.Reserved {
		t.Fatalf("after the undo of a deletion: %+v, expected the reservation", got)
	}
	mustApply(t, dp, dataplane.InstallSA{SA: sa})
	wantCounts(t, dp, 1, 0)
}

func undoDeletes(t *testing.T, dp dataplane.DataPlane) {
	sa, p := outSA(0x1001), policy(3, 10)
	sa.Seq.Out = 77
	mustApply(t, dp, dataplane.InstallSA{SA: sa}, dataplane.InstallPolicy{Policy: p})
	mustFail(t, dp, dataplane.DeleteSA{Key: sa.SAKey}, dataplane.DeletePolicy{Key: p.PolicyKey, Owner: 3})
	wantCounts(t, dp, 1, 1)
	if st, err := dp.QuerySA(sa.SAKey); err != nil || st.Replay.Out < 77 {
		t.Errorf("after the undo: sequence %d, %v, expected at least 77", st.Replay.Out, err)
	}
	if got := findPolicy(t, dp, p.PolicyKey); got == nil || got.Owner != 3 || got.Priority != 10 {
		t.Errorf("after the undo: %+v, expected the policy of owner 3", got)
	}
}

func undoUpdateAndMove(t *testing.T, dp dataplane.DataPlane) {
	sa := outSA(0x1001)
	sa.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 4500}
	mustApply(t, dp, dataplane.InstallSA{SA: sa})
	up := sa
	up.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 61000}
	mustFail(t, dp, dataplane.UpdateSA{SA: up})
	if got := findSA(t, dp, sa.SAKey); got == nil || got.Encap == nil || got.Encap.DstPort != 4500 {
		t.Errorf("after the undo of an update: %+v, expected port 4500", got)
	}
	mustFail(t, dp, dataplane.MoveSA{Key: sa.SAKey, Dir: dataplane.Out, NewSrc: here4, NewDst: other4, Encap: up.Encap})
	if got := findSA(t, dp, sa.SAKey); got == nil || got.Src != here4 || got.Encap == nil || got.Encap.DstPort != 4500 {
		t.Errorf("after the undo of a move: %+v, expected it where it was", got)
	}
	wantCounts(t, dp, 1, 0)
}
