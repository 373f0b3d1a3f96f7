package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"espalier/dataplane/flow"
)

type spiCmd struct {
	Show spiShowCmd `cmd:"" aliases:"list" help:"List the SAs that the fast path knows, and what it counted of each."`
}

type spiShowCmd struct {
	SPI  string        `arg:"" optional:"" help:"Only SAs with this SPI, hexadecimal."`
	Rate time.Duration `placeholder:"DURATION" help:"Count over this time, e.g. 1s, and show packets and bits a second."`
}

type spiResult struct {
	Schema int   `json:"version"`
	SPIs   []spi `json:"spis"`
}

// spi is one SA in the fast path's table. Packets and bytes are as on the wire,
// from the outer IP header on.
type spi struct {
	spiKey
	Slot     uint32   `json:"slot"`
	CPU      *int     `json:"cpu"` // null: not steered
	Owner    string   `json:"owner"`
	Reserved bool     `json:"reserved"` // an SPI without an SA yet
	ReqID    uint32   `json:"reqid"`
	IfID     string   `json:"if_id,omitempty"` // hexadecimal
	Packets  uint64   `json:"packets"`
	Bytes    uint64   `json:"bytes"`
	LastUse  *int64   `json:"last_use_s,omitempty"` // ago; not there: never
	Drops    []reason `json:"drops"`
	Rate     *rate    `json:"rate,omitempty"`
}

type reason struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
}

// rate is a second's.
type rate struct {
	Packets float64 `json:"packets_per_s"`
	Bits    float64 `json:"bits_per_s"`
}

// Run lists the table.
func (cmd *spiShowCmd) Run(e *env) error {
	if cmd.Rate < 0 {
		return fmt.Errorf("--rate %s: expected at least 0s", cmd.Rate)
	}
	return e.read(func(f fastPath) error {
		list, err := cmd.list(f)
		if err != nil {
			return err
		}
		rates, err := cmd.measure(e, f, &list)
		if err != nil {
			return err
		}
		res := spiResult{Schema: schema, SPIs: []spi{}}
		now := e.now()
		for _, s := range list {
			one := spiOf(&s, now)
			if r, ok := rates[place{s.Key, s.Generation}]; ok {
				one.Rate = &rate{r.Packets, r.Bytes * 8}
			}
			res.SPIs = append(res.SPIs, one)
		}
		if e.format != plain {
			return e.print(res)
		}
		return e.writeSPIs(res.SPIs, cmd)
	})
}

// list reads those that were asked for.
func (cmd *spiShowCmd) list(f fastPath) ([]flow.SPI, error) {
	list, err := f.SPIs()
	if err != nil || cmd.SPI == "" {
		return list, err
	}
	want, err := parseSPI(cmd.SPI)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(s flow.SPI) bool { return s.SPI != want }), nil
}

// place is an SA in the table, not another that came to its key later.
type place struct {
	flow.Key
	generation uint32
}

// measure reads again after a while and makes rates of both.
func (cmd *spiShowCmd) measure(e *env, f fastPath, list *[]flow.SPI) (map[place]flow.Rate, error) {
	if cmd.Rate == 0 {
		return nil, nil
	}
	before, began := map[place]flow.Counters{}, e.now()
	for _, s := range *list {
		before[place{s.Key, s.Generation}] = s.Counters
	}
	select {
	case <-time.After(cmd.Rate):
	case <-e.ctx.Done():
		return nil, e.ctx.Err()
	}
	after, err := cmd.list(f)
	if err != nil {
		return nil, err
	}
	passed := e.now().Sub(began)
	rates := map[place]flow.Rate{}
	for _, s := range after {
		if b, ok := before[place{s.Key, s.Generation}]; ok {
			rates[place{s.Key, s.Generation}] = s.Counters.Rate(b, passed)
		}
	}
	*list = after
	return rates, nil
}

func spiOf(s *flow.SPI, now time.Time) spi {
	out := spi{
		spiKey: keyResult(s.Key), Slot: s.Slot, Owner: "other", Reserved: s.Reserved, ReqID: s.ReqID,
		Packets: s.Counters.Packets, Bytes: s.Counters.Bytes, LastUse: ago(s.Counters.LastUsed, now), Drops: []reason{},
	}
	if s.Own {
		out.Owner = "espalier"
	}
	if s.CPU >= 0 {
		out.CPU = &s.CPU
	}
	if s.IfID != 0 {
		out.IfID = fmt.Sprintf("%08x", s.IfID)
	}
	for _, d := range s.Drops {
		out.Drops = append(out.Drops, reason{d.Reason.String(), d.Packets})
	}
	return out
}

// writeSPIs prints a table, one line an SA.
func (e *env) writeSPIs(list []spi, cmd *spiShowCmd) error {
	if len(list) == 0 {
		what := "no SPIs"
		if cmd.SPI != "" {
			what = "no SPI " + cmd.SPI
		}
		_, err := fmt.Fprintln(e.stdout, what)
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	head := []string{"dir", "spi", "destination", "reqid", "cpu", "packets", "bytes", "last"}
	if cmd.Rate > 0 {
		head = append(head, "packets/s", "Mbit/s")
	}
	fmt.Fprintln(w, strings.Join(append(head, "what"), "\t"))
	for i := range list {
		fmt.Fprintln(w, strings.Join(list[i].cells(cmd.Rate > 0), "\t"))
	}
	return w.Flush()
}

func (s *spi) cells(rates bool) []string {
	cpu, last := "-", "never"
	if s.CPU != nil {
		cpu = strconv.Itoa(*s.CPU)
	}
	if s.LastUse != nil {
		last = age(*s.LastUse)
	}
	out := []string{s.Dir, s.SPI, s.Dst, strconv.FormatUint(uint64(s.ReqID), 10), cpu, strconv.FormatUint(s.Packets, 10), size(s.Bytes), last}
	switch {
	case rates && s.Rate != nil:
		out = append(out, fmt.Sprintf("%.0f", s.Rate.Packets), fmt.Sprintf("%.3g", s.Rate.Bits/1e6))
	case rates:
		out = append(out, "-", "-") // it came meanwhile
	}
	what := []string{s.Owner}
	if s.Reserved {
		what = append(what, "reserved")
	}
	if s.IfID != "" {
		what = append(what, "if_id "+s.IfID)
	}
	for _, d := range s.Drops {
		what = append(what, fmt.Sprintf("%s %d", d.Reason, d.Packets))
	}
	return append(out, strings.Join(what, ", "))
}
