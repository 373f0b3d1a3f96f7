package simulator

import (
	"math/rand/v2"
	"time"

	"espalier/ike/sa"
)

// profile is what a seed is like.
type profile struct {
	operations int // that operators still do
	// gentle: rekeyings only and no crash, so that not a packet may be lost.
	gentle bool
	// The network: a message in lose is lost, and so on; 0: none.
	latency, jitter        time.Duration
	lose, double, late     int // one in so many
	jobs                   time.Duration
	slowJobs               int // one job in so many takes seconds
	crash                  int // one step in so many ends in a crash
	forget                 int // one restart in so many is without the state
	realKE, pfs, transport bool
	nat                    bool
	liveness               bool
	tokens                 bool // crash detection; not drawn, so that older seeds mean the same
	unique                 sa.Uniqueness
	reauth                 bool
	aftermath              time.Duration
	rekeyIKE, rekeyChild   time.Duration
}

func newProfile(r *rand.Rand) profile {
	pick := func(xs ...int) int { return xs[r.IntN(len(xs))] }
	p := profile{
		operations: 24 + r.IntN(24),
		gentle:     r.IntN(4) == 0,
		latency:    time.Duration(1+r.IntN(120)) * time.Millisecond,
		jitter:     time.Duration(r.IntN(200)) * time.Millisecond,
		lose:       pick(0, 0, 50, 20, 10, 5),
		double:     pick(0, 50, 10, 4),
		late:       pick(0, 0, 50, 10),
		jobs:       time.Duration(r.IntN(40)) * time.Millisecond,
		slowJobs:   pick(0, 0, 40, 8),
		crash:      pick(0, 0, 400, 120),
		forget:     pick(0, 0, 8, 3),
		realKE:     r.IntN(32) == 0,
		pfs:        r.IntN(3) == 0,
		transport:  r.IntN(12) == 0,
		nat:        r.IntN(4) == 0,
		liveness:   r.IntN(8) != 0,
		unique:     []sa.Uniqueness{sa.UniquenessNo, sa.UniquenessReplace, sa.UniquenessReplace, sa.UniquenessKeep}[r.IntN(4)],
		reauth:     r.IntN(3) == 0,
		aftermath:  12 * time.Minute,
		rekeyIKE:   time.Duration(8+r.IntN(12)) * time.Minute,
		rekeyChild: time.Duration(4+r.IntN(8)) * time.Minute,
	}
	if p.gentle {
		p.crash, p.late = 0, 0
		p.lose = max(p.lose, 20)
	}
	return p
}
