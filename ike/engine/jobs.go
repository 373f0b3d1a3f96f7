package engine

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/wire"
)

// job is one piece of work for a queue.
type job struct {
	shard *shard
	sess  *session
	id    uint32
	spec  sa.Spec
}

// queue is a set of workers and what waits for them, in two lanes: work for
// sessions that are nearly there goes before work for new ones, so that load
// lengthens the wait at the door instead of breaking what has begun. The lanes
// grow as they must, for a shard can neither wait nor forget a job; they are
// bounded by the sessions, of which the door lets no more in when much waits.
type queue struct {
	size int
	mu   sync.Mutex
	cond *sync.Cond
	late []job // authentication, kernel
	new  []job // first half of a key exchange
	busy atomic.Int32
	stop bool
	// drain: what waits is done before the workers end. Crypto of sessions
	// that are gone is not worth it, the kernel's order is.
	drain bool
}

func newQueue(size int, drain bool) *queue {
	q := &queue{size: size, drain: drain}
	q.cond = sync.NewCond(&q.mu)
	return q
}

// run starts the workers.
func (q *queue) run(wg *sync.WaitGroup) {
	for range q.size {
		wg.Go(q.work)
	}
}

func (q *queue) put(j job) {
	q.mu.Lock()
	switch j.spec.(type) {
	case sa.GenerateKE, sa.EncapsulateKE:
		q.new = append(q.new, j)
	default:
		q.late = append(q.late, j)
	}
	q.mu.Unlock()
	q.cond.Signal()
}

func (q *queue) work() {
	for {
		j, ok := q.get()
		if !ok {
			return
		}
		q.busy.Add(1)
		v, err := j.shard.e.execute(j.sess.bucket, j.spec)
		if d, ok := j.spec.(sa.DecapsulateKE); ok {
			d.Private.Wipe()
		}
		q.busy.Add(-1)
		j.shard.inbox.putResult(result{j.sess, j.id, v, err, q.drain})
	}
}

// get waits for a job; false means that the worker should end.
func (q *queue) get() (job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.drain || !q.stop {
		for _, lane := range [2]*[]job{&q.late, &q.new} {
			if l := *lane; len(l) > 0 {
				j := l[0]
				l[0] = job{}
				*lane = l[1:]
				return j, true
			}
		}
		if q.stop {
			break
		}
		q.cond.Wait()
	}
	return job{}, false
}

// close ends the workers.
func (q *queue) close() {
	q.mu.Lock()
	q.stop = true
	q.mu.Unlock()
	q.cond.Broadcast()
}

func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.late) + len(q.new)
}

func (q *queue) idle() int { return q.size - int(q.busy.Load()) }

// job sends an action's job where it belongs.
func (s *shard) job(x *session, a sa.Job) {
	if spec, ok := a.Spec.(sa.Supersede); ok {
		s.supersede(x, a.ID, spec)
		return
	}
	if spec, ok := a.Spec.(sa.HandOver); ok {
		s.handOver(spec.Heir, func() {
			s.inbox.call(func(s *shard) { s.step(x, sa.JobDone{ID: a.ID}) })
		})
		return
	}
	where := place(a.Spec)
	switch spec := a.Spec.(type) { // a few map operations in the registry
	case sa.AskContact:
		s.inline = append(s.inline, result{x, a.ID, s.e.reg.firstContact(s.contactOf(x), spec.Contact), nil, false})
		return
	case sa.AskUnique:
		s.inline = append(s.inline, result{x, a.ID, s.e.reg.admitContact(spec.Contact, spec.Policy), nil, false})
		return
	}
	switch {
	case where == here || s.e.opts.Inline:
		v, err := s.e.execute(x.bucket, a.Spec)
		s.inline = append(s.inline, result{x, a.ID, v, err, false})
	case where == kernel:
		s.toKernel(x, a.ID, a.Spec)
	default:
		spec := a.Spec
		if d, ok := spec.(sa.DecapsulateKE); ok {
			// The machine may end, and wipe its copy, while the worker reads.
			d.Private = d.Private.Clone()
			spec = d
		}
		s.e.workers.put(job{s, x, a.ID, spec})
	}
}

// venue is where a job runs.
type venue uint8

const (
	worker venue = iota // heavy crypto
	here                // in the shard: microseconds
	kernel              // in the shard's kernel queue
)

func place(spec sa.Spec) venue {
	switch spec := spec.(type) {
	case sa.SignAuth:
		if m := spec.Local.Method; m == auth.MethodPSK || m == auth.MethodAny && len(spec.Local.Certs) == 0 {
			return here
		}
	case sa.VerifyAuth:
		if spec.Auth.Method == wire.AuthSharedKey {
			return here
		}
	case sa.ReserveSPI, sa.AskChild, sa.AskLease, sa.Kernel, sa.Arm, sa.Network, sa.QueryUse, sa.LinkMTU:
		return kernel
	}
	return worker
}

// execute does a job and returns the result that sa documents for its spec;
// of AskChild, a grant, and of AskLease, a leaseGrant.
func (e *Engine) execute(bucket uint8, spec sa.Spec) (any, error) {
	switch spec := spec.(type) {
	case sa.AskChild:
		g, err := e.child(spec)
		if err != nil {
			return nil, err
		}
		return e.reg.counted(g), nil
	case sa.AskLease:
		return e.reg.leases.take(spec), nil
	case sa.Network:
		if e.opts.Network == nil {
			return nil, nil
		}
		return nil, e.opts.Network.Want(spec.Owner, spec.Wish)
	case sa.ReserveSPI:
		spec.Min, spec.Max = sa.ChildSPIRange(bucket, e.opts.Settings.NodeID)
		return spec.Reserve(e.dp)
	case sa.Kernel:
		if bus := e.opts.Sightings; bus != nil && bus.Watched() {
			e.lastUse.keep(e, spec.Ops)
		}
		return nil, e.dp.Apply(spec.Ops)
	case sa.Arm:
		return nil, spec.Perform(e.dp)
	case sa.LinkMTU:
		if e.opts.LinkMTU == nil {
			return 0, nil
		}
		return e.opts.LinkMTU(spec.Local, spec.Remote)
	case sa.QueryUse:
		return queryUse(e.dp, spec.Keys), nil
	}
	return sa.Perform(spec, e.config.Load().creds, e.rand)
}

// child asks the registry for a CHILD SA's ids, and the box for the index of the
// network interface that its configuration names. Errors: there is none.
func (e *Engine) child(ask sa.AskChild) (grant, error) {
	index, err := e.ifIndex(ask.Interface)
	if err != nil {
		return grant{}, err
	}
	g := e.reg.child(ask)
	g.ids.IfIndex = index
	return g, nil
}

func (e *Engine) ifIndex(name string) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	find := e.opts.Interface
	if find == nil {
		find = net.InterfaceByName
	}
	i, err := find(name)
	if err != nil {
		return 0, fmt.Errorf("network interface %q: %w", name, err)
	}
	return uint32(i.Index), nil
}

// arrived does the shell's own part with a result before the machine sees it.
func (s *shard) arrived(r *result) {
	switch v := r.value.(type) {
	case grant:
		r.value = v.ids
		if r.sess.gone {
			s.e.reg.release(v)
			return
		}
		r.sess.grants = append(r.sess.grants, v)
	case leaseGrant:
		r.value = sa.Leases{Addrs: v.Addrs}
		if r.sess.gone || r.sess.m.Phase() >= sa.Lingering {
			s.e.reg.leases.release(v)
			return
		}
		s.releaseLease(r.sess)
		r.sess.lease = &v
	case sa.SPIs:
		if r.sess.gone && r.err == nil {
			s.dropSPI(r.sess, v)
		}
	}
}

// dropSPI gives back an SPI that was reserved for a session which has ended
// meanwhile.
func (s *shard) dropSPI(x *session, got sa.SPIs) {
	s.e.counters.lateReserved.Add(1)
	key := dataplane.SAKey{Dst: x.m.Local().Addr(), Proto: dataplane.ESP, SPI: got.SPI}
	ops := []dataplane.Op{dataplane.DeleteSA{Key: key}}
	if got.CPI != 0 {
		key.Proto, key.SPI = dataplane.IPComp, uint32(got.CPI)
		ops = append(ops, dataplane.DeleteSA{Key: key})
	}
	s.toKernel(x, 0, sa.Kernel{Ops: ops})
}

// toKernel queues a job that a stop has to wait for, even when its session is
// gone by then.
func (s *shard) toKernel(x *session, id uint32, spec sa.Spec) {
	s.e.counters.busy.Add(1)
	s.kernel.put(job{s, x, id, spec})
}
