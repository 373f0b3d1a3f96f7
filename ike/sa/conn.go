package sa

import (
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/lease"
	"espalier/ike/suite"
	"espalier/internal/secret"
)

// Connection is the compiled configuration of one IKE peer. It is immutable
// once handed to the engine; sessions refer to it by Name.
type Connection struct {
	Name   string
	Origin string // "file" or "vici": a reload touches only its own

	// LocalAddrs and RemoteAddrs say where this connection applies; empty: any.
	// The first concrete address is where an initiator starts from and goes to.
	LocalAddrs, RemoteAddrs []AddrSpec
	LocalPort, RemotePort   uint16 // 0: the settings' IKE port

	Proposals []suite.Proposal // IKE proposals in order of preference

	// Local and Remote are the authentication rounds of either side, at least
	// one each.
	Local  []auth.Local
	Remote []auth.Remote

	// RekeyTime is the age at which the IKE SA is rekeyed, less a random part of
	// RandTime; 0: never.
	RekeyTime, RandTime time.Duration
	// OverTime is how much longer than RekeyTime the IKE SA may live; 0: for ever.
	OverTime time.Duration

	Fragmentation FragmentMode
	PathMTU       bool // look for the path MTU

	// Unique is what becomes of several IKE SAs with the same peer.
	Unique Uniqueness

	// KeyingTries is how many rounds of attempts the first connect has before it
	// fails; 0: for ever.
	KeyingTries int

	// DPDDelay is the silence after which the peer is asked whether it lives; 0:
	// never.
	DPDDelay time.Duration
	// DPDTimeout is listed, and has no effect in IKEv2.
	DPDTimeout time.Duration

	MOBIKE      bool  // RFC 4555
	Encap       bool  // force UDP encapsulation by faking a NAT
	DSCP        uint8 // of IKE messages, 0 to 63
	SendCertReq bool  // ask for certificates of our CAs (default yes)
	Childless   Childless

	// Pools are the names of the pools that the peer may have virtual addresses
	// from, in order of preference. VIPs are the virtual addresses that we ask the
	// peer for; an unspecified one (0.0.0.0, ::) stands for any of its family.
	Pools []string
	VIPs  []netip.Addr
	// ReauthTime is the age at which a new session is set up in the place of
	// this one, less a random part of a tenth; 0: never. A responder tells it to
	// the initiator and leaves it the time.
	ReauthTime time.Duration

	Children []*ChildConfig
	// Shunts are the children that are no CHILD SAs: their Shunt is set.
	Shunts []*ChildConfig
}

// severalRounds is why a connection with RFC 4739 rounds is not used: skipping
// a factor silently would be worse than none.
const severalRounds = "more than one authentication round on a side is not supported"

// oneRound reports whether each side authenticates once.
func (c *Connection) oneRound() bool { return len(c.Local) == 1 && len(c.Remote) == 1 }

// Child finds a child's configuration by name.
func (c *Connection) Child(name string) *ChildConfig { return childNamed(c.Children, name) }

// Named reports whether a name has to be looked up for one of the connection's
// addresses.
func (c *Connection) Named() bool {
	named := func(a AddrSpec) bool { return a.Host != "" }
	return slices.ContainsFunc(c.LocalAddrs, named) || slices.ContainsFunc(c.RemoteAddrs, named)
}

// ShuntOf finds a shunt's configuration by name.
func (c *Connection) ShuntOf(name string) *ChildConfig { return childNamed(c.Shunts, name) }

// OnlyShunts reports whether the connection is no IKE peer at all.
func (c *Connection) OnlyShunts() bool { return len(c.Children) == 0 && len(c.Shunts) > 0 }

func childNamed(list []*ChildConfig, name string) *ChildConfig {
	for _, ch := range list {
		if ch.Name == name {
			return ch
		}
	}
	return nil
}

// ChildConfig is the compiled configuration of one CHILD SA.
type ChildConfig struct {
	Name              string
	Proposals         []suite.Proposal // ESP proposals in order of preference
	LocalTS, RemoteTS []selector.Spec  // may hold "dynamic"
	Mode              dataplane.Mode
	Start             bool // initiate when the connection is loaded
	Trap              bool // have packets initiate it, from when the connection is loaded; a shunt: install it then
	Shunt             Shunt

	// DPDAction follows when the peer is dead, CloseAction when the peer, or a
	// failure, ends the CHILD SA.
	DPDAction, CloseAction FollowUp

	// Lifetimes; zero means no limit. They apply from installation on.
	LifeTime                 time.Duration
	LifeBytes, LifePackets   uint64
	RekeyTime                time.Duration
	RekeyBytes, RekeyPackets uint64
	// What is taken off the Rekey limits at most, at random.
	RandTime               time.Duration
	RandBytes, RandPackets uint64
	// Updown is a command that is run when the CHILD SA comes and goes; empty: none.
	// HostAccess is told to it.
	Updown                string
	HostAccess            bool
	Inactivity            time.Duration // without traffic for so long it is closed; 0: never
	ReqID                 uint32        // fixed request id; 0: from the registry
	Priority              uint32        // policy priority; 0: from the selector
	ReplayWindow          uint32        // packets
	MarkIn, MarkOut       dataplane.Mark
	MarkInSA              bool // put MarkIn on the inbound SA, too
	SetMarkIn, SetMarkOut dataplane.Mark
	IfIDIn, IfIDOut       uint32
	// The unique ones are chosen for each CHILD SA; of a mark only the mask counts.
	UniqueMarkIn, UniqueMarkOut   Unique
	UniqueIfIDIn, UniqueIfIDOut   Unique
	SetMarkInSame, SetMarkOutSame bool // SetMark's value is that of MarkIn, MarkOut
	Policies                      bool // install policies (default yes)
	PoliciesFwdOut                bool // install forward policies for outbound traffic, too
	CopyDF, CopyECN               bool
	CopyDSCPOut, CopyDSCPIn       bool
	Interface                     string // network interface of the outbound policies; empty: any
	IPComp                        bool   // compress (RFC 3173), when the peer agrees
	TFCPad                        uint32 // pad packets to this many bytes; PadToMTU: to the path's MTU; 0: none
	SHA256By96                    bool   // cut HMAC-SHA-256 to 96 bits, for peers that do
	ICMP                          bool   // let ICMP errors about protected packets pass
	PerCPU                        PerCPU // further CHILD SAs, each bound to a CPU
}

// PadToMTU is the TFCPad that fills every packet.
const PadToMTU = math.MaxUint32

// AddrSpec is one entry of local_addrs or remote_addrs: an address, a prefix, a
// range, a host name, or anything.
type AddrSpec struct {
	Start, End netip.Addr // equal for one address; both invalid for Host and for any
	Host       string     // resolved on each try
	Family     uint8      // 4 or 6 restricts "any" (%any4, %any6); 0: both
}

// IsAny reports whether the entry matches without naming an address.
func (a AddrSpec) IsAny() bool { return !a.Start.IsValid() && a.Host == "" }

// Single returns the entry's address when it is exactly one.
func (a AddrSpec) Single() (netip.Addr, bool) {
	return a.Start, a.Start.IsValid() && a.Start == a.End
}

// Matches reports whether addr fits the entry, and how well: 3 for the address
// itself, 2 for a range, 1 for anything. Host names are matched by the resolved
// addresses, which the caller passes.
func (a AddrSpec) Matches(addr netip.Addr, resolve func(host string) []netip.Addr) int {
	switch {
	case a.Host != "":
		if resolve != nil && slices.Contains(resolve(a.Host), addr) {
			return 3
		}
		return 0
	case a.Start.IsValid():
		if a.Start.Is4() != addr.Is4() || addr.Less(a.Start) || a.End.Less(addr) {
			return 0
		}
		if a.Start == a.End {
			return 3
		}
		return 2
	case a.Family == 4 && !addr.Is4(), a.Family == 6 && addr.Is4():
		return 0
	}
	return 1
}

// ConnSet is the immutable set of connections a machine may choose from.
type ConnSet struct {
	conns   []*Connection
	byName  map[string]*Connection
	resolve func(host string) []netip.Addr
	// offers: connections with equal IKE proposals have one number. A set that comes
	// and goes while thousands of connections are loaded is never asked.
	offers func() map[*Connection]int
	pools  map[string]*lease.Pool
	// byPeer are the connections for a peer's single addresses, wide those for any
	// other peers, by their places in conns: a gateway may have one connection for
	// each of many thousand peers.
	byPeer map[netip.Addr][]int
	wide   []int
}

// NewConnSet makes a set; resolve answers for host names from a cache and never
// blocks; it may be nil.
func NewConnSet(conns []*Connection, resolve func(host string) []netip.Addr) *ConnSet {
	s := &ConnSet{conns: conns, byName: make(map[string]*Connection, len(conns)), resolve: resolve}
	s.byPeer = map[netip.Addr][]int{}
	s.offers = sync.OnceValue(func() map[*Connection]int { return offersOf(conns) })
	for i, c := range conns {
		s.byName[c.Name] = c
		s.listByPeer(i, c)
	}
	return s
}

func offersOf(conns []*Connection) map[*Connection]int {
	out, known := make(map[*Connection]int, len(conns)), map[string]int{}
	for _, c := range conns {
		text := suite.Join(c.Proposals)
		if _, ok := known[text]; !ok {
			known[text] = len(known)
		}
		out[c] = known[text]
	}
	return out
}

// listByPeer makes Match find the connection.
func (s *ConnSet) listByPeer(i int, c *Connection) {
	if c.OnlyShunts() {
		return
	}
	many := func(a AddrSpec) bool { _, single := a.Single(); return !single }
	if len(c.RemoteAddrs) == 0 || slices.ContainsFunc(c.RemoteAddrs, many) {
		s.wide = append(s.wide, i)
		return
	}
	for _, a := range c.RemoteAddrs {
		if list := s.byPeer[a.Start]; len(list) == 0 || list[len(list)-1] != i {
			s.byPeer[a.Start] = append(list, i)
		}
	}
}

// WithPools returns the set with the pools that its connections name.
func (s *ConnSet) WithPools(pools []*lease.Pool) *ConnSet {
	n := *s
	n.pools = make(map[string]*lease.Pool, len(pools))
	for _, p := range pools {
		n.pools[p.Name] = p
	}
	return &n
}

// Pool returns the pool or nil.
func (s *ConnSet) Pool(name string) *lease.Pool { return s.pools[name] }

// All returns the connections in the order of the configuration.
func (s *ConnSet) All() []*Connection { return s.conns }

// ByName returns the connection or nil.
func (s *ConnSet) ByName(name string) *Connection { return s.byName[name] }

// Match returns the connections that apply between the addresses, best first.
func (s *ConnSet) Match(local, remote netip.Addr) []*Connection {
	type scored struct {
		c *Connection
		n int
	}
	var room [16]scored
	found := room[:0]
	for peer, wide := s.byPeer[remote], s.wide; len(peer)+len(wide) > 0; {
		list := &wide
		if len(wide) == 0 || len(peer) > 0 && peer[0] < wide[0] {
			list = &peer
		}
		c := s.conns[(*list)[0]]
		*list = (*list)[1:]
		l, r := s.best(c.LocalAddrs, local), s.best(c.RemoteAddrs, remote)
		if l > 0 && r > 0 {
			found = append(found, scored{c, l*4 + r*5})
		}
	}
	slices.SortStableFunc(found, func(a, b scored) int { return b.n - a.n })
	out := make([]*Connection, len(found))
	for i, f := range found {
		out[i] = f.c
	}
	return out
}

func (s *ConnSet) best(specs []AddrSpec, addr netip.Addr) int {
	if len(specs) == 0 {
		return 1
	}
	n := 0
	for _, a := range specs {
		n = max(n, a.Matches(addr, s.resolve))
	}
	return n
}

// Settings are the daemon-wide knobs that the machine reads.
type Settings struct {
	Port, NATTPort     uint16        // IKE ports; the NAT-T port carries the non-ESP marker
	RetransmitTries    int           // retransmissions before giving up, after the first transmission
	RetransmitTimeout  time.Duration // before the first retransmission
	RetransmitBase     float64       // growth of each further wait
	RetransmitLimit    time.Duration // longest wait; 0: an hour
	RetransmitJitter   int           // percent of a wait that is taken off at most, at random
	KeepAlive          time.Duration // silence of ours after which a NAT before us gets a keepalive; 0: never
	KernelKeepAlive    bool          // the kernel sends them while a CHILD SA stands, where it can
	HalfOpenTimeout    time.Duration // responder: from IKE_SA_INIT to a complete IKE_AUTH
	MaxSelectors       int           // kernel policies one CHILD SA may need at most, a direction
	FragmentSize       int           // octets of an IP packet that carries an IKE fragment, at most
	FollowRedirects    bool          // initiator: go to the gateway that a REDIRECT names
	PathMTUInterval    time.Duration // between searches for the path MTU; 0: only when something changes
	PreferPeerProposal bool          // choose by the peer's order instead of ours
	SendVendorID       bool          // send strongSwan's vendor id
	CrashDetection     bool          // quick crash detection (RFC 6290)
	CrashSecret        secret.Bytes  // makes our tokens for it, over restarts the same; empty: we give none
	// CPUs is how many CPUs may send; 0: one, as far as we know. MaxPerCPU is how many
	// CHILD SAs bound to CPUs may stand beside one that is not, whoever asks.
	CPUs, MaxPerCPU int
	InstallRoutes   bool // lead the box's own traffic into its tunnels by routes
}

// DefaultSettings are strongSwan's defaults where it has them.
func DefaultSettings() Settings {
	return Settings{
		Port: 500, NATTPort: 4500,
		RetransmitTries: 5, RetransmitTimeout: 4 * time.Second, RetransmitBase: 1.8,
		KeepAlive:       20 * time.Second,
		KernelKeepAlive: true,
		HalfOpenTimeout: 30 * time.Second,
		FragmentSize:    1280,
		FollowRedirects: true,
		CrashDetection:  true,
		PathMTUInterval: 10 * time.Minute,
		MaxSelectors:    256,
		MaxPerCPU:       64,
	}
}
