package xfrm

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// leftovers are the journalled objects of a former run that are still in the
// kernel and have not been removed or taken over.
type leftovers struct {
	sas      map[dataplane.SAKey]bool
	policies map[dataplane.PolicyKey]bool
}

// An object counts as the journalled one when the kernel got it within this
// time, in seconds, after it was journalled: the same key and another time is
// another program's.
const addedWithin = 10

func sameObject(journalled, added int64) bool {
	return added >= journalled-1 && added <= journalled+addedWithin
}

// findLeftovers compares the journal of a former run with the kernel and
// forgets what is not there any more, or is somebody else's by now.
func (x *XFRM) findLeftovers() error {
	x.left = leftovers{map[dataplane.SAKey]bool{}, map[dataplane.PolicyKey]bool{}}
	live, err := x.journal.live()
	if err != nil {
		return err
	}
	if len(live) == 0 {
		return nil
	}
	sas, policies := map[dataplane.SAKey]ownSA{}, map[dataplane.PolicyKey]int64{}
	for _, p := range live {
		if k, r, ok := readSA(p); ok {
			sas[k] = r
		} else if k, at, ok := readPolicy(p); ok {
			policies[k] = at
		}
	}
	err = x.eachSA(func() { clear(x.left.sas) }, func(raw *rawSA) {
		k := raw.key()
		if r, ok := sas[k]; ok && sameObject(r.added, raw.added().Unix()) && r.reqID == native.Uint32(raw.b[saReqID:]) {
			x.left.sas[k] = true
		}
	})
	if err != nil {
		return fmt.Errorf("list SAs: %w", err)
	}
	err = x.eachPolicy(func() { clear(x.left.policies) }, func(p *dumpedPolicy) {
		if at, ok := policies[p.PolicyKey]; ok && sameObject(at, p.added.Unix()) {
			x.left.policies[p.PolicyKey] = true
		}
	})
	if err != nil {
		return fmt.Errorf("list policies: %w", err)
	}
	for key, p := range live {
		sa, _, isSA := readSA(p)
		policy, _, isPolicy := readPolicy(p)
		if !(isSA && x.left.sas[sa]) && !(isPolicy && x.left.policies[policy]) {
			delete(live, key)
		}
	}
	if len(live) > 0 || x.journal.lost > 0 {
		x.log.Info().Int("sas", len(x.left.sas)).Int("policies", len(x.left.policies)).
			Int64("unreadable_bytes", x.journal.lost).Msg("a former run left SAs and policies in the kernel")
	}
	return x.journal.replace(live)
}

// Leftovers lists what a former run left in the kernel and this one has neither
// removed nor taken over. Policies have no owner.
func (x *XFRM) Leftovers() (dataplane.Snapshot, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return dataplane.Snapshot{}, dataplane.ErrClosed
	}
	var snap dataplane.Snapshot
	if len(x.left.sas)+len(x.left.policies) == 0 {
		return snap, nil
	}
	err := x.eachSA(func() { snap.SAs = nil }, func(raw *rawSA) {
		if x.left.sas[raw.key()] {
			snap.SAs = append(snap.SAs, raw.installed())
		}
	})
	if err != nil {
		return snap, fmt.Errorf("list SAs: %w", err)
	}
	err = x.eachPolicy(func() { snap.Policies = nil }, func(p *dumpedPolicy) {
		if x.left.policies[p.PolicyKey] {
			snap.Policies = append(snap.Policies, p.Policy)
		}
	})
	if err != nil {
		return snap, fmt.Errorf("list policies: %w", err)
	}
	return snap, nil
}

// RemoveLeftovers removes what Leftovers lists, policies first: a policy
// without its SAs would ask for new ones. It goes on after an error and returns
// all of them.
func (x *XFRM) RemoveLeftovers() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return dataplane.ErrClosed
	}
	waits, err := x.templatesLeft()
	errs := []error{err}
	for k := range x.left.policies {
		err := x.conn.request(encodePolicyID(nl.XFRM_MSG_DELPOLICY, &k), nil)
		if err != nil && !isErrno(err, unix.ENOENT, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove policy %s %s of a former run: %w", k.Dir, k.Selector, err))
			continue
		}
		delete(x.left.policies, k)
		errs = append(errs, x.journal.deletePolicy(&k))
	}
	for k := range x.left.sas {
		if err := x.removeLeftSA(k); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, x.forgetAcquires(waits))
	return errors.Join(errs...)
}

// template is what a record of a packet that waits for an SA has of its policy's.
type template struct {
	src, dst netip.Addr
	proto    dataplane.Proto
	mode     dataplane.Mode
	reqID    uint32
}

// templatesLeft are those of the policies that a former run left.
func (x *XFRM) templatesLeft() (map[template]bool, error) {
	out := map[template]bool{}
	if len(x.left.policies) == 0 {
		return out, nil
	}
	err := x.eachPolicy(func() { clear(out) }, func(p *dumpedPolicy) {
		if !x.left.policies[p.PolicyKey] || p.Dir != dataplane.Out {
			return
		}
		for _, t := range p.Templates {
			out[template{t.Src, t.Dst, t.Proto, t.Mode, t.ReqID}] = true
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list policies: %w", err)
	}
	return out, nil
}

// forgetAcquires removes the kernel's records of packets that have waited for an SA
// of a former run, or of one of its CPUs, while nobody listened. They stand as long
// as net.core.xfrm_acq_expires says, and meanwhile the kernel drops what is sent by a
// policy with the same template: the new run's, for request ids begin anew.
func (x *XFRM) forgetAcquires(of map[template]bool) error {
	if len(of) == 0 {
		return nil
	}
	var records []dataplane.SPIRequest
	err := x.eachSA(func() { records = nil }, func(raw *rawSA) {
		sa := raw.installed()
		if sa.SPI != 0 || !of[template{sa.Src, sa.Dst, sa.Proto, sa.Mode, sa.ReqID}] {
			return
		}
		r := dataplane.SPIRequest{Src: sa.Src, Dst: sa.Dst, Proto: sa.Proto, Mode: sa.Mode, ReqID: sa.ReqID, Mark: sa.Mark, IfID: sa.IfID,
			Min: 256, Max: math.MaxUint32}
		if b := find(raw.attrs(), nl.XFRMA_SA_PCPU, 4); b != nil {
			cpu := native.Uint32(b)
			r.CPU = &cpu
		}
		records = append(records, r)
	})
	errs := []error{err}
	for i := range records {
		r := &records[i]
		spi, err := x.allocSPI(r)
		if err == nil {
			k := dataplane.SAKey{Dst: r.Dst, Proto: r.Proto, SPI: spi, Mark: r.Mark}
			err = x.conn.request(encodeSAID(nl.XFRM_MSG_DELSA, &k), nil)
		}
		if err != nil && !isErrno(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("a packet to %s that waits for an SA of a former run: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

func (x *XFRM) removeLeftSA(k dataplane.SAKey) error {
	err := x.conn.request(encodeSAID(nl.XFRM_MSG_DELSA, &k), nil)
	if err != nil && !isErrno(err, unix.ESRCH) {
		return fmt.Errorf("remove SA %s of a former run: %w", k, err)
	}
	delete(x.left.sas, k)
	return x.journal.deleteSA(&k)
}
