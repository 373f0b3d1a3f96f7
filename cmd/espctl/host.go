package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"text/tabwriter"

	"espalier/dataplane/flow"
)

type hostCmd struct {
	Show hostShowCmd `cmd:"" aliases:"list" help:"The fast path: what is attached where, what could not be and why. The box: what it is, and what of it is in the way."`
}

type hostShowCmd struct {
	Brief   bool `xor:"box" help:"Only the fast path."`
	Measure bool `xor:"box" help:"Also measure how fast the kernel encrypts: a third of a second on one CPU."`
}

type hostResult struct {
	Schema int  `json:"version"`
	Daemon *int `json:"daemon_pid"` // null: none runs
	// Loading: it still loads programs, parts has those at their places so far.
	Loading bool       `json:"loading,omitempty"`
	Parts   []part     `json:"parts"`
	Loaded  *fastState `json:"fast_path"`     // null: no maps are pinned
	Box     *box       `json:"box,omitempty"` // not with --brief
}

// part is a program at its place.
type part struct {
	Program   string `json:"program"`
	Interface string `json:"interface,omitempty"`
	IfIndex   int    `json:"ifindex,omitempty"`
	Direction string `json:"direction,omitempty"` // ingress or egress, of tc
	How       string `json:"how"`                 // empty: not attached
	Reason    string `json:"reason,omitempty"`    // the kernel's
}

type fastState struct {
	Layout    int     `json:"layout"`
	Capacity  int     `json:"capacity"` // SPIs
	Used      int     `json:"used"`
	CPUs      int     `json:"cpus"`
	Steering  string  `json:"steering"`
	SteerCPUs []int   `json:"steer_cpus"`
	FlowSteer bool    `json:"flow_steering"`
	MSS       bool    `json:"mss"`
	Memory    uint64  `json:"memory_bytes"`
	Totals    []count `json:"totals"`
}

// Run shows what there is: also when nothing could be loaded.
func (cmd *hostShowCmd) Run(e *env) error {
	res := hostResult{Schema: schema, Parts: []part{}}
	err := e.read(func(f fastPath) error {
		s, err := f.State()
		if err != nil {
			return err
		}
		totals, err := f.Totals()
		if err != nil {
			return err
		}
		res.setDaemon(s.Daemon)
		res.Loaded = &fastState{
			Layout: s.Layout, Capacity: s.Capacity, Used: s.Used, CPUs: s.CPUs, Steering: s.Steering.String(), SteerCPUs: s.SteerCPUs,
			FlowSteer: s.FlowSteer, MSS: s.MSS, Memory: s.MemoryBytes, Totals: counts(totals),
		}
		if s.SteerCPUs == nil {
			res.Loaded.SteerCPUs = []int{}
		}
		return nil
	})
	if errors.Is(err, flow.ErrNotLoaded) {
		d, daemonErr := e.pinned.daemon(e.readers)
		if daemonErr == nil {
			res.setDaemon(d)
		}
		if err = daemonErr; errors.Is(err, fs.ErrNotExist) {
			err = nil // there was never one
		}
	}
	if err != nil {
		return e.explainFastPath(err)
	}
	if !cmd.Brief {
		res.Box = boxOf(e, cmd.Measure)
	}
	if e.format != plain {
		return e.print(res)
	}
	_, err = e.stdout.Write(res.text())
	return err
}

func (r *hostResult) setDaemon(d flow.Daemon) {
	if d.PID != 0 {
		r.Daemon = &d.PID
	}
	r.Loading = d.Loading
	for _, p := range d.Parts {
		r.Parts = append(r.Parts, part{p.Program, p.Interface, p.IfIndex, p.Direction, p.How, p.Reason})
	}
}

func (r *hostResult) text() []byte {
	var b bytes.Buffer
	daemon := "none runs"
	if r.Daemon != nil {
		daemon = "process " + strconv.Itoa(*r.Daemon)
	}
	if r.Loading {
		daemon += ", loading BPF programs"
	}
	line(&b, 0, "daemon", daemon)
	if r.Loaded == nil {
		line(&b, 0, "maps", "none: the fast path is not loaded")
	} else {
		r.Loaded.write(&b)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(r.Parts) > 0 {
		fmt.Fprintln(w, "program\tinterface\tattached\tbecause")
	}
	for _, p := range r.Parts {
		how, because := p.How, p.Reason
		if how == "" {
			how = "no"
		} else if p.Direction != "" {
			how += " " + p.Direction
		}
		if because == "" {
			because = "-"
		}
		dev := "-"
		if p.Interface != "" {
			dev = p.Interface
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", printable(p.Program), printable(dev), printable(how), printable(because))
	}
	_ = w.Flush() // to memory
	if r.Box != nil {
		r.Box.write(&b)
	}
	return b.Bytes()
}

func (s *fastState) write(b *bytes.Buffer) {
	line(b, 0, "maps", fmt.Sprintf("layout %d, %d of %s, %s", s.Layout, s.Used, number(uint64(s.Capacity), "SPI", "SPIs"), size(s.Memory)))
	steering := s.Steering
	if len(s.SteerCPUs) > 0 {
		var cpus []string
		for _, c := range s.SteerCPUs {
			cpus = append(cpus, strconv.Itoa(c))
		}
		steering += ", CPUs " + strings.Join(cpus, " ") + " of " + strconv.Itoa(s.CPUs)
	}
	line(b, 0, "steer", steering+", clear packets: "+yesNo(s.FlowSteer))
	line(b, 0, "mss", yesNo(s.MSS))
	for _, t := range s.Totals {
		if t.Packets > 0 {
			fmt.Fprintf(b, "  %-18s %d\n", t.Name, t.Packets)
		}
	}
}
