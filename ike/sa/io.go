package sa

import (
	"io"
	"net/netip"
	"time"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/lease"
	"espalier/ike/wire"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// Env is everything a step may look at besides its state and its event: the
// time, randomness, and the configuration of the moment.
type Env struct {
	Now      time.Time
	Rand     io.Reader
	Conns    *ConnSet
	Creds    *auth.Credentials
	Settings *Settings
	// Lacks is what the data plane can't do; such wishes fall back.
	Lacks Lacks
	// Addrs are the box's addresses that a peer could use; empty: not known.
	Addrs []netip.Addr
	// Room is what Handle may use for the actions that it returns: those of an
	// earlier step, for instance, once they are done. It is nil afterwards.
	Room []Action
	// Traffic is added to by Handle; whoever wants the numbers takes them out.
	Traffic Traffic

	at Received // of the message that is handled, without its data
}

// Lacks are features that a kernel may be without.
type Lacks struct {
	IPTFS  bool // then tunnel mode
	IPComp bool // then without compression
	// NATKeepalive: then the machine sends them itself.
	NATKeepalive bool
	PerCPU       bool // then one SA for all CPUs
}

// LacksOf reads the data plane's features.
func LacksOf(f dataplane.Features) Lacks {
	return Lacks{IPTFS: !f.IPTFS, IPComp: !f.IPComp, NATKeepalive: !f.NATKeepalive, PerCPU: !f.PerCPU}
}

// Event is an input of the machine.
type Event interface{ isEvent() }

type (
	// Start begins as initiator: the first event of a machine made by NewInitiator.
	Start struct {
		Packet *Packet // that asked for the first child; nil: none did
		Alone  bool    // without a child's name: the IKE SA alone, not the connection's first child
	}
	// Received is a datagram without non-ESP marker, its sockets' addresses
	// with ports.
	Received struct {
		Local, Remote netip.AddrPort
		Data          []byte // not kept beyond the call unless copied
	}
	// Tick says that Deadline has passed.
	Tick struct{}
	// JobDone brings back what a Job asked for. A result whose ID the machine
	// no longer waits for is ignored.
	JobDone struct {
		ID     uint32
		Result any // the job's result type; nil when Err is set
		Err    error
	}
	// Terminate ends the session (Child empty) or the CHILD SAs of one
	// configuration name, or the one with the unique id.
	Terminate struct {
		Child   string
		ChildID uint64 // 0: by name
	}
	// Rekey replaces the IKE SA (ChildID 0) or a CHILD SA by a new one.
	Rekey struct{ ChildID uint64 }
	// NewChild asks for a CHILD SA of that configuration, by CREATE_CHILD_SA. An
	// initiator that is not established yet makes it when it is.
	NewChild struct {
		Child  string
		Packet *Packet // that asked for it; nil: none did
	}
	// NetworkChanged says that the box has got or lost an address or a default
	// route: the path to the peer is checked at once. Paths are where PeerAddrs can
	// be reached now, the best first.
	NetworkChanged struct{ Paths []Ends }
	// Mapped says that the peer's packets for a CHILD SA, authentic ones, come from
	// another address or port: a NAT has changed its mapping.
	Mapped struct {
		SPI    uint32 // inbound
		Remote netip.AddrPort
	}
	// ReauthenticateNow sets up a new session in this one's place.
	ReauthenticateNow struct{}
	// SendRedirect asks the peer to go to another gateway (RFC 5685), if it can.
	SendRedirect struct{ Gateway Gateway }
	// TakeOver says that the peer leaves another session, whose children this one
	// has, too: it sends with its own from now on.
	TakeOver struct{}
	// Superseded says that another session has this one's children: it deletes
	// itself.
	Superseded struct{}
	// Expired says that one of a CHILD SA's two SAs has reached a limit: a soft one,
	// or the hard one, after which the kernel has it no more.
	Expired struct {
		ChildID uint64
		Hard    bool
	}
	// Displaced ends the session in favour of another one between the same
	// identities: without a word when the peer does not have it any more (Dead),
	// else with a delete.
	Displaced struct{ Dead bool }
	// Abort ends the session without a word to the peer: what it holds in the
	// kernel is removed, then it is Gone.
	Abort struct{ Reason string }
)

func (Start) isEvent()             {}
func (Received) isEvent()          {}
func (Tick) isEvent()              {}
func (JobDone) isEvent()           {}
func (Terminate) isEvent()         {}
func (Rekey) isEvent()             {}
func (NewChild) isEvent()          {}
func (ReauthenticateNow) isEvent() {}
func (SendRedirect) isEvent()      {}
func (TakeOver) isEvent()          {}
func (Superseded) isEvent()        {}
func (Abort) isEvent()             {}

func (NetworkChanged) isEvent() {}
func (Mapped) isEvent()         {}
func (Expired) isEvent()        {}
func (Displaced) isEvent()      {}

// Action is what the shell has to do after a step, in the order given: what is
// persisted first, then the kernel, then the network.
type Action interface{ isAction() }

type (
	// Persist: the state changed such that a restart must know; the shell takes
	// Machine.Encode.
	Persist struct{}
	// Send transmits one datagram, without non-ESP marker: the shell adds it on
	// the NAT-T port. Data belongs to the machine's state and must not be changed.
	Send struct {
		Local, Remote netip.AddrPort
		Data          []byte
		DF            bool // in one IP packet that routers must not fragment
	}
	// Job asks for work that takes time or that others must agree to. Its Spec
	// is one of the Spec types; the answer is JobDone with the same ID.
	Job struct {
		ID   uint32
		Spec Spec
	}
	// Own says that one more IKE SPI leads to this session, Disown that one no
	// longer does.
	Own    struct{ SPI wire.SPI }
	Disown struct{ SPI wire.SPI }
	// Publish hands an event to the observers, with the child of a Sighting.
	Publish struct {
		Event event.Event
		Child *ChildInfo
	}
	// Authenticated: the session no longer counts as half open.
	Authenticated struct{}
	// Restart asks for a CHILD SA that is gone to be set up again, PutTrap for a trap
	// in the place of one that goes.
	Restart struct{ Conn, Child string }
	PutTrap struct{ Conn, Child string }
	// Redirected asks for a session with another gateway: in the place of this one,
	// when that is established (NewReplacement), or else with what it was to have.
	// SetRedirect tells it where it comes from.
	Redirected struct {
		To, From    Gateway
		Times       []time.Time
		Established bool
		Child       string
		Children    []string // further ones
	}
	// Reauthenticate asks for a new session in this one's place (NewReplacement),
	// unless there is one already.
	Reauthenticate struct{}
	// Keepalive sends one octet 0xff without marker, which keeps the mapping of a
	// NAT before us (RFC 3948 2.3), where the kernel does not.
	Keepalive struct{ Local, Remote netip.AddrPort }
	// Displace says that the IKE SA is established; the shell decides with Against
	// what becomes of each other one, established, between the same identities.
	Displace struct {
		Contact
		Policy  Uniqueness
		Initial bool // the peer says that it has no other
	}
	// Gone: the session has ended and holds nothing in the kernel; the shell
	// forgets it. The last action of a machine.
	Gone struct{}
)

func (Persist) isAction()        {}
func (Send) isAction()           {}
func (Job) isAction()            {}
func (Own) isAction()            {}
func (Disown) isAction()         {}
func (Publish) isAction()        {}
func (Authenticated) isAction()  {}
func (Restart) isAction()        {}
func (PutTrap) isAction()        {}
func (Redirected) isAction()     {}
func (Reauthenticate) isAction() {}
func (Keepalive) isAction()      {}
func (Displace) isAction()       {}
func (Gone) isAction()           {}

// Spec is a job's description: a plain value, rebuilt from the state after a
// restart.
type Spec interface{ isSpec() }

type (
	// GenerateKE makes a key pair. Result: KEPair.
	GenerateKE struct{ Method wire.KEMethod }
	// EncapsulateKE answers a peer's public value. Result: KEAnswer.
	EncapsulateKE struct {
		Method wire.KEMethod
		Peer   []byte
	}
	// DecapsulateKE finishes our own exchange. Result: secret.Bytes, the shared
	// secret.
	DecapsulateKE struct {
		Method  wire.KEMethod
		Private secret.Bytes
		Peer    []byte
	}
	// SignAuth computes our AUTH payload. Result: auth.SignResult.
	SignAuth struct{ auth.SignJob }
	// VerifyAuth checks the peer's. Result: auth.VerifyResult.
	VerifyAuth struct{ auth.VerifyJob }
	// LinkMTU asks for the MTU of the link by which packets leave from one address
	// to another. Result: int, octets of an IP packet.
	LinkMTU struct{ Local, Remote netip.Addr }
	// QueryUse asks the data plane when SAs last carried a packet. Result: []Use,
	// one for each that is there.
	QueryUse struct{ Keys []dataplane.SAKey }
	// ReserveSPI takes an inbound SPI, with CPI a CPI of IPComp, too; the shell
	// fills Min and Max with the session's bucket. Result: SPIs.
	ReserveSPI struct {
		dataplane.SPIRequest
		CPI bool
	}
	// AskContact asks whether there is another IKE SA between the identities, or
	// one that is going to be; from then on this one is. Result: bool.
	AskContact struct{ Contact }
	// AskUnique says that the peer is authenticated and asks whether there may be
	// one more IKE SA with it. Result: bool.
	AskUnique struct {
		Contact
		Policy Uniqueness
	}
	// AskChild asks the registry for a CHILD SA's unique id and request id.
	// Result: ChildIDs.
	AskChild struct {
		ReqID uint32 // fixed by configuration; 0: by identity
		// Keep is the request id of the CHILD SA that this one replaces, 0: none. The
		// peer may have moved since that got it, and its policies must find either.
		Keep    uint32
		Conn    string
		Child   string
		Remote  netip.Addr
		LocalTS string // canonical text of the negotiated selectors
		PeerTS  string
		// Interface names the network interface whose index is asked for, too;
		// empty: none. It is an error when there is none of this name.
		Interface string
	}
	// AskLease asks the registry for virtual addresses of pools, at most one a
	// family; the shell gives them back when the session ends. Result: Leases.
	AskLease struct{ lease.Ask }
	// Network makes the box's addresses and routes for a session those of the
	// wish. Result: nil.
	Network struct {
		Owner uint64 // the session's unique id
		Wish  dataplane.Wish
	}
	// HandOver gives the heirs of a session that the peer deletes the event
	// TakeOver, and ends when they hold nothing back any more. Result: nil.
	HandOver struct{ Heir Heir }
	// Supersede gives the session in whose place this one came the event
	// Superseded, unless that one has children that this one is missing.
	// Result: []string, their names (Machine.Missing). Where the peer has done
	// the same already (Twin) this session is terminated instead.
	Supersede struct {
		Session uint64
		Twin    Twin
	}
	// Kernel applies operations to the data plane. Result: nil.
	Kernel struct{ Ops []dataplane.Op }
)

func (GenerateKE) isSpec()    {}
func (EncapsulateKE) isSpec() {}
func (DecapsulateKE) isSpec() {}
func (SignAuth) isSpec()      {}
func (VerifyAuth) isSpec()    {}
func (ReserveSPI) isSpec()    {}
func (AskContact) isSpec()    {}
func (AskUnique) isSpec()     {}
func (LinkMTU) isSpec()       {}
func (QueryUse) isSpec()      {}
func (AskChild) isSpec()      {}
func (AskLease) isSpec()      {}
func (Network) isSpec()       {}
func (HandOver) isSpec()      {}
func (Supersede) isSpec()     {}
func (Kernel) isSpec()        {}

// SPIs are the answer to ReserveSPI.
type SPIs struct {
	SPI uint32
	CPI uint16 // 0: none was asked for, or none is left
}

// Reserve does the job. Compression is no reason to go without a tunnel: when no
// CPI is left there is none.
func (s ReserveSPI) Reserve(dp dataplane.DataPlane) (SPIs, error) {
	spi, err := dp.ReserveSPI(s.SPIRequest)
	if err != nil || !s.CPI {
		return SPIs{SPI: spi}, err
	}
	s.Proto, s.Min, s.Max = dataplane.IPComp, MinCPI, MaxCPI
	cpi, err := dp.ReserveSPI(s.SPIRequest)
	if err != nil {
		cpi = 0
	}
	return SPIs{SPI: spi, CPI: uint16(cpi)}, nil
}

// KEPair is a fresh key pair of GenerateKE.
type KEPair struct {
	Public  []byte
	Private secret.Bytes
}

// KEAnswer is the responder's half of a key exchange.
type KEAnswer struct {
	Public []byte
	Shared secret.Bytes
}

// Use is when an SA last carried a packet; the zero time: never.
type Use struct {
	Key  dataplane.SAKey
	Last time.Time
}

// ChildIDs are the registry's answer to AskChild. The request id is released by
// the shell when no CHILD SA with the same identity is left.
type ChildIDs struct {
	UniqueID uint64
	ReqID    uint32
	IfIndex  uint32
	// Shared: another CHILD SA has the same identity.
	Shared bool
}

// Leases are the answer to AskLease: what the pools had of what was asked for.
type Leases struct{ Addrs []netip.Addr }
