package main

import (
	"bytes"
	"fmt"

	"espalier/dataplane/flow"
)

type guardCmd struct {
	Show guardShowCmd `cmd:"" aliases:"list" help:"What the guard does with packets that nobody asked for, and what it counted."`
	Set  guardSetCmd  `cmd:"" help:"Switch the guard off, on, or let it count only, until the daemon reads its configuration again."`
}

type guardShowCmd struct{}

type guardSetCmd struct {
	Mode string `arg:"" enum:"off,log,on" help:"off, log or on."`
}

type guardResult struct {
	Schema    int      `json:"version"`
	Mode      string   `json:"mode"`
	InStep    bool     `json:"in_step"` // else it drops nothing, whatever its mode
	PeersOnly bool     `json:"peers_only"`
	Peers     []string `json:"peers"`
	InitRate  uint32   `json:"init_rate"` // a second and prefix; 0: no limit
	InitBurst uint32   `json:"init_burst"`
	Prefix4   int      `json:"init_prefix_v4"`
	Prefix6   int      `json:"init_prefix_v6"`
	IKESPIs   int      `json:"ike_spis"`
	Totals    []count  `json:"totals"`
}

// Run shows the guard.
func (guardShowCmd) Run(e *env) error {
	return e.read(func(f fastPath) error { return e.showGuard(f) })
}

// Run sets the mode and shows what is true then.
func (cmd *guardSetCmd) Run(e *env) error {
	mode, err := flow.ParseGuardMode(cmd.Mode)
	if err != nil {
		return err
	}
	return e.read(func(f fastPath) error {
		if err := f.SetGuard(mode); err != nil {
			return err
		}
		return e.showGuard(f)
	})
}

func (e *env) showGuard(f fastPath) error {
	g, err := f.Guard()
	if err != nil {
		return err
	}
	res := guardResult{
		Schema: schema, Mode: g.Mode.String(), InStep: g.InStep, PeersOnly: g.PeersOnly, Peers: prefixes(g.Peers), InitRate: g.InitRate,
		InitBurst: g.InitBurst, Prefix4: g.Prefix4, Prefix6: g.Prefix6, IKESPIs: g.IKESPIs, Totals: counts(g.Totals),
	}
	if e.format != plain {
		return e.print(res)
	}
	_, err = e.stdout.Write(res.text())
	return err
}

func (g *guardResult) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "guard %s", g.Mode)
	if !g.InStep && g.Mode != flow.GuardOff.String() {
		fmt.Fprint(&b, ", but not in step with the kernel's SAs: it drops nothing")
	}
	fmt.Fprintln(&b)
	from := "anybody"
	if g.PeersOnly {
		from = words(g.Peers)
	}
	line(&b, 2, "init", "IKE_SA_INIT from "+from)
	limit := "no limit"
	if g.InitRate != 0 {
		limit = fmt.Sprintf("%d a second from a /%d or /%d, %d at once", g.InitRate, g.Prefix4, g.Prefix6, g.InitBurst)
	}
	line(&b, 2, "rate", limit)
	line(&b, 2, "knows", number(uint64(g.IKESPIs), "own IKE SPI", "own IKE SPIs"))
	for _, t := range g.Totals {
		fmt.Fprintf(&b, "  %-18s %d\n", t.Name, t.Packets)
	}
	return b.Bytes()
}
