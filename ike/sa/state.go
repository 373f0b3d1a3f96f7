package sa

import (
	"fmt"
	"net/netip"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/secret"
)

// Phase is where a session stands. Initiator and responder walk their own side
// of the drawing; J marks a phase that waits for a job, M one that waits for a
// message. From every phase a failure leads to Cleaning. A phase may take two jobs:
// Verifying on a responder also asks the pools for the peer's virtual addresses,
// Installing on an initiator also puts ours on the box.
//
//	initiator                          responder
//	Fresh                              Fresh
//	  │ Start                            │ IKE_SA_INIT request
//	Generating   J  ◄─┐ INVALID_KE     Answering    J
//	  │               │ PAYLOAD          │ IKE_SA_INIT response
//	InitSent     M  ──┘ ◄┐ COOKIE      AwaitAuth    M ◄────────┐
//	  │             ─────┘               │      │ INTERMEDIATE │
//	Agreeing     J                       │    AnsweringMore J ─┘
//	  ├──────────┐ while further         │ IKE_AUTH request
//	  │   GeneratingMore J ◄─┐         Verifying    J
//	  │   MoreSent       M   │           │
//	  │   AgreeingMore   J ──┤         Reserving    J ┐ only with an
//	  │ ◄────────────────────┘         Asking       J ┘ acceptable child
//	Reserving    J  (not if childless)   │
//	Signing      J                     Signing      J
//	AuthSent     M                       ├────────┐
//	Verifying    J                       │      Installing J
//	  ├────────┐                         │ ◄──────┘
//	  │      Asking      J               │ IKE_AUTH response
//	  │      Installing  J               │
//	  │ ◄──────┘                         │
//	Established ─────────────────────► Established
//	  │ delete, ours: Closing M            │ delete, the peer's
//	Cleaning     J   kernel state goes
//	Lingering        answers retransmissions for a while
//	Ended
type Phase uint8

// The phases; their numbers are part of the encoding.
const (
	Fresh          Phase = 0
	Generating     Phase = 1
	InitSent       Phase = 2
	Agreeing       Phase = 3
	GeneratingMore Phase = 4
	MoreSent       Phase = 5
	AgreeingMore   Phase = 6
	Reserving      Phase = 7
	Signing        Phase = 8
	AuthSent       Phase = 9
	Verifying      Phase = 10
	Asking         Phase = 11
	Installing     Phase = 12
	Answering      Phase = 13
	AwaitAuth      Phase = 14
	AnsweringMore  Phase = 15
	Established    Phase = 16
	Closing        Phase = 17
	Cleaning       Phase = 18
	Lingering      Phase = 19
	Ended          Phase = 20
	phaseCount           = 21
)

var phaseNames = [phaseCount]string{
	"Fresh", "Generating", "InitSent", "Agreeing", "GeneratingMore", "MoreSent", "AgreeingMore",
	"Reserving", "Signing", "AuthSent", "Verifying", "Asking", "Installing", "Answering", "AwaitAuth",
	"AnsweringMore", "Established", "Closing", "Cleaning", "Lingering", "Ended",
}

func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return fmt.Sprintf("Phase(%d)", uint8(p))
}

// Transition is a step from one phase to another on one side.
type Transition struct {
	Initiator bool
	From, To  Phase
}

// Transitions are all steps the machine may take, as drawn at Phase, without
// the failures that lead from any phase to Cleaning, Lingering or Ended.
var Transitions = []Transition{
	{true, Fresh, Generating},
	{true, Generating, InitSent},
	{true, InitSent, Generating},
	{true, InitSent, InitSent},
	{true, InitSent, Agreeing},
	{true, Agreeing, GeneratingMore},
	{true, Agreeing, Reserving},
	{true, Agreeing, Signing},
	{true, GeneratingMore, MoreSent},
	{true, MoreSent, AgreeingMore},
	{true, AgreeingMore, GeneratingMore},
	{true, AgreeingMore, Reserving},
	{true, AgreeingMore, Signing},
	{true, Reserving, Signing},
	{true, Signing, AuthSent},
	{true, AuthSent, Verifying},
	{true, Verifying, Asking},
	{true, Verifying, Established},
	{true, Asking, Installing},
	{true, Asking, Established},
	{true, Installing, Established},

	{false, Fresh, Answering},
	{false, Answering, AwaitAuth},
	{false, AwaitAuth, AnsweringMore},
	{false, AnsweringMore, AwaitAuth},
	{false, AwaitAuth, Verifying},
	{false, Verifying, Reserving},
	{false, Verifying, Signing},
	{false, Reserving, Asking},
	{false, Reserving, Signing},
	{false, Asking, Signing},
	{false, Signing, Installing},
	{false, Signing, Established},
	{false, Installing, Established},

	{true, Established, Closing},
	{false, Established, Closing},
	// An initiator that could not verify the peer says so before it leaves.
	{true, AuthSent, Closing},
	{true, Verifying, Closing},
}

// mayStep reports whether the drawing has the step. Any phase may fail into
// Cleaning; what comes after Cleaning is the same for both sides.
func mayStep(t Transition) bool {
	switch t.To {
	case Cleaning:
		return t.From < Cleaning
	case Lingering:
		return t.From <= Cleaning
	case Ended:
		return t.From < Ended
	}
	for _, ok := range Transitions {
		if ok == t {
			return true
		}
	}
	return false
}

// State is all that a session is: a plain value with a versioned encoding.
type State struct {
	ID        uint64 // unique id
	Conn      string // connection name; empty on a responder before one is chosen
	ChildName string // initiator: the child to negotiate with IKE_AUTH; empty: none
	Phase     Phase
	Began     bool // we began the first IKE SA, of which this may be a successor
	NextJob   uint32
	IKE       IKE
	Setup     *Setup // until established
	Children  []Child
	Jobs      []JobRef
	Tasks     []Task
	// Pending is the peer's INFORMATIONAL request that is answered when the
	// kernel has done what it demands.
	Pending *PendingAnswer
	Created time.Time
	Since   time.Time // established at
	// Expires ends a half-open responder, and the lingering after the end.
	Expires   time.Time
	EndReason string
	// Others are IKE SAs beside the current one: replaced ones until they are
	// deleted, and new ones that the peer made by rekeying and has not moved to.
	Others []*IKE
	// Own and Peer are the CREATE_CHILD_SA exchanges under way, one each way.
	Own, Peer *Create
	// Orphans are reserved inbound SPIs that no CHILD SA took.
	Orphans []Orphan

	// Packets are those that asked for a child which is not there yet.
	Packets   []ChildPacket
	Live      Live        // liveness
	Path      *Path       // where the peer is reached, when that is more than one address
	Fragments []Fragments // IKE fragments that wait for the rest
	Lease     *Lease      // virtual addresses, given or received; nil: none
	Later     []Later     // tasks that wait for their time
	Mobile    *Mobility   // MOBIKE; nil: nothing beside the addresses in use
	// Network is the digest of what the box was last asked to have for the
	// session, see hostWish; 0: nothing.
	Network  uint64
	Reauth   *Reauth      // reauthentication; nil: never
	Redirect *Redirection // who sent us here; nil: nobody
}

// IKE is one IKE SA.
type IKE struct {
	Initiator     bool // we are its original initiator
	Role          IKERole
	SPIi, SPIr    wire.SPI
	Local, Remote netip.AddrPort
	Chosen        suite.Choice // one transform a type
	Keys          suite.IKEKeys
	SealCounter   uint64 // explicit IVs used so far (RFC 5282 3.1)
	LocalID       auth.ID
	RemoteID      auth.ID
	LocalAuth     string // how we and the peer authenticated, for people
	RemoteAuth    string
	NATLocal      bool // a NAT stands before us, or we pretend so
	NATRemote     bool
	NATFake       bool      // NATLocal is only pretended
	NATT          bool      // the peer does NAT traversal, so that port 4500 reaches it
	NextOut       uint32    // message id of our next request
	NextIn        uint32    // message id that the peer's next request must have
	Peer          Abilities // what the peer said it can do
	Request       *Request
	RekeyAt       time.Time // when we rekey it; a replaced one: when it is forgotten
	EndsAt        time.Time // when the current one is deleted unless it was rekeyed
	MinNonce      []byte    // the lower nonce of the exchange that made it by rekeying
	Answer        []byte    // our last response, its fragments one after the other; nil while one is being made
	AnswerTo      [32]byte  // SHA-256 of the request it answers, or of its fragment 1, to know a repetition
	// AnswerFrom and AnswerAt are our and the peer's address of that request.
	AnswerFrom, AnswerAt netip.AddrPort

	// PeerToken is the SHA-256 of the token by which the peer says that it has lost
	// the SA (RFC 6290); zero: it has given none.
	PeerToken [32]byte
	News      *News // what the last answer told; nil: nothing that matters

	*ciphers // from Keys; never encoded
}

// Request is our outstanding request (the window is one).
type Request struct {
	Exchange  wire.ExchangeType
	MessageID uint32
	Data      []byte // its datagram, or its fragments one after the other
	Sent      uint8  // transmissions so far
	Again     time.Time
	For       Task // what an INFORMATIONAL is for; zero: nothing that its answer ends
}

// Setup is what a session needs only until it is established.
type Setup struct {
	KE           wire.KEMethod
	Private      secret.Bytes // of the key exchange under way
	Public       []byte       // ours: sent, or to be sent
	PeerPublic   []byte
	FixedKE      bool // the peer demanded KE by INVALID_KE_PAYLOAD; once
	Cookie       []byte
	Cookies      uint8 // COOKIE answers seen
	Ni, Nr       []byte
	InitI, InitR []byte // the IKE_SA_INIT messages, for AUTH
	IntAuthI     []byte // RFC 9242
	IntAuthR     []byte
	Further      uint8 // further key exchanges completed (RFC 9370)
	PeerHashes   []wire.HashAlgorithm
	CertReqs     [][]byte // key ids of the CAs the peer trusts
	CertReq      bool     // the peer asked for certificates, be it without naming any CA
	Inner        []byte   // the peer's decrypted IKE_AUTH payloads
	InnerFirst   wire.PayloadType
	AuthID       uint32          // message id of the IKE_AUTH exchange
	ChildError   wire.NotifyType // responder: why there will be no child; 0: none
	OwnAuth      *wire.Auth      // made by the signing job
	OwnCerts     []wire.Cert
	FirstContact bool         // initiator: we have no other IKE SA with the peer
	ReservedSPI  uint32       // initiator: our inbound SPI before the child exists
	ReservedCPI  uint16       // with it
	Childless    bool         // initiator: IKE_AUTH offers no CHILD SA (RFC 6023)
	Wished       []netip.Addr // initiator: virtual addresses that we would like best
	Expected     *Expected    // initiator: the child whose inbound SA is installed before IKE_AUTH; nil: none
}

// StopStep is how far the outbound SA of a child that another has made superfluous is on
// its way out: it leaves the kernel before the delete of the loser of a collision is
// sent, or some time after that of one that has been replaced.
type StopStep uint8

// The steps; their numbers are part of the encoding.
const (
	StopNot  StopStep = 0 // not asked for
	StopDue  StopStep = 1
	StopGoes StopStep = 2 // the jobRemove under way does it
	StopDone StopStep = 3
	StopWait StopStep = 4 // due at RekeyAt
)

// ChildStatus is where a CHILD SA stands.
type ChildStatus uint8

// The statuses of a CHILD SA; their numbers are part of the encoding.
const (
	ChildNegotiated ChildStatus = 0 // keys and selectors agreed, not in the kernel
	ChildInstalled  ChildStatus = 1
	ChildDeleting   ChildStatus = 2 // our delete waits for the peer's answer
	ChildRemoving   ChildStatus = 3 // the kernel is to remove it
	ChildFading     ChildStatus = 4 // replaced and deleted; only its inbound SA is left, for a moment
	ChildInstalling ChildStatus = 5 // dropped while the kernel was installing it
)

func (s ChildStatus) String() string {
	switch s {
	case ChildNegotiated:
		return "NEGOTIATED"
	case ChildInstalled:
		return "INSTALLED"
	case ChildDeleting:
		return "DELETING"
	case ChildRemoving:
		return "REMOVING"
	case ChildFading:
		return "FADING"
	case ChildInstalling:
		return "INSTALLING"
	}
	return fmt.Sprintf("ChildStatus(%d)", uint8(s))
}

// Child is one CHILD SA: an inbound and an outbound SA with their policies.
type Child struct {
	UniqueID        uint64
	Name            string // its configuration
	Status          ChildStatus
	Initiator       bool // we initiated the exchange that made it: decides which keys are whose
	ReqID           uint32
	SPIIn, SPIOut   uint32
	CPIIn, CPIOut   uint16 // IPComp; only with both there is compression
	Mode            dataplane.Mode
	Options         ChildOptions
	IfIndex         uint32 // of the network interface of its outbound policies; 0: any
	Chosen          suite.Choice
	LocalTS, PeerTS []selector.TS
	Local, Remote   netip.Addr // outer addresses it was installed with
	Encap           bool
	// LocalPort and RemotePort are those of its UDP encapsulation; 0 without.
	LocalPort, RemotePort uint16
	// Orig is the peer's address as it knows it itself: what the checksums of
	// packets in transport mode through a NAT were made with.
	Orig netip.Addr
	// Moving is where the kernel is bringing it; nil: it stays.
	Moving          *Place
	MovedAt         time.Time // when it last came to its place, or was completed; zero: when it was installed
	MarkIn, MarkOut dataplane.Mark
	MarkInSA        bool
	IfIDIn, IfIDOut uint32
	Keys            suite.ChildKeys // until installed; then only the kernel has them
	InstalledAt     time.Time
	// RekeyAt is when we rekey it; of one that the peer has rekeyed, when it should
	// have deleted it; of one that has been replaced, when its outbound SA goes (Stop).
	RekeyAt time.Time
	// InboundOnly: the peer rekeyed, and what we send stays on the old SA until
	// the peer has deleted that one, which shows that it has the new one.
	InboundOnly bool
	// OwnNew and PeerNew are the children that replace this one, made by our
	// exchange and by the peer's; OwnNonce and PeerNonce the lower nonce of each,
	// which decides a collision (RFC 7296 2.8.1).
	OwnNew, PeerNew     uint64
	OwnNonce, PeerNonce []byte
	// OutboundDue: the outbound SA that InboundOnly held back is to be installed.
	OutboundDue bool
	// TakeOverAt is when InboundOnly ends for a child that another session of ours
	// has, too; zero: it is not held back for that.
	TakeOverAt time.Time
	// OutboundGoes and Goes: the jobRemove under way does that, or takes the child out.
	OutboundGoes, Goes bool
	CPU                uint32 // of one that is bound
	// Armed: its outbound policies have, or are getting, the flag that makes the
	// kernel report a packet on a CPU without an SA of its own; not before RearmAt.
	Armed   bool
	RearmAt time.Time
	Stop    StopStep
	// Fade: only the outbound half goes now, or that only in a moment (Stop).
	Fade bool
	// FadeAt ends a replaced child's inbound SA, which outlives the exchange for
	// packets that are still under way.
	FadeAt    time.Time
	EndReason string
	IdleAt    time.Time // when it is looked whether it had traffic
	Then      FollowUp  // what follows when it is gone
}

// ChildOptions are facts about a CHILD SA, as a bitmask.
type ChildOptions uint8

// The options; their numbers are part of the encoding.
const (
	ChildNoTFC      ChildOptions = 1 << 0 // the peer takes no padded packets
	ChildNoFragment ChildOptions = 1 << 1 // IPTFS: the peer takes no fragments
	ChildFwdOut     ChildOptions = 1 << 2 // has forward policies for outbound traffic
	ChildNumbered   ChildOptions = 1 << 3 // its unique marks and interface ids are chosen
	ChildKeepsNAT   ChildOptions = 1 << 4 // its outbound SA has the kernel send NAT keepalives
	ChildPerCPU     ChildOptions = 1 << 5 // bound ones may stand beside it (RFC 9611)
	ChildBound      ChildOptions = 1 << 6 // it is one CPU's
	ChildMaxQueue   ChildOptions = 1 << 7 // the peer takes no further one beside it
)

// JobKind names what an outstanding job does; the job itself is rebuilt from
// the state.
type JobKind uint8

// The kinds of job; their numbers are part of the encoding.
const (
	jobGenerate    JobKind = 1
	jobEncapsulate JobKind = 2
	jobDecapsulate JobKind = 3
	jobSign        JobKind = 4
	jobVerify      JobKind = 5
	jobReserve     JobKind = 6
	jobAsk         JobKind = 7
	jobInstall     JobKind = 8
	jobRemove      JobKind = 9  // the children with status ChildRemoving
	jobClean       JobKind = 10 // everything the session holds in the kernel
	jobLease       JobKind = 40 // virtual addresses for the peer
	jobNetwork     JobKind = 41 // the box's addresses and routes for the session
	jobExpect      JobKind = 50 // the inbound SA of the child that IKE_AUTH will ask for
	jobSupersede   JobKind = 51 // ends the session that this one replaces
	jobHandOver    JobKind = 52 // others take over before the peer's delete is answered
	jobArm         JobKind = 61 // the policies' flags as Child.Armed says
)

// JobRef is an outstanding job.
type JobRef struct {
	ID   uint32
	Kind JobKind
	Of   Side // which exchange it works for
	// Child is the unique id of the child that jobInstall installs, for an answer
	// that comes after its exchange was dropped, or that jobMove moves.
	Child uint64
	// Dst is our address that jobReserve takes an SPI at: the session may have
	// moved when the answer comes.
	Dst netip.Addr
}

// Orphan is a reserved SPI, or CPI, in the kernel.
type Orphan struct {
	Dst   netip.Addr
	SPI   uint32
	Mark  dataplane.Mark
	Proto dataplane.Proto // ESP, or IPComp for a CPI; 0: ESP
	Goes  bool            // the jobRemove under way releases it
}

// Side names the exchange that a job works for.
type Side uint8

// The sides; their numbers are part of the encoding.
const (
	OfSession Side = 0 // the set-up, or the session as a whole
	OfOwn     Side = 1 // our CREATE_CHILD_SA exchange
	OfPeer    Side = 2 // the peer's
)

// IKERole is what an IKE SA is to its session.
type IKERole uint8

// The roles; their numbers are part of the encoding.
const (
	IKECurrent  IKERole = 0
	IKENext     IKERole = 1 // made by the peer's rekeying; the peer has not moved to it yet
	IKEReplaced IKERole = 2 // waits for its delete
)

// CreateKind is what a CREATE_CHILD_SA exchange makes.
type CreateKind uint8

// The kinds of exchange; their numbers are part of the encoding.
const (
	CreateChild  CreateKind = 0 // a further CHILD SA
	RekeyChildSA CreateKind = 1
	RekeyIKESA   CreateKind = 2
)

// Create is a CREATE_CHILD_SA exchange under way (RFC 7296 1.3).
type Create struct {
	Kind       CreateKind
	Child      string   // configuration of the new child
	Old        uint64   // RekeyChildSA: the child that is replaced
	On         wire.SPI // own SPI of the IKE SA it runs on
	MessageID  uint32   // of the peer's request
	KE         wire.KEMethod
	Private    secret.Bytes
	Public     []byte
	PeerPublic []byte
	Shared     secret.Bytes
	FixedKE    bool
	Ni, Nr     []byte
	SPI        uint32   // our inbound SPI, until the candidate takes it
	CPI        uint16   // with it
	NewSPI     wire.SPI // our SPI of the new IKE SA
	PeerNewSPI wire.SPI
	// PeerToken is the new IKE SA's, as in IKE.
	PeerToken [32]byte
	Chosen    suite.Choice
	Candidate *Child // the new child until it is installed
	// Lost: the peer has rekeyed the same child and deleted the old one, so its
	// new one stands and ours, when the answer comes, is deleted.
	Lost bool
	// Deleted are SPIs that the peer has deleted meanwhile and that nobody knows:
	// its new one may be among them.
	Deleted []uint32
	// At is where the SPI was reserved, and the candidate is installed; the session
	// may have moved on by then.
	At Place
	// Single: only the first selector of each side is offered (RFC 7296 2.9.2).
	Single bool
	// Fallback: the new child is to be bound to CPU beside this one; 0: it is not.
	Fallback uint64
	CPU      uint32
}

// TaskKind is a kind of request we want to make.
type TaskKind uint8

// The kinds of task; their numbers are part of the encoding. Further ones stand
// where their exchanges do.
const (
	taskDeleteChild  TaskKind = 1
	taskDeleteIKE    TaskKind = 2
	taskDeleteSPI    TaskKind = 3 // Task.Child is an inbound SPI without a CHILD SA
	taskRekeyChild   TaskKind = 4
	taskRekeyIKE     TaskKind = 5
	taskCreateChild  TaskKind = 6  // Task.Name is its configuration
	taskDeleteOther  TaskKind = 7  // Task.Child is the own SPI of an IKE SA in Others
	taskCreateSingle TaskKind = 50 // taskCreateChild with one selector a side: SINGLE_PAIR_REQUIRED
	taskRedirect     TaskKind = 51 // Task.Name is the gateway
	taskCreateBound  TaskKind = 61 // a child beside Task.Child, bound to Task.CPU
)

// Task waits for the request window.
type Task struct {
	Kind  TaskKind
	Child uint64 // unique id of a CHILD SA, where the kind does not say otherwise
	Name  string // where the kind says so
	CPU   uint32 // likewise
}

// PendingAnswer is a peer's request whose answer waits for the kernel.
type PendingAnswer struct {
	On        wire.SPI // our SPI of the IKE SA it came on
	MessageID uint32
	SPIs      []uint32 // our inbound SPIs of the deleted children, for the answer
	IKE       bool     // it deletes the IKE SA, and waits for those who take over
}

// LocalSPI is the IKE SPI that we chose.
func (k *IKE) LocalSPI() wire.SPI {
	if k.Initiator {
		return k.SPIi
	}
	return k.SPIr
}

// PeerSPI is the IKE SPI that the peer chose; zero before it has.
func (k *IKE) PeerSPI() wire.SPI {
	if k.Initiator {
		return k.SPIr
	}
	return k.SPIi
}

// encap reports whether ESP is carried in UDP.
func (k *IKE) encap() bool { return k.NATLocal || k.NATRemote }
