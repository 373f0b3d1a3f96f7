package sa

import (
	"fmt"
	"net/netip"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// Info is what people and their tools may know of a session: a copy without
// keys that shares no memory with the machine. Control (vici, espctl) and the
// tuner read it. A zero time means never or not planned.
type Info struct {
	UniqueID  uint64 // counts from 1 within a run of the daemon
	Conn      string // connection name; empty before one is chosen
	State     IKEState
	Initiator bool // we are the original initiator

	Local, Remote     netip.AddrPort
	LocalID, RemoteID string // as strongSwan prints identities; empty before they are known
	RemoteEAPID       string // EAP identity where it differs from RemoteID
	SPIi, SPIr        wire.SPI

	NATLocal  bool // a NAT stands before us
	NATRemote bool // a NAT stands before the peer
	NATFake   bool // we pretend one, to get UDP encapsulation

	PathMTU uint16 // octets of an IP packet to the peer, as it was found; 0: not known

	IfIDIn, IfIDOut uint32 // XFRM interface ids of the connection; 0: none

	Algorithms Algorithms
	PPK        bool // a postquantum preshared key took part (RFC 8784)

	Established time.Time // authenticated since
	RekeyAt     time.Time
	ReauthAt    time.Time

	LocalVIPs, RemoteVIPs []netip.Addr // virtual addresses, ours and the peer's

	// The tasks that are waiting, under way from us, and under way from the
	// peer, by strongSwan's names (CHILD_CREATE, IKE_DELETE, …).
	TasksQueued, TasksActive, TasksPassive []string

	Children []ChildInfo
}

// ChildInfo is one CHILD SA of an Info.
type ChildInfo struct {
	UniqueID uint64 // counts from 1 within a run of the daemon
	Name     string // name of its configuration
	ReqID    uint32 // kernel request id that ties policies to SAs
	// CPU is the one whose packets it carries (RFC 9611); nil: any that has none of
	// its own. PerCPU: such ones may stand beside it; MaxQueue: the peer takes no
	// further one.
	CPU              *uint32
	PerCPU, MaxQueue bool
	State            ChildState
	Mode             dataplane.Mode
	Proto            dataplane.Proto
	Encap            bool // ESP in UDP (RFC 3948)
	// Local and Remote are where the kernel has it, as it is, since PlacedAt, with
	// ports only when encapsulated.
	Local, Remote netip.AddrPort
	PlacedAt      time.Time

	SPIIn, SPIOut uint32
	// InboundOnly: the outbound SA is not in the data plane until the peer has
	// moved to this one.
	InboundOnly   bool
	CPIIn, CPIOut uint16 // IPComp; 0: none

	MarkIn, MarkOut dataplane.Mark
	IfIDIn, IfIDOut uint32 // 0: none

	Algorithms Algorithms // PRF is always empty

	// In and Out are the data plane's counts, filled by the engine, not by the
	// machine.
	In, Out Usage

	InstalledAt time.Time
	RekeyAt     time.Time // soft lifetime
	ExpiresAt   time.Time // hard lifetime

	LocalTS, RemoteTS []selector.TS
}

// Sighting is an event about an SA with its session as it was right after it. It is
// published apart from the event, for those who tell more than that.
type Sighting struct {
	event.Event
	Info Info
	// Child is, for a ChildUp, the CHILD SA that it takes the place of, nil when there
	// is none, for a ChildDown the one that is gone, with its last counts.
	Child *ChildInfo
}

// Usage is what went through an SA in one direction.
type Usage struct {
	Bytes, Packets uint64
	LastUse        time.Time // zero: never
}

// Algorithms are the transforms that were chosen; a zero value means that the
// type is not part of the proposal.
type Algorithms struct {
	Encr      wire.EncrID
	EncrBits  uint16 // key length in bits; 0: fixed by the algorithm
	Integ     wire.IntegID
	PRF       wire.PRFID
	KE        wire.KEMethod
	FurtherKE [7]wire.KEMethod // ADDKE1 to ADDKE7 (RFC 9370)
	ESN       bool
}

// IKEState is an IKE SA's state as people know it, strongSwan's names.
type IKEState uint8

// The states of an IKE SA.
const (
	IKECreated     IKEState = iota // nothing sent or answered yet
	IKEConnecting                  // half open
	IKEEstablished                 // both sides authenticated
	IKERekeying
	IKERekeyed // replaced, waiting for its delete
	IKEDeleting
	IKEDestroying // only cleaning up is left
)

func (s IKEState) String() string {
	switch s {
	case IKECreated:
		return "CREATED"
	case IKEConnecting:
		return "CONNECTING"
	case IKEEstablished:
		return "ESTABLISHED"
	case IKERekeying:
		return "REKEYING"
	case IKERekeyed:
		return "REKEYED"
	case IKEDeleting:
		return "DELETING"
	case IKEDestroying:
		return "DESTROYING"
	}
	return fmt.Sprintf("IKEState(%d)", uint8(s))
}

// ChildState is a CHILD SA's state as people know it, strongSwan's names.
type ChildState uint8

// The states of a CHILD SA.
const (
	ChildSACreated ChildState = iota // being negotiated
	ChildSARouted                    // a trap policy without SA
	ChildSAInstalling
	ChildSAInstalled
	ChildSAUpdating // its addresses change
	ChildSARekeying
	ChildSARekeyed // replaced, waiting for its delete
	ChildSADeleting
	ChildSADeleted    // its delete is over
	ChildSADestroying // only cleaning up is left
)

// InKernel reports whether the SA's SPIs and algorithms stand in the data plane.
func (s ChildState) InKernel() bool {
	return s == ChildSAInstalled || s == ChildSAUpdating || s == ChildSARekeying || s == ChildSARekeyed
}

func (s ChildState) String() string {
	switch s {
	case ChildSACreated:
		return "CREATED"
	case ChildSARouted:
		return "ROUTED"
	case ChildSAInstalling:
		return "INSTALLING"
	case ChildSAInstalled:
		return "INSTALLED"
	case ChildSAUpdating:
		return "UPDATING"
	case ChildSARekeying:
		return "REKEYING"
	case ChildSARekeyed:
		return "REKEYED"
	case ChildSADeleting:
		return "DELETING"
	case ChildSADeleted:
		return "DELETED"
	case ChildSADestroying:
		return "DESTROYING"
	}
	return fmt.Sprintf("ChildState(%d)", uint8(s))
}
