package config

import (
	"strings"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/ike/suite"
)

// child compiles one section of children.
func (c *compiler) child(n, conn *node, compiled *sa.Connection) *sa.ChildConfig {
	ch := &sa.ChildConfig{
		Name:           n.name,
		Proposals:      get[[]suite.Proposal](n, "esp_proposals"),
		LocalTS:        get[[]selector.Spec](n, "local_ts"),
		RemoteTS:       get[[]selector.Spec](n, "remote_ts"),
		Mode:           modes[get[string](n, "mode")],
		Shunt:          shunts[get[string](n, "mode")],
		Start:          strings.Contains(get[string](n, "start_action"), "start"),
		Trap:           strings.Contains(get[string](n, "start_action"), "trap"),
		DPDAction:      followUp(get[string](n, "dpd_action")),
		CloseAction:    followUp(get[string](n, "close_action")),
		ReqID:          get[uint32](n, "reqid"),
		Priority:       get[uint32](n, "priority"),
		ReplayWindow:   get[uint32](n, "replay_window"),
		MarkInSA:       get[bool](n, "mark_in_sa"),
		Policies:       get[bool](n, "policies"),
		PoliciesFwdOut: get[bool](n, "policies_fwd_out"),
		CopyDF:         get[bool](n, "copy_df"),
		CopyECN:        get[bool](n, "copy_ecn"),
		IPComp:         get[bool](n, "ipcomp"),
		Interface:      get[string](n, "interface"),
		Updown:         get[string](n, "updown"),
		HostAccess:     get[bool](n, "hostaccess"),
		SHA256By96:     get[bool](n, "sha256_96"),
		ICMP:           get[bool](n, "icmp"),
	}
	numbers(n, conn, ch)
	if pad := get[int64](n, "tfc_padding"); pad < 0 {
		ch.TFCPad = sa.PadToMTU
	} else {
		ch.TFCPad = uint32(pad)
	}
	switch get[string](n, "copy_dscp") {
	case "out":
		ch.CopyDSCPOut = true
	case "in":
		ch.CopyDSCPIn = true
	case "yes":
		ch.CopyDSCPOut, ch.CopyDSCPIn = true, true
	}
	ch.PerCPU, _ = sa.ParsePerCPU(get[string](n, "per_cpu_sas")) // the schema knows the words
	lifetimes(n, ch)
	if ch.Shunt != sa.NoShunt {
		ch.Mode = dataplane.Tunnel // policies for what is forwarded, too
	}
	if !n.bad && !conn.bad {
		c.contradictions(n, ch, compiled)
		c.modeContradictions(n, ch)
	}
	return ch
}

// lifetimes are a child's limits; what is not configured follows from what is.
func lifetimes(n *node, ch *sa.ChildConfig) {
	ch.RekeyTime, ch.Inactivity = get[time.Duration](n, "rekey_time"), get[time.Duration](n, "inactivity")
	limit(n, "time", time.Second, &ch.RekeyTime, &ch.LifeTime, &ch.RandTime)
	limit(n, "bytes", 1, &ch.RekeyBytes, &ch.LifeBytes, &ch.RandBytes)
	limit(n, "packets", 1, &ch.RekeyPackets, &ch.LifePackets, &ch.RandPackets)
}

func limit[T time.Duration | uint64](n *node, what string, unit T, rekey, life, margin *T) {
	*rekey, *life = get[T](n, "rekey_"+what), get[T](n, "life_"+what)
	switch {
	case !n.has("life_" + what):
		*life = *rekey + *rekey/10
	case !n.has("rekey_" + what):
		units := *life / unit
		*rekey = (units - (units+10)/11) * unit // of which 110 % are the life, at most
	}
	if *margin = 0; *life > *rekey {
		*margin = *life - *rekey
	}
	if n.has("rand_" + what) {
		*margin = get[T](n, "rand_"+what)
	}
}

// followUp is the meaning of dpd_action and close_action.
func followUp(action string) (f sa.FollowUp) {
	if strings.Contains(action, "trap") {
		f |= sa.FollowTrap
	}
	if strings.Contains(action, "start") {
		f |= sa.FollowStart
	}
	return f
}

// numbers compiles the marks and interface ids of a child.
func numbers(n, conn *node, ch *sa.ChildConfig) {
	in, out := get[markValue](n, "mark_in"), get[markValue](n, "mark_out")
	ch.MarkIn, ch.UniqueMarkIn, ch.MarkOut, ch.UniqueMarkOut = in.mark, in.unique, out.mark, out.unique
	in, out = get[markValue](n, "set_mark_in"), get[markValue](n, "set_mark_out")
	ch.SetMarkIn, ch.SetMarkInSame, ch.SetMarkOut, ch.SetMarkOutSame = in.mark, in.same, out.mark, out.same
	ch.IfIDIn, ch.UniqueIfIDIn = orConnection(n, conn, "if_id_in")
	ch.IfIDOut, ch.UniqueIfIDOut = orConnection(n, conn, "if_id_out")
}

// orConnection takes a child's interface id, else the connection's, which is one
// for each IKE SA when it is unique.
func orConnection(n, conn *node, key string) (uint32, sa.Unique) {
	if n.has(key) {
		v := get[ifIDValue](n, key)
		return v.id, v.unique
	}
	v := get[ifIDValue](conn, key)
	switch v.unique {
	case sa.UniqueChild:
		return 0, sa.UniqueIKE
	case sa.UniqueChildDir:
		return 0, sa.UniqueIKEDir
	}
	return v.id, sa.NotUnique
}
