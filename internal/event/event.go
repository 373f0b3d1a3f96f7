// Package event is what the parts of the daemon tell the world: SA up, failed
// and why, packet dropped. Everyone publishes; log, control, journal, metrics
// and doctor read. It is for observers: what a restart needs is persisted
// elsewhere.
package event

import (
	"net/netip"
	"time"

	"github.com/rs/zerolog"
)

// Event is one typed fact. Its fields are what MarshalZerologObject writes; it
// never carries key material.
type Event interface {
	zerolog.LogObjectMarshaler
	// Message is the constant sentence a log line has for this kind of event.
	Message() string
	// Level is the log level at which an operator wants to see it.
	Level() zerolog.Level
}

// Record is an event with the time of its publication.
type Record struct {
	Time  time.Time
	Event Event
}

// IKE names an IKE SA in every event about it.
type IKE struct {
	Conn              string         // connection name; empty before one is chosen
	UniqueID          uint64         // counts from 1 within a run of the daemon
	Local, Remote     netip.AddrPort // outer addresses as used by IKE now
	LocalID, RemoteID string         // identities; empty before they are known
	SPIi, SPIr        uint64         // IKE SPIs of initiator and responder
	Initiator         bool           // we are the original initiator
}

func (i *IKE) fields(e *zerolog.Event) {
	if i.Conn != "" {
		e.Str("conn", i.Conn)
	}
	e.Uint64("ike", i.UniqueID)
	addrPort(e, "local", i.Local)
	addrPort(e, "remote", i.Remote)
	if i.LocalID != "" {
		e.Str("local_id", i.LocalID)
	}
	if i.RemoteID != "" {
		e.Str("remote_id", i.RemoteID)
	}
	e.Hex("spi_i", be64(i.SPIi)).Hex("spi_r", be64(i.SPIr))
}

// Child names a CHILD SA in every event about it.
type Child struct {
	Name              string   // name of the child's configuration
	UniqueID          uint64   // counts from 1 within a run of the daemon
	ReqID             uint32   // kernel request id that ties policies to SAs
	CPU               *uint32  // the one that it is bound to (RFC 9611); nil: none
	PerCPU            bool     // ones that are bound may stand beside it
	SPIIn, SPIOut     uint32   // ESP SPIs, ours and the peer's
	Mode              string   // TUNNEL, TRANSPORT, …
	Encap             bool     // UDP encapsulated
	Proposal          string   // chosen ESP proposal, e.g. AES_GCM_16-128
	LocalTS, RemoteTS []string // negotiated traffic selectors
}

func (c *Child) fields(e *zerolog.Event) {
	if c.CPU != nil {
		e.Uint32("cpu", *c.CPU)
	}
	e.Str("child", c.Name).Uint64("child_id", c.UniqueID).Uint32("reqid", c.ReqID).
		Hex("spi_in", be32(c.SPIIn)).Hex("spi_out", be32(c.SPIOut)).
		Str("mode", c.Mode).Bool("encap", c.Encap).Str("esp", c.Proposal).
		Strs("local_ts", c.LocalTS).Strs("remote_ts", c.RemoteTS)
}

// IKEUp: an IKE SA is established, both sides authenticated.
type IKEUp struct {
	IKE
	Proposal            string // chosen IKE proposal
	NATLocal, NATPeer   bool   // a NAT stands before us, before the peer
	LocalAuth, PeerAuth string // methods, e.g. "PSK", "ECDSA-256"
}

func (IKEUp) Message() string      { return "IKE SA established" }
func (IKEUp) Level() zerolog.Level { return zerolog.InfoLevel }
func (v IKEUp) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	e.Str("proposal", v.Proposal).Bool("nat_local", v.NATLocal).Bool("nat_remote", v.NATPeer).
		Str("local_auth", v.LocalAuth).Str("remote_auth", v.PeerAuth)
}

// IKEDown: an IKE SA is gone, and why.
type IKEDown struct {
	IKE
	Reason string
}

func (IKEDown) Message() string      { return "IKE SA closed" }
func (IKEDown) Level() zerolog.Level { return zerolog.InfoLevel }
func (v IKEDown) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	e.Str("reason", v.Reason)
}

// IKERekeyed: the IKE SA was replaced by a new one, which has its children.
type IKERekeyed struct {
	IKE
	OldSPIi, OldSPIr uint64
	Proposal         string
}

func (IKERekeyed) Message() string      { return "IKE SA rekeyed" }
func (IKERekeyed) Level() zerolog.Level { return zerolog.InfoLevel }
func (v IKERekeyed) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	e.Hex("old_spi_i", be64(v.OldSPIi)).Hex("old_spi_r", be64(v.OldSPIr)).Str("proposal", v.Proposal)
}

// IKEMoved: the IKE SA goes on between other addresses or ports, and its CHILD
// SAs follow.
type IKEMoved struct {
	IKE
	OldLocal, OldRemote netip.AddrPort
}

func (IKEMoved) Message() string      { return "IKE SA moved" }
func (IKEMoved) Level() zerolog.Level { return zerolog.InfoLevel }
func (v IKEMoved) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	addrPort(e, "old_local", v.OldLocal)
	addrPort(e, "old_remote", v.OldRemote)
}

// Exchange is what a side is about in a Collision.
type Exchange string

// The exchanges that collide.
const (
	RekeyIKE    Exchange = "rekey IKE SA"
	RekeyChild  Exchange = "rekey CHILD SA"
	CreateChild Exchange = "create CHILD SA"
	DeleteIKE   Exchange = "delete IKE SA"
	DeleteChild Exchange = "delete CHILD SA"
)

// Collision: both sides were about something on the same SA at once (RFC 7296
// 2.8, 2.25). It is no failure; nothing is lost by it.
type Collision struct {
	IKE
	Ours, Theirs Exchange
}

func (Collision) Message() string      { return "exchanges collided" }
func (Collision) Level() zerolog.Level { return zerolog.InfoLevel }
func (v Collision) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	e.Str("ours", string(v.Ours)).Str("theirs", string(v.Theirs))
}

// ChildUp: a CHILD SA is installed in the data plane.
type ChildUp struct {
	IKE
	Child Child
}

func (ChildUp) Message() string      { return "CHILD SA installed" }
func (ChildUp) Level() zerolog.Level { return zerolog.InfoLevel }
func (v ChildUp) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	v.Child.fields(e)
}

// ChildDown: a CHILD SA has left the data plane, and why.
type ChildDown struct {
	IKE
	Child  Child
	Reason string
}

func (ChildDown) Message() string      { return "CHILD SA removed" }
func (ChildDown) Level() zerolog.Level { return zerolog.InfoLevel }
func (v ChildDown) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	v.Child.fields(e)
	e.Str("reason", v.Reason)
}

// VirtualAddresses: a peer got virtual addresses from our pools, or we got some
// from it (RFC 7296 2.19). Name servers are told here and nowhere else: whoever
// configures the box's resolver takes them from this event.
type VirtualAddresses struct {
	IKE
	Given      bool // by us to the peer
	Addrs, DNS []netip.Addr
}

func (v VirtualAddresses) Message() string {
	if v.Given {
		return "virtual addresses given to the peer"
	}
	return "virtual addresses received"
}
func (VirtualAddresses) Level() zerolog.Level { return zerolog.InfoLevel }
func (v VirtualAddresses) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	e.Strs("addresses", texts(v.Addrs))
	if len(v.DNS) > 0 {
		e.Strs("dns", texts(v.DNS))
	}
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}

// PathMTU: the path MTU to the peer was found, or has changed.
type PathMTU struct {
	IKE
	MTU uint16 // octets of the outer IP packet; 0: not known any more
}

func (PathMTU) Message() string      { return "path MTU" }
func (PathMTU) Level() zerolog.Level { return zerolog.InfoLevel }
func (v PathMTU) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	e.Uint16("mtu", v.MTU)
}

// Dropped: the kernel lost packets of an SA. There is one a minute at most for an
// SA and reason.
type Dropped struct {
	Conn, Child string // empty: not an SA of ours
	Inbound     bool
	Dst         netip.Addr // of the encrypted packets
	SPI         uint32
	ReqID       uint32
	Reason      string // its name, as in espctl drop show
	Packets     uint64 // since the last event
	Total       uint64 // of the SA
	Why         string // what the reason means here
	Fix         string // what the operator can do, one sentence
}

func (Dropped) Message() string      { return "packets of an SA were lost" }
func (Dropped) Level() zerolog.Level { return zerolog.WarnLevel }
func (v Dropped) MarshalZerologObject(e *zerolog.Event) {
	if v.Conn != "" {
		e.Str("conn", v.Conn).Str("child", v.Child)
	}
	dir := "out"
	if v.Inbound {
		dir = "in"
	}
	e.Str("dir", dir).Str("dst", v.Dst.String()).Hex("spi", be32(v.SPI)).Uint32("reqid", v.ReqID).Str("reason", v.Reason).
		Uint64("packets", v.Packets).Uint64("total", v.Total).Str("why", v.Why).Str("fix", v.Fix)
}

// Cause classifies a failure; its text is the notify's IANA name where there is one.
type Cause string

// The causes that people meet.
const (
	NoProposalChosen     Cause = "NO_PROPOSAL_CHOSEN"
	InvalidKEPayload     Cause = "INVALID_KE_PAYLOAD"
	TSUnacceptable       Cause = "TS_UNACCEPTABLE"
	AuthenticationFailed Cause = "AUTHENTICATION_FAILED"
	InvalidSyntax        Cause = "INVALID_SYNTAX"
	UnsupportedCritical  Cause = "UNSUPPORTED_CRITICAL_PAYLOAD"
	NoConnection         Cause = "NO_MATCHING_CONNECTION"
	PeerTimeout          Cause = "PEER_TIMEOUT"
	PeerLostIKE          Cause = "PEER_LOST_IKE_SA" // it proves that it does not have it any more
	HalfOpenTimeout      Cause = "HALF_OPEN_TIMEOUT"
	KernelRefused        Cause = "KERNEL_REFUSED"
	PeerError            Cause = "PEER_ERROR"
	CredentialMissing    Cause = "CREDENTIAL_MISSING"
	KeyExchangeFailed    Cause = "KEY_EXCHANGE_FAILED"
	AddressFailure       Cause = "INTERNAL_ADDRESS_FAILURE"
	Overdue              Cause = "NOT_REKEYED_IN_TIME"
	NotUnique            Cause = "NOT_UNIQUE" // unique = keep, and an IKE SA with the peer stands
	Internal             Cause = "INTERNAL_ERROR"
)

// Fact is one labelled line of an explanation, e.g. {"ours", "aes256-sha256-modp2048"}.
type Fact struct{ Name, Value string }

// Failed: a negotiation or an SA failed. It explains itself: what we wanted,
// what the peer wanted, on which point they part, and what to do.
type Failed struct {
	IKE
	ChildName string // empty when it concerns the IKE SA
	Cause     Cause
	ByPeer    bool   // the peer refused (its notify); otherwise we did
	Facts     []Fact // in the order in which they should be read
	Fix       string // what the operator can do, one sentence; may be empty
}

func (v Failed) Message() string    { return "negotiation failed" }
func (Failed) Level() zerolog.Level { return zerolog.WarnLevel }
func (v Failed) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	if v.ChildName != "" {
		e.Str("child", v.ChildName)
	}
	e.Str("cause", string(v.Cause)).Bool("by_peer", v.ByPeer)
	for _, f := range v.Facts {
		e.Str(f.Name, f.Value)
	}
	if v.Fix != "" {
		e.Str("fix", v.Fix)
	}
}

// FellBack: a CHILD SA is up without something that its configuration asks for,
// since the peer or the kernel does not have it. Rekeying does not say it again.
type FellBack struct {
	IKE
	ChildName       string
	Wanted, Instead string
}

func (FellBack) Message() string      { return "CHILD SA without what was asked for" }
func (FellBack) Level() zerolog.Level { return zerolog.WarnLevel }
func (v FellBack) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	e.Str("child", v.ChildName).Str("wanted", v.Wanted).Str("instead", v.Instead)
}

// ScriptFailed: an updown script ended with an error, could not be run, or took too
// long. Nothing else follows from it.
type ScriptFailed struct {
	Conn, ChildName string
	Verb            string // what it was to do, e.g. up-client
	Command, Reason string
}

func (ScriptFailed) Message() string      { return "updown script failed" }
func (ScriptFailed) Level() zerolog.Level { return zerolog.WarnLevel }
func (v ScriptFailed) MarshalZerologObject(e *zerolog.Event) {
	e.Str("conn", v.Conn).Str("child", v.ChildName).Str("verb", v.Verb).Str("command", v.Command).Str("reason", v.Reason)
}

// Retrying: a set-up goes on in another way than we began it.
type Retrying struct {
	IKE
	Cause Cause
	Facts []Fact
}

func (Retrying) Message() string      { return "trying again as the peer asks" }
func (Retrying) Level() zerolog.Level { return zerolog.InfoLevel }
func (v Retrying) MarshalZerologObject(e *zerolog.Event) {
	v.fields(e)
	e.Str("cause", string(v.Cause))
	for _, f := range v.Facts {
		e.Str(f.Name, f.Value)
	}
}

// Discarded: a message from the network was ignored without a change of state.
type Discarded struct {
	Local, Remote netip.AddrPort
	Reason        string
}

func (Discarded) Message() string      { return "message ignored" }
func (Discarded) Level() zerolog.Level { return zerolog.DebugLevel }
func (v Discarded) MarshalZerologObject(e *zerolog.Event) {
	addrPort(e, "local", v.Local)
	addrPort(e, "remote", v.Remote)
	e.Str("reason", v.Reason)
}

// addrPort adds an address with its port, without a string for it in between.
func addrPort(e *zerolog.Event, key string, a netip.AddrPort) {
	if !a.IsValid() {
		e.Str(key, a.String())
		return
	}
	var room [64]byte // an address without a zone fits
	e.Bytes(key, a.AppendTo(room[:0]))
}

func be64(v uint64) []byte {
	return []byte{byte(v >> 56), byte(v >> 48), byte(v >> 40), byte(v >> 32), byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
}

func be32(v uint32) []byte {
	return []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
}
