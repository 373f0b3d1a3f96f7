package simulator

import (
	"net/netip"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/suite"
	"espalier/internal/secret"
)

var (
	moonAddr = netip.MustParseAddr("192.0.2.1")
	sunAddr  = netip.MustParseAddr("192.0.2.2")
)

// credentials are a shared key for everybody.
var credentials = func() *auth.Credentials {
	b := auth.NewBuilder()
	if err := b.AddShared(secret.Bytes("correct horse battery staple"), nil, "test"); err != nil {
		panic(err)
	}
	return b.Build()
}()

// configuration is what a gateway has: one connection with two children.
func (s *sim) configuration(i int) (*sa.ConnSet, *auth.Credentials) {
	names := [2]string{"moon.example.org", "sun.example.org"}
	nets := [2]string{"10.1.0.0/16", "10.2.0.0/16"}
	lans := [2]string{"10.3.0.0/24", "10.4.0.0/24"}
	c := satest.Conn([2]string{"sun", "moon"}[i], names[i], names[1-i], nets[i], nets[1-i])
	esp := "aes128gcm16"
	if s.pfs {
		esp = "aes128gcm16-x25519"
	}
	c.RekeyTime, c.RandTime = s.rekeyIKE, s.rekeyIKE/4
	c.Unique = s.unique
	c.MOBIKE = s.mobike[i]
	if s.liveness {
		c.DPDDelay = 40 * time.Second
	}
	net := c.Children[0]
	net.Proposals = []suite.Proposal{satest.Must(suite.ParseESP(esp))}
	net.RekeyTime, net.LifeTime = s.rekeyChild, s.rekeyChild*5/4
	net.DPDAction, net.CloseAction = sa.FollowStart, 0
	s.limit(net)
	if s.cpus > 1 {
		net.PerCPU = sa.PerCPUAuto
	}
	lan := *net
	lan.Name = "lan"
	lan.LocalTS = []selector.Spec{satest.Must(selector.Parse(lans[i]))}
	lan.RemoteTS = []selector.Spec{satest.Must(selector.Parse(lans[1-i]))}
	if s.transport {
		lan.Mode = dataplane.Transport
	}
	c.Children = append(c.Children, &lan)
	return sa.NewConnSet([]*sa.Connection{c}, nil), credentials
}

// schedule sets off the first tunnel, the traffic and the operators.
func (s *sim) schedule() {
	s.after(0, s.ensure)
	s.after(0, s.traffic)
	s.after(s.between(0, 3*time.Second), s.operate)
}

// traffic is a packet through every tunnel now and then.
func (s *sim) traffic() {
	for _, g := range s.gws {
		g.kernel.packets()
	}
	switch {
	case !s.calm:
		s.after(s.between(100*time.Millisecond, 1500*time.Millisecond), s.traffic)
	case s.churn > 0 && s.now.Before(s.calmUntil):
		s.after(20*time.Second, s.traffic) // it shows where who is
	}
}

// operate is one deed of the operators, and the next after a while.
func (s *sim) operate() {
	s.operations--
	if s.operations <= 0 {
		return
	}
	s.deed()
	var gap time.Duration
	switch s.rnd.IntN(4) {
	case 0:
		gap = s.between(0, 100*time.Millisecond)
	case 1:
		gap = s.between(0, 3*time.Second)
	default:
		gap = s.between(2*time.Second, 40*time.Second)
	}
	s.after(gap, s.operate)
}

// deed does something at one gateway, or at both at once.
func (s *sim) deed() {
	if s.churn > 0 && s.chance(s.churn) {
		s.upheaval()
		return
	}
	g := s.gws[s.rnd.IntN(2)]
	up := g.established()
	if up == nil {
		if s.chance(2) {
			s.ensure()
		}
		return
	}
	if s.cpus > 1 && s.chance(3) {
		s.split(g)
		return
	}
	n := s.rnd.IntN(100)
	if s.gentle {
		n = s.rnd.IntN(50)
	}
	switch {
	case n < 50: // at both at once: a collision, if there is something to collide
		a, b := s.wish(), s.wish()
		if s.chance(2) {
			b = a // of the same kind
		}
		s.tracef("OPERATORS %s: %s, %s: %s", g.name, a, s.gws[1-g.index].name, b)
		pick := s.rnd.IntN(8)
		g.do(a, pick)
		other := s.gws[1-g.index]
		s.after(s.between(0, s.latency), func() { other.do(b, pick) })
	case n < 80:
		w := s.wish()
		s.tracef("OPERATOR %s: %s", g.name, w)
		g.do(w, s.rnd.IntN(8))
	case n < 84:
		s.cut = s.now.Add(s.between(time.Second, 60*time.Second))
		s.strict = false
		s.tracef("NETWORK is cut until %s", s.cut.Sub(s.begin))
		s.res.Features["outage"]++
	case n < 86 && s.crash > 0:
		g.crash("by the operator")
	case n < 88:
		s.tracef("OPERATORS initiate at both gateways")
		s.strict = false
		s.res.Features["initiation from both sides"]++
		for _, g := range s.gws {
			g.initiate()
		}
	case n < 90 && s.reauth:
		s.tracef("OPERATOR %s: reauthenticate", g.name)
		up.step(sa.ReauthenticateNow{})
	case n < 92:
		s.tracef("OPERATOR %s: network changed", g.name)
		up.step(sa.NetworkChanged{Paths: g.paths(up.m)})
	default:
		s.ensure()
	}
}

// wish is one thing that an operator may want of a session.
type wish string

const (
	rekeyChild  wish = "rekey child"
	rekeyIKE    wish = "rekey IKE SA"
	newChild    wish = "new child"
	deleteChild wish = "delete child"
	deleteIKE   wish = "delete IKE SA"

	reauthenticate wish = "reauthenticate"
)

func (s *sim) wish() wish {
	n := s.rnd.IntN(100)
	switch {
	case n < 38:
		return rekeyChild
	case n < 68:
		return rekeyIKE
	case n < 80 || s.gentle:
		return newChild
	case n < 93:
		return deleteChild
	}
	return deleteIKE
}

// do carries out a wish at a gateway, on the pick-th child.
func (g *gateway) do(w wish, pick int) {
	x := g.established()
	if x == nil {
		return
	}
	var installed []*sa.Child
	st := x.m.State()
	for i := range st.Children {
		if st.Children[i].Status == sa.ChildInstalled {
			installed = append(installed, &st.Children[i])
		}
	}
	name := [2]string{"net", "lan"}[pick%2]
	var child *sa.Child
	for _, c := range installed {
		if child == nil || c.Name == name {
			child = c
		}
	}
	switch w {
	case rekeyIKE:
		x.step(sa.Rekey{})
	case reauthenticate:
		x.step(sa.ReauthenticateNow{})
	case newChild:
		for _, n := range []string{"net", "lan"} {
			if !hasChild(x.m, n) {
				x.step(sa.NewChild{Child: n})
				return
			}
		}
	case deleteIKE:
		g.s.strict = false
		x.step(sa.Terminate{})
	case rekeyChild:
		if child != nil {
			x.step(sa.Rekey{ChildID: child.UniqueID})
		}
	case deleteChild:
		if child != nil {
			g.s.strict = false
			x.step(sa.Terminate{ChildID: child.UniqueID})
		}
	}
}

// established is the gateway's newest session that is up.
func (g *gateway) established() *session {
	if !g.up {
		return nil
	}
	for i := len(g.sessions) - 1; i >= 0; i-- {
		if x := g.sessions[i]; x.m.IsEstablished() {
			return x
		}
	}
	return nil
}

// ensure brings a tunnel up where there is none.
func (s *sim) ensure() {
	for _, g := range s.gws {
		if !g.up || g.established() != nil {
			return
		}
	}
	g := s.gws[s.rnd.IntN(2)]
	if len(g.targets()) == 0 {
		g = s.gws[1-g.index]
	}
	g.open("net")
}

// heal ends everything that is in the way.
func (s *sim) heal() {
	s.tracef("THE NETWORK IS WELL AGAIN")
	s.calm = true
	s.cut = time.Time{}
	for _, g := range s.gws {
		clear(g.dark)
		if len(g.addrs) == 0 {
			g.addrs = []netip.Addr{g.fresh()}
		}
		g.networkChanged()
	}
}
