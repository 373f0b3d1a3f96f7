package topo

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// request is an echo request and what came of it.
type request struct {
	at             time.Time
	answered       bool
	took           time.Duration
	again, damaged int    // further answers, and such as are not what was sent
	refusal        string // why it cannot be answered
}

// Answers tell what came of echo requests.
type Answers struct {
	Sent, Answered int
	// Duplicates are answers to requests that had one.
	Duplicates int
	// Slowest is how long the answer took that took longest, Late the number of its request.
	Slowest time.Duration
	Late    int
	// Missing are the requests that were not answered.
	Missing []Missing

	what string      // who asked whom
	went []time.Time // when requests went
	came []time.Time // when answers came, of the requests in their order
	err  error
}

// Missing is a request without an answer.
type Missing struct {
	Number int // from 1
	At     time.Time
	Why    string // if somebody told
}

// collect sums up.
func collect(host string, e Echo, requests []request, err error) Answers {
	a := Answers{Sent: len(requests), what: fmt.Sprintf("%s to %s", host, e.To), err: err}
	for i, r := range requests {
		a.went = append(a.went, r.at)
		a.Duplicates += r.again
		if !r.answered {
			why := r.refusal
			if r.damaged > 0 {
				why = strings.TrimPrefix(why+", came back damaged", ", ")
			}
			a.Missing = append(a.Missing, Missing{i + 1, r.at, why})
			continue
		}
		a.Answered++
		a.came = append(a.came, r.at.Add(r.took))
		if r.took >= a.Slowest {
			a.Slowest, a.Late = r.took, i+1
		}
	}
	return a
}

// Err is nil if all that were to be sent were sent and answered; else it names those that were not.
func (a Answers) Err() error {
	if a.err == nil && len(a.Missing) == 0 {
		return nil
	}
	return errors.Join(a.err, errors.New(a.String()))
}

// Lost is how many requests got no answer, where nothing else went wrong: all were sent, and nobody told why they cannot be answered. 0 otherwise.
func (a Answers) Lost() int {
	if a.err != nil || slices.ContainsFunc(a.Missing, func(m Missing) bool { return m.Why != "" }) {
		return 0
	}
	return len(a.Missing)
}

// Pause is the longest time in which no request went or no answer came: whoever asserts what happens while there is traffic has to know whether there was.
func (a Answers) Pause() (longest time.Duration) {
	slices.SortFunc(a.came, time.Time.Compare)
	for _, times := range [][]time.Time{a.went, a.came} {
		for i := 1; i < len(times); i++ {
			longest = max(longest, times[i].Sub(times[i-1]))
		}
	}
	return longest
}

// clock is how times are written, as in the daemons' logs.
const clock = "15:04:05.000000"

// String names what is missing by number and time; numbers in a row with the same reason are one.
func (a Answers) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of %d echo requests answered", a.what, a.Answered, a.Sent)
	if a.Answered > 0 {
		fmt.Fprintf(&b, ", the slowest (%d) after %s", a.Late, a.Slowest.Round(time.Microsecond))
	}
	if a.Duplicates > 0 {
		fmt.Fprintf(&b, ", %d more than once", a.Duplicates)
	}
	for i := 0; i < len(a.Missing); {
		first, last := a.Missing[i], a.Missing[i]
		for i++; i < len(a.Missing) && a.Missing[i].Number == last.Number+1 && a.Missing[i].Why == last.Why; i++ {
			last = a.Missing[i]
		}
		fmt.Fprintf(&b, "; missing: %d, sent %s", first.Number, first.At.Format(clock))
		if last.Number > first.Number {
			fmt.Fprintf(&b, ", to %d, sent %s", last.Number, last.At.Format(clock))
		}
		if last.Why != "" {
			fmt.Fprintf(&b, " (%s)", last.Why)
		}
	}
	return b.String()
}
