package vici

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/config"
	"espalier/ike/lease"
	"espalier/ike/sa"
)

// Engine is what the server needs of the IKE engine. Its methods are safe for
// concurrent use: each client is served by a goroutine of its own.
type Engine interface {
	// SessionsOf yields a snapshot of every session, the newest first as charon has
	// it, until yield says false: of those of a connection, unless that is empty, and of the
	// one with the unique id, unless that is 0. yield waits for the client and may take seconds: it must
	// be called outside of locks and shards. The snapshot need not be of one
	// instant.
	SessionsOf(conn string, id uint64, yield func(sa.Info) bool)

	// FindChild resolves names of the configuration: the first connection that
	// has a child of that name, only within connection ike unless that is empty.
	// With an empty child it looks for connection ike alone.
	FindChild(ike, child string) (conn string, found bool)

	// Initiate brings up a child of conn; an empty child means conn's first. It
	// returns when the child is installed (or, without one, the IKE SA is
	// established), when that failed, or when ctx ends, with ctx's error; ending
	// ctx does not stop the attempt. A child that is up already is success. What
	// happens meanwhile is published as events, the last before the return. With
	// noWait it returns as soon as the attempt began.
	// Errors: ErrNotFound; else why it failed, in a sentence for people.
	Initiate(ctx context.Context, conn, child string, noWait bool) error

	// InitiateIKE is Initiate for the IKE SA alone, whatever children conn has.
	InitiateIKE(ctx context.Context, conn string, noWait bool) error

	// Terminate deletes what target names. It returns when that is gone, its
	// events published, when ctx ends, with ctx's error, or with noWait as soon
	// as the delete began; ending ctx does not stop the delete.
	// Errors: ErrNotFound when the SA is not there.
	Terminate(ctx context.Context, target Target, noWait bool) error

	// Rekey replaces what target names by a new SA. It returns when that has
	// begun or waits for its turn. Errors: ErrNotFound when the SA is not there.
	Rekey(ctx context.Context, target Target) error

	// Reauthenticate has a new IKE SA, authenticated anew and with the same children,
	// take the place of the one with the unique id. It returns when that has begun.
	// Errors: ErrNotFound when the IKE SA is not there, or not established; else why
	// it cannot be.
	Reauthenticate(ctx context.Context, ike uint64) error

	// Redirect asks the client of an IKE SA to go to another gateway (RFC 5685),
	// an address or a host name. It returns when that is on its way.
	// Errors: ErrNotFound; else why the client is not asked.
	Redirect(ctx context.Context, target Target, gateway string) error

	// Stats is what the stats command tells.
	Stats() Stats

	// Connections, Credentials, Authorities and Pools are those in force, in the
	// order of the configuration. What they return is not changed by anybody.
	Connections() []*sa.Connection
	Credentials() *auth.Credentials
	Authorities() []Authority
	Pools() []lease.Status

	// Policies are those that stand without a CHILD SA, traps and shunts, in the
	// order of the configuration.
	Policies() []Policy

	// Counters are those of a connection, or with an empty name of all; false:
	// nothing was counted for the connection. ResetCounters sets them to zero.
	Counters(conn string) (Counters, bool)
	CountedConnections() []string
	ResetCounters(conn string)

	// Loaded is what clients have loaded; ChangeLoaded puts what make makes of it in
	// its place, with the settings in force, one change after the other. It returns
	// when the change is in force.
	// Errors: make's; else why it can't be, and what was loaded stays.
	Loaded() *config.Loaded
	ChangeLoaded(ctx context.Context, make func(*config.Loaded, *config.Settings) (*config.Loaded, error)) error

	// Install puts a child's trap, or a shunt, into the kernel, Uninstall takes it
	// out. A CHILD SA stays. Errors: ErrNotFound; else why it can't be.
	Install(ctx context.Context, conn, child string) error
	Uninstall(conn, child string) error

	// Reload reads the configuration again and applies what differs.
	// Errors: what is wrong with it; the running one stays then.
	Reload(ctx context.Context) error
}

// Authority is a certification authority of the configuration.
type Authority struct {
	Name   string
	Origin string // "file" or "vici"
	CACert *x509.Certificate
	CRLs   []string
}

// Policy is a child's policies that stand without a CHILD SA.
type Policy struct {
	Conn              string
	Child             *sa.ChildConfig
	ReqID             uint32 // of a trap; 0: a shunt has none
	LocalTS, RemoteTS []selector.Spec
}

// ErrNotFound says that no configuration or SA has the name or id.
var ErrNotFound = errors.New("not found")

// Target names what is to be terminated, rekeyed or redirected.
type Target struct {
	IKE   uint64 // unique id of the IKE SA, always set
	Child uint64 // unique id of the CHILD SA; 0: the IKE SA with all its children
	Force bool   // tell the peer, but do not wait for its answer
}

// Stats are the daemon's numbers.
type Stats struct {
	Started    time.Time
	IKESAs     int // sessions, half open ones included
	HalfOpen   int
	Workers    int // goroutines that do the heavy crypto
	Idle       int // workers without a job
	QueuedJobs int // jobs that wait for a worker
	Timers     int // sessions that wait for a deadline
}
