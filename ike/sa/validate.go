package sa

import (
	"fmt"

	"espalier/ike/wire"
)

// validate checks what the steps rely on, so that a state from a stranger
// cannot make them panic.
func (m *Machine) validate() error {
	s := &m.s
	if s.Phase >= phaseCount {
		return fmt.Errorf("session state: expected a phase, found %d", s.Phase)
	}
	halfOpen := s.Phase < Established
	if halfOpen != (s.Setup != nil) && s.Phase <= Established {
		return fmt.Errorf("session state: phase %s, set-up present: %v", s.Phase, s.Setup != nil)
	}
	if m.conn == nil && s.Phase != Fresh && s.Phase < Cleaning {
		return fmt.Errorf("session state: phase %s without a connection", s.Phase)
	}
	if s.IKE.Initiator && halfOpen && s.Phase != Fresh && s.ChildName != "" && m.conn.Child(s.ChildName) == nil {
		return fmt.Errorf("session state: child %q is not configured", s.ChildName)
	}
	keyed := s.Phase > Agreeing && s.Phase != Answering && s.Phase <= Closing
	if keyed && len(s.IKE.Keys.D) == 0 {
		return fmt.Errorf("session state: phase %s without keys", s.Phase)
	}
	for i := range s.Children {
		c := &s.Children[i]
		if c.Status > ChildInstalling || m.conn != nil && m.conn.Child(c.Name) == nil && c.Status == ChildNegotiated {
			return fmt.Errorf("session state: child %q with status %s", c.Name, c.Status)
		}
	}
	for _, j := range s.Jobs {
		if err := m.validJob(j); err != nil {
			return err
		}
	}
	return nil
}

// validJob checks that a job can be described again from the state.
func (m *Machine) validJob(j JobRef) error {
	lacks := ""
	if j.Of != OfSession {
		lacks = m.exchangeLacks(j)
	} else if what, known := m.sessionLacks(j); known {
		lacks = what
	} else {
		lacks = "meaning"
	}
	if lacks != "" {
		return fmt.Errorf("session state: job %d of kind %d without %s", j.ID, j.Kind, lacks)
	}
	return nil
}

// exchangeLacks is what is missing of a job that works for a CREATE_CHILD_SA
// exchange; empty: nothing.
func (m *Machine) exchangeLacks(j JobRef) string {
	c := m.exchange(j.Of)
	switch {
	case c == nil || m.conn == nil || m.ikeBySPI(c.On) == nil:
		return "its exchange"
	case c.Kind != RekeyIKESA && m.conn.Child(c.Child) == nil:
		return "a configured child"
	case (j.Kind == jobAsk || j.Kind == jobInstall) && c.Candidate == nil:
		return "a candidate"
	case j.Kind < jobGenerate || j.Kind > jobInstall || j.Kind == jobSign || j.Kind == jobVerify:
		return "meaning"
	}
	return ""
}

// sessionLacks is what is missing of a job that works for the set-up or the session as a
// whole; known: there are such jobs.
func (m *Machine) sessionLacks(j JobRef) (what string, known bool) {
	st := m.s.Setup
	need := func(ok bool, without string) (string, bool) {
		if ok {
			without = ""
		}
		return without, true
	}
	switch j.Kind {
	case jobReserve, jobRemove, jobClean, jobNetwork, jobLink: // jobReserve may be of an exchange that was dropped
		return "", true
	case jobGenerate, jobEncapsulate, jobDecapsulate:
		return need(st != nil || m.s.Phase == Cleaning, "set-up")
	case jobSign:
		return need(st != nil && m.conn != nil && len(m.conn.Local) > 0, "set-up")
	case jobVerify:
		return need(m.canVerify(), "set-up with the peer's ID and AUTH")
	case jobAsk:
		return need(st != nil && m.negotiated() != nil, "a negotiated child")
	case jobInstall:
		h := m.child(j.Child) // of an exchange that was dropped
		dropped := h != nil && h.Status == ChildInstalling && m.conn != nil && m.conn.Child(h.Name) != nil
		return need(dropped || st != nil && m.negotiated() != nil, "a negotiated child")
	case jobLease:
		return need(st != nil, "set-up")
	case jobMove:
		h := m.child(j.Child)
		return need(h != nil && h.Moving != nil && h.Status != ChildNegotiated, "a child that moves")
	case jobContact, jobUnique:
		return need(m.canCompare(), "set-up")
	case jobUse, jobArm:
		return need(m.conn != nil, "a connection")
	case jobExpect:
		return need(st != nil && st.Expected != nil && m.s.Phase == Signing && m.conn.Child(m.s.ChildName) != nil, "an expected child")
	case jobHandOver:
		return need(m.s.Pending != nil, "the peer's delete")
	case jobSupersede:
		return need(m.s.Reauth != nil, "a session to replace")
	}
	return "", false
}

// canVerify reports whether the peer's authentication is there to be verified.
func (m *Machine) canVerify() bool {
	if m.s.Setup == nil {
		return false
	}
	ps := m.kept()
	_, hasID := wire.FindID(ps, !m.s.IKE.Initiator)
	_, hasAuth := wire.First[*wire.Auth](ps)
	return hasID && hasAuth
}

// canCompare reports whether the IKE SA's identities can be compared with others.
func (m *Machine) canCompare() bool {
	st := m.s.Setup
	return st != nil && m.conn != nil && len(m.conn.Remote) > 0 && (m.s.Phase != Verifying || len(st.Inner) > 0) &&
		(!m.s.IKE.Initiator || st.OwnAuth != nil)
}
