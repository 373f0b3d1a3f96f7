package vici

import "espalier/internal/event"

// alerted raises the alert event: something failed, or an SA loses packets. Its type
// is charon's name for what happened where charon has one, else the cause's own.
func (c *client) alerted(e event.Event) error {
	switch e := e.(type) {
	case event.Failed:
		return c.failed(e)
	case event.Dropped:
		return c.dropped(e)
	}
	return nil
}

func (c *client) dropped(d event.Dropped) error {
	return c.announce(eventAlert, func() Message {
		var m Message
		m.Put("type", "PACKETS_DROPPED")
		if d.Conn != "" {
			m.Put("ike", d.Conn)
			m.Put("child", d.Child)
		}
		m.Put("cause", d.Reason)
		m.Put("msg", logText(d))
		return m
	})
}

func (c *client) failed(f event.Failed) error {
	return c.announce(eventAlert, func() Message {
		var m Message
		m.Put("type", alertType(&f))
		if f.Conn != "" {
			m.Put("ike", f.Conn)
		}
		if f.UniqueID != 0 {
			m.PutUint("ike-id", f.UniqueID)
		}
		if f.ChildName != "" {
			m.Put("child", f.ChildName)
		}
		m.Put("cause", string(f.Cause))
		m.PutFlag("by-peer", f.ByPeer)
		m.Put("msg", logText(f))
		return m
	})
}

// alertType names a failure as charon's alerts do.
func alertType(f *event.Failed) string {
	switch f.Cause {
	case event.AuthenticationFailed, event.CredentialMissing:
		if f.ByPeer || f.Cause == event.CredentialMissing {
			return "LOCAL_AUTH_FAILED"
		}
		return "PEER_AUTH_FAILED"
	case event.NoProposalChosen:
		if f.ChildName != "" {
			return "PROPOSAL_MISMATCH_CHILD"
		}
		return "PROPOSAL_MISMATCH_IKE"
	case event.TSUnacceptable:
		return "TS_MISMATCH"
	case event.InvalidSyntax:
		return "PARSE_ERROR_BODY"
	case event.PeerTimeout:
		return "RETRANSMIT_SEND_TIMEOUT"
	case event.KernelRefused:
		return "INSTALL_CHILD_SA_FAILED"
	case event.AddressFailure:
		return "VIP_FAILURE"
	case event.Overdue:
		return "IKE_SA_EXPIRED"
	case event.NotUnique:
		return "UNIQUE_KEEP"
	}
	return string(f.Cause) // HALF_OPEN_TIMEOUT is charon's, too
}
