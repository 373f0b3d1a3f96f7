package main

import (
	"fmt"
	"strconv"

	"espalier/ike/vici"
)

type poolCmd struct {
	Show poolShowCmd `cmd:"" aliases:"list" help:"List pools with their leases."`
}

type poolShowCmd struct {
	Name string `arg:"" optional:"" help:"Only this pool."`
}

type poolsResult struct {
	Schema int        `json:"version"`
	Pools  []poolInfo `json:"pools"`
}

type poolInfo struct {
	Name    string      `json:"name"`
	Base    string      `json:"base"` // the first address
	Size    uint64      `json:"size"` // addresses
	Online  uint64      `json:"online"`
	Offline uint64      `json:"offline"` // kept for who had it
	Leases  []leaseInfo `json:"leases"`
}

type leaseInfo struct {
	Address  string `json:"address"`
	Identity string `json:"identity"`
	Online   bool   `json:"online"`
}

// Run lists the pools.
func (cmd *poolShowCmd) Run(e *env) error {
	c, err := e.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	var req vici.Message
	req.Put("leases", "yes")
	if cmd.Name != "" {
		req.Put("name", cmd.Name)
	}
	m, err := c.Call(e.ctx, "get-pools", req)
	if err != nil {
		return e.explain(err)
	}
	res := poolsResult{schema, []poolInfo{}}
	for _, s := range m.Sections() {
		p := poolInfo{Name: s.Name, Base: s.Body.Text("base"), Leases: []leaseInfo{}}
		for name, into := range map[string]*uint64{"size": &p.Size, "online": &p.Online, "offline": &p.Offline} {
			if *into, err = strconv.ParseUint(s.Body.Text(name), 10, 64); err != nil {
				return fmt.Errorf("the daemon's answer: %s of pool %q: expected a number, found %q", name, s.Name, s.Body.Text(name))
			}
		}
		for _, l := range s.Body.Section("leases").Sections() {
			p.Leases = append(p.Leases, leaseInfo{l.Body.Text("address"), l.Body.Text("identity"), l.Body.Text("status") == "online"})
		}
		res.Pools = append(res.Pools, p)
	}
	if e.format != plain {
		return e.print(res)
	}
	for _, p := range res.Pools {
		fmt.Fprintf(e.stdout, "%s from %s, %d addresses, %d online, %d offline\n", printable(p.Name), p.Base, p.Size, p.Online, p.Offline)
		for _, l := range p.Leases {
			status := "offline"
			if l.Online {
				status = "online"
			}
			fmt.Fprintf(e.stdout, "  %s %s %s\n", l.Address, status, printable(l.Identity))
		}
	}
	if len(res.Pools) == 0 {
		fmt.Fprintln(e.stdout, "no pools")
	}
	return nil
}
