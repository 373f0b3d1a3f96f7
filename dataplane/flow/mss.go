package flow

import (
	"net/netip"
	"sync"

	"github.com/rs/zerolog"

	"espalier/dataplane"
)

// MSS is what a SYN may announce at most, by the family of the inner packet; 0:
// leave it alone.
type MSS struct{ IPv4, IPv6 uint16 }

// lower is the smaller of two limits, family by family.
func (m MSS) lower(o MSS) MSS {
	pick := func(a, b uint16) uint16 {
		if a == 0 || b != 0 && b < a {
			return b
		}
		return a
	}
	return MSS{pick(m.IPv4, o.IPv4), pick(m.IPv6, o.IPv6)}
}

// MSSTable is where the limits go. The keeper calls it from one goroutine at a
// time.
type MSSTable interface {
	// SetPrefix limits TCP to and from a network behind a peer, the most specific
	// prefix counts. RemovePrefix takes it back.
	SetPrefix(netip.Prefix, MSS) error
	RemovePrefix(netip.Prefix)
	// SetInterface limits TCP over an xfrm interface. RemoveInterface takes it back.
	SetInterface(ifIndex int, m MSS) error
	RemoveInterface(ifIndex int)
}

// path is a tunnel's outer addresses.
type path struct{ src, dst netip.Addr }

// mssKeeper keeps the limits of TCP's segments in step with the outbound SAs,
// the policies that lead into them, and the path MTU under them.
type mssKeeper struct {
	table MSSTable
	log   zerolog.Logger
	// linkMTU is the MTU of the link towards the peer, for a path whose MTU nobody
	// has found; 0: not known. It may wait for the kernel.
	linkMTU func(src, dst netip.Addr) int
	// fit gives the box's own routes into tunnels their size; nil: nobody does.
	fit func(to netip.Prefix, mss int) error

	mu       sync.Mutex
	fitting  bool // the box's own routes get their size
	sas      map[dataplane.SAKey]*mssSA
	policies map[policyOwner]*mssPolicy
	groups   map[uint32]*mssGroup         // by request id
	prefixes map[netip.Prefix]*mssNetwork // by network behind a peer
	paths    map[path]*mssPath
	found    map[path]int                  // path MTUs that IKE has found
	links    map[uint32]map[int]bool       // xfrm interfaces by interface id
	onLinks  map[uint32]map[*mssGroup]bool // groups by interface id
	set      map[netip.Prefix]MSS          // what the table has
	setLinks map[int]MSS
	failed   bool
}

type policyOwner struct {
	key   dataplane.PolicyKey
	owner uint64
}

// mssSA is an outbound SA.
type mssSA struct {
	sa   dataplane.SA // without keys
	over Overhead
	ok   bool // over is known
}

type mssPolicy struct {
	group  *mssGroup // nil: passes in clear
	prefix netip.Prefix
}

// mssGroup is what one request id ties together: the SAs of a child, older and
// newer ones, and its networks.
type mssGroup struct {
	reqID    uint32
	sas      map[*mssSA]bool
	comp     int // IPComp SAs that make the tunnel around ESP in transport mode
	ifID     uint32
	networks map[*mssNetwork]int
}

// mssNetwork is a prefix and the groups that lead to it.
type mssNetwork struct {
	prefix netip.Prefix
	groups map[*mssGroup]int
	clear  int // policies that pass it in clear
}

type mssPath struct {
	link int // MTU of the link, when it was asked for
	sas  map[*mssSA]bool
}

func newMSSKeeper(t MSSTable, log zerolog.Logger, linkMTU func(src, dst netip.Addr) int) *mssKeeper {
	return &mssKeeper{
		table: t, log: log, linkMTU: linkMTU,
		sas: map[dataplane.SAKey]*mssSA{}, policies: map[policyOwner]*mssPolicy{}, groups: map[uint32]*mssGroup{},
		prefixes: map[netip.Prefix]*mssNetwork{}, paths: map[path]*mssPath{}, found: map[path]int{},
		links: map[uint32]map[int]bool{}, onLinks: map[uint32]map[*mssGroup]bool{},
		set: map[netip.Prefix]MSS{}, setLinks: map[int]MSS{},
	}
}

// applied takes operations that the kernel has performed.
func (m *mssKeeper) applied(ops []dataplane.Op) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dirty := map[*mssGroup]bool{}
	for _, op := range ops {
		switch o := op.(type) {
		case dataplane.InstallSA:
			if o.SA.Dir == dataplane.Out {
				m.removeLocked(o.SA.SAKey, dirty)
				m.addLocked(o.SA, dirty)
			}
		case dataplane.UpdateSA:
			if old := m.sas[o.SA.SAKey]; old != nil {
				sa := old.sa
				sa.Encap = o.SA.Encap
				m.removeLocked(o.SA.SAKey, dirty)
				m.addLocked(sa, dirty)
			}
		case dataplane.MoveSA:
			m.movedLocked(&o, dirty)
		case dataplane.DeleteSA:
			m.removeLocked(o.Key, dirty)
		case dataplane.InstallPolicy:
			m.addPolicyLocked(&o.Policy, dirty)
		case dataplane.DeletePolicy:
			m.removePolicyLocked(policyOwner{o.Key, o.Owner}, dirty)
		}
	}
	m.refreshLocked(dirty)
}

func (m *mssKeeper) groupLocked(reqID uint32) *mssGroup {
	g := m.groups[reqID]
	if g == nil {
		g = &mssGroup{reqID: reqID, sas: map[*mssSA]bool{}, networks: map[*mssNetwork]int{}}
		m.groups[reqID] = g
	}
	return g
}

func (m *mssKeeper) addLocked(sa dataplane.SA, dirty map[*mssGroup]bool) {
	sa.AEAD.Key, sa.Crypt.Key, sa.Auth.Key = nil, nil, nil
	s := &mssSA{sa: sa}
	g := m.groupLocked(sa.ReqID)
	if sa.Proto == dataplane.IPComp {
		g.comp++
	} else {
		var err error
		if s.over, err = OverheadOf(&sa); err != nil {
			m.log.Warn().Err(err).Stringer("sa", sa.SAKey).Msg("TCP segments are not fitted to this SA")
		}
		s.ok = err == nil
	}
	m.sas[sa.SAKey] = s
	g.sas[s] = true
	dirty[g] = true
	if sa.IfID != 0 {
		g.ifID = sa.IfID
		if m.onLinks[sa.IfID] == nil {
			m.onLinks[sa.IfID] = map[*mssGroup]bool{}
		}
		m.onLinks[sa.IfID][g] = true
	}
	at := path{sa.Src.Unmap(), sa.Dst.Unmap()}
	p := m.paths[at]
	if p == nil {
		p = &mssPath{link: m.linkMTU(at.src, at.dst), sas: map[*mssSA]bool{}}
		m.paths[at] = p
	}
	p.sas[s] = true
}

func (m *mssKeeper) removeLocked(k dataplane.SAKey, dirty map[*mssGroup]bool) {
	s := m.sas[k]
	if s == nil {
		return
	}
	delete(m.sas, k)
	g := m.groups[s.sa.ReqID]
	delete(g.sas, s)
	if s.sa.Proto == dataplane.IPComp {
		g.comp--
	}
	dirty[g] = true
	at := path{s.sa.Src.Unmap(), s.sa.Dst.Unmap()}
	if p := m.paths[at]; p != nil {
		if delete(p.sas, s); len(p.sas) == 0 {
			delete(m.paths, at)
		}
	}
}

func (m *mssKeeper) movedLocked(o *dataplane.MoveSA, dirty map[*mssGroup]bool) {
	old := m.sas[o.Key]
	if old == nil {
		return
	}
	sa := old.sa
	if o.NewSrc.IsValid() {
		sa.Src = o.NewSrc
	}
	if o.NewDst.IsValid() {
		sa.Dst = o.NewDst
	}
	sa.Encap = o.Encap
	m.removeLocked(o.Key, dirty)
	m.addLocked(sa, dirty)
}

const protoTCP = 6

// addPolicyLocked notes what an outbound policy leads into tunnels, or past them.
func (m *mssKeeper) addPolicyLocked(p *dataplane.Policy, dirty map[*mssGroup]bool) {
	id := policyOwner{p.PolicyKey, p.Owner}
	if old := m.policies[id]; old != nil && old.group != nil && len(p.Templates) > 0 && old.group.reqID == p.Templates[0].ReqID {
		return // as it was: no moment without
	}
	m.removePolicyLocked(id, dirty)
	s := &p.Selector
	if p.Dir != dataplane.Out || p.IfID != 0 || p.Verdict == dataplane.Block || s.Proto != 0 && s.Proto != protoTCP {
		return
	}
	to := s.Dst.Masked()
	n := m.prefixes[to]
	if n == nil {
		n = &mssNetwork{prefix: to, groups: map[*mssGroup]int{}}
		m.prefixes[to] = n
	}
	pol := &mssPolicy{prefix: to}
	if len(p.Templates) == 0 {
		n.clear++
		m.networkLocked(n)
	} else {
		g := m.groupLocked(p.Templates[0].ReqID)
		n.groups[g]++
		g.networks[n]++
		pol.group = g
		dirty[g] = true
	}
	m.policies[id] = pol
}

func (m *mssKeeper) removePolicyLocked(id policyOwner, dirty map[*mssGroup]bool) {
	p := m.policies[id]
	if p == nil {
		return
	}
	delete(m.policies, id)
	n := m.prefixes[p.prefix]
	if g := p.group; g != nil {
		if n.groups[g]--; n.groups[g] == 0 {
			delete(n.groups, g)
		}
		if g.networks[n]--; g.networks[n] == 0 {
			delete(g.networks, n)
		}
		dirty[g] = true
	} else {
		n.clear--
	}
	m.networkLocked(n)
}

// refreshLocked works out what the groups' changes mean for the table.
func (m *mssKeeper) refreshLocked(dirty map[*mssGroup]bool) {
	for g := range dirty {
		for n := range g.networks {
			m.networkLocked(n)
		}
		if g.ifID != 0 {
			if len(g.sas) == 0 {
				delete(m.onLinks[g.ifID], g)
			}
			m.interfaceLocked(g.ifID)
		}
		if len(g.sas) == 0 && len(g.networks) == 0 {
			delete(m.groups, g.reqID)
		}
	}
}

// limitLocked is the smallest of the group's SAs; they are as different as two
// proposals or two paths of one child are.
func (m *mssKeeper) limitLocked(g *mssGroup) (limit MSS) {
	for s := range g.sas {
		if !s.ok {
			continue
		}
		at := path{s.sa.Src.Unmap(), s.sa.Dst.Unmap()}
		mtu := m.found[at]
		if mtu == 0 && m.paths[at] != nil {
			mtu = m.paths[at].link
		}
		if mtu == 0 {
			continue
		}
		o := s.over
		if g.comp > 0 && o.Mode == dataplane.Transport {
			o.Mode = dataplane.Tunnel // the outer header is IPComp's; what does not shrink goes without it
		}
		v4, v6 := o.MSS(mtu)
		limit = limit.lower(MSS{v4, v6})
	}
	return limit
}

// networkLocked brings the table's entry of a network up to date.
func (m *mssKeeper) networkLocked(n *mssNetwork) {
	var limit MSS
	for g := range n.groups {
		limit = limit.lower(m.limitLocked(g))
	}
	if len(n.groups) == 0 && n.clear == 0 {
		delete(m.prefixes, n.prefix)
	}
	m.fitLocked(n.prefix, limit)
	had, stands := m.set[n.prefix]
	switch {
	case limit == (MSS{}) && n.clear == 0:
		if stands {
			delete(m.set, n.prefix)
			m.table.RemovePrefix(n.prefix)
		}
	case !stands || had != limit:
		if err := m.table.SetPrefix(n.prefix, limit); err != nil {
			m.failLocked(err)
			return
		}
		m.set[n.prefix] = limit
	}
}

// fitLocked passes the limit of a network's own family on.
func (m *mssKeeper) fitLocked(to netip.Prefix, limit MSS) {
	if m.fit == nil {
		return
	}
	if !m.fitting {
		limit = MSS{}
	}
	mss := limit.IPv4
	if to.Addr().Is6() {
		mss = limit.IPv6
	}
	if err := m.fit(to, int(mss)); err != nil {
		m.log.Warn().Err(err).Stringer("to", to).Msg("the box's own route into a tunnel has not got its size")
	}
}

// routes names who gives the box's own routes into tunnels their size.
func (m *mssKeeper) routes(fit func(to netip.Prefix, mss int) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fit = fit
	for to, limit := range m.set {
		m.fitLocked(to, limit)
	}
}

// fits says whether the box's own routes get their size.
func (m *mssKeeper) fits(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fitting == on {
		return
	}
	m.fitting = on
	for to, limit := range m.set {
		m.fitLocked(to, limit)
	}
}

// interfaceLocked brings the table's entries of an interface id up to date.
func (m *mssKeeper) interfaceLocked(ifID uint32) {
	var limit MSS
	for g := range m.onLinks[ifID] {
		limit = limit.lower(m.limitLocked(g))
	}
	if len(m.onLinks[ifID]) == 0 {
		delete(m.onLinks, ifID)
	}
	for index := range m.links[ifID] {
		had, stands := m.setLinks[index]
		switch {
		case limit == (MSS{}):
			if stands {
				delete(m.setLinks, index)
				m.table.RemoveInterface(index)
			}
		case !stands || had != limit:
			if err := m.table.SetInterface(index, limit); err != nil {
				m.failLocked(err)
				return
			}
			m.setLinks[index] = limit
		}
	}
}

// failLocked says once that the table does not take all.
func (m *mssKeeper) failLocked(err error) {
	if !m.failed {
		m.log.Error().Err(err).Msg("TCP segments are not fitted to every tunnel")
	}
	m.failed = true
}

// pathMTU takes what IKE has found between two addresses; 0: not known any more.
func (m *mssKeeper) pathMTU(src, dst netip.Addr, mtu int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := path{src.Unmap(), dst.Unmap()}
	if mtu == 0 {
		delete(m.found, at)
	} else {
		m.found[at] = mtu
	}
	m.pathLocked(m.paths[at])
}

func (m *mssKeeper) pathLocked(p *mssPath) {
	if p == nil {
		return
	}
	dirty := map[*mssGroup]bool{}
	for s := range p.sas {
		dirty[m.groups[s.sa.ReqID]] = true
	}
	m.refreshLocked(dirty)
}

// network asks for the links' MTUs again: interfaces or routes have changed.
func (m *mssKeeper) network() {
	m.mu.Lock()
	asked := make([]path, 0, len(m.paths))
	for at := range m.paths {
		asked = append(asked, at)
	}
	m.mu.Unlock()
	for _, at := range asked {
		mtu := m.linkMTU(at.src, at.dst)
		m.mu.Lock()
		if p := m.paths[at]; p != nil && mtu != 0 && p.link != mtu {
			p.link = mtu
			m.pathLocked(p)
		}
		m.mu.Unlock()
	}
}

// interfaces takes the xfrm interfaces that there are, by interface id.
func (m *mssKeeper) interfaces(now map[uint32]map[int]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	alive := map[int]bool{}
	for _, of := range now {
		for index := range of {
			alive[index] = true
		}
	}
	for index := range m.setLinks {
		if !alive[index] {
			delete(m.setLinks, index)
			m.table.RemoveInterface(index)
		}
	}
	m.links = now
	for ifID := range m.onLinks {
		m.interfaceLocked(ifID)
	}
}
