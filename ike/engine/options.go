package engine

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// Transport carries IKE messages without the non-ESP marker. sockets.Set is the
// real one; tests have their own in memory.
type Transport interface {
	// Receive calls fn for each message, from any number of goroutines, until
	// Close, and returns nil then. The data is valid until fn returns, which it
	// does soon.
	Receive(fn func(sockets.Datagram)) error
	// Send transmits or fails, it never waits. It does not keep data.
	Send(local, remote netip.AddrPort, data []byte) error
	// SendWhole is Send, with a DSCP, in one IP packet that nobody may fragment.
	SendWhole(local, remote netip.AddrPort, data []byte, dscp uint8) error
	// Close ends Receive.
	Close() error
}

// dscpTransport is a Transport that can mark what it sends.
type dscpTransport interface {
	// SendDSCP is Send with a DSCP, 0 to 63, in the IP header.
	SendDSCP(local, remote netip.AddrPort, data []byte, dscp uint8) error
}

// Store receives what a restart has to know of a session. Its methods are
// called by shards, in order for each session, and must not wait; state is
// valid until Save returns.
type Store interface {
	Save(id uint64, state []byte)
	Remove(id uint64)
}

// Updown follows CHILD SAs for the scripts that their configurations name. Shards
// call its methods, which must not wait.
type Updown interface {
	// Wants reports whether the CHILD SAs of a configuration are of interest.
	Wants(cfg *sa.ChildConfig) bool
	// ChildUp: a CHILD SA that is wanted is installed; info is its session.
	ChildUp(cfg *sa.ChildConfig, child event.Child, info *sa.Info)
	// ChildDown: a CHILD SA, by its unique id, has gone, wanted or not.
	ChildDown(child uint64)
	// NameServers came with the virtual addresses of an IKE SA.
	NameServers(ike uint64, servers []netip.Addr)
	// IKEDown: an IKE SA has gone.
	IKEDown(ike uint64)
}

// Settings are the knobs of the daemon. A zero field takes the default.
type Settings struct {
	sa.Settings

	// CookieThreshold is the number of half-open sessions of responders from
	// which on a COOKIE is demanded (RFC 7296 2.6); default 30, negative: always.
	CookieThreshold int
	// MaxHalfOpen is how many half-open sessions of responders there may be;
	// default 16384.
	MaxHalfOpen int
	// MaxHalfOpenPerPrefix is the same for the peers of one prefix; default 1024.
	MaxHalfOpenPerPrefix int
	// HalfOpenPrefix4 and HalfOpenPrefix6 are those prefixes' lengths; default 32
	// and 64: one IPv4 address, and what one customer holds of IPv6 at least.
	HalfOpenPrefix4, HalfOpenPrefix6 int
	// MaxQueuedJobs is how many jobs may wait for workers, or for the kernel in
	// one shard, before IKE_SA_INIT requests are dropped; default 4096.
	MaxQueuedJobs int
	// StopTimeout is how long a stop waits for the peers' answers; default 2 s.
	StopTimeout time.Duration

	// BlockLeaks keeps what CHILD SAs would protect from leaving in clear
	// (leak = block).
	BlockLeaks bool
	// BypassLAN lets the traffic within each directly connected network pass by
	// the tunnels.
	BypassLAN bool

	// What follows is read once, by New.

	NodeID  uint8        // in own SPIs, to tell the boxes of a cluster apart
	Listen  []netip.Addr // local addresses; empty: all
	Shards  int          // default GOMAXPROCS, at most 256
	Workers int          // goroutines for heavy crypto; default GOMAXPROCS
}

// DefaultSettings are the defaults of the machine and of the shell.
func DefaultSettings() Settings {
	s := Settings{Settings: sa.DefaultSettings()}
	s.complete()
	return s
}

func (s *Settings) complete() {
	setDefault(&s.CookieThreshold, 30)
	setDefault(&s.MaxHalfOpen, 16384)
	setDefault(&s.MaxHalfOpenPerPrefix, 1024)
	setDefault(&s.HalfOpenPrefix4, 32)
	setDefault(&s.HalfOpenPrefix6, 64)
	setDefault(&s.MaxQueuedJobs, 4096)
	setDefault(&s.StopTimeout, 2*time.Second)
	setDefault(&s.Shards, runtime.GOMAXPROCS(0))
	setDefault(&s.Workers, runtime.GOMAXPROCS(0))
	s.Shards = min(max(s.Shards, 1), sa.Buckets)
	s.Workers = max(s.Workers, 1)
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Options is what an engine is made of.
type Options struct {
	DataPlane dataplane.DataPlane // the engine does not close it
	// Network is where virtual addresses and routes go; nil: nowhere.
	Network dataplane.Network
	// PacketGuard is told who may send us packets; nil: nobody stands before the
	// sockets.
	PacketGuard PacketGuard
	Conns       []*sa.Connection
	Creds       *auth.Credentials
	Settings    Settings
	Bus         *event.Bus // nil: an own one
	Sightings   *event.Bus // where each sa.Sighting goes; nil: nowhere
	Log         zerolog.Logger

	// Sockets is the transport; the engine closes it. nil: UDP sockets by
	// SocketOptions, whose addresses and ports come from Settings.
	Sockets       Transport
	SocketOptions sockets.Options

	// Updown is told of CHILD SAs, for scripts; nil: nobody is.
	Updown Updown

	// Quiet says which events the log leaves out besides those below its level; nil: none.
	Quiet func(event.Event) bool

	// CrashSecret makes the tokens of quick crash detection (RFC 6290): 32 random
	// octets, after a restart the same as before; empty: peers get none.
	CrashSecret secret.Bytes

	// Store gets what must survive a restart; nil: nothing does.
	Store Store

	// Inline runs every job in the shard itself, in the order of the actions:
	// for benchmarks and for tests that want one order.
	Inline bool

	// Now is the clock, Rand the source of randomness; nil: the system's. Timers
	// always run on the runtime's clock, so a test that wants both to agree
	// leaves Now alone and runs in a testing/synctest bubble.
	Now  func() time.Time
	Rand io.Reader

	// Networks lists the networks that the box is directly connected to; nil: asks
	// the kernel.
	Networks func() ([]netip.Prefix, error)

	// Addrs are the box's addresses that peers could reach; nil: the kernel's. It
	// may wait.
	Addrs func() ([]netip.Addr, error)

	// Route asks for the local address towards a peer; nil: the kernel. Resolve
	// looks a host name up; nil: the system's resolver. Both may wait.
	Route   func(remote netip.Addr) (netip.Addr, error)
	Resolve func(host string) ([]netip.Addr, error)
	// Interface finds a network interface by its name; nil: net.InterfaceByName.
	Interface func(name string) (*net.Interface, error)

	// LinkMTU asks for the MTU of the link by which packets leave from one address
	// to another; nil: not known, and no path MTU is looked for. It may wait.
	LinkMTU func(local, remote netip.Addr) (int, error)

	// NetworkChanges is readable after the box has got or lost an address or a default
	// route (sockets.Network); nil: nobody tells.
	NetworkChanges <-chan struct{}
}

// Errors of the control methods.
var (
	// ErrNotFound: no configuration or SA has the name or id.
	ErrNotFound = errors.New("not found")
	// ErrStopping: the engine does not run, or not any more.
	ErrStopping = errors.New("the engine is stopping")
)
