package sa

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/wire"
	"espalier/internal/event"
	"espalier/internal/secret"
)

var noTime time.Time

// job asks for work and remembers that its answer is due.
func (m *Machine) job(kind JobKind) { m.jobOf(kind, OfSession) }

// jobOf is job for a CREATE_CHILD_SA exchange.
func (m *Machine) jobOf(kind JobKind, side Side) {
	if m.s.Phase >= Cleaning && kind != jobClean && kind != jobNetwork {
		return // the step failed on its way here
	}
	m.s.NextJob++
	ref := JobRef{ID: m.s.NextJob, Kind: kind, Of: side}
	if kind == jobSign && !m.prepareSign() {
		return
	}
	if kind == jobReserve {
		ref.Dst = m.reserveDst(m.exchange(side))
	}
	if kind == jobInstall {
		if c := m.exchange(side); c != nil {
			ref.Child = c.Candidate.UniqueID
		} else {
			ref.Child = m.negotiated().UniqueID
		}
	}
	m.s.Jobs = append(m.s.Jobs, ref)
	m.persist = true
	m.act(Job{ID: ref.ID, Spec: m.spec(ref)})
}

// settleLate goes on after the late answer of a job whose step was dropped.
func (m *Machine) settleLate() {
	if m.s.Phase == Cleaning {
		m.clean()
		return
	}
	m.sweep()
}

// lateReserve gives back the SPIs of a step that was dropped meanwhile.
func (m *Machine) lateReserve(dst netip.Addr, e JobDone) {
	if e.Err == nil {
		r := m.reserveRequest()
		if dst.IsValid() {
			r.Dst = dst
		}
		m.orphan(e.Result.(SPIs), r)
	}
	m.settleLate()
}

// lateInstall takes out what the kernel installed for a step that was dropped
// meanwhile, and nothing else.
func (m *Machine) lateInstall(id uint64, err error) {
	if c := m.child(id); c != nil {
		if err != nil {
			c.Status = ChildNegotiated // its SPI only
			m.orphan(SPIs{c.SPIIn, c.CPIIn}, dataplane.SPIRequest{Dst: c.Local, Mark: c.keyIn().Mark})
			m.s.Children = slices.DeleteFunc(m.s.Children, func(x Child) bool { return x.UniqueID == id })
		} else {
			c.Status = ChildRemoving
		}
	}
	m.settleLate()
}

// prepareSign settles the identity that the signature covers.
func (m *Machine) prepareSign() bool {
	if !m.s.IKE.LocalID.IsAny() || m.ownIdentity() {
		return true
	}
	m.fail("no identity of our own")
	return false
}

// spec describes a job from nothing but the state and the configuration, so
// that a restart can ask again.
func (m *Machine) spec(ref JobRef) Spec {
	if c := m.exchange(ref.Of); c != nil {
		return m.createSpec(ref.Kind, c)
	}
	st, k := m.s.Setup, &m.s.IKE
	switch ref.Kind {
	case jobGenerate:
		return GenerateKE{st.KE}
	case jobEncapsulate:
		return EncapsulateKE{st.KE, st.PeerPublic}
	case jobDecapsulate:
		return DecapsulateKE{st.KE, st.Private, st.PeerPublic}
	case jobSign:
		return m.signJob()
	case jobVerify:
		return m.verifyJob()
	case jobReserve:
		r := m.reserveRequest()
		if ref.Dst.IsValid() {
			r.Dst = ref.Dst
		}
		return ReserveSPI{r, m.wishCPI(m.childConfig(), m.negotiated())}
	case jobAsk:
		ask := m.askChild(m.negotiated(), k)
		if st.Expected != nil {
			ask.Keep = st.Expected.ReqID
		}
		return ask
	case jobInstall:
		if c := m.child(ref.Child); c != nil && c.Status == ChildInstalling {
			return Kernel{m.installOps(c)} // what was dropped meanwhile is done, then undone
		}
		return Kernel{m.installOps(m.negotiated())}
	case jobLease:
		return m.askLease()
	case jobNetwork:
		return Network{m.s.ID, m.hostWish()}
	case jobRemove:
		return Kernel{m.sweepOps()}
	case jobClean:
		return Kernel{m.cleanOps()}
	case jobContact:
		return AskContact{m.expected()}
	case jobUnique:
		return AskUnique{m.contact(), m.conn.Unique}
	case jobUse:
		return QueryUse{m.useKeys()}
	case jobLink:
		return LinkMTU{k.Local.Addr(), k.Remote.Addr()}
	case jobMove:
		return Kernel{m.moveOps(m.child(ref.Child))}
	case jobExpect:
		return Kernel{m.expectOps()}
	case jobHandOver:
		return HandOver{m.Heir()}
	case jobArm:
		return m.armSpec()
	case jobSupersede:
		return Supersede{m.s.Reauth.Replaces, m.twin()}
	}
	panic("sa: unknown job kind") // unreachable: Decode refuses others
}

func (m *Machine) askChild(c *Child, k *IKE) AskChild {
	ask := AskChild{ReqID: c.ReqID, Conn: m.s.Conn, Child: c.Name, Remote: k.Remote.Addr(), LocalTS: identity(c.LocalTS), PeerTS: identity(c.PeerTS)}
	if cfg := m.conn.Child(c.Name); cfg != nil {
		ask.Interface = cfg.Interface
	}
	return ask
}

// jobDone continues where a job was asked for.
func (m *Machine) jobDone(e JobDone) {
	i := slices.IndexFunc(m.s.Jobs, func(j JobRef) bool { return j.ID == e.ID })
	if i < 0 {
		return
	}
	j := m.s.Jobs[i]
	m.s.Jobs = slices.Delete(m.s.Jobs, i, i+1)
	m.persist = true
	if j.Kind == jobExpect && m.expectKeys != nil {
		m.expectKeys.Wipe()
		m.expectKeys = nil
	}
	late := m.s.Phase == Cleaning || j.Of == OfSession && m.s.Setup == nil // its step was dropped meanwhile
	switch {
	case late && j.Kind == jobReserve:
		m.lateReserve(j.Dst, e)
	case late && j.Kind == jobInstall:
		m.lateInstall(j.Child, e.Err)
	case j.Kind == jobMove:
		m.moved(j.Child, e.Err)
	case j.Kind == jobArm:
		m.armedDone(e.Err)
	case j.Of != OfSession:
		m.createJob(j.Kind, j.Of, e)
	case e.Err != nil:
		m.jobFailed(j.Kind, e.Err)
	default:
		m.jobResult(j.Kind, e)
	}
}

// jobResult continues with what a job of the session came to.
func (m *Machine) jobResult(kind JobKind, e JobDone) {
	switch kind {
	case jobGenerate:
		m.generated(e.Result.(KEPair))
	case jobEncapsulate:
		m.encapsulated(e.Result.(KEAnswer))
	case jobDecapsulate:
		if m.agreed(e.Result.(secret.Bytes)) {
			m.moreOrAuth()
		}
	case jobSign:
		m.signed(e.Result.(auth.SignResult))
	case jobVerify:
		m.verified(e.Result.(auth.VerifyResult))
	case jobReserve:
		m.reserved(e.Result.(SPIs))
	case jobAsk:
		m.numbered(e.Result.(ChildIDs))
	case jobInstall:
		m.installed()
	case jobLease:
		m.granted(e.Result.(Leases))
	case jobNetwork:
		m.networked(nil)
	case jobRemove:
		m.removed()
	case jobClean:
		m.cleaned()
	case jobContact:
		m.contacted(e.Result.(bool))
	case jobUnique:
		m.admitted(e.Result.(bool))
	case jobUse:
		m.used(e.Result.([]Use))
	case jobExpect:
		m.s.Setup.Expected.Installed = true
		m.sendAuth()
	case jobSupersede:
		m.superseded(e.Result.([]string))
	case jobHandOver:
		m.handedOver()
	case jobLink:
		m.linked(e.Result.(int))
	}
}

// reserved continues with our inbound SPI.
func (m *Machine) reserved(got SPIs) {
	if m.s.IKE.Initiator {
		m.s.Setup.ReservedSPI, m.s.Setup.ReservedCPI = got.SPI, got.CPI
		m.to(Signing)
		m.job(jobSign)
		return
	}
	c := m.negotiated()
	c.SPIIn = got.SPI
	m.takeCPI(c, got.CPI)
	m.to(Asking)
	m.job(jobAsk)
}

// numbered continues with the ids that the registry gave the child.
func (m *Machine) numbered(ids ChildIDs) {
	c := m.negotiated()
	m.identify(c, ids)
	if m.s.IKE.Initiator {
		m.to(Installing)
		m.job(jobInstall)
		return
	}
	m.holdBack(c, ids)
	m.to(Signing)
	m.job(jobSign)
}

// installed continues when the child is in the kernel. From here on only the
// kernel has its keys.
func (m *Machine) installed() {
	c := m.negotiated()
	c.Status, c.InstalledAt = ChildInstalled, m.env.Now
	if !c.InboundOnly {
		c.Keys.Wipe()
	}
	m.scheduleChild(c)
	if m.s.IKE.Initiator {
		// Who waits for the child wants to use its addresses at once.
		if !m.network() {
			m.finishInitiator()
		}
		return
	}
	m.finishResponder()
}

// jobFailed explains a job's error and ends what depended on it.
func (m *Machine) jobFailed(kind JobKind, err error) {
	detail := event.Fact{Name: "detail", Value: err.Error()}
	switch kind {
	case jobVerify:
		m.verifyFailed(err)
	case jobSign:
		m.failed(event.CredentialMissing, false, "", "give the connection a secret or private key for its identity", detail)
		if !m.s.IKE.Initiator {
			m.respond(&m.s.IKE, wire.ExchangeIKEAuth, m.s.Setup.AuthID, &wire.Notify{NotifyType: wire.NotifyAuthenticationFailed})
		}
		m.fail("we cannot authenticate")
	case jobReserve, jobAsk, jobInstall:
		m.kernelRefused(kind, err)
	case jobLease:
		m.granted(Leases{})
	case jobNetwork:
		m.networked(err)
	case jobRemove:
		// What could not be removed stays in the journal for the next start.
		m.failed(event.KernelRefused, false, "", "", detail)
		m.removed()
	case jobClean:
		m.failed(event.KernelRefused, false, "", "", detail)
		m.cleaned()
	case jobUse:
		m.used(nil)
	case jobExpect:
		m.sendAuth() // the child will be installed when it is agreed
	case jobSupersede:
		m.superseded(nil)
	case jobHandOver:
		m.handedOver()
	case jobLink:
		m.linked(0)
	default:
		m.failed(event.KeyExchangeFailed, false, "", "", event.Fact{Name: "method", Value: keText(m.s.Setup.KE)}, detail)
		if m.s.Phase == AnsweringMore {
			m.respond(&m.s.IKE, wire.ExchangeIKEIntermediate, m.s.IKE.NextIn-1, &wire.Notify{NotifyType: wire.NotifyInvalidSyntax})
		}
		m.fail("key exchange failed")
	}
}

// verifyFailed refuses the peer with the check that failed.
func (m *Machine) verifyFailed(err error) {
	var ae *auth.Error
	if !errors.As(err, &ae) {
		m.authFailed("internal", err.Error(), nil)
		return
	}
	m.authFailed(ae.Check, ae.Detail, []event.Fact{{Name: "peer_id", Value: ae.Peer.String()}, {Name: "our_id", Value: ae.Local.String()}})
}

// kernelRefused goes on without the child: the IKE SA does not depend on it.
func (m *Machine) kernelRefused(kind JobKind, err error) {
	st := m.s.Setup
	name := m.s.ChildName
	c := m.negotiated()
	if c != nil {
		name = c.Name
	}
	m.failed(event.KernelRefused, false, name, "", event.Fact{Name: "step", Value: kernelStep(kind)}, event.Fact{Name: "detail", Value: err.Error()})
	if c != nil {
		m.orphan(SPIs{c.SPIIn, c.CPIIn}, dataplane.SPIRequest{Dst: c.Local, Mark: c.keyIn().Mark})
		if m.s.IKE.Initiator {
			m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteSPI, Child: uint64(c.SPIIn)})
		}
		c.Keys.Wipe()
		m.s.Children = m.s.Children[:len(m.s.Children)-1]
	}
	st.ChildError = wire.NotifyNoProposalChosen
	switch {
	case m.s.IKE.Initiator && kind == jobReserve:
		m.fail("no SPI for the child")
	case m.s.IKE.Initiator:
		m.finishInitiator()
	case kind == jobInstall:
		m.finishResponder()
		m.sweep()
	default:
		m.to(Signing)
		m.sweep()
		m.job(jobSign)
	}
}

func kernelStep(k JobKind) string {
	switch k {
	case jobReserve:
		return "reserve SPI"
	case jobAsk:
		return "request id"
	case jobInstall:
		return "install"
	}
	return fmt.Sprintf("job %d", k)
}
