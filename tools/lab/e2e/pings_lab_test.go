//go:build lab

package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// pings is a ping through the tunnel, of which every answer is looked for. What ping counts itself does not do: at its deadline, or when it
// is stopped, it takes the request that is still on its way for a lost one.
type pings struct {
	p *topo.Process
	n int // requests; 0: until stop
}

// pings has the client of our side ping that of the peer's, a request each interval, in seconds.
func (l *lab) pings(t *testing.T, s shape, interval float64) *pings {
	return l.countedPings(t, s, interval, 0)
}

// countedPings is pings that end after n requests.
func (l *lab) countedPings(t *testing.T, s shape, interval float64, n int) *pings {
	t.Helper()
	argv := []string{"ping", "-n", "-D", "-i", fmt.Sprint(interval), "-W", "5"}
	if n > 0 {
		argv = append(argv, "-c", strconv.Itoa(n))
	}
	p, err := l.client(l.ours).Start(nil, append(argv, l.client(l.theirs).Inner(s.inner).String())...)
	if err != nil {
		t.Fatal(err)
	}
	return &pings{p, n}
}

// stop ends them and shows that every answer up to the last one is there; it returns how many.
func (p *pings) stop(t *testing.T) int {
	t.Helper()
	if err := p.p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-p.p.Exited()
	return p.answered(t)
}

// wait shows that all of the n requests are answered before the time is over.
func (p *pings) wait(t *testing.T, limit time.Duration) {
	t.Helper()
	select {
	case <-p.p.Exited():
	case <-time.After(limit):
		t.Fatalf("ping does not end in %v", limit)
	}
	if n := p.answered(t); n != p.n {
		t.Errorf("expected %d answers, got %d: %s", p.n, n, p.end())
	}
}

var answer = regexp.MustCompile(`\[(\d+\.\d+)\] .* icmp_seq=(\d+) `)

// answered names each answer that is missing with the time (Unix, in seconds) of the one before it.
func (p *pings) answered(t *testing.T) int {
	t.Helper()
	at, last := map[int]string{}, 0
	for _, m := range answer.FindAllStringSubmatch(p.p.Log(), -1) {
		n, _ := strconv.Atoi(m[2])
		at[n], last = m[1], max(last, n)
	}
	before := "the first"
	for n := 1; n <= last; n++ {
		if at[n] == "" {
			t.Errorf("the answer to ping %d of %d is missing, after the one at %s", n, last, before)
			continue
		}
		before = at[n]
	}
	t.Logf("%d pings answered", len(at))
	return len(at)
}

// end is the last of what ping printed.
func (p *pings) end() string {
	log := p.p.Log()
	return log[max(0, len(log)-500):]
}
