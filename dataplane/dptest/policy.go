package dptest

import (
	"net/netip"
	"reflect"
	"testing"

	"espalier/dataplane"
)

func policyKinds(t *testing.T, dp dataplane.DataPlane) {
	for name, change := range map[string]func(*dataplane.Policy){
		"plain": func(*dataplane.Policy) {},
		"in":    func(p *dataplane.Policy) { p.Dir = dataplane.In },
		"fwd":   func(p *dataplane.Policy) { p.Dir = dataplane.Fwd },
		"block": func(p *dataplane.Policy) { p.Verdict, p.Templates = dataplane.Block, nil },
		"pass":  func(p *dataplane.Policy) { p.Templates = nil },
		"tcp ports": func(p *dataplane.Policy) {
			p.Selector.Proto, p.Selector.DstPort, p.Selector.DstPortMask = 6, 0x1f00, 0xff00
		},
		"icmp": func(p *dataplane.Policy) {
			p.Selector.Proto, p.Selector.SrcPort, p.Selector.SrcPortMask = 1, 8, 0xffff
		},
		"mark":      func(p *dataplane.Policy) { p.Mark = dataplane.Mark{Value: 0x10, Mask: 0xf0} },
		"if_id":     func(p *dataplane.Policy) { p.IfID = 42 },
		"interface": func(p *dataplane.Policy) { p.Dir, p.IfIndex = dataplane.Out, 1 },
		"flags":     func(p *dataplane.Policy) { p.Flags = dataplane.PolicyLocalOK | dataplane.PolicyICMP },
		"CPUs":      func(p *dataplane.Policy) { p.Flags = dataplane.PolicyCPUAcquire },
		"v6": func(p *dataplane.Policy) {
			p.Selector.Src, p.Selector.Dst = netip.MustParsePrefix("2001:db8:1::/48"), netip.MustParsePrefix("::/0")
			p.Templates[0].Src, p.Templates[0].Dst = here6, there6
		},
		"v4 in v6": func(p *dataplane.Policy) { p.Templates[0].Src, p.Templates[0].Dst = here6, there6 },
		"everything": func(p *dataplane.Policy) {
			p.Selector.Src, p.Selector.Dst = netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("0.0.0.0/0")
		},
		"transport": func(p *dataplane.Policy) {
			p.Templates[0] = dataplane.Template{Proto: dataplane.ESP, Mode: dataplane.Transport, ReqID: 5}
		},
		"two templates": func(p *dataplane.Policy) {
			p.Dir = dataplane.In // kernels refuse optional tunnels outbound
			p.Templates = append([]dataplane.Template{{Src: here4, Dst: there4, Proto: dataplane.IPComp, Mode: dataplane.Tunnel, ReqID: 8, Optional: true}},
				dataplane.Template{Proto: dataplane.ESP, Mode: dataplane.Transport, ReqID: 7, SPI: 0x1234})
		},
	} {
		p := policy(12, 77)
		change(&p)
		mustApply(t, dp, dataplane.InstallPolicy{Policy: p})
		got := findPolicy(t, dp, p.PolicyKey)
		if got == nil {
			t.Errorf("%s: not listed", name)
		} else if len(got.Templates) == 0 && len(p.Templates) == 0 {
			got.Templates = p.Templates
		}
		if got != nil && !reflect.DeepEqual(*got, p) {
			t.Errorf("%s: listed %+v, expected %+v", name, *got, p)
		}
		mustApply(t, dp, dataplane.DeletePolicy{Key: p.PolicyKey, Owner: 12})
		wantCounts(t, dp, 0, 0)
	}
}

func refusedPolicies(t *testing.T, dp dataplane.DataPlane) {
	for name, change := range map[string]func(*dataplane.Policy){
		"no selector":        func(p *dataplane.Policy) { p.Selector = dataplane.Selector{} },
		"two families":       func(p *dataplane.Policy) { p.Selector.Dst = netip.MustParsePrefix("::/0") },
		"bits after prefix":  func(p *dataplane.Policy) { p.Selector.Dst = netip.MustParsePrefix("203.0.113.1/24") },
		"source bits":        func(p *dataplane.Policy) { p.Selector.Src = netip.MustParsePrefix("198.51.100.1/24") },
		"block with SA":      func(p *dataplane.Policy) { p.Verdict = dataplane.Block },
		"tunnel to nowhere":  func(p *dataplane.Policy) { p.Templates[0].Dst = netip.Addr{} },
		"too many templates": func(p *dataplane.Policy) { p.Templates = make([]dataplane.Template, 7) },
	} {
		p := policy(1, 10)
		change(&p)
		if err := dp.Apply([]dataplane.Op{dataplane.InstallPolicy{Policy: p}}); err == nil {
			t.Errorf("%s: installed, expected an error", name)
		}
	}
	wantCounts(t, dp, 0, 0)
}

// policyIdentity: what makes two policies different stands side by side.
func policyIdentity(t *testing.T, dp dataplane.DataPlane) {
	all := []dataplane.Policy{}
	for _, change := range []func(*dataplane.Policy){
		func(*dataplane.Policy) {},
		func(p *dataplane.Policy) { p.Dir = dataplane.Fwd },
		func(p *dataplane.Policy) { p.Mark = dataplane.Mark{Value: 1, Mask: 1} },
		func(p *dataplane.Policy) { p.IfID = 1 },
		func(p *dataplane.Policy) { p.Selector.Proto = 17 },
		func(p *dataplane.Policy) { p.Selector.Dst = netip.MustParsePrefix("203.0.113.0/25") },
		func(p *dataplane.Policy) {
			p.Selector.Proto, p.Selector.SrcPort, p.Selector.SrcPortMask = 17, 53, 0xffff
		},
	} {
		p := policy(uint64(len(all)+1), 10)
		change(&p)
		all = append(all, p)
		mustApply(t, dp, dataplane.InstallPolicy{Policy: p})
	}
	wantCounts(t, dp, 0, len(all))
	for _, p := range all {
		if got := findPolicy(t, dp, p.PolicyKey); got == nil || got.Owner != p.Owner {
			t.Errorf("listed %+v, expected owner %d", got, p.Owner)
		}
		mustApply(t, dp, dataplane.DeletePolicy{Key: p.PolicyKey, Owner: p.Owner})
	}
	wantCounts(t, dp, 0, 0)
}

// wantStanding asserts whose policy stands under policy(…)'s key.
func wantStanding(t *testing.T, dp dataplane.DataPlane, owner uint64, priority uint32) {
	t.Helper()
	got := findPolicy(t, dp, policy(0, 0).PolicyKey)
	if got == nil || got.Owner != owner || got.Priority != priority {
		t.Fatalf("standing: %+v, expected that of owner %d with priority %d", got, owner, priority)
	}
}

func policyOwners(t *testing.T, dp dataplane.DataPlane) {
	key := policy(0, 0).PolicyKey
	mustApply(t, dp, dataplane.InstallPolicy{Policy: policy(1, 10)})
	mustApply(t, dp, dataplane.InstallPolicy{Policy: policy(2, 20)}, dataplane.InstallPolicy{Policy: policy(3, 5)})
	wantStanding(t, dp, 3, 5)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 2})
	wantStanding(t, dp, 3, 5)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 9})
	wantStanding(t, dp, 3, 5)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 3})
	wantStanding(t, dp, 1, 10)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 1})
	wantCounts(t, dp, 0, 0)
}

func policyReplaceBelow(t *testing.T, dp dataplane.DataPlane) {
	key := policy(0, 0).PolicyKey
	mustApply(t, dp, dataplane.InstallPolicy{Policy: policy(1, 10)}, dataplane.InstallPolicy{Policy: policy(2, 20)})
	mustApply(t, dp, dataplane.InstallPolicy{Policy: policy(1, 11)})
	wantStanding(t, dp, 2, 20)
	mustApply(t, dp, dataplane.InstallPolicy{Policy: policy(2, 21)})
	wantStanding(t, dp, 2, 21)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 2})
	wantStanding(t, dp, 1, 11)
}

func policyUndo(t *testing.T, dp dataplane.DataPlane) {
	key := policy(0, 0).PolicyKey
	mustApply(t, dp, dataplane.InstallPolicy{Policy: policy(1, 10)})
	mustFail(t, dp, dataplane.InstallPolicy{Policy: policy(2, 20)})
	wantStanding(t, dp, 1, 10)
	mustFail(t, dp,
		dataplane.InstallPolicy{Policy: policy(2, 20)},
		dataplane.DeletePolicy{Key: key, Owner: 1},
		dataplane.InstallPolicy{Policy: policy(3, 30)},
		dataplane.InstallPolicy{Policy: policy(2, 21)},
		dataplane.DeletePolicy{Key: key, Owner: 3})
	wantStanding(t, dp, 1, 10)
	mustFail(t, dp, dataplane.DeletePolicy{Key: key, Owner: 1})
	wantStanding(t, dp, 1, 10)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 1})
	wantCounts(t, dp, 0, 0)
}

// policyLayers: what stands is of the highest layer, whatever came first.
func policyLayers(t *testing.T, dp dataplane.DataPlane) {
	key := policy(0, 0).PolicyKey
	in := func(l dataplane.Layer, owner uint64, priority uint32) dataplane.InstallPolicy {
		p := policy(owner, priority)
		if p.Layer = l; l == dataplane.LayerGuard {
			p.Verdict, p.Templates = dataplane.Block, nil
		}
		return dataplane.InstallPolicy{Policy: p}
	}
	mustApply(t, dp, in(dataplane.LayerSession, 1, 10))
	mustApply(t, dp, in(dataplane.LayerGuard, 2, 90))
	wantStanding(t, dp, 1, 10)
	mustApply(t, dp, in(dataplane.LayerStanding, 3, 50))
	wantStanding(t, dp, 1, 10)
	mustApply(t, dp, in(dataplane.LayerStanding, 4, 51), in(dataplane.LayerGuard, 2, 91))
	wantStanding(t, dp, 1, 10)
	mustFail(t, dp, dataplane.DeletePolicy{Key: key, Owner: 1}, in(dataplane.LayerStanding, 5, 52))
	wantStanding(t, dp, 1, 10)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 1})
	wantStanding(t, dp, 4, 51)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 4})
	wantStanding(t, dp, 3, 50)
	mustApply(t, dp, in(dataplane.LayerSession, 6, 11))
	wantStanding(t, dp, 6, 11)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 3}, dataplane.DeletePolicy{Key: key, Owner: 6})
	wantStanding(t, dp, 2, 91)
	if got := findPolicy(t, dp, key); got.Verdict != dataplane.Block {
		t.Errorf("standing: %+v, expected the guard, which blocks", *got)
	}
	mustApply(t, dp, in(dataplane.LayerStanding, 8, 53), in(dataplane.LayerSession, 2, 92), dataplane.DeletePolicy{Key: key, Owner: 8})
	mustApply(t, dp, in(dataplane.LayerStanding, 8, 54))
	wantStanding(t, dp, 8, 54) // what was replaced has kept its layer
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 8}, in(dataplane.LayerSession, 7, 12))
	wantStanding(t, dp, 7, 12)
	mustApply(t, dp, dataplane.DeletePolicy{Key: key, Owner: 2}, dataplane.DeletePolicy{Key: key, Owner: 7})
	wantCounts(t, dp, 0, 0)
}
