// Package tune is the tuner: it looks at what CPUs and SAs do, decides what to
// change, and can say why. Deciding is a function of what was observed before and
// now: no clock, no I/O, no randomness. The same observations always give the same
// decisions, so a decision can be replayed and a model can test it.
//
// The rules of steering start from RSS++ (Barbette et al., CoNEXT 2019): moves go
// from the most to the least loaded CPU and lessen the squared imbalance, and a
// round is short while there is much to do. Three things differ. The price of a
// packet is learnt rather than taken from the CPU's load by share, so load that is
// not IPsec (a busy sender, a routing daemon, the interrupts of the NIC's only
// queue) shows as what it is and is worked around. An assignment is searched as a
// whole, swaps included, so a round can do all its moves at once. And each action
// is judged two rounds later: one that made things worse is taken back, and not
// tried again for a while.
package tune

import (
	"fmt"
	"time"
)

// NoCPU is the place of an SA that is not steered: its packets stay on the CPU
// where they arrive.
const NoCPU = -1

// SAID names an SA in the tables of the BPF programs; a slot that is used again
// has another generation.
type SAID struct{ Slot, Generation uint32 }

// Observation is what happened since the one before.
type Observation struct {
	At       time.Duration // since any fixed moment; grows
	Interval time.Duration // how long the counts of this observation took; above 0
	CPUs     []CPU         // each possible CPU once, by ascending ID
	SAs      []SA          // inbound SAs and groups of clear connections, in any order, each once
	System   System
	// Losing are further inbound SAs that refused packets, where none can be steered.
	Losing []SA
	Links  []Link // outside and inside interfaces, each once
	Paths  []Path // whose MTU is known
}

// CPU is one CPU over the interval. Shares are of the CPU's time, 0 to 1.
type CPU struct {
	ID      int
	Online  bool // and allowed to get work
	Busy    float64
	Foreign float64 // part of Busy that surely is not packet processing: other processes, other interrupts; 0 if unknown
	Dropped uint64  // packets that found the queue to this CPU full
	// Squeezed counts how often packet processing ended with work left (softnet).
	Squeezed uint64
}

// SA is what is steered as one, over the interval: an inbound SA, or a group of clear
// connections from inside, which are encrypted where they are steered to.
type SA struct {
	ID      SAID
	Clear   bool   // a group of connections
	SPI     uint32 // or the number of the group
	Name    string // connection and child, for the reason in words; may be empty
	CPU     int    // where it is steered to, or NoCPU
	Arrives int    // where its packets arrive: on which CPU most were counted
	Packets uint64 // arrived
	Bytes   uint64
	Lost    uint64 // of Packets: did not get to their CPU
	// What the kernel refused since it was looked at last: packets left of the replay
	// window, in it and seen before, and such with a wrong integrity check value.
	Late, Repeated, Forged uint64
	Window                 uint32  // replay window, packets; 0: not known, or none
	Weight                 float64 // price of its algorithm, as a multiple of AES-GCM's; 0 means 1
	Fixed                  bool    // tied to its CPU by negotiation (RFC 9611): never moved
	// CanSplit: both ends take SAs of single CPUs beside this one. Group is what it
	// has in common with those; 0: nothing.
	CanSplit bool
	Group    uint32
}

// Action is one change the tuner asks for: Move, Split, Join, Set. Leave is none,
// and says why.
type Action interface {
	isAction()
	String() string
}

type (
	// Move steers an SA, or a group of clear connections, to another CPU.
	Move struct {
		SA       SAID
		Clear    bool
		SPI      uint32
		Name     string
		From, To int
	}
	// Split asks IKE for one more SA beside this one, of a CPU (RFC 9611), since it
	// fills a CPU by itself and moving cannot help it.
	Split struct {
		SA   SAID
		SPI  uint32
		Name string
		CPU  int
	}
	// Join lets an SA of a single CPU go: the one beside which it stands does its work.
	Join struct {
		SA   SAID
		SPI  uint32
		Name string
	}
	// Leave changes nothing: the SA, or group of clear connections, fills its CPU, and
	// nothing can be done about it.
	Leave struct {
		SA    SAID
		Clear bool
		SPI   uint32
		Name  string
	}
)

func (Move) isAction()  {}
func (Split) isAction() {}
func (Join) isAction()  {}
func (Leave) isAction() {}

func (m Move) String() string {
	return fmt.Sprintf("move %s from %s to %s", steeredName(m.Clear, m.Name, m.SPI), cpuName(m.From), cpuName(m.To))
}

func (s Split) String() string {
	return fmt.Sprintf("ask for an SA of %s beside %s", cpuName(s.CPU), saName(s.Name, s.SPI))
}

func (j Join) String() string { return "let " + saName(j.Name, j.SPI) + ", an SA of one CPU, go" }

func (l Leave) String() string {
	return "leave " + steeredName(l.Clear, l.Name, l.SPI) + " on a CPU that it fills"
}

// steeredName is that of an SA, or of a group of clear connections.
func steeredName(isClear bool, name string, spi uint32) string {
	if isClear {
		return fmt.Sprintf("group %d of clear connections", spi)
	}
	return saName(name, spi)
}

func saName(name string, spi uint32) string {
	if name == "" {
		return fmt.Sprintf("SPI 0x%08x", spi)
	}
	return fmt.Sprintf("%s (SPI 0x%08x)", name, spi)
}

func cpuName(cpu int) string {
	if cpu == NoCPU {
		return "where it arrives"
	}
	return fmt.Sprintf("CPU %d", cpu)
}

// Reason says why, in words and in the figures behind them.
type Reason struct {
	Text string
	// Before and After are the load of the busiest CPU that has work to give, as
	// a share of its capacity: now, and as expected once the round's actions took
	// effect. Above 1: more than it can do.
	Before, After float64
}

// Planned is an action with its reason.
type Planned struct {
	Action Action
	Reason Reason
}

// Decision is what a round comes to.
type Decision struct {
	Actions  []Planned
	Next     time.Duration // until the next observation
	Verdicts []Verdict     // on earlier actions
	Loads    []Load        // by CPU, as they are understood
}

// Verdict says what came of earlier actions.
type Verdict struct {
	Actions []Action
	Helped  bool
	Unknown bool // whether it helped cannot be told: the load is another one
	Text    string
}

// Load is what the tuner takes a CPU's load to be: shares of its time. Their sum
// is above 1 where more arrives than can be done.
type Load struct {
	CPU     int
	Foreign float64 // not of any SA
	SAs     float64 // what its SAs ask for
}

// Total is the sum of both.
func (l Load) Total() float64 { return l.Foreign + l.SAs }

// Limits bound what a round may do. The zero value of a field takes the default,
// a negative number means none.
type Limits struct {
	Moves     int           // SAs moved in a round; default 64
	Elephants int           // of these, such that load a CPU by more than Elephant; default 1
	Elephant  float64       // share of a CPU's time; default 0.6
	Gain      float64       // what a move must take off the busiest CPU to be worth it; default 0.05
	Rest      int           // rounds that a moved SA stays where it is; default 5
	Splits    int           // per-CPU SAs asked for in a round; default 1
	Settings  int           // settings of the box changed in a round; default 8
	Queues    int           // CPUs of queues and interrupts changed in a round; default 8
	Offloads  int           // features of devices switched in a round; default 1
	Rekeys    int           // SAs that are to be renewed, for a wider replay window or pcrypt, in a round; default 1
	MinRound  time.Duration // default 250 ms
	MaxRound  time.Duration // default 4 s
	// PacketPrice is what a packet costs before its first byte, in bytes; default 500.
	PacketPrice float64
}

func (l Limits) withDefaults() Limits {
	setDefault(&l.Moves, 64)
	setDefault(&l.Elephants, 1)
	setDefault(&l.Elephant, 0.6)
	setDefault(&l.Gain, 0.05)
	setDefault(&l.Rest, 5)
	setDefault(&l.Splits, 1)
	setDefault(&l.Settings, 8)
	setDefault(&l.Queues, 8)
	setDefault(&l.Offloads, 1)
	setDefault(&l.Rekeys, 1)
	setDefault(&l.MinRound, 250*time.Millisecond)
	setDefault(&l.MaxRound, 4*time.Second)
	setDefault(&l.PacketPrice, 500)
	return l
}

func setDefault[T int | float64 | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}
