package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"espalier/dataplane/flow"
)

type dropCmd struct {
	Show    dropShowCmd    `cmd:"" aliases:"list" help:"Count lost packets by SA and reason, and those that the guard stopped."`
	Monitor dropMonitorCmd `cmd:"" help:"Show a sample of the packets that are lost from now on, until interrupted."`
}

type dropShowCmd struct{}

type dropMonitorCmd struct {
	Count int `placeholder:"N" help:"End after so many."`
}

type dropResult struct {
	Schema int     `json:"version"`
	Drops  []drop  `json:"drops"`
	Totals []count `json:"totals"` // without an SA
	// Kernel is what the kernel itself lost before it had an SA to lose it by.
	Kernel []kernelLoss `json:"kernel"`
}

// kernelLoss is one of the kernel's counters.
type kernelLoss struct {
	Name    string `json:"name"` // as in /proc/net/xfrm_stat
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
}

// drop is what one SA lost for one reason.
type drop struct {
	spiKey
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
}

// Run shows the counts.
func (dropShowCmd) Run(e *env) error {
	return e.read(func(f fastPath) error {
		list, err := f.SPIs()
		if err != nil {
			return err
		}
		totals, err := f.Totals()
		if err != nil {
			return err
		}
		stats, err := f.KernelStats()
		if err != nil {
			return err
		}
		res := dropResult{Schema: schema, Drops: []drop{}, Totals: counts(losses(totals)), Kernel: []kernelLoss{}}
		for _, s := range stats {
			if s.Packets > 0 && s.WithoutSA() {
				res.Kernel = append(res.Kernel, kernelLoss{s.Name, s.Reason.String(), s.Packets})
			}
		}
		for _, s := range list {
			for _, d := range s.Drops {
				res.Drops = append(res.Drops, drop{keyResult(s.Key), d.Reason.String(), d.Packets})
			}
		}
		if e.format != plain {
			return e.print(res)
		}
		return e.writeDrops(&res)
	})
}

// losses are the totals that tell of packets which nobody wants: the others
// count what went its way.
func losses(totals []flow.TotalCount) []flow.TotalCount {
	return slices.DeleteFunc(slices.Clone(totals), func(t flow.TotalCount) bool {
		name := t.Total.String()
		return !strings.HasPrefix(name, "guard-") && name != "esp-unknown" && name != "malformed"
	})
}

func (e *env) writeDrops(res *dropResult) error {
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	if len(res.Drops)+len(res.Kernel) > 0 {
		fmt.Fprintln(w, "dir\tspi\tdestination\treason\tpackets")
	}
	for _, d := range res.Drops {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", d.Dir, d.SPI, d.Dst, d.Reason, d.Packets)
	}
	none := len(res.Drops) == 0
	for _, t := range res.Totals {
		if t.Packets > 0 {
			fmt.Fprintf(w, "-\t-\t-\t%s\t%d\n", t.Name, t.Packets)
			none = false
		}
	}
	for _, k := range res.Kernel {
		fmt.Fprintf(w, "-\t-\t-\t%s (%s)\t%d\n", k.Reason, k.Name, k.Packets)
		none = false
	}
	if none {
		fmt.Fprintln(w, "no packet was lost")
	}
	return w.Flush()
}

// sample is one lost packet.
type sample struct {
	Schema int `json:"version"`
	// Uptime is the time of the kernel's monotonic clock, as in dmesg.
	Uptime float64 `json:"uptime_s"`
	spiKey
	Src     string `json:"src,omitempty"`
	Seq     uint32 `json:"seq,omitempty"` // not there: not known
	Reason  string `json:"reason"`
	Guard   bool   `json:"guard"` // the guard's, or what it would have dropped
	IfIndex int    `json:"ifindex"`
	Length  int    `json:"length"`
}

// Run prints samples as they come.
func (cmd *dropMonitorCmd) Run(e *env) error {
	if cmd.Count < 0 {
		return fmt.Errorf("--count %d: expected at least 0", cmd.Count)
	}
	return e.read(func(f fastPath) error {
		s, err := f.Samples()
		if err != nil {
			return err
		}
		stop := context.AfterFunc(e.ctx, func() { s.Close() })
		defer stop()
		for n := 0; cmd.Count == 0 || n < cmd.Count; n++ {
			next, err := s.Next()
			if errors.Is(err, os.ErrClosed) {
				return nil // interrupted
			}
			if err != nil {
				return errors.Join(err, s.Close())
			}
			if err := e.writeSample(&next); err != nil {
				return errors.Join(err, s.Close())
			}
		}
		return s.Close()
	})
}

func (e *env) writeSample(s *flow.Sample) error {
	out := sample{
		Schema: schema, Uptime: s.Since.Seconds(), spiKey: keyResult(s.Key), Seq: s.Seq, Reason: s.Reason.String(), Guard: s.Guard,
		IfIndex: s.IfIndex, Length: s.Length,
	}
	if s.Src.IsValid() {
		out.Src = s.Src.String()
	}
	if s.Guard {
		out.Reason = s.Total.String()
	}
	if e.format != plain {
		return e.print(out)
	}
	seq := ""
	if s.Seq != 0 {
		seq = fmt.Sprintf(" seq %d", s.Seq)
	}
	_, err := fmt.Fprintf(e.stdout, "%.6f %s spi %s %s -> %s%s, %d B on interface %d: %s\n", out.Uptime, out.Dir, out.SPI, src(out.Src), out.Dst, seq,
		out.Length, out.IfIndex, out.Reason)
	return err
}

func src(s string) string {
	if s == "" {
		return "?"
	}
	return s
}
