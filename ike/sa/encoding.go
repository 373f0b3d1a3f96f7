package sa

import (
	"fmt"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/suite"
	"espalier/ike/wire"
)

// stateVersion is what Encode writes. Decode reads every version from 1 on:
// a field that is new in version n is coded under "if c.version >= n" and has
// its zero value when read from an older one.
const stateVersion = 4

// Encode appends the session's state to dst. It holds the session's keys.
func (m *Machine) Encode(dst []byte) []byte {
	c := &coder{version: stateVersion, b: dst}
	c.uint(stateVersion)
	c.state(&m.s)
	return c.b
}

// Decode reads what Encode wrote, in this or an older version, and binds it to
// its connection. Outstanding jobs are issued again by Resume.
// Errors: a version from the future, a malformed state, a connection that is
// not configured any more.
func Decode(b []byte, conns *ConnSet) (*Machine, error) {
	c := &coder{reading: true, b: b}
	c.version = c.uint(0)
	if c.err == nil && (c.version == 0 || c.version > stateVersion) {
		return nil, fmt.Errorf("session state: expected version 1 to %d, found %d", stateVersion, c.version)
	}
	m := &Machine{}
	c.state(&m.s)
	if c.err == nil && len(c.b) != 0 {
		c.fail("expected the end")
	}
	if c.err != nil {
		return nil, c.err
	}
	if m.s.Conn != "" {
		if m.conn = conns.ByName(m.s.Conn); m.conn == nil {
			return nil, fmt.Errorf("session state: connection %q is not configured", m.s.Conn)
		}
	}
	if c.version < 2 {
		m.s.Began = m.s.IKE.Initiator
		m.placeChildren()
		if m.hasJob(jobRemove) {
			m.markDue() // what a job covers had no mark
		}
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	for k := range m.ikes() {
		if len(k.Keys.D) == 0 {
			continue
		}
		if err := k.bind(); err != nil {
			return nil, fmt.Errorf("session state: keys: %w", err)
		}
		if m.s.Phase >= Established {
			k.ciphers = nil
		}
	}
	return m, nil
}

func (c *coder) state(s *State) {
	num(c, &s.ID)
	raw(c, &s.Conn)
	raw(c, &s.ChildName)
	num(c, &s.Phase)
	c.ike(&s.IKE)
	optional(c, &s.Setup, (*coder).setup)
	list(c, &s.Children, (*coder).child)
	num(c, &s.NextJob)
	list(c, &s.Others, func(c *coder, k **IKE) {
		if c.reading {
			*k = new(IKE)
		}
		c.ike(*k)
	})
	optional(c, &s.Own, (*coder).create)
	optional(c, &s.Peer, (*coder).create)
	list(c, &s.Jobs, func(c *coder, j *JobRef) {
		num(c, &j.ID)
		num(c, &j.Kind)
		num(c, &j.Of)
		num(c, &j.Child)
		if c.version >= 2 {
			addr(c, &j.Dst)
		}
	})
	list(c, &s.Tasks, (*coder).task)
	optional(c, &s.Pending, func(c *coder, p *PendingAnswer) {
		num(c, &p.On)
		num(c, &p.MessageID)
		list(c, &p.SPIs, num[uint32])
		if c.version >= 2 {
			boolean(c, &p.IKE)
		}
	})
	instant(c, &s.Created)
	instant(c, &s.Since)
	instant(c, &s.Expires)
	raw(c, &s.EndReason)
	list(c, &s.Orphans, (*coder).orphan)
	if c.version >= 2 {
		c.live(&s.Live)
		optional(c, &s.Path, (*coder).path)
		list(c, &s.Fragments, (*coder).fragments)
		optional(c, &s.Lease, (*coder).lease)
		list(c, &s.Later, (*coder).later)
		num(c, &s.Network)
		list(c, &s.Packets, (*coder).childPacket)
		optional(c, &s.Reauth, (*coder).reauth)
		optional(c, &s.Redirect, (*coder).redirection)
		boolean(c, &s.Began)
		optional(c, &s.Mobile, (*coder).mobility)
	}
}

func (c *coder) task(t *Task) {
	num(c, &t.Kind)
	num(c, &t.Child)
	raw(c, &t.Name)
	if c.version >= 4 {
		num(c, &t.CPU)
	}
}

func (c *coder) orphan(o *Orphan) {
	addr(c, &o.Dst)
	num(c, &o.SPI)
	c.mark(&o.Mark)
	if c.version >= 2 {
		num(c, &o.Proto)
		boolean(c, &o.Goes)
	}
}

func (c *coder) create(x *Create) {
	num(c, &x.Kind)
	raw(c, &x.Child)
	num(c, &x.Old)
	num(c, &x.On)
	num(c, &x.MessageID)
	num(c, &x.KE)
	raw(c, &x.Private)
	raw(c, &x.Public)
	raw(c, &x.PeerPublic)
	raw(c, &x.Shared)
	boolean(c, &x.FixedKE)
	raw(c, &x.Ni)
	raw(c, &x.Nr)
	num(c, &x.SPI)
	num(c, &x.NewSPI)
	num(c, &x.PeerNewSPI)
	c.choice(&x.Chosen)
	optional(c, &x.Candidate, (*coder).child)
	boolean(c, &x.Lost)
	if c.version >= 2 {
		boolean(c, &x.Single)
		list(c, &x.Deleted, num[uint32])
		num(c, &x.CPI)
		c.place(&x.At)
	}
	if c.version >= 3 {
		sha256Sum(c, &x.PeerToken)
	}
	if c.version >= 4 {
		num(c, &x.Fallback)
		num(c, &x.CPU)
	}
}

func (c *coder) ike(k *IKE) {
	boolean(c, &k.Initiator)
	num(c, &k.SPIi)
	num(c, &k.SPIr)
	addrPort(c, &k.Local)
	addrPort(c, &k.Remote)
	c.choice(&k.Chosen)
	raw(c, &k.Keys.D)
	raw(c, &k.Keys.Ai)
	raw(c, &k.Keys.Ar)
	raw(c, &k.Keys.Ei)
	raw(c, &k.Keys.Er)
	raw(c, &k.Keys.Pi)
	raw(c, &k.Keys.Pr)
	num(c, &k.SealCounter)
	c.id(&k.LocalID)
	c.id(&k.RemoteID)
	raw(c, &k.LocalAuth)
	raw(c, &k.RemoteAuth)
	boolean(c, &k.NATLocal)
	boolean(c, &k.NATRemote)
	num(c, &k.NextOut)
	num(c, &k.NextIn)
	optional(c, &k.Request, func(c *coder, r *Request) {
		num(c, &r.Exchange)
		num(c, &r.MessageID)
		raw(c, &r.Data)
		num(c, &r.Sent)
		instant(c, &r.Again)
		if c.version >= 2 {
			c.task(&r.For)
		}
	})
	raw(c, &k.Answer)
	fixed(c, k.AnswerTo[:])
	addrPort(c, &k.AnswerFrom)
	addrPort(c, &k.AnswerAt)
	instant(c, &k.RekeyAt)
	num(c, &k.Role)
	raw(c, &k.MinNonce)
	if c.version >= 2 {
		num(c, &k.Peer)
		instant(c, &k.EndsAt)
		boolean(c, &k.NATFake)
		optional(c, &k.News, (*coder).news)
		boolean(c, &k.NATT)
	}
	if c.version >= 3 {
		sha256Sum(c, &k.PeerToken)
	}
}

func (c *coder) setup(s *Setup) {
	num(c, &s.KE)
	raw(c, &s.Private)
	raw(c, &s.Public)
	raw(c, &s.PeerPublic)
	boolean(c, &s.FixedKE)
	raw(c, &s.Cookie)
	num(c, &s.Cookies)
	raw(c, &s.Ni)
	raw(c, &s.Nr)
	raw(c, &s.InitI)
	raw(c, &s.InitR)
	raw(c, &s.IntAuthI)
	raw(c, &s.IntAuthR)
	num(c, &s.Further)
	list(c, &s.PeerHashes, num[wire.HashAlgorithm])
	list(c, &s.CertReqs, raw[[]byte])
	boolean(c, &s.CertReq)
	raw(c, &s.Inner)
	num(c, &s.InnerFirst)
	num(c, &s.AuthID)
	num(c, &s.ChildError)
	optional(c, &s.OwnAuth, func(c *coder, a *wire.Auth) { num(c, &a.Method); raw(c, &a.Data) })
	list(c, &s.OwnCerts, func(c *coder, x *wire.Cert) { num(c, &x.Encoding); raw(c, &x.Data) })
	num(c, &s.ReservedSPI)
	if c.version < 2 {
		var transport bool // said again by the answer
		boolean(c, &transport)
	} else {
		boolean(c, &s.Childless)
		list(c, &s.Wished, addr)
		num(c, &s.ReservedCPI)
		optional(c, &s.Expected, (*coder).expected)
		boolean(c, &s.FirstContact)
	}
}

func (c *coder) child(h *Child) {
	num(c, &h.UniqueID)
	raw(c, &h.Name)
	num(c, &h.Status)
	boolean(c, &h.Initiator)
	num(c, &h.ReqID)
	num(c, &h.SPIIn)
	num(c, &h.SPIOut)
	num(c, &h.Mode)
	c.choice(&h.Chosen)
	list(c, &h.LocalTS, (*coder).ts)
	list(c, &h.PeerTS, (*coder).ts)
	addr(c, &h.Local)
	addr(c, &h.Remote)
	boolean(c, &h.Encap)
	c.mark(&h.MarkIn)
	c.mark(&h.MarkOut)
	boolean(c, &h.MarkInSA)
	num(c, &h.IfIDIn)
	num(c, &h.IfIDOut)
	raw(c, &h.Keys.Ei)
	raw(c, &h.Keys.Ai)
	raw(c, &h.Keys.Er)
	raw(c, &h.Keys.Ar)
	instant(c, &h.InstalledAt)
	instant(c, &h.RekeyAt)
	boolean(c, &h.InboundOnly)
	num(c, &h.OwnNew)
	num(c, &h.PeerNew)
	raw(c, &h.OwnNonce)
	raw(c, &h.PeerNonce)
	boolean(c, &h.OutboundDue)
	boolean(c, &h.Fade)
	instant(c, &h.FadeAt)
	raw(c, &h.EndReason)
	if c.version >= 2 {
		instant(c, &h.TakeOverAt)
		num(c, &h.Then)
		instant(c, &h.IdleAt)
		num(c, &h.CPIIn)
		num(c, &h.CPIOut)
		num(c, &h.Options)
		num(c, &h.IfIndex)
		num(c, &h.LocalPort)
		num(c, &h.RemotePort)
		addr(c, &h.Orig)
		optional(c, &h.Moving, (*coder).place)
		instant(c, &h.MovedAt)
		boolean(c, &h.OutboundGoes)
		boolean(c, &h.Goes)
		num(c, &h.Stop)
	}
	if c.version >= 4 {
		num(c, &h.CPU)
		boolean(c, &h.Armed)
		instant(c, &h.RearmAt)
	}
}

func (c *coder) choice(x *suite.Choice) {
	num(c, &x.Number)
	raw(c, &x.SPI)
	num(c, &x.Protocol)
	list(c, &x.Transforms, func(c *coder, t *suite.Transform) {
		num(c, &t.Type)
		num(c, &t.ID)
		num(c, &t.KeyBits)
	})
}

func (c *coder) id(x *auth.ID) {
	num(c, &x.Type)
	raw(c, &x.Data)
}

func (c *coder) mark(x *dataplane.Mark) {
	num(c, &x.Value)
	num(c, &x.Mask)
}

func (c *coder) ts(x *selector.TS) {
	num(c, &x.Proto)
	num(c, &x.StartPort)
	num(c, &x.EndPort)
	addr(c, &x.Start)
	addr(c, &x.End)
}
