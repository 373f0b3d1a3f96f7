package sa

import (
	"errors"
	"math"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/internal/event"
)

// The kernel reports a packet that is sent on a CPU without an SA of its own when
// the policy has XFRM_POLICY_CPU_ACQUIRE, and sends it on the fallback. Until an SA
// has taken the place of its record of that packet, or the record has gone, it drops
// what other such packets there are, on every CPU (seen in 7.3), and so it does while
// nobody listens. So a policy is armed with the flag only as long as there is
// something to be learned: a report disarms it and takes the record away, which
// leaves the fallback to all, and what follows from the report arms it again.

// rearmPause is how long a policy stays disarmed after a report from which no SA
// followed.
const rearmPause = 30 * time.Second

// Arm has the kernel change policies, then forget the packets that it has reported
// with the given CPUs, request ids and addresses.
type Arm struct {
	Ops    []dataplane.Op
	Forget []dataplane.SPIRequest
}

func (Arm) isSpec() {}

// Perform does the job.
func (a Arm) Perform(dp dataplane.DataPlane) error {
	err := dp.Apply(a.Ops)
	for i := range a.Forget {
		err = errors.Join(err, dataplane.ForgetAcquire(dp, a.Forget[i]))
	}
	return err
}

// acquired follows the kernel's report about a CPU.
func (m *Machine) acquired(f *Child, cpu uint32) {
	f.RearmAt = m.env.Now.Add(rearmPause)
	m.forget = append(m.forget, dataplane.SPIRequest{
		Src: f.Local, Dst: f.Remote, Proto: dataplane.ESP, Mode: f.Mode, ReqID: f.ReqID,
		Mark: f.MarkOut, IfID: f.IfIDOut, CPU: &cpu, Min: 256, Max: math.MaxUint32,
	})
	m.persist = true
}

// lacksCPU reports whether a CPU of ours has no SA of its own in the group, and
// could get one.
func (m *Machine) lacksCPU(f *Child) bool {
	on, all := m.onCPUs(f), 0
	for _, n := range on {
		all += n
	}
	if all >= m.maxPerCPU() {
		return false
	}
	for cpu := range uint32(max(m.env.Settings.CPUs, 1)) {
		if on[cpu] == 0 {
			return true
		}
	}
	return false
}

// wantsArm reports whether the fallback's policies should have the flag.
func (m *Machine) wantsArm(f *Child) bool {
	if f.Options&ChildMaxQueue != 0 || !f.RearmAt.IsZero() || m.s.Own != nil && m.s.Own.Fallback != 0 && m.fallback(m.s.Own.Fallback) == f {
		return false
	}
	waits := func(t Task) bool { return t.Kind == taskCreateBound && m.fallback(t.Child) == f }
	return !slices.ContainsFunc(m.s.Tasks, waits) && !slices.ContainsFunc(m.s.Later, func(l Later) bool { return waits(l.Task) }) && m.lacksCPU(f)
}

// canArm: its policies are the group's, and nothing else changes them now.
func (c *Child) canArm() bool {
	return c.Options&ChildPerCPU != 0 && !c.bound() && c.Status == ChildInstalled && c.OwnNew == 0 && c.PeerNew == 0 && c.Moving == nil
}

// arm brings the policies' flags in line with what is wanted after a step.
func (m *Machine) arm() {
	if m.s.Phase != Established {
		m.forget = nil
		return
	}
	change := len(m.forget) > 0
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if !c.RearmAt.IsZero() && !m.env.Now.Before(c.RearmAt) {
			c.RearmAt, m.persist = time.Time{}, true
		}
		if !c.canArm() {
			continue
		}
		if want := m.wantsArm(c); want != c.Armed {
			c.Armed, change = want, true
		}
	}
	if change {
		m.job(jobArm)
	}
}

// armSpec describes a jobArm. Done again, it does no harm.
func (m *Machine) armSpec() Arm {
	var s Arm
	for i := range m.s.Children {
		c := &m.s.Children[i]
		cfg := m.conn.Child(c.Name)
		if !c.canArm() || cfg == nil || !cfg.Policies {
			continue
		}
		for _, op := range appendPolicies(nil, c, cfg, true) {
			if p, ok := op.(dataplane.InstallPolicy); ok && p.Policy.Dir == dataplane.Out {
				s.Ops = append(s.Ops, op)
			}
		}
	}
	s.Forget, m.forget = m.forget, nil
	return s
}

// armedDone follows a jobArm.
func (m *Machine) armedDone(err error) {
	if err != nil && m.s.Phase == Established {
		m.failed(event.KernelRefused, false, "", "", event.Fact{Name: "step", Value: "policies that ask for one SA a CPU"}, event.Fact{Name: "detail", Value: err.Error()})
	}
}
