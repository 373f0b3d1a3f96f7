package engine

import (
	"net/netip"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// queryUse asks when SAs were last used; those that are gone are left out.
func queryUse(dp dataplane.DataPlane, keys []dataplane.SAKey) []sa.Use {
	uses := make([]sa.Use, 0, len(keys))
	for _, k := range keys {
		if st, err := dp.QuerySA(k); err == nil {
			uses = append(uses, sa.Use{Key: k, Last: st.LastUsed})
		}
	}
	return uses
}

// keepalive sends a NAT keepalive where the transport has them.
func (e *Engine) keepalive(a sa.Keepalive) {
	if t, ok := e.transport.(interface {
		Keepalive(local, remote netip.AddrPort) error
	}); ok {
		if err := t.Keepalive(a.Local, a.Remote); err != nil {
			e.counters.sendErrors.Add(1)
			return
		}
		e.counters.keepalives.Add(1)
	}
}

// unwanted ends the tries for what somebody terminates: a child, or with 0 all
// of the session's connection.
func (s *shard) unwanted(x *session, child uint64) {
	conn := x.m.ConnName()
	var names []ChildName
	for _, c := range x.m.Info().Children {
		if c.UniqueID == child {
			names = append(names, ChildName{conn, c.Name})
		}
	}
	if c := s.e.config.Load().set.ByName(conn); c != nil && child == 0 {
		names = append(names, ChildName{conn, ""})
		for _, ch := range c.Children {
			names = append(names, ChildName{conn, ch.Name})
		}
	}
	s.e.starts.stop(names)
}
