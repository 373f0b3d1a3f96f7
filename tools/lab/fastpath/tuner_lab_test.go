//go:build lab

package fastpath

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// The tuner against the best that a static choice of CPUs can do. The tunnels of a figure have the same load, so a static choice is how
// many of them go to the other CPU: all are measured twice, upwards and downwards. The best two are then measured again, in turn with the tuner,
// which begins anew each time with what a hash of SPIs has made of it, and with no steering; the tuner is compared with the better one.
const (
	tunerTime    = 5 * time.Second // until the tuner must have found what is best
	tunerRounds  = 5
	settleTime   = 400 * time.Millisecond
	searchWindow = time.Second
	window       = 1500 * time.Millisecond
)

// oracle is a figure's scene.
type oracle struct {
	*steered
	sender esp.Sender
	pace   esp.Pace     // without count
	start  []int        // where the tunnels are when the tuner begins: -1 or a CPU
	split  *splitTunnel // whose SAs the tuner makes; nil: they are there
	from   *topo.Host   // sends
	find   func() steering
	offers float64 // the pace, as a multiple of what one CPU gets done beside the sender; 0: it is fixed
	probe  float64 // packets a second at which that is found out; 0: as many as the sender can
}

// measure sends, lets the settling time pass, and says how many packets a second are decrypted in the time after it.
func (o *oracle) measure(name string, settle, long time.Duration, send func(context.Context) esp.Report) float64 {
	o.Helper()
	ctx, cancel := context.WithCancel(o.Context())
	defer cancel()
	sent := make(chan esp.Report, 1)
	go func() {
		defer close(sent)
		sent <- send(ctx)
	}()
	time.Sleep(settle)
	before, began := o.decrypted(), time.Now()
	time.Sleep(long)
	rate := float64(o.decrypted()-before) / time.Since(began).Seconds()
	cancel()
	r := <-sent
	o.idle()
	o.Logf("%s: %.0f Mbit/s decrypted, sent: %s", name, rate*innerSize*8/1e6, r)
	return rate
}

// replay sends what the sender has until ctx ends.
func (o *oracle) replay(ctx context.Context) (r esp.Report) {
	err := o.from.Do(func() (err error) {
		r, err = esp.Send(ctx, o.sender, o.pace)
		return err
	})
	if err != nil {
		o.Error(err)
	}
	return r
}

// static measures a choice: how many tunnels go to CPU 1.
func (o *oracle) static(name string, there int, d time.Duration) float64 {
	o.Helper()
	o.steer.set(o, split(len(o.steer.slots), there)...)
	return o.measure(fmt.Sprintf("%s, %d of %d on the other CPU", name, there, len(o.steer.slots)), settleTime, d, o.replay)
}

// split is a choice that gives CPU 1 that many.
func split(tunnels, there int) []int {
	cpus := slices.Repeat([]int{-1}, tunnels)
	for i := range there {
		cpus[i] = 1
	}
	return cpus
}

// tuned has the daemon start, tune, and go again.
func (o *oracle) tuned() float64 {
	o.Helper()
	o.steer.set(o, o.start...)
	if o.steer.table != nil {
		must(o, o.steer.table.Close())
	}
	must(o, o.esp.Restart(o.Context()))
	o.attached("esp_in", "esp_out")
	send := o.replay
	if o.split != nil {
		o.split.up()
		send = func(ctx context.Context) (r esp.Report) {
			o.sas, r = o.split.play(ctx, o.pace)
			return r
		}
	} else {
		o.known(o.sas...)
	}
	if out, err := o.esp.Espctl(o.Context(), "tune", "set", "on"); err != nil {
		o.Fatalf("%v\n%s", err, out)
	}
	rate := o.measure("the tuner", tunerTime, window, send)
	for _, what := range []string{"show", "history"} {
		o.Logf("%s", need[string](o)(o.esp.Espctl(o.Context(), "tune", what)))
	}
	o.esp.Kill()
	o.steer = o.find()
	if o.split != nil {
		if o.sender != nil {
			must(o, o.sender.Close())
		}
		o.sender = o.split.sealed(o.sas)
	}
	return rate
}

// search measures each static choice, and returns them from the best to the worst.
func (o *oracle) search() []int {
	o.Helper()
	n := len(o.steer.slots) + 1
	rates, order := make([]float64, n), make([]int, n)
	for i := range 2 * n {
		there := min(i, 2*n-1-i)
		order[there] = there
		rates[there] += o.static("search", there, searchWindow)
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(rates[b], rates[a]) })
	return order
}

// offer sets the pace. The machine's speed changes by half from one minute to the next, so that what is too much for one CPU is found out each time.
func (o *oracle) offer() {
	o.Helper()
	if o.offers == 0 {
		return
	}
	one := 0.0
	for range 3 { // the most: what else happens on the machine takes some off
		o.pace.Rate = o.probe
		one = max(one, o.static("all that one CPU gets done", 0, searchWindow))
	}
	o.pace.Rate = o.offers * one
}

// figure measures all of it.
func (o *oracle) figure(b *testing.B) {
	o.offer()
	best := o.search()[:2]
	var off, tuned []float64
	static := make([][]float64, len(best))
	for range tunerRounds {
		o.offer()
		off = append(off, o.static("not steered", 0, window))
		tuned = append(tuned, o.tuned())
		for i, there := range best {
			static[i] = append(static[i], o.static("one of the best", there, window))
		}
	}
	if median(static[1]) > median(static[0]) {
		best[0], static[0] = best[1], static[1]
	}
	b.ReportMetric(median(ratios(tuned, static[0])), "over-oracle")
	b.ReportMetric(median(ratios(tuned, off)), "gain")
	b.ReportMetric(median(ratios(static[0], off)), "oracle-gain")
	b.ReportMetric(float64(best[0]), "best-split")
}

// ratios divides what was measured in turn.
func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// newOracle has the daemon load everything with the tuner off, and kills it.
func newOracle(b *testing.B, count int, sender func(*steered) esp.Sender, pace esp.Pace, start []int) *oracle {
	b.Helper()
	s := newSteeredOf(b, count)
	o := &oracle{steered: s, sender: sender(s), pace: pace, start: start, from: s.n.Wire}
	o.find = func() steering { return o.steering(o.sas) }
	must(b, o.sender.Ring().Fill(s.generator(), 0))
	must(b, o.sender.Ring().Replay())
	s.start(" steering = auto\n tune = off")
	s.known(s.sas...)
	s.esp.Kill()
	s.steer = o.find()
	return o
}

// BenchmarkTunerSkewed: 8 tunnels, of which a hash puts 7 on one CPU; more comes than one CPU decrypts, from a sender that costs little.
func BenchmarkTunerSkewed(b *testing.B) {
	o := newOracle(b, 8, func(s *steered) esp.Sender { return liveFrames(b, s.n, 4096) }, esp.Pace{Rate: splitRate, CPU: 0}, split(8, 7))
	o.offers, o.probe = 1.4, splitRate
	for b.Loop() {
		o.figure(b)
	}
}

// BenchmarkTunerBusy: 4 tunnels that arrive on the CPU that a sender keeps busy.
func BenchmarkTunerBusy(b *testing.B) {
	o := newOracle(b, tunnels, func(s *steered) esp.Sender { return packetSocket(b, s.n, 4096) }, esp.Pace{Batch: 1, CPU: 0}, split(tunnels, 2))
	for b.Loop() {
		o.figure(b)
	}
}
