package tune

import (
	"math"
	"time"
)

// What is told of the tuner to other programs. Fields may be added; none changes
// its meaning or goes away.

// Report is the tuner at this moment.
type Report struct {
	Mode    Mode              `json:"mode"`
	Seen    *time.Time        `json:"seen"`  // when the CPUs were looked at last
	Blind   string            `json:"blind"` // why they cannot be; empty: they can
	CPUs    []CPUReport       `json:"cpus"`
	Limits  LimitsReport      `json:"limits"`
	Changed map[string]string `json:"changed"` // settings of the box that differ, with the value that comes back
	Entries int               `json:"entries"` // of the journal
}

// CPUReport is the load of a CPU in percent of its time: above 100 in all, more
// arrives than it can do.
type CPUReport struct {
	CPU   int     `json:"cpu"`
	SAs   float64 `json:"sas"`
	Other float64 `json:"other"`
}

// LimitsReport is what a round may do; 0: none.
type LimitsReport struct {
	Moves    int `json:"moves"`
	Splits   int `json:"splits"`
	Settings int `json:"settings"`
	Queues   int `json:"queues"`
	Offloads int `json:"offloads"`
	Rekeys   int `json:"rekeys"`
}

// EntryReport is a decision.
type EntryReport struct {
	ID      uint64      `json:"id"`
	Time    time.Time   `json:"time"`
	Times   int         `json:"times"` // how often the same was decided in a row; time is the last one's
	Seen    []CPUReport `json:"seen"`
	Kind    string      `json:"kind"` // move, split, join, leave, renew, say, set
	Action  string      `json:"action"`
	Reason  string      `json:"reason"`
	Before  *float64    `json:"busiest_before"` // load of the busiest CPU that has SAs to give, in percent, and
	After   *float64    `json:"busiest_after"`  // what it is expected to be
	Advised bool        `json:"advised"`        // only said
	Error   string      `json:"error"`          // why it was not carried out; empty: it was
	How     string      `json:"how"`            // how it was carried out
	Outcome string      `json:"outcome"`        // what came of it; empty: not known yet
	Helped  *bool       `json:"helped"`         // the same in a word
}

// Report is the status in the words of other programs.
func (s *Status) Report() Report {
	r := Report{Mode: s.Mode, Blind: s.Blind, CPUs: loads(s.Loads), Changed: s.Changed, Entries: s.Entries,
		Limits: LimitsReport{max(s.Limits.Moves, 0), max(s.Limits.Splits, 0), max(s.Limits.Settings, 0),
			max(s.Limits.Queues, 0), max(s.Limits.Offloads, 0), max(s.Limits.Rekeys, 0)}}
	if !s.Seen.IsZero() {
		r.Seen = &s.Seen
	}
	return r
}

func loads(of []Load) []CPUReport {
	out := []CPUReport{}
	for _, l := range of {
		out = append(out, CPUReport{l.CPU, round(100 * l.SAs), round(100 * l.Foreign)})
	}
	return out
}

func round(v float64) float64 { return math.Round(10*v) / 10 }

// Report is the entry in the words of other programs.
func (e *Entry) Report() EntryReport {
	p := &e.Planned
	r := EntryReport{ID: e.ID, Time: e.At, Times: e.Times, Seen: loads(e.Loads), Kind: kind(p.Action), Action: p.Action.String(), Reason: p.Reason.Text,
		Advised: e.Advised, Error: e.Error, How: e.Note, Outcome: e.Outcome}
	if p.Reason.Before > 0 {
		before, after := round(100*p.Reason.Before), round(100*p.Reason.After)
		r.Before, r.After = &before, &after
	}
	if e.Outcome != "" && !e.Unknown {
		r.Helped = &e.Helped
	}
	return r
}

func kind(a Action) string {
	switch a.(type) {
	case Move:
		return "move"
	case Split:
		return "split"
	case Join:
		return "join"
	case Leave:
		return "leave"
	case Renew:
		return "renew"
	case Say:
		return "say"
	}
	return "set"
}
