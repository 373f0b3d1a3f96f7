package tune

import (
	"math"
	"testing"
	"time"
)

// TestEvenOnFourCPUs: SAs of one load, all of which arrive on one of four CPUs, end
// up so that no CPU has more than 10 % above or below the mean to do, what CPU 0
// does as the one that receives included.
func TestEvenOnFourCPUs(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		m := randomModel(seed)
		m.cpus = make([]modelCPU, 4)
		for range 40 {
			m.add(0.07)
		}
		tuner := New(Limits{})
		for range 20 {
			m.perform(tuner.Decide(m.observe(time.Second)))
		}
		total := make([]float64, len(m.cpus))
		mean := 0.0
		for c := range m.cpus {
			total[c] = 1 - m.capacity(c) + m.demand(c)
			mean += total[c] / float64(len(m.cpus))
		}
		for c := range m.cpus {
			if math.Abs(total[c]-mean) > 0.1*mean {
				t.Errorf("seed %d: CPU %d has %.2f of a CPU's work, the mean is %.2f: %.2f", seed, c, total[c], mean, total)
			}
		}
	}
}
