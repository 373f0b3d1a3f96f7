package tune

import (
	"testing"
	"time"
)

// box is what a stock Debian has.
func box() map[Setting]string {
	return map[Setting]string{MaxBacklog: "1000", Budget: "300", BudgetTime: "2000", ReceiveMax: "212992", SendMax: "212992", OptMemMax: "131072", CPUGovernor: "powersave"}
}

func run(rounds int, settings map[Setting]string, o Observation) map[Setting]int {
	tuner, times := New(Limits{}), map[Setting]int{}
	for range rounds {
		o.Interval, o.System.Settings = time.Second, settings
		for _, p := range tuner.Decide(o).Actions {
			s := p.Action.(Set)
			times[s.Setting]++
			settings[s.Setting] = s.To
		}
	}
	return times
}

func TestSettings(t *testing.T) {
	t.Parallel()
	calm := []CPU{{ID: 0, Online: true, Busy: 0.2}}
	busy := []CPU{{ID: 0, Online: true, Busy: 0.9}}
	for _, c := range []struct {
		name string
		o    Observation
		want map[Setting]string
	}{
		{"a calm box gets its buffers and nothing else", Observation{CPUs: calm}, map[Setting]string{}},
		{"single drops are no sign", Observation{CPUs: calm, System: System{Dropped: 3, Squeezed: 4}}, map[Setting]string{}},
		{"a full backlog grows to its limit", Observation{CPUs: calm, System: System{Dropped: 500}}, map[Setting]string{MaxBacklog: "32768"}},
		{"squeezed processing gets more time", Observation{CPUs: calm, System: System{Squeezed: 500}}, map[Setting]string{Budget: "1200", BudgetTime: "16000"}},
		{"a busy CPU gets its clock", Observation{CPUs: busy}, map[Setting]string{CPUGovernor: "performance"}},
	} {
		got := box()
		run(40, got, c.o)
		want := box()
		want[ReceiveMax], want[SendMax] = "16777216", "16777216"
		for k, v := range c.want {
			want[k] = v
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s is %s; want %s", c.name, k, got[k], v)
			}
		}
	}
}

// What the box has not, or keeps as something else than a number, is left alone.
func TestSettingsAbsent(t *testing.T) {
	t.Parallel()
	for _, settings := range []map[Setting]string{{}, {MaxBacklog: "", ReceiveMax: "many"}} {
		if times := run(20, settings, Observation{System: System{Dropped: 1000, Squeezed: 1000}}); len(times) > 0 {
			t.Errorf("%v for %v; want nothing set", times, settings)
		}
	}
}

// A setting that takes no effect is not raised for ever.
func TestSettingsAtTheirLimit(t *testing.T) {
	t.Parallel()
	settings := box()
	times := run(200, settings, Observation{System: System{Dropped: 1000, Squeezed: 1000}})
	for s, n := range times {
		if n > 6 {
			t.Errorf("%s set %d times; want an end at its limit", s, n)
		}
	}
}
