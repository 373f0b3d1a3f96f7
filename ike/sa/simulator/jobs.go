package simulator

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"time"

	"espalier/ike/sa"
	"espalier/internal/secret"
)

// job performs a job of an action: at once, later, or much later. Of what goes
// to the kernel the order is kept. doomed: the daemon will not live to see the
// answer, but the job may be done.
func (x *session) job(a sa.Job, doomed bool) {
	g, s := x.g, x.g.s
	if spec, ok := a.Spec.(sa.Supersede); ok {
		x.supersede(a.ID, spec)
		return
	}
	if spec, ok := a.Spec.(sa.HandOver); ok && s.holds {
		if !doomed {
			g.handOver(spec.Heir, func() { x.step(sa.JobDone{ID: a.ID}) })
		}
		return
	}
	switch a.Spec.(type) {
	case sa.SignAuth, sa.VerifyAuth, sa.AskContact, sa.AskUnique:
		v, err := x.execute(a.Spec)
		x.inline = append(x.inline, sa.JobDone{ID: a.ID, Result: v, Err: err})
		return
	}
	if doomed {
		if s.chance(2) {
			s.tracef("%s#%d job %d %T is done, its answer lost", g.name, x.m.ID(), a.ID, a.Spec)
			_, _ = x.execute(a.Spec)
		}
		return
	}
	do, back := s.now.Add(s.jobTime()), s.jobTime()
	kernel := false
	switch a.Spec.(type) {
	case sa.ReserveSPI, sa.AskChild, sa.Kernel, sa.Arm, sa.QueryUse:
		kernel = true
		if do.Before(g.kernelFree) {
			do = g.kernelFree
		}
		g.kernelFree = do
	}
	life := g.life
	s.after(do.Sub(s.now), func() {
		if life != g.life {
			return
		}
		v, err := x.execute(a.Spec)
		at := s.now.Add(back)
		if kernel {
			if at.Before(g.answerFree) {
				at = g.answerFree
			}
			g.answerFree = at
		}
		s.after(at.Sub(s.now), func() {
			if life == g.life {
				x.arrived(a.ID, v, err)
			}
		})
	})
}

func (s *sim) jobTime() time.Duration {
	if !s.calm && s.chance(s.slowJobs) {
		return s.between(0, 6*time.Second)
	}
	return s.between(0, s.jobs)
}

// arrived hands the machine a job's result, after the shell's own part.
func (x *session) arrived(id uint32, v any, err error) {
	if gr, ok := v.(grant); ok {
		v = gr.ids
		if x.gone {
			x.g.reg.release(gr)
			return
		}
		x.grants = append(x.grants, gr)
	}
	if _, ok := v.(sa.SPIs); ok && x.gone && err == nil {
		x.g.s.failf("%s: session %d is gone while SPIs are reserved for it", x.g.name, x.m.ID())
	}
	x.step(sa.JobDone{ID: id, Result: v, Err: err})
}

// execute does a job.
func (x *session) execute(spec sa.Spec) (any, error) {
	g := x.g
	switch spec := spec.(type) {
	case sa.ReserveSPI:
		spec.Min, spec.Max = sa.ChildSPIRange(1, 0)
		return spec.Reserve(g.dp)
	case sa.AskChild:
		gr := g.reg.child(spec)
		gr.sa = true
		gr.held.sas++
		gr.ids.Shared = gr.held.sas > 1 && g.s.holds
		return gr, nil
	case sa.AskContact:
		return x.firstContact(spec.Contact), nil
	case sa.AskUnique:
		return g.admitContact(spec.Contact, spec.Policy), nil
	case sa.Kernel:
		return nil, g.kernel.apply(g.s.fault.ops(x, spec.Ops))
	case sa.Arm:
		return nil, g.armed(spec)
	case sa.QueryUse:
		var uses []sa.Use
		for _, k := range spec.Keys {
			if st, err := g.dp.QuerySA(k); err == nil {
				uses = append(uses, sa.Use{Key: k, Last: st.LastUsed})
			}
		}
		return uses, nil
	}
	if !g.s.realKE {
		if v, ok := g.s.cheapKE(spec); ok {
			return v, nil
		}
	}
	return sa.Perform(spec, g.env.Creds, g.s.bytes)
}

// cheapKE is a key exchange without mathematics: the shared secret is a hash of
// both public values.
func (s *sim) cheapKE(spec sa.Spec) (any, bool) {
	fresh := func() []byte {
		b := make([]byte, 32)
		_, _ = s.bytes.Read(b)
		return b
	}
	switch spec := spec.(type) {
	case sa.GenerateKE:
		b := fresh()
		return sa.KEPair{Public: b, Private: secret.Bytes(slices.Clone(b))}, true
	case sa.EncapsulateKE:
		b := fresh()
		h := sha256.Sum256(append(slices.Clone(spec.Peer), b...))
		return sa.KEAnswer{Public: b, Shared: h[:]}, true
	case sa.DecapsulateKE:
		h := sha256.Sum256(append(slices.Clone([]byte(spec.Private)), spec.Peer...))
		return secret.Bytes(h[:]), true
	}
	return nil, false
}

// registry is the engine's, as far as two gateways need it.
type registry struct {
	childIDs uint64 // survives restarts, as the owners of policies in the kernel do
	reqids   map[identity]*reqid
	byID     map[uint32]*reqid
	last     uint32
	free     []uint32
}

// identity is what CHILD SAs with the same request id have in common.
type identity struct {
	conn, child     string
	remote          netip.Addr
	localTS, peerTS string
}

type reqid struct {
	key  identity
	id   uint32
	refs int
	sas  int // of them CHILD SAs
}

// grant is the answer to AskChild with what it takes to give it back.
type grant struct {
	ids  sa.ChildIDs
	held *reqid
	sa   bool // a CHILD SA has it, not a trap
}

func (r *registry) reset() {
	r.reqids, r.byID, r.last, r.free = map[identity]*reqid{}, map[uint32]*reqid{}, 0, nil
}

func (r *registry) child(ask sa.AskChild) grant {
	r.childIDs++
	key := identity{ask.Conn, ask.Child, ask.Remote, ask.LocalTS, ask.PeerTS}
	q := r.byID[ask.Keep]
	if q == nil || q.key.conn != key.conn || q.key.child != key.child {
		q = r.reqids[key]
	}
	if q == nil {
		q = &reqid{key: key, id: r.next()}
		r.reqids[key], r.byID[q.id] = q, q
	}
	q.refs++
	return grant{ids: sa.ChildIDs{UniqueID: r.childIDs, ReqID: q.id}, held: q}
}

func (r *registry) next() uint32 {
	if n := len(r.free); n > 0 {
		id := r.free[n-1]
		r.free = r.free[:n-1]
		return id
	}
	r.last++
	return r.last
}

// release gives a request id back and reports whether other CHILD SAs have it.
func (r *registry) release(g grant) bool {
	q := g.held
	if g.sa {
		q.sas--
	}
	if q.refs--; q.refs == 0 {
		if r.reqids[q.key] == q {
			delete(r.reqids, q.key)
		}
		delete(r.byID, q.id)
		r.free = append(r.free, q.id)
	}
	return q.sas > 0
}
