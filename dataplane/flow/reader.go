package flow

import (
	"errors"
	"net/netip"
	"time"

	"espalier/dataplane"
)

// Where the daemon leaves what a reader needs.
const (
	// DefaultPins is the folder of pinned maps and links, one for each version of
	// their layout.
	DefaultPins = "/sys/fs/bpf/espalier/v1"
	// DefaultState is the daemon's list of parts, which the kernel cannot tell:
	// what could not be attached, and why.
	DefaultState = "/run/espalier/fastpath.json"
)

// ErrNotLoaded: there are no pinned maps, so no daemon has loaded the fast path
// since the machine started, or it has been taken down.
var ErrNotLoaded = errors.New("the fast path is not loaded")

// ReaderOptions say where to read; the zero value is the daemon's default.
type ReaderOptions struct {
	Pins  string // empty: DefaultPins
	State string // empty: DefaultState
}

// Reader reads the pinned maps of the fast path, with or without a daemon: most
// of it from memory, without a system call for each SPI. It needs the rights of
// root. Its methods are not safe for concurrent use.
//
// Not there yet: all of it; OpenReader answers ErrNotLoaded.
type Reader struct{}

// OpenReader opens the pinned maps. Errors: ErrNotLoaded, no rights, a layout
// of another version.
func OpenReader(ReaderOptions) (*Reader, error) { return nil, ErrNotLoaded }

// Close releases the maps.
func (r *Reader) Close() error { return nil }

// SPIs lists what the table has, sorted by direction, destination and SPI. Rates
// come from two calls: pair them by Key and Generation and take Counters.Rate.
func (r *Reader) SPIs() ([]SPI, error) { return nil, ErrNotLoaded }

// Totals are all counters beside the SAs, summed over the CPUs, zeros included.
func (r *Reader) Totals() ([]TotalCount, error) { return nil, ErrNotLoaded }

// Guard is the state of the guard and what it counted.
func (r *Reader) Guard() (Guard, error) { return Guard{}, ErrNotLoaded }

// SetGuard changes the guard's mode at once. It holds until the daemon starts
// again or reads its configuration.
func (r *Reader) SetGuard(GuardMode) error { return ErrNotLoaded }

// State is what holds for the whole.
func (r *Reader) State() (State, error) { return State{}, ErrNotLoaded }

// Samples opens the stream of lost packets. One reader at a time gets each.
func (r *Reader) Samples() (*Samples, error) { return nil, ErrNotLoaded }

// Samples is a stream of lost packets.
type Samples struct{}

// Next waits for the next one. Errors: os.ErrClosed after Close.
func (s *Samples) Next() (Sample, error) { return Sample{}, ErrNotLoaded }

// Close ends a waiting Next, from any goroutine.
func (s *Samples) Close() error { return nil }

// ReadDaemon reads the daemon's state file, also where no map is pinned: then its
// parts say why. Errors: os.ErrNotExist when no daemon has ever left one.
func ReadDaemon(ReaderOptions) (Daemon, error) { return Daemon{}, ErrNotLoaded }

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
	LastUsed time.Time // to a tick of the kernel's clock; zero: never
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
}

// Part is a program at its place, or a program that could not get there.
type Part struct {
	Program   string // as in package bpf: esp_in, flow_in, mss_in, …
	Interface string // empty: not of one interface
	IfIndex   int
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
	PID   int
	Parts []Part
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
