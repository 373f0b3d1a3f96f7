package simulator

import (
	"flag"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"espalier/internal/event"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run only this seed, with its trace")
	without = flag.Uint64("without", 0, "classes of events that the seeds shall not have, as a bitmask")
	seeds   = flag.Uint64("seeds", 0, "how many seeds to run; 0: the test's own number")
)

// explain fails the test with a seed's trace and how to run it again.
func explain(t *testing.T, c Config) {
	t.Helper()
	c.Trace = true
	r := Run(c)
	lines := r.Trace
	if n := 150; len(lines) > n && *oneSeed == 0 {
		lines = lines[len(lines)-n:]
	}
	t.Errorf("seed %d: %s\n%s\nrun it again: go test ./ike/sa/simulator -run 'TestSeeds$' -seed %d -without %d -v", c.Seed, r.Failure, strings.Join(lines, "\n"), c.Seed, c.Without)
}

// each runs f for the seeds from lo to hi on all cores until it says stop.
func each(lo, hi uint64, f func(seed uint64) (stop bool)) {
	var next, halt atomic.Uint64
	next.Store(lo)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for halt.Load() == 0 {
				n := next.Add(1) - 1
				if n >= hi {
					return
				}
				if f(n) {
					halt.Store(1)
				}
			}
		})
	}
	wg.Wait()
}

// count is the number of seeds of a test.
func count(short, long uint64) uint64 {
	switch {
	case *seeds != 0:
		return *seeds
	case testing.Short():
		return short
	}
	return long
}

// TestSeeds: both gateways agree after anything that may happen to them.
func TestSeeds(t *testing.T) {
	if *oneSeed != 0 {
		r := Run(Config{Seed: *oneSeed, Without: Classes(*without), Trace: true})
		t.Logf("seed %d: %d exchanges\n%s", *oneSeed, r.Exchanges, strings.Join(r.Trace, "\n"))
		if r.Failure != "" {
			t.Errorf("seed %d: %s", *oneSeed, r.Failure)
		}
		return
	}
	run(t, 1, count(300, 10_000))
}

// TestRegressions runs the seeds that ever failed.
func TestRegressions(t *testing.T) {
	for _, r := range failedOnce {
		for _, seed := range r.seeds {
			c := Config{Seed: seed, Without: r.without}
			if r := Run(c); r.Failure != "" {
				explain(t, c)
			}
		}
	}
}

// failedOnce are the seeds that showed a defect when it was there, by the classes
// of events that the simulator did not have then.
var failedOnce = []struct {
	without Classes
	seeds   []uint64
}{
	{0, []uint64{3019, 1638, 6146}},
	{^Classes(0), []uint64{
		1, 2, 3, 4, 13, 20, 23, 25, 31, 38, 48, 59, 72, 84, 131, 133, 200, 202, 209, 228, 242, 273, 282, 304, 323, 367, 417, 464,
		532, 544, 827, 903, 1028, 1217, 1270, 1639, 1848, 1995, 2132, 2937, 6049, 8128, 8439, 9549, 9552, 170, 1295, 7348, 7482,
	}},
	{^(Rebinds | Moves), []uint64{1005, 1244, 1838, 2074, 2442}},
	{^(Rebinds | Moves | Tokens), []uint64{33, 39, 116, 181, 216, 248}},
	{^(Rebinds | Moves | Tokens | Holds | Fragments | Limits), []uint64{487}},
	{^(Rebinds | Moves | Tokens | Holds | Fragments | Limits | Traps | CPUs), []uint64{86, 198, 202, 262, 3966, 4778, 6686, 7600, 8699}},
}

// TestFaults: each planted fault is found within the seeds of TestSeeds.
func TestFaults(t *testing.T) {
	for i := range Faults {
		f := &Faults[i]
		t.Run(f.Name, func(t *testing.T) {
			var mu sync.Mutex
			var found uint64
			var why string
			each(1, count(10_000, 10_000)+1, func(seed uint64) bool {
				r := Run(Config{Seed: seed, Fault: f})
				if r.Failure == "" {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				if found == 0 || seed < found {
					found, why = seed, r.Failure
				}
				return true
			})
			if found == 0 {
				t.Fatal("not found")
			}
			t.Logf("seed %d: %.200s", found, why)
		})
	}
}

// run simulates n seeds and prints what they had in them.
func run(t *testing.T, first, n uint64) {
	t.Helper()
	var mu sync.Mutex
	exchanges := 0
	collisions, features := map[string]int{}, map[string]int{}
	var failed []uint64
	why := map[uint64]string{}
	each(first, first+n, func(seed uint64) bool {
		r := Run(Config{Seed: seed, Without: Classes(*without)})
		mu.Lock()
		defer mu.Unlock()
		exchanges += r.Exchanges
		for k := range r.Collisions {
			collisions[k]++
		}
		for k, v := range r.Features {
			features[k] += v
		}
		if r.Failure != "" {
			failed = append(failed, seed)
			why[seed] = r.Failure
		}
		return len(failed) >= 20
	})
	t.Logf("%d seeds, %.1f exchanges a seed", n, float64(exchanges)/float64(n))
	for _, k := range sorted(collisions) {
		t.Logf("collision %-36s in %5.2f %% of the seeds", k, 100*float64(collisions[k])/float64(n))
	}
	if n >= 1000 {
		enough(t, int(n), exchanges, collisions)
	}
	for _, k := range sorted(features) {
		t.Logf("%-46s %d times", k, features[k])
	}
	slices.Sort(failed)
	for i, seed := range failed {
		if i == 0 {
			explain(t, Config{Seed: seed, Without: Classes(*without)})
		} else {
			t.Errorf("seed %d: %s", seed, why[seed])
		}
	}
}

// enough checks that the seeds have in them what the simulator is for.
func enough(t *testing.T, n, exchanges int, collisions map[string]int) {
	t.Helper()
	if exchanges < 50*n {
		t.Errorf("%d exchanges in %d seeds, expected at least 50 a seed", exchanges, n)
	}
	var wanted []string
	kinds := []event.Exchange{event.CreateChild, event.DeleteChild, event.DeleteIKE, event.RekeyChild, event.RekeyIKE}
	for i, a := range kinds {
		for _, b := range kinds[i:] {
			wanted = append(wanted, string(a)+" / "+string(b))
		}
	}
	for _, a := range []string{rebinding, moving} {
		for _, b := range []string{"create CHILD SA", "rekey CHILD SA", "rekey IKE SA", "reauthentication", "restart"} {
			wanted = append(wanted, a+" / "+b)
		}
	}
	wanted = append(wanted, moving+" / "+moving, bothMove, rebindAndMove)
	for _, a := range []string{"UPDATE_SA_ADDRESSES", "ADDITIONAL_IP4_ADDRESS"} {
		wanted = append(wanted, a+" / loss", a+" / doubling", a+" / rekey CHILD SA", a+" / rekey IKE SA")
	}
	wanted = append(wanted, "COOKIE2 / loss", "COOKIE2 / doubling", "acquire / acquire", "soft limit / rekey CHILD SA", "hard limit / rekey CHILD SA", "soft limit / rekey IKE SA")
	for _, k := range wanted {
		if collisions[k]*100 < n && *without == 0 {
			t.Errorf("collision %s in %d of %d seeds, expected 1 %% at least", k, collisions[k], n)
		}
	}
}

func sorted(m map[string]int) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
