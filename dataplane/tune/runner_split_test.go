package tune

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// fakeIKE makes in the model what is asked of it.
type fakeIKE struct {
	m     *model
	whole string // why it does not; empty: it does
	fail  error
}

func (f *fakeIKE) Know(sas []SA) {
	for i := range sas {
		sas[i].Group, sas[i].CanSplit = 7, f.whole == "" && !sas[i].Fixed
	}
}
func (f *fakeIKE) Whole(uint32) string { return f.whole }
func (f *fakeIKE) Split(_ context.Context, spi uint32, cpu int) error {
	if f.fail == nil {
		f.m.split(Split{SA: SAID{Slot: spi - 0x1000}, CPU: cpu})
	}
	return f.fail
}
func (f *fakeIKE) Join(context.Context, uint32) error { return nil }

// TestRunnerSplits: the journal says that an SA of a CPU was asked for and what came
// of it, that IKE refused, or why there can be none.
func TestRunnerSplits(t *testing.T) {
	for _, c := range []struct {
		ike                       fakeIKE
		kind, says, fails, become string
	}{
		{fakeIKE{}, "split", "another one beside it can, and CPU 1 has room", "", "1 SA of one CPU stands beside it"},
		{fakeIKE{fail: errors.New("the peer is gone")}, "split", "another one beside it", "the peer is gone", ""},
		{fakeIKE{whole: "the peer has not announced that it takes them"}, "leave", "beside it (RFC 9611): the peer has not announced that it takes them", "", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := splitScene(2, 1.4, 0.5, 0.5)
			m.sas[0].cpu, c.ike.m = 0, m
			r, err := NewRunner(Config{Box: &fakeBox{m: m}, IKE: &c.ike, Mode: On, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- r.Run(ctx) }()
			time.Sleep(30 * time.Second)
			cancel()
			<-done
			h := r.History()
			if len(h) == 0 {
				t.Fatal("the journal is empty")
			}
			e := h[0].Report()
			if e.Kind != c.kind || !strings.Contains(e.Reason, c.says) || e.Error != c.fails || !strings.Contains(e.Outcome, c.become) || (c.become == "") != (e.Outcome == "") {
				t.Errorf("journal %+v; expected %+v", e, c)
			}
		})
	}
}
