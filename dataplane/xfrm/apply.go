package xfrm

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// undo takes one operation back.
type undo func() error

// Apply implements dataplane.DataPlane.
func (x *XFRM) Apply(ops []dataplane.Op) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return dataplane.ErrClosed
	}
	var done []undo
	for i, op := range ops {
		back, err := x.apply(op, i+1 < len(ops))
		if back != nil {
			done = append(done, back)
		}
		if err == nil {
			continue
		}
		for j := len(done) - 1; j >= 0; j-- {
			if uerr := done[j](); uerr != nil {
				err = fmt.Errorf("%w; taking back what came before it: %w", err, uerr)
			}
		}
		return &dataplane.OpError{Index: i, Op: op, Err: err}
	}
	return nil
}

// apply performs one operation. The undo may be nil when there is nothing to
// take back, or when more is false: the last operation needs none.
func (x *XFRM) apply(op dataplane.Op, more bool) (undo, error) {
	switch o := op.(type) {
	case dataplane.InstallSA:
		return x.installSA(&o.SA, o.Again)
	case dataplane.UpdateSA:
		return x.updateSA(&o.SA)
	case dataplane.MoveSA:
		return x.moveSA(&o)
	case dataplane.DeleteSA:
		return x.deleteSA(o.Key, more)
	case dataplane.InstallPolicy:
		if err := dataplane.CheckPolicy(&o.Policy); err != nil {
			return nil, err
		}
		return x.changePolicy(x.policies.Install(&o.Policy))
	case dataplane.DeletePolicy:
		return x.changePolicy(x.policies.Delete(&o.Key, o.Owner))
	}
	return nil, dataplane.ErrUnknownOp
}

// installSA adds an SA, or turns a reserved SPI into one.
func (x *XFRM) installSA(sa *dataplane.SA, again bool) (undo, error) {
	if err := dataplane.CheckSA(sa); err != nil {
		return nil, err
	}
	key := canonical(sa.SAKey)
	old, ours := x.own[key]
	if ours && !old.reserved {
		if again {
			return nil, nil
		}
		return nil, dataplane.ErrExists
	}
	if x.left.sas[key] { // a former run's, and this one needs its place
		if err := x.removeLeftSA(key); err != nil {
			return nil, err
		}
	}
	rec := ownSA{
		src: packAddr(sa.Src), reqID: sa.ReqID, ifID: sa.IfID, dir: sa.Dir, mode: sa.Mode,
		added: time.Now().Unix(),
	}
	if err := x.journal.addSA(&key, &rec); err != nil {
		return nil, err
	}
	if err := x.sendSA(sa, ours); err != nil {
		if ours {
			err = errors.Join(err, x.journal.addSA(&key, &old))
		} else {
			err = errors.Join(err, x.journal.deleteSA(&key))
		}
		return nil, err
	}
	x.own[key] = rec
	return func() error {
		if _, err := x.deleteSA(key, false); err != nil || !ours {
			return err
		}
		return x.reserveAgain(&key, &old)
	}, nil
}

// sendSA gives the kernel an SA. A reserved SPI is taken over by an update; one
// that has expired meanwhile is none any more.
func (x *XFRM) sendSA(sa *dataplane.SA, reserved bool) error {
	plain := *sa
	plain.SAKey, plain.Src = canonical(sa.SAKey), sa.Src.Unmap()
	send := func(typ nl.XfrmMsgType) error {
		m := x.encodeSA(uint16(typ), &plain)
		defer m.wipe()
		return x.conn.request(m, nil)
	}
	if reserved {
		err := send(nl.XFRM_MSG_UPDSA)
		if !isErrno(err, unix.ESRCH) {
			return explainIf(err, sa)
		}
	}
	return explainIf(send(nl.XFRM_MSG_NEWSA), sa)
}

func explainIf(err error, sa *dataplane.SA) error {
	if err == nil {
		return nil
	}
	return explainInstall(err, sa)
}

// deleteSA removes an SA or a reserved SPI of ours; another program's is left
// alone. With keep, the SA can be put back.
func (x *XFRM) deleteSA(k dataplane.SAKey, keep bool) (undo, error) {
	key := canonical(k)
	rec, ours := x.own[key]
	if !ours {
		if x.left.sas[key] {
			return nil, x.removeLeftSA(key)
		}
		return nil, nil
	}
	var raw *rawSA
	if keep {
		var err error
		if raw, err = x.getSA(&key); err != nil && !errors.Is(err, dataplane.ErrNotFound) {
			return nil, err
		}
	}
	err := x.conn.request(encodeSAID(nl.XFRM_MSG_DELSA, &key), nil)
	if err != nil && !isErrno(err, unix.ESRCH) {
		raw.wipe()
		return nil, err
	}
	delete(x.own, key)
	if err := x.journal.deleteSA(&key); err != nil {
		raw.wipe()
		return nil, err
	}
	if raw == nil {
		return nil, nil
	}
	return func() error {
		defer raw.wipe()
		if rec.reserved {
			return x.reserveAgain(&key, &rec)
		}
		return x.reinstall(raw, &key, &rec, change{})
	}, nil
}

// changePolicy does in the kernel what a change of the owners' stacks asks.
func (x *XFRM) changePolicy(c dataplane.PolicyChange) (undo, error) {
	if err := x.sendPolicy(c); err != nil {
		x.policies.Undo(c)
		return nil, err
	}
	return func() error {
		x.policies.Undo(c)
		return x.sendPolicy(c.Reverse())
	}, nil
}

func (x *XFRM) sendPolicy(c dataplane.PolicyChange) error {
	op := c.Kernel()
	if op == dataplane.KernelNone {
		return nil
	}
	key := c.Key()
	if op == dataplane.KernelRemove {
		err := x.conn.request(encodePolicyID(nl.XFRM_MSG_DELPOLICY, &key), nil)
		if err != nil && !isErrno(err, unix.ENOENT, unix.ESRCH) {
			return err
		}
		return x.journal.deletePolicy(&key)
	}
	p := c.Policy()
	typ := nl.XFRM_MSG_NEWPOLICY
	if op == dataplane.KernelUpdate || x.left.policies[key] {
		typ = nl.XFRM_MSG_UPDPOLICY // in one step: no packet meets the gap
	}
	if err := x.journal.addPolicy(&key, time.Now().Unix()); err != nil {
		return err
	}
	err := x.conn.request(encodePolicy(uint16(typ), &p), nil)
	if err == nil {
		delete(x.left.policies, key)
		return nil
	}
	if op == dataplane.KernelAdd && !x.left.policies[key] {
		err = errors.Join(err, x.journal.deletePolicy(&key))
	}
	if isErrno(err, unix.EEXIST) {
		return &explained{words: dataplane.ErrPolicyExists.Error(), is: dataplane.ErrPolicyExists, cause: err}
	}
	return err
}

// canonical is the key as maps and kernel have it: no IPv4 inside of IPv6.
func canonical(k dataplane.SAKey) dataplane.SAKey {
	k.Dst = k.Dst.Unmap()
	return k
}
