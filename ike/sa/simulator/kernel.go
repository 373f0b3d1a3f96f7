package simulator

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
)

// kernelWatch sees what is done to a gateway's kernel: no key may ever protect
// two SAs, nor one SA twice with the same sequence numbers.
type kernelWatch struct {
	g     *gateway
	sas   map[dataplane.SAKey]*kernelSA
	keys  map[string]dataplane.SAKey // every key that was ever installed
	sent  map[string]uint64          // the last sequence number of a key
	works map[uint32]bool            // request ids with which a packet went through
	order int
	// policies are the templates of outbound policies; nil: look.
	policies []dataplane.Template
}

// kernelSA is an SA in the kernel.
type kernelSA struct {
	order int // the kernel sends with the newest of a request id
	sa    dataplane.SA
}

// apply performs operations and notes them.
func (k *kernelWatch) apply(ops []dataplane.Op) error {
	s := k.g.s
	if len(ops) == 0 {
		return nil
	}
	if err := k.g.dp.Apply(ops); err != nil {
		s.tracef("%s kernel refuses: %v", k.g.name, err)
		return err
	}
	k.policies = nil
	defer k.expired()
	for _, op := range ops {
		switch op := op.(type) {
		case dataplane.InstallSA:
			if op.Again && k.sas[op.SA.SAKey] != nil {
				break
			}
			s.tracef("%s kernel + %s %s reqid %d", k.g.name, op.SA.Dir, op.SA.SAKey, op.SA.ReqID)
			k.installed(op.SA)
		case dataplane.DeleteSA:
			if k.sas[op.Key] != nil {
				s.tracef("%s kernel - %s", k.g.name, op.Key)
			}
			delete(k.sas, op.Key)
		case dataplane.MoveSA:
			if sa := k.sas[op.Key]; sa != nil {
				k.moves(sa.sa, op)
				delete(k.sas, op.Key)
				if op.NewSrc.IsValid() {
					sa.sa.Src = op.NewSrc
				}
				if op.NewDst.IsValid() {
					sa.sa.Dst = op.NewDst
				}
				sa.sa.Encap = op.Encap
				k.sas[sa.sa.SAKey] = sa
			}
		}
	}
	return nil
}

// moves checks a move: nothing is sent to where the peer has not shown that it is,
// unless that is said by its own packets.
func (k *kernelWatch) moves(had dataplane.SA, op dataplane.MoveSA) {
	s := k.g.s
	s.tracef("%s kernel moves %s %s to %s %s %v", k.g.name, had.Dir, op.Key, op.NewSrc, op.NewDst, op.Encap)
	s.res.Features["SA moved"]++
	if had.Dir == dataplane.Out && s.mobike[0] && s.mobike[1] && op.NewDst != had.Dst && !k.g.answered[op.NewDst] {
		s.failf("%s: SA %s goes to %s, from where no answer ever came", k.g.name, op.Key, op.NewDst)
	}
}

// has reports whether there is an SA.
func (k *kernelWatch) has(dst netip.Addr, spi uint32) bool {
	for key := range k.sas {
		if key.SPI == spi && key.Dst == dst {
			return true
		}
	}
	return false
}

// installed checks a new SA.
func (k *kernelWatch) installed(sa dataplane.SA) {
	s := k.g.s
	key := string(sa.AEAD.Key)
	if len(key) == 0 || strings.Trim(key, "\x00") == "" {
		s.failf("%s: SA %s has no key", k.g.name, sa.SAKey)
	}
	if had, ok := k.keys[key]; ok && had.SPI != sa.SPI {
		s.failf("%s: the key of SA %s protected SA %s before", k.g.name, sa.SAKey, had)
	}
	if n := k.sent[key]; sa.Dir == dataplane.Out && n > sa.Seq.Out {
		s.failf("%s: SA %s starts at sequence number %d once more, %d packets were sent with its key", k.g.name, sa.SAKey, sa.Seq.Out, n)
	}
	for _, o := range k.sas {
		if o.sa.ReqID == sa.ReqID && o.sa.Dir == sa.Dir && o.sa.IfID == sa.IfID && !sameChild(k.g, sa.ReqID) {
			s.failf("%s: request id %d has SAs of two different children", k.g.name, sa.ReqID)
		}
	}
	k.keys[key] = sa.SAKey
	k.order++
	sa.AEAD.Key = sa.AEAD.Key.Clone()
	k.sas[sa.SAKey] = &kernelSA{k.order, sa}
}

// sameChild reports whether all CHILD SAs with a request id have one identity.
func sameChild(g *gateway, reqID uint32) bool {
	var first *identity
	same := true
	look := func(m *sa.Machine, c *sa.Child) {
		if c == nil || c.ReqID != reqID || c.UniqueID == 0 {
			return
		}
		id := identityOf(m, c)
		id.remote = netip.Addr{} // it moves
		if first == nil {
			first = &id
		}
		same = same && *first == id
	}
	for _, x := range g.sessions {
		st := x.m.State()
		for i := range st.Children {
			look(x.m, &st.Children[i])
		}
		for _, c := range []*sa.Create{st.Own, st.Peer} {
			if c != nil {
				look(x.m, c.Candidate)
			}
		}
	}
	return same
}

// identityOf is the registry's name of a CHILD SA.
func identityOf(m *sa.Machine, c *sa.Child) identity {
	text := func(ts []selector.TS) string {
		parts := make([]string, len(ts))
		for i, t := range ts {
			parts[i] = t.String()
		}
		return strconv.Itoa(len(ts)) + ":" + strings.Join(parts, ",")
	}
	return identity{m.ConnName(), c.Name, m.Remote().Addr(), text(c.LocalTS), text(c.PeerTS)}
}

// keep takes over the request ids of a session that was read back.
func (r *registry) keep(m *sa.Machine) (out []grant) {
	add := func(c *sa.Child) {
		if c == nil || c.UniqueID == 0 || c.ReqID == 0 {
			return
		}
		q := r.byID[c.ReqID]
		if q == nil {
			q = &reqid{key: identityOf(m, c), id: c.ReqID}
			r.byID[q.id] = q
			if r.reqids[q.key] == nil {
				r.reqids[q.key] = q
			}
		}
		q.refs++
		q.sas++
		r.last = max(r.last, c.ReqID)
		out = append(out, grant{sa.ChildIDs{UniqueID: c.UniqueID, ReqID: c.ReqID}, q, true})
	}
	st := m.State()
	for i := range st.Children {
		add(&st.Children[i])
	}
	for _, c := range []*sa.Create{st.Own, st.Peer} {
		if c != nil {
			add(c.Candidate)
		}
	}
	return out
}

// releaseGrants gives back the request ids of CHILD SAs that the machine no
// longer has.
func (x *session) releaseGrants() {
	live := map[uint64]bool{}
	if !x.gone {
		for _, id := range x.m.ChildIDs() {
			live[id] = true
		}
	}
	others := false
	x.grants = slices.DeleteFunc(x.grants, func(gr grant) bool {
		if live[gr.ids.UniqueID] {
			return false
		}
		others = x.g.reg.release(gr) || others
		return true
	})
	if others && x.m.Phase() > sa.Established && x.g.s.holds {
		x.g.handOver(x.m.Heir(), func() {})
	}
}

// maxTwice is how long two CHILD SAs may be the same: one exchange, with all
// repetitions of its request and of the delete after it.
const maxTwice = 6 * time.Minute

// watchDuplicates looks for CHILD SAs with the same identity.
func (x *session) watchDuplicates() {
	st := x.m.State()
	var seen, twice []string
	for i := range st.Children {
		c := &st.Children[i]
		if c.Status != sa.ChildInstalled || c.InboundOnly || c.Options&sa.ChildBound != 0 { // nothing is sent on that yet, or several are meant
			continue
		}
		id := c.Name + tsKey(c.LocalTS) + tsKey(c.PeerTS)
		if slices.Contains(seen, id) {
			twice = append(twice, id)
		}
		seen = append(seen, id)
	}
	for id, since := range x.twice {
		if !slices.Contains(twice, id) {
			delete(x.twice, id)
		} else if x.g.s.now.Sub(since) > maxTwice && x.hasPeer() {
			x.g.s.failf("%s#%d has child %s twice since %s", x.g.name, x.m.ID(), id, since.Sub(x.g.s.begin))
		}
	}
	for _, id := range twice {
		if _, ok := x.twice[id]; !ok {
			if x.twice == nil {
				x.twice = map[string]time.Time{}
			}
			x.twice[id] = x.g.s.now
		}
	}
}

// hasPeer reports whether the other gateway still has the IKE SA; if not, what
// is here is dead, and goes when that is noticed.
func (x *session) hasPeer() bool {
	k := &x.m.State().IKE
	for _, y := range x.g.s.gws[1-x.g.index].sessions {
		for _, spi := range ownSPIs(y.m) {
			if spi == k.PeerSPI() {
				return true
			}
		}
	}
	return false
}

func tsKey(ts []selector.TS) string {
	var b []byte
	for _, t := range ts {
		b = t.Start.AppendTo(b)
		b = append(b, ' ')
	}
	return string(b)
}
