// Package xfrm is the data plane over the kernel's XFRM: SAs, policies, SPIs
// and events over netlink, in one network namespace. What it installs it
// journals first, since XFRM has no owner field: a start removes or adopts only
// what a former run journalled, never another program's.
package xfrm

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
	"espalier/dataplane/host"
)

// Options for Open.
type Options struct {
	// JournalDir is the folder of the journal, made with mode 0700 when absent,
	// on a file system that outlives the daemon and not the kernel: /run/espalier.
	// One XFRM at a time may use it.
	JournalDir string
	// NetNS is an open network namespace (/run/netns/…); nil is the calling
	// thread's. The sockets stay in it.
	NetNS *os.File
	// Events is how many events wait for the reader; 0: 1024.
	Events int
	// Verbs performs what needs more rights; nil: host.Local{}.
	Verbs host.Verbs
	// Log gets what is worth telling at opening and in the event reader; the
	// zero value is silent.
	Log zerolog.Logger
}

// XFRM is a dataplane.DataPlane over kernel XFRM. Safe for concurrent use.
type XFRM struct {
	log      zerolog.Logger
	verbs    host.Verbs
	ns       *os.File
	conn     *conn
	features dataplane.Features
	events   *dataplane.EventQueue
	reader   *notices
	expires  string // net.core.xfrm_acq_expires before Open; empty: not raised

	mu       sync.Mutex // guards what follows, and the order of changes
	closed   bool
	own      map[dataplane.SAKey]ownSA
	policies *dataplane.PolicyTable
	journal  *journal
	left     leftovers
	watches  map[*notices]func() // open watches, and how each is stopped
}

// ownSA is what must be known of an installed SA or a reserved SPI to journal
// it, to put it back, and to tell it from another program's.
type ownSA struct {
	src         addr
	reqID, ifID uint32
	added       int64 // Unix seconds
	dir         dataplane.Direction
	mode        dataplane.Mode
	reserved    bool
}

var _ dataplane.DataPlane = (*XFRM)(nil)

// A reserved SPI lives as long as the kernel waits for an acquire. One run of
// retransmissions of an initiator takes 165 s.
const (
	acqExpires        = "net.core.xfrm_acq_expires"
	acqExpiresAtLeast = 180
)

// modules are what a stock kernel may have to load; the rest it loads itself
// when an SA asks for it.
var modules = [...]string{"xfrm_user", "esp4", "esp6"}

// Open connects to the kernel's XFRM in a network namespace, reads the journal
// of a former run, and probes what the kernel can do. Errors: no XFRM in the
// kernel, no CAP_NET_ADMIN, a journal in use or unreadable.
func Open(o Options) (*XFRM, error) {
	if o.Verbs == nil {
		o.Verbs = host.Local{}
	}
	if o.Events == 0 {
		o.Events = 1024
	}
	x := &XFRM{
		log: o.Log, verbs: o.Verbs, ns: o.NetNS,
		events: dataplane.NewEventQueue(o.Events),
		own:    make(map[dataplane.SAKey]ownSA), policies: dataplane.NewPolicyTable(),
	}
	for _, m := range modules {
		if err := o.Verbs.LoadModule(m); err != nil {
			// A kernel that has it built in without telling is fine; one that has
			// not says so below.
			x.log.Debug().Str("module", m).Err(err).Msg("kernel module not loaded")
		}
	}
	if err := x.open(o.JournalDir); err != nil {
		x.release()
		return nil, err
	}
	return x, nil
}

func (x *XFRM) open(journalDir string) error {
	var err error
	if x.journal, err = openJournal(journalDir); err != nil {
		return err
	}
	err = inNamespace(x.ns, func() error {
		if x.conn, err = openConn(unix.NETLINK_XFRM); err != nil {
			return explainOpen(err)
		}
		if err := x.raiseExpires(); err != nil {
			return err
		}
		if x.reader, err = openEvents(x); err != nil {
			return explainOpen(err)
		}
		x.probe()
		return nil
	})
	if err != nil {
		return err
	}
	if err := x.findLeftovers(); err != nil {
		return err
	}
	x.reader.start()
	return nil
}

func explainOpen(err error) error {
	if isErrno(err, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ESOCKTNOSUPPORT) {
		return &explained{words: "the kernel has no XFRM netlink interface: module xfrm_user (CONFIG_XFRM_USER) is missing", cause: err}
	}
	return fmt.Errorf("XFRM netlink socket: %w", err)
}

// raiseExpires makes reserved SPIs live long enough. Close puts the old value back.
func (x *XFRM) raiseExpires() error {
	old, err := x.verbs.Sysctl(acqExpires)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(old); err == nil && n >= acqExpiresAtLeast {
		return nil
	}
	if err := x.verbs.SetSysctl(acqExpires, strconv.Itoa(acqExpiresAtLeast)); err != nil {
		return err
	}
	x.expires = old
	return nil
}

// Events implements dataplane.DataPlane.
func (x *XFRM) Events() <-chan dataplane.Event { return x.events.C() }

// Features implements dataplane.DataPlane.
func (x *XFRM) Features() dataplane.Features { return x.features }

// Close implements dataplane.DataPlane. SAs, policies and the journal stay.
func (x *XFRM) Close() error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	x.closed = true
	watches := x.watches
	x.watches = nil
	x.mu.Unlock()
	for _, stop := range watches {
		stop()
	}
	return x.release()
}

// release closes what is open, as far as Open came.
func (x *XFRM) release() error {
	var errs []error
	if x.reader != nil {
		x.reader.stop()
	}
	x.events.Close()
	if x.expires != "" {
		errs = append(errs, inNamespace(x.ns, func() error {
			now, err := x.verbs.Sysctl(acqExpires)
			if err != nil || now != strconv.Itoa(acqExpiresAtLeast) {
				return err // somebody else changed it since: theirs
			}
			return x.verbs.SetSysctl(acqExpires, x.expires)
		}))
	}
	if x.conn != nil {
		errs = append(errs, x.conn.close())
	}
	if x.journal != nil {
		errs = append(errs, x.journal.close())
	}
	return errors.Join(errs...)
}

// QuerySA implements dataplane.DataPlane.
func (x *XFRM) QuerySA(k dataplane.SAKey) (dataplane.SAStatus, error) {
	if x.isClosed() {
		return dataplane.SAStatus{}, dataplane.ErrClosed
	}
	raw, err := x.getSA(&k)
	if err != nil {
		return dataplane.SAStatus{}, err
	}
	defer raw.wipe()
	if raw.reserved() {
		return dataplane.SAStatus{}, dataplane.ErrNotFound
	}
	return raw.status(), nil
}

func (x *XFRM) isClosed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.closed
}

// List implements dataplane.DataPlane. SPI 0, under which the kernel waits for
// the answer to an acquire, is not listed.
func (x *XFRM) List() (dataplane.Snapshot, error) {
	if x.isClosed() {
		return dataplane.Snapshot{}, dataplane.ErrClosed
	}
	var snap dataplane.Snapshot
	err := x.eachSA(func() { snap.SAs = nil }, func(raw *rawSA) {
		if sa := raw.installed(); sa.SPI != 0 {
			snap.SAs = append(snap.SAs, sa)
		}
	})
	if err != nil {
		return dataplane.Snapshot{}, fmt.Errorf("list SAs: %w", err)
	}
	err = x.eachPolicy(func() { snap.Policies = nil }, func(p *dumpedPolicy) {
		p.Owner = x.policies.Owner(&p.PolicyKey)
		snap.Policies = append(snap.Policies, p.Policy)
	})
	if err != nil {
		return dataplane.Snapshot{}, fmt.Errorf("list policies: %w", err)
	}
	return snap, nil
}
