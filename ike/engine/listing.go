package engine

import (
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/sa"
)

// Connections are those in force, in the order of the configuration.
func (e *Engine) Connections() []*sa.Connection { return e.config.Load().set.All() }

// Credentials are those in force.
func (e *Engine) Credentials() *auth.Credentials { return e.config.Load().creds }

// InstalledPolicy is a child's policies that stand without a CHILD SA: a trap's, or a
// shunt's.
type InstalledPolicy struct {
	Conn              string
	Child             *sa.ChildConfig
	ReqID             uint32 // of a trap; 0: a shunt has none
	LocalTS, RemoteTS []selector.Spec
}

// InstalledPolicies lists the traps and the shunts that are installed, in the order of
// the configuration.
func (e *Engine) InstalledPolicies() []InstalledPolicy {
	var out []InstalledPolicy
	traps := e.traps.installed()
	byHand := e.standing.hands()
	for _, c := range e.Connections() {
		for _, ch := range c.Children {
			if t, ok := traps[ChildName{c.Name, ch.Name}]; ok {
				out = append(out, InstalledPolicy{Conn: c.Name, Child: ch, ReqID: t.reqid, LocalTS: fixed(t.Local), RemoteTS: fixed(t.Remote)})
			}
		}
		for _, ch := range c.Shunts {
			if shuntWanted(ChildName{c.Name, ch.Name}, ch, byHand) {
				out = append(out, InstalledPolicy{Conn: c.Name, Child: ch, LocalTS: ch.LocalTS, RemoteTS: ch.RemoteTS})
			}
		}
	}
	return out
}

func fixed(list []selector.TS) []selector.Spec {
	out := make([]selector.Spec, len(list))
	for i, ts := range list {
		out[i] = selector.Spec{TS: ts}
	}
	return out
}

// installedTrap is what a trap stands in the kernel with.
type installedTrap struct {
	sa.Resolved
	reqid uint32
}

// installed are the traps that are.
func (t *traps) installed() map[ChildName]installedTrap {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[ChildName]installedTrap, len(t.byName))
	for n, x := range t.byName {
		out[n] = installedTrap{x.t.Selectors(), x.grant.ids.ReqID}
	}
	return out
}

// hands says which shunts were installed or uninstalled by hand.
func (st *standing) hands() map[ChildName]bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	out := make(map[ChildName]bool, len(st.byHand))
	for n, on := range st.byHand {
		out[n] = on
	}
	return out
}

// shuntWanted says whether a shunt is to be installed: by hand, or else by the
// configuration.
func shuntWanted(n ChildName, ch *sa.ChildConfig, byHand map[ChildName]bool) bool {
	if install, said := byHand[n]; said {
		return install
	}
	return ch.Trap
}
