package config

import (
	"fmt"
	"math"
	"slices"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/ike/suite"
	"espalier/ike/wire"
)

// contradictions refuses options of a child that can't be meant together.
func (c *compiler) contradictions(n *node, ch *sa.ChildConfig, conn *sa.Connection) {
	if ch.Shunt != sa.NoShunt {
		c.shuntContradictions(n, ch)
		return
	}
	c.targets(n, ch, conn)
	if ch.Trap && !ch.Policies {
		c.rep.add(n.at("start_action"), "policies = yes, since start_action is "+get[string](n, "start_action"), "no", "")
	}
	if ch.MarkInSA && ch.MarkIn == (dataplane.Mark{}) {
		c.rep.add(n.at("mark_in_sa"), "a mark_in, since mark_in_sa is yes", "none", "")
	}
	if unique := max(ch.UniqueMarkIn, ch.UniqueMarkOut, ch.UniqueIfIDIn, ch.UniqueIfIDOut); ch.Trap && unique != sa.NotUnique {
		c.rep.add(n.at("start_action"), "marks and interface ids that are numbers, since start_action is trap", "unique ones", "a trap stands before a CHILD SA has them")
	}
	if ch.MarkInSA && ch.UniqueMarkIn != sa.NotUnique {
		c.rep.add(n.at("mark_in_sa"), "a mark_in that is a number, since mark_in_sa is yes", quote(n.keys["mark_in"].Value), "the SPI is reserved before the mark is chosen")
	}
	if ch.IPComp && (ch.PerCPU == sa.PerCPUYes || ch.PerCPU == sa.PerCPUEncap) {
		c.rep.add(n.at("per_cpu_sas"), "per_cpu_sas = no, since ipcomp is yes", get[string](n, "per_cpu_sas"), "the kernel looks for one IPComp SA a CPU, too")
	}
	if ch.PoliciesFwdOut && !ch.Policies {
		c.rep.add(n.at("policies_fwd_out"), "policies_fwd_out = no, since policies is no", "yes", "")
	}
	c.families(n, ch)
	if max(ch.RekeyPackets, ch.RekeyBytes) > math.MaxInt64 || ch.LifePackets > math.MaxInt64 || ch.LifeBytes > math.MaxInt64 {
		c.rep.add(n.pos, "numbers of bytes and packets below 2^63", "more", "")
	}
	c.limits(n, ch)
}

// guardable refuses what leak = block can't guard: its policies stand before a
// CHILD SA has its numbers, and for all network interfaces.
func (c *compiler) guardable(n *node, ch *sa.ChildConfig, set *Settings) {
	if !set.BlockLeaks || n.bad {
		return
	}
	if max(ch.UniqueMarkIn, ch.UniqueMarkOut, ch.UniqueIfIDIn, ch.UniqueIfIDOut) != sa.NotUnique {
		c.rep.add(n.pos, "marks and interface ids that are numbers in "+n.path+", since leak is block", "unique ones", "")
	}
	if ch.Interface != "" {
		c.rep.add(n.at("interface"), "no interface, since leak is block", quote(ch.Interface), "what leaves by other interfaces would be blocked, too")
	}
}

// modeContradictions refuses options that a mode does not have.
func (c *compiler) modeContradictions(n *node, ch *sa.ChildConfig) {
	if ch.IPComp && ch.Mode != dataplane.Tunnel && ch.Mode != dataplane.Transport {
		c.rep.add(n.at("ipcomp"), "ipcomp = no, since mode is "+get[string](n, "mode"), "yes", "")
	}
	if ch.TFCPad != 0 && (ch.Mode != dataplane.Tunnel || ch.IPComp) {
		why := "mode is " + get[string](n, "mode")
		if ch.IPComp {
			why = "ipcomp is yes"
		}
		c.rep.add(n.at("tfc_padding"), "tfc_padding = 0, since "+why, quote(n.keys["tfc_padding"].Value), "the kernel pads packets of plain tunnels only")
	}
	if ch.Mode == dataplane.BEET && !(host(ch.LocalTS) && host(ch.RemoteTS)) {
		c.rep.add(n.at("mode"), "one host in local_ts and one in remote_ts, since mode is beet", "more", "")
	}
	if n.has("replay_window") && ch.ReplayWindow == 0 {
		for _, p := range ch.Proposals {
			if slices.ContainsFunc(p.Transforms, func(t suite.Transform) bool { return t.Type == wire.TransformESN && wire.ESNID(t.ID) == wire.ESNYes }) {
				c.rep.add(n.at("replay_window"), "a replay_window above 0, since esp_proposals has esn", "0", "extended sequence numbers do not work without")
				return
			}
		}
	}
}

// host reports whether selectors stand for exactly one host.
func host(list []selector.Spec) bool {
	return len(list) == 1 && (list[0].Dynamic || list[0].TS.Start == list[0].TS.End)
}

// shuntContradictions is contradictions for a child that is not negotiated.
func (c *compiler) shuntContradictions(n *node, ch *sa.ChildConfig) {
	mode := get[string](n, "mode")
	if ch.Start {
		c.rep.add(n.at("start_action"), "start_action none or trap, since mode is "+mode, quote(get[string](n, "start_action")), "")
	}
	if !ch.Policies {
		c.rep.add(n.at("policies"), "policies = yes, since mode is "+mode, "no", "")
	}
	if ch.Updown != "" {
		c.rep.add(n.at("updown"), "no updown, since mode is "+mode, quote(ch.Updown), "it is for CHILD SAs")
	}
	if ch.Interface != "" {
		c.rep.add(n.at("interface"), "no interface, since mode is "+mode, quote(ch.Interface), "shunts are for all of them")
	}
	c.families(n, ch)
}

// families refuses selectors between which no packet can pass.
func (c *compiler) families(n *node, ch *sa.ChildConfig) {
	if !shareFamily(ch.LocalTS, ch.RemoteTS) {
		c.rep.add(n.at("remote_ts"), "local_ts and remote_ts with an address family in common", "IPv4 on one side and IPv6 on the other", "")
	}
}

// limits warns of hard limits that come before the soft ones: such a CHILD SA ends
// without being replaced.
func (c *compiler) limits(n *node, ch *sa.ChildConfig) {
	for _, v := range []struct {
		what        string
		rekey, life uint64
		text        string
	}{
		{"time", uint64(ch.RekeyTime), uint64(ch.LifeTime), ch.LifeTime.String()},
		{"bytes", ch.RekeyBytes, ch.LifeBytes, fmt.Sprint(ch.LifeBytes)},
		{"packets", ch.RekeyPackets, ch.LifePackets, fmt.Sprint(ch.LifePackets)},
	} {
		if v.rekey != 0 && v.life != 0 && v.rekey >= v.life {
			c.warn.add(n.at("rekey_"+v.what), fmt.Sprintf("a rekey_%s below life_%s (%s)", v.what, v.what, v.text), "one that is not, so the CHILD SA ends without being replaced", "")
		}
	}
}

// targets drops start actions that lack an address to go to, with a warning: the
// connection is good for a responder.
func (c *compiler) targets(n *node, ch *sa.ChildConfig, conn *sa.Connection) {
	if !ch.Start && !ch.Trap || slices.ContainsFunc(conn.RemoteAddrs, isTarget) {
		return
	}
	ch.Start, ch.Trap = false, false
	c.warn.add(n.at("start_action"), "a single address or host name in remote_addrs, since start_action is "+get[string](n, "start_action"),
		"none, so it is taken as none", "")
}

// isTarget reports whether an initiator can go there.
func isTarget(a sa.AddrSpec) bool {
	_, single := a.Single()
	return single || a.Host != ""
}

// shareFamily reports whether packets can pass between the two lists.
func shareFamily(a, b []selector.Spec) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Dynamic || y.Dynamic || x.TS.Start.Is4() == y.TS.Start.Is4() {
				return true
			}
		}
	}
	return false
}
