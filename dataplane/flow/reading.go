package flow

import (
	"errors"
	"net/netip"
	"time"

	"espalier/dataplane"
)

// Where the daemon leaves what a reader needs.
const (
	// DefaultPins is the folder of pinned maps and links. The version is that of what
	// lies in it under which name; that of the maps' layout is in the map config.
	DefaultPins = "/sys/fs/bpf/espalier/v1"
	// DefaultState is the daemon's list of parts, which the kernel cannot tell:
	// what could not be attached, and why.
	DefaultState = "/run/espalier/fastpath.json"
)

// ErrNotLoaded: there are no pinned maps, so no daemon has loaded the fast path
// since the machine started, or it has been taken down.
var ErrNotLoaded = errors.New("the fast path is not loaded")

// Key names an SA as its packets do.
type Key struct {
	Dir dataplane.Direction // In or Out
	Dst netip.Addr
	SPI uint32
}

// SPI is what the table has of one SA, or of a reserved SPI.
type SPI struct {
	Key
	Slot       uint32 // its place in the table; another SA may have it later
	Generation uint32 // tells that SA from this one
	CPU        int    // where its packets are steered to; -1: not
	Own        bool   // the daemon's; otherwise another program's
	Reserved   bool   // no SA yet
	ReqID      uint32
	IfID       uint32
	Counters   Counters
	Drops      []Drop // of reasons that occurred
}

// Counters of an SA: packets as they are on the wire, before decryption and
// after encryption, wherever they end.
type Counters struct {
	Packets  uint64
	Bytes    uint64    // from the outer IP header on
	LastUsed time.Time // to a tenth of a second; zero: never
}

// Drop counts lost packets of one reason.
type Drop struct {
	Reason  Reason
	Packets uint64
}

// Rate is a change of counters over time.
type Rate struct{ Packets, Bytes float64 } // a second

// Rate is what was counted since an earlier read, a second.
func (c Counters) Rate(before Counters, passed time.Duration) Rate {
	s := passed.Seconds()
	if s <= 0 || c.Packets < before.Packets || c.Bytes < before.Bytes {
		return Rate{}
	}
	return Rate{float64(c.Packets-before.Packets) / s, float64(c.Bytes-before.Bytes) / s}
}

// TotalCount is one of the counters beside the SAs.
type TotalCount struct {
	Total Total
	Count uint64
}

// Guard is the state of the guard.
type Guard struct {
	Mode GuardMode
	// InStep: the table has every inbound SPI of the kernel. Until it has, the
	// guard only counts, whatever its mode.
	InStep           bool
	PeersOnly        bool // IKE_SA_INIT is taken from Peers only
	Peers            []netip.Prefix
	InitRate         uint32 // IKE_SA_INIT a second from one prefix; 0: no limit
	InitBurst        uint32
	Prefix4, Prefix6 int // lengths of those prefixes
	IKESPIs          int // own IKE SPIs that it knows
	// Totals are the guard's own: what it dropped or, in log mode, would have.
	Totals []TotalCount
	// Strangers are the latest sources of ESP that no SA is for, most packets first.
	Strangers []Stranger
}

// Stranger sends ESP with SPIs that nobody has.
type Stranger struct {
	Src     netip.Addr
	Packets uint64
	SPI     uint32 // of the last one
}

// Part is a program at its place, or a program that could not get there.
type Part struct {
	Program   string // as in package bpf: esp_in, flow_in, mss_in, …
	Interface string // empty: not of one interface
	IfIndex   int
	Direction string // "ingress" or "egress" of tc; empty: XDP, or not of one interface
	// How it is attached: "native" or "generic" (XDP), "tcx" or "clsact" (tc),
	// "cpumap", "fentry"; empty: not attached.
	How string
	// Reason is the kernel's, when it is not attached, or not in the better way.
	Reason string
}

// State is what holds for the whole fast path.
type State struct {
	Layout      int
	Capacity    int // SPIs that the table can hold
	Used        int // SPIs in it
	CPUs        int
	Steering    Steering
	SteerCPUs   []int // CPUs that get work by hash
	FlowSteer   bool  // clear packets are steered, too
	MSS         bool
	MemoryBytes uint64 // of the maps
	Daemon
}

// Daemon is what the daemon left of itself in its state file.
type Daemon struct {
	// PID of the daemon that keeps the table in step; 0: none runs, the programs
	// go on with what they know.
	PID int
	// Loading: its programs are still being verified, and Parts are those so far.
	Loading bool
	Parts   []Part
}

// Sample is one lost packet.
type Sample struct {
	Since   time.Duration // time of the kernel's monotonic clock
	Key     Key
	Seq     uint32 // its sequence number; 0: not known
	Reason  Reason // when Guard is false
	Total   Total  // when Guard is true: which of the guard's counters
	Guard   bool
	IfIndex int
	Length  int
	Src     netip.Addr
}
