package config

import (
	"bytes"
	"reflect"
	"slices"

	"espalier/ike/auth"
	"espalier/ike/pki"
	"espalier/ike/sa"
)

// Changes says what differs between two configurations, by value: another
// spelling of the same is no change. A child is the smallest unit.
type Changes struct {
	Added, Removed []string     // connections
	Changed        []ConnChange // connections in both that differ
	Unchanged      []string     // connections that must not be touched
	Credentials    bool         // keys, certificates or shared secrets differ
	Pools          bool         // pools of virtual addresses differ
	Settings       []string     // keys of section espalier that differ
}

// ConnChange is a connection that differs. The children that are not named are
// the same; sessions keep them even when IKE is set.
type ConnChange struct {
	Name                    string
	IKE                     bool // something outside the children
	Added, Removed, Changed []string
	Unchanged               []string
}

// None reports whether nothing differs.
func (c Changes) None() bool {
	return len(c.Added)+len(c.Removed)+len(c.Changed)+len(c.Settings) == 0 && !c.Credentials && !c.Pools
}

// Diff compares two configurations; either may be nil, which is an empty one.
// Names come in the order of the new configuration, removed ones in the old.
func Diff(old, new *Config) Changes {
	if old == nil {
		old = &Config{}
	}
	if new == nil {
		new = &Config{}
	}
	var ch Changes
	before := byName(old.Connections, func(c *sa.Connection) string { return c.Name })
	after := byName(new.Connections, func(c *sa.Connection) string { return c.Name })
	for _, c := range old.Connections {
		if after[c.Name] == nil {
			ch.Removed = append(ch.Removed, c.Name)
		}
	}
	for _, c := range new.Connections {
		was := before[c.Name]
		if was == nil {
			ch.Added = append(ch.Added, c.Name)
			continue
		}
		if was == c { // connections are not changed once they are made
			ch.Unchanged = append(ch.Unchanged, c.Name)
			continue
		}
		if d, differs := diffConnection(was, c); differs {
			ch.Changed = append(ch.Changed, d)
		} else {
			ch.Unchanged = append(ch.Unchanged, c.Name)
		}
	}
	ch.Pools = !reflect.DeepEqual(old.Pools, new.Pools)
	ch.Credentials = !old.creds.equal(new.creds)
	ch.Settings = diffSettings(old.Settings, new.Settings)
	return ch
}

func byName[T any](list []*T, name func(*T) string) map[string]*T {
	m := make(map[string]*T, len(list))
	for _, x := range list {
		m[name(x)] = x
	}
	return m
}

// diffConnection compares two connections of one name.
func diffConnection(old, new *sa.Connection) (ConnChange, bool) {
	d := ConnChange{Name: new.Name}
	a, b := *old, *new
	a.Children, b.Children, a.Shunts, b.Shunts = nil, nil, nil, nil
	d.IKE = !reflect.DeepEqual(a, b)
	d.compare(old.Children, new.Children)
	d.compare(old.Shunts, new.Shunts)
	return d, d.IKE || len(d.Added)+len(d.Removed)+len(d.Changed) > 0
}

// compare adds what differs between two lists of children. A child that has become
// a shunt, or one no longer, is removed and added.
func (d *ConnChange) compare(old, new []*sa.ChildConfig) {
	name := func(c *sa.ChildConfig) string { return c.Name }
	before, after := byName(old, name), byName(new, name)
	for _, c := range old {
		if after[c.Name] == nil {
			d.Removed = append(d.Removed, c.Name)
		}
	}
	for _, c := range new {
		switch was := before[c.Name]; {
		case was == nil:
			d.Added = append(d.Added, c.Name)
		case !reflect.DeepEqual(was, c):
			d.Changed = append(d.Changed, c.Name)
		default:
			d.Unchanged = append(d.Unchanged, c.Name)
		}
	}
}

// diffSettings names the keys of section espalier whose values differ.
func diffSettings(a, b Settings) []string {
	var out []string
	for _, s := range []struct {
		key  string
		x, y any
	}{
		{"port", a.SA.Port, b.SA.Port},
		{"port_nat_t", a.SA.NATTPort, b.SA.NATTPort},
		{"listen", a.Listen, b.Listen},
		{"interfaces", a.Interfaces, b.Interfaces},
		{"cookie_threshold", a.CookieThreshold, b.CookieThreshold},
		{"half_open_limit", a.HalfOpenLimit, b.HalfOpenLimit},
		{"half_open_limit_prefix", a.HalfOpenPerPrefix, b.HalfOpenPerPrefix},
		{"half_open_prefix_v4", a.HalfOpenPrefix4, b.HalfOpenPrefix4},
		{"half_open_prefix_v6", a.HalfOpenPrefix6, b.HalfOpenPrefix6},
		{"half_open_timeout", a.SA.HalfOpenTimeout, b.SA.HalfOpenTimeout},
		{"retransmit_tries", a.SA.RetransmitTries, b.SA.RetransmitTries},
		{"retransmit_timeout", a.SA.RetransmitTimeout, b.SA.RetransmitTimeout},
		{"retransmit_base", a.SA.RetransmitBase, b.SA.RetransmitBase},
		{"keep_alive", a.SA.KeepAlive, b.SA.KeepAlive},
		{"keep_alive_by", a.SA.KernelKeepAlive, b.SA.KernelKeepAlive},
		{"retransmit_limit", a.SA.RetransmitLimit, b.SA.RetransmitLimit},
		{"retransmit_jitter", a.SA.RetransmitJitter, b.SA.RetransmitJitter},
		{"max_selectors", a.SA.MaxSelectors, b.SA.MaxSelectors},
		{"follow_redirects", a.SA.FollowRedirects, b.SA.FollowRedirects},
		{"quick_crash_detection", a.SA.CrashDetection, b.SA.CrashDetection},
		{"prefer_peer_proposal", a.SA.PreferPeerProposal, b.SA.PreferPeerProposal},
		{"send_vendor_id", a.SA.SendVendorID, b.SA.SendVendorID},
		{"install_routes", a.SA.InstallRoutes, b.SA.InstallRoutes},
		{"install_virtual_ip", a.VirtualIP, b.VirtualIP},
		{"install_virtual_ip_on", a.VirtualIPOn, b.VirtualIPOn},
		{"routing_table", a.RoutingTable, b.RoutingTable},
		{"routing_table_prio", a.RoutingPrio, b.RoutingPrio},
		{"leak", a.BlockLeaks, b.BlockLeaks},
		{"bypass_lan", a.BypassLAN, b.BypassLAN},
		{"fast_path", a.FastPath.On, b.FastPath.On},
		{"outside", a.FastPath.Outside, b.FastPath.Outside},
		{"inside", a.FastPath.Inside, b.FastPath.Inside},
		{"guard", a.FastPath.Guard, b.FastPath.Guard},
		{"steering", a.FastPath.Steering, b.FastPath.Steering},
		{"tune", a.Tuner.Mode, b.Tuner.Mode},
		{"tune_moves", a.Tuner.Moves, b.Tuner.Moves},
		{"tune_splits", a.Tuner.Splits, b.Tuner.Splits},
		{"tune_settings", a.Tuner.Settings, b.Tuner.Settings},
		{"tune_queues", a.Tuner.Queues, b.Tuner.Queues},
		{"tune_offloads", a.Tuner.Offloads, b.Tuner.Offloads},
		{"tune_rekeys", a.Tuner.Rekeys, b.Tuner.Rekeys},
		{"mss", a.FastPath.MSS, b.FastPath.MSS},
		{"max_spis", a.FastPath.MaxSPIs, b.FastPath.MaxSPIs},
		{"init_rate", a.FastPath.InitRate, b.FastPath.InitRate},
		{"init_burst", a.FastPath.InitBurst, b.FastPath.InitBurst},
		{"init_prefix_v4", a.FastPath.InitPrefix4, b.FastPath.InitPrefix4},
		{"init_prefix_v6", a.FastPath.InitPrefix6, b.FastPath.InitPrefix6},
		{"firewall", a.Firewall, b.Firewall},
		{"updown_timeout", a.UpdownLimit, b.UpdownLimit},
		{"run_dir", a.RunDir, b.RunDir},
		{"swanctl_socket", a.SwanctlOn, b.SwanctlOn},
		{"socket_group", a.SocketGroup, b.SocketGroup},
		{"state_dir", a.StateDir, b.StateDir},
	} {
		if !reflect.DeepEqual(s.x, s.y) {
			out = append(out, s.key)
		}
	}
	return out
}

// credentialSet is what the credentials were built from, to compare.
type credentialSet struct {
	shared     []sharedKey
	certs, cas []pki.Fingerprint
	keys       []keyID
	raw        []rawKey
	crls       []*pki.CRL
}

// equal compares by value; the order of shared keys does not matter.
func (s credentialSet) equal(o credentialSet) bool {
	sameRaw := func(a, b rawKey) bool { return a.Fingerprint() == b.Fingerprint() && a.id == b.id }
	sameCRL := func(a, b *pki.CRL) bool { return bytes.Equal(a.List.Raw, b.List.Raw) }
	if !slices.EqualFunc(s.raw, o.raw, sameRaw) || !slices.EqualFunc(s.crls, o.crls, sameCRL) {
		return false
	}
	if !slices.Equal(s.certs, o.certs) || !slices.Equal(s.cas, o.cas) || !slices.Equal(s.keys, o.keys) || len(s.shared) != len(o.shared) {
		return false
	}
	taken := make([]bool, len(o.shared))
next:
	for at, k := range s.shared {
		if q := o.shared[at]; !taken[at] && k.key.Equal(q.key) && sameIDs(k.ids, q.ids) {
			taken[at] = true
			continue
		}
		for i, q := range o.shared {
			if !taken[i] && k.key.Equal(q.key) && sameIDs(k.ids, q.ids) {
				taken[i] = true
				continue next
			}
		}
		return false
	}
	return true
}

// sameIDs compares two sets of identities.
func sameIDs(a, b []auth.ID) bool {
	in := func(list []auth.ID) func(auth.ID) bool {
		return func(id auth.ID) bool { return slices.Contains(list, id) }
	}
	return len(a) == len(b) && all(a, in(b)) && all(b, in(a))
}

func all[T any](list []T, f func(T) bool) bool {
	return !slices.ContainsFunc(list, func(x T) bool { return !f(x) })
}
