// Package dataplane is what the IKE engine sees of packet processing: SAs,
// policies, SPIs, lifetimes and the kernel's events, without any word of
// netlink or IKE. dataplane/xfrm implements it over kernel XFRM; Fake, tested
// by the same suite, over memory.
package dataplane

import (
	"fmt"
	"net/netip"
	"time"

	"espalier/internal/secret"
)

// DataPlane installs SAs and policies and says what becomes of them. Methods
// may block on the kernel and are safe for concurrent use; the engine calls
// them from helpers, never from a shard.
type DataPlane interface {
	// ReserveSPI takes an unused inbound SPI within [Min, Max] and holds it
	// until an InstallSA or a DeleteSA with the same key.
	// Errors: ErrNoSPI when the range is used up.
	ReserveSPI(SPIRequest) (spi uint32, err error)

	// Apply performs the operations in order. When one fails, those before it
	// are undone in reverse order and the error is an *OpError that names it:
	// nothing is half applied.
	Apply(ops []Op) error

	// QuerySA reads the counters and the replay state of an SA.
	// Errors: ErrNotFound.
	QuerySA(SAKey) (SAStatus, error)

	// AdvanceReplay moves the sequence numbers of an SA, never backwards.
	// Errors: ErrNotFound.
	AdvanceReplay(SAKey, Replay) error

	// List reads everything that is installed, whoever installed it, to
	// reconcile. Keys are not part of the answer.
	List() (Snapshot, error)

	// Events is the stream of what the data plane reports. It is bounded: when
	// the reader is too slow, or the kernel lost some, one Overrun stands for
	// what is missing and the reader reconciles with List. Closed by Close.
	Events() <-chan Event

	// Features says what this data plane can do; it never changes while open.
	Features() Features

	// Close releases the connection to the kernel and leaves SAs and policies
	// in place; an orderly stop deletes them first.
	Close() error
}

// SPIRequest asks for an inbound SPI.
type SPIRequest struct {
	Src, Dst netip.Addr // peer's and own outer address
	Proto    Proto
	Mode     Mode
	ReqID    uint32 // 0 when not known yet
	Mark     Mark
	IfID     uint32
	Min, Max uint32 // inclusive; Min at least 256 (RFC 4303 2.1)
	// CPU is that of the Acquire whose record the SPI takes over; nil: any.
	CPU *uint32
}

// Proto is the IP protocol number of the SA's header.
type Proto uint8

// Protocols of an SA.
const (
	ESP    Proto = 50
	AH     Proto = 51
	IPComp Proto = 108
)

func (p Proto) String() string {
	switch p {
	case ESP:
		return "ESP"
	case AH:
		return "AH"
	case IPComp:
		return "IPCOMP"
	}
	return fmt.Sprintf("Proto(%d)", uint8(p))
}

// Mode is how packets are wrapped.
type Mode uint8

// Modes of an SA.
const (
	Transport Mode = iota
	Tunnel
	BEET
	IPTFS
)

func (m Mode) String() string {
	switch m {
	case Transport:
		return "TRANSPORT"
	case Tunnel:
		return "TUNNEL"
	case BEET:
		return "BEET"
	case IPTFS:
		return "IPTFS"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// Direction of an SA (In, Out) or of a policy (also Fwd).
type Direction uint8

// Directions.
const (
	In Direction = iota
	Out
	Fwd
)

func (d Direction) String() string {
	switch d {
	case In:
		return "in"
	case Out:
		return "out"
	case Fwd:
		return "fwd"
	}
	return fmt.Sprintf("Direction(%d)", uint8(d))
}

// Mark selects packets by their firewall mark: skb mark & Mask == Value. The
// zero value means no mark.
type Mark struct{ Value, Mask uint32 }

// SAKey is an SA's identity in the kernel.
type SAKey struct {
	Dst   netip.Addr
	Proto Proto
	SPI   uint32
	Mark  Mark
}

func (k SAKey) String() string {
	return fmt.Sprintf("%s %s spi 0x%08x", k.Dst, k.Proto, k.SPI)
}

// Algorithm is a kernel crypto algorithm by its kernel name with its key.
type Algorithm struct {
	Name    string       // e.g. "rfc4106(gcm(aes))", "cbc(aes)", "hmac(sha256)"; empty: none
	Key     secret.Bytes // with the salt at its end for AEAD and CTR
	ICVBits int          // AEAD tag or truncated ICV length in bits
}

// Encap is UDP encapsulation of ESP (RFC 3948).
type Encap struct {
	SrcPort, DstPort uint16     // as seen in packets of this SA; 0 accepts any source port inbound
	OrigAddr         netip.Addr // original address for transport mode behind NAT; zero when unused
	// Keepalive has the kernel send a NAT keepalive (RFC 3948 2.3) when the SA, an
	// outbound one, carried nothing for so long; 0: never. Whole seconds, rounded up;
	// without Features.NATKeepalive it is ignored.
	Keepalive time.Duration
}

// Limits end an SA by use or by age. A zero field is no limit.
type Limits struct {
	SoftBytes, HardBytes     uint64
	SoftPackets, HardPackets uint64
	SoftTime, HardTime       time.Duration // since installation; the kernel counts whole seconds
}

// SA is one direction of a CHILD SA.
type SA struct {
	SAKey
	Src          netip.Addr
	Dir          Direction // In or Out
	Mode         Mode
	ReqID        uint32
	IfID         uint32
	AEAD         Algorithm // set: Crypt and Auth are empty
	Crypt, Auth  Algorithm
	Encap        *Encap
	ReplayWindow uint32 // packets; 0 switches the check off; outbound SAs ignore it
	ESN          bool   // RFC 4303 2.2.1
	// Limits; an SA that is not ESN always gets a hard packet limit below 2^32,
	// set by the data plane when absent.
	Limits   Limits
	Selector *Selector // inner selector, for transport and BEET mode; nil: any
	SetMark  Mark      // mark set on packets after processing
	CPU      *uint32   // per-CPU SA (RFC 9611); nil: any CPU
	TFCPad   uint32    // pad packets to this many bytes; 0: none
	Flags    SAFlags
	// NoFragment keeps an outbound IPTFS SA from spreading a packet over several.
	NoFragment bool
	// Seq is where the sequence number of an SA that continues another starts.
	Seq Replay
}

// SAFlags are options of an SA.
type SAFlags uint32

// Options of an SA, named as in XFRM.
const (
	NoECN         SAFlags = 1 << iota // do not copy ECN from the outer header
	DecapDSCP                         // copy DSCP to the inner header on decapsulation
	NoPMTUDisc                        // do not copy DF
	DontEncapDSCP                     // do not copy DSCP to the outer header
	ICMP                              // accept ICMP errors that refer to the SA's packets
	AnyFamily                         // inner family may differ from the selector's
)

// Selector is what the kernel can match: prefixes, one protocol, port with mask.
type Selector struct {
	Src, Dst             netip.Prefix
	Proto                uint8 // IP protocol; 0: any
	SrcPort, SrcPortMask uint16
	DstPort, DstPortMask uint16 // for ICMP: SrcPort is the type, DstPort the code
}

func (s Selector) String() string {
	return fmt.Sprintf("%s[%d/%d&%#x] -> %s[%d&%#x]", s.Src, s.Proto, s.SrcPort, s.SrcPortMask, s.Dst, s.DstPort, s.DstPortMask)
}

// Verdict is what a policy does with a packet.
type Verdict uint8

// Verdicts.
const (
	Protect Verdict = iota // needs the templates' SAs; without templates: pass in clear
	Block
)

// PolicyKey is a policy's identity in the kernel.
type PolicyKey struct {
	Selector Selector
	Dir      Direction
	Mark     Mark
	IfID     uint32
	IfIndex  uint32 // index of the network interface that packets leave by; 0: any
}

// PolicyFlags are options of a policy.
type PolicyFlags uint8

// Options of a policy, named as in XFRM.
const (
	PolicyLocalOK    PolicyFlags = 1 << iota // sockets may override it
	PolicyICMP                               // also match ICMP errors by their inner packet
	PolicyCPUAcquire                         // acquire an SA per CPU (RFC 9611)
)

// Template says which SA a policy demands.
type Template struct {
	Src, Dst netip.Addr // outer addresses; zero in transport mode means the packet's
	Proto    Proto
	Mode     Mode
	ReqID    uint32
	SPI      uint32 // 0: any SA with the request id
	Optional bool
}

// Layer orders the owners of one policy key: a policy stands only while the key
// has none of a higher layer, whichever came first.
type Layer uint8

// The layers, from the highest.
const (
	LayerSession  Layer = iota // of a CHILD SA
	LayerStanding              // traps and shunts: the configuration's, without SA
	LayerGuard                 // blocks what nothing above protects
)

// Policy decides which packets are protected, and how. Policies of several
// owners may have the same key: the newest one of the highest layer stands in the
// kernel, and when its owner deletes it the one beneath it comes back. Close
// leaves policies in place; the next run takes over what it installs again, in
// one step, and RemoveLeftovers removes the rest.
type Policy struct {
	PolicyKey
	Owner     uint64 // unique id of the CHILD SA or trap that installs it
	Layer     Layer  // not part of what List reports
	Priority  uint32 // the kernel takes the smallest first
	Verdict   Verdict
	Flags     PolicyFlags
	Templates []Template
}

// Op is one change: InstallSA, UpdateSA, MoveSA, DeleteSA, InstallPolicy, DeletePolicy.
type Op interface{ isOp() }

type (
	// InstallSA adds an SA, taking over a reserved SPI with the same key.
	// Errors: ErrExists.
	InstallSA struct {
		SA SA
		// Again: it may be installed already, for nobody knows whether this was
		// done; then it stays as it is, for a fresh one would repeat sequence
		// numbers.
		Again bool
	}
	// UpdateSA changes limits, flags and encapsulation, keepalives among it, of an
	// installed SA.
	UpdateSA struct{ SA SA }
	// MoveSA gives an SA new outer addresses or ports without losing or
	// repeating a sequence number. A move that was made already, so that the SA
	// stands at its new place and no other at the old one, may be repeated.
	// Errors: ErrNotFound, ErrExists when another SA has the place.
	MoveSA struct {
		Key    SAKey
		Dir    Direction
		NewSrc netip.Addr
		NewDst netip.Addr
		Encap  *Encap
	}
	// DeleteSA removes an SA or a reserved SPI. Deleting what is not there is
	// not an error: expiry may have been faster.
	DeleteSA struct{ Key SAKey }
	// InstallPolicy adds a policy of Policy.Owner, or replaces that owner's, whose
	// layer stays.
	InstallPolicy struct{ Policy Policy }
	// DeletePolicy removes Owner's policy with the key. Deleting what is not
	// there is not an error.
	DeletePolicy struct {
		Key   PolicyKey
		Owner uint64
	}
)

func (InstallSA) isOp()     {}
func (UpdateSA) isOp()      {}
func (MoveSA) isOp()        {}
func (DeleteSA) isOp()      {}
func (InstallPolicy) isOp() {}
func (DeletePolicy) isOp()  {}

// Replay is the sequence state of an SA: the highest number sent or received.
type Replay struct {
	Out, In uint64 // with ESN all 64 bits count
	Window  []uint32
}

// SAStatus is what the kernel counts for an SA.
type SAStatus struct {
	Bytes, Packets      uint64
	Installed, LastUsed time.Time // LastUsed zero: never
	Replay              Replay
	ReplayWindowDropped uint32 // packets left of the window
	ReplayDropped       uint32 // packets seen before
	IntegrityFailed     uint32
}

// InstalledSA is an SA as List reports it, without keys.
type InstalledSA struct {
	SAKey
	Src      netip.Addr
	ReqID    uint32
	IfID     uint32
	Mode     Mode
	Encap    *Encap
	Reserved bool // an SPI only (larval)
	Algs     string
}

// Snapshot is what is installed.
type Snapshot struct {
	SAs      []InstalledSA
	Policies []Policy // Owner is 0 for those this data plane did not install
}

// Event is what the data plane reports: Acquire, Expire, Mapping, Overrun.
type Event interface{ isEvent() }

type (
	// Acquire: a packet met a policy that has no SA yet.
	Acquire struct {
		Policy   PolicyKey
		ReqID    uint32
		Src, Dst netip.Addr // outer addresses of the template
		Packet   Selector   // the packet's own selector
		CPU      *uint32
	}
	// Expire: an SA reached a limit. After a hard limit it is gone.
	Expire struct {
		Key   SAKey
		ReqID uint32
		Hard  bool
	}
	// Mapping: the peer's UDP encapsulated packets come from another address or port.
	Mapping struct {
		Key     SAKey
		ReqID   uint32
		OldAddr netip.AddrPort
		NewAddr netip.AddrPort
	}
	// Overrun: events were lost; reconcile with List.
	Overrun struct{}
)

func (Acquire) isEvent() {}
func (Expire) isEvent()  {}
func (Mapping) isEvent() {}
func (Overrun) isEvent() {}

// Features says what the data plane can do beyond the basics.
type Features struct {
	Kernel  string // release, for people
	ESN     bool
	IPTFS   bool // mode IPTFS carries traffic, CONFIG_XFRM_IPTFS of 6.14
	IPComp  bool // IPComp with DEFLATE
	PerCPU  bool // XFRMA_SA_PCPU, 6.13
	SADir   bool // XFRMA_SA_DIR, 6.10
	Migrate bool // XFRM_MSG_MIGRATE_STATE
	// NATKeepalive: XFRMA_NAT_KEEPALIVE_INTERVAL, 6.11.
	NATKeepalive bool
	XFRMIf       bool            // xfrm interfaces and if_id
	Algorithms   map[string]bool // kernel names that this kernel refuses map to false
}

// OpError names the operation that failed; those before it were undone.
type OpError struct {
	Index int
	Op    Op
	Err   error
}

func (e *OpError) Error() string {
	return fmt.Sprintf("%s: %v", describe(e.Op), e.Err)
}
func (e *OpError) Unwrap() error { return e.Err }

func describe(op Op) string {
	switch o := op.(type) {
	case InstallSA:
		return "install SA " + o.SA.SAKey.String()
	case UpdateSA:
		return "update SA " + o.SA.SAKey.String()
	case MoveSA:
		return "move SA " + o.Key.String()
	case DeleteSA:
		return "delete SA " + o.Key.String()
	case InstallPolicy:
		return fmt.Sprintf("install policy %s %s", o.Policy.Dir, o.Policy.Selector)
	case DeletePolicy:
		return fmt.Sprintf("delete policy %s %s", o.Key.Dir, o.Key.Selector)
	}
	return fmt.Sprintf("%T", op)
}

// sentinel is an error constant: comparable, immutable.
type sentinel string

func (s sentinel) Error() string { return string(s) }

// Errors of the data plane.
const (
	ErrNoSPI    sentinel = "no unused SPI in the range"
	ErrExists   sentinel = "an SA with this destination, protocol and SPI exists"
	ErrNotFound sentinel = "no such SA"
)
