// Package vicitest has an engine for tests of what speaks vici: it keeps
// sessions in memory and obeys, without network, kernel or time of its own.
package vicitest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/config"
	"espalier/ike/sa"
	"espalier/ike/vici"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// Now is the instant at which tests take place.
var Now = time.Date(2026, time.March, 4, 12, 0, 0, 0, time.UTC)

// Children of every configuration whose attempts do not end well.
const (
	Refused = "refused" // fails, with an event that says why
	Silent  = "silent"  // never comes up, never goes down
)

// Engine implements vici.Engine.
type Engine struct {
	Bus    event.Bus
	Config Config

	// Changes counts those of what clients loaded.
	Changes  int
	changing sync.Mutex // held while one is worked out

	mu        sync.Mutex
	sessions  []sa.Info
	conns     map[string][]string
	lastID    uint64
	joined    *config.Config // of Config.File and what clients loaded; nil: nothing yet
	installed map[string]bool
}

// New makes an engine that has the sessions and, for each of their connections,
// a configuration with their children, and Refused and Silent besides.
func New(sessions ...sa.Info) *Engine {
	e := &Engine{conns: map[string][]string{}, installed: map[string]bool{}}
	for _, s := range sessions {
		e.sessions = append(e.sessions, s)
		e.conns[s.Conn] = nil
		for _, c := range s.Children {
			e.conns[s.Conn] = append(e.conns[s.Conn], c.Name)
			e.lastID = max(e.lastID, c.UniqueID)
		}
		e.conns[s.Conn] = append(e.conns[s.Conn], Refused, Silent)
		e.lastID = max(e.lastID, s.UniqueID)
	}
	return e
}

// Sessions yields the sessions.
func (e *Engine) Sessions(yield func(sa.Info) bool) {
	e.mu.Lock()
	sessions := slices.Clone(e.sessions)
	e.mu.Unlock()
	for _, s := range sessions {
		if !yield(s) {
			return
		}
	}
}

// SessionsOf yields those of a connection, and the one with the id.
func (e *Engine) SessionsOf(conn string, id uint64, yield func(sa.Info) bool) {
	e.Sessions(func(i sa.Info) bool {
		return conn != "" && conn != i.Conn || id != 0 && id != i.UniqueID || yield(i)
	})
}

// FindChild looks into the configuration.
func (e *Engine) FindChild(ike, child string) (string, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := make([]string, 0, len(e.conns))
	for name := range e.conns {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if ike != "" && name != ike {
			continue
		}
		if child == "" || slices.Contains(e.conns[name], child) {
			return name, true
		}
	}
	return "", false
}

// Initiate adds a child to the connection's session at once.
func (e *Engine) Initiate(ctx context.Context, conn, child string, noWait bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.sessions, func(s sa.Info) bool { return s.Conn == conn })
	if i < 0 {
		return vici.ErrNotFound
	}
	if child == "" {
		child = e.conns[conn][0]
	}
	ike := ikeOf(&e.sessions[i])
	switch child {
	case Refused:
		e.Bus.Publish(Now, event.Failed{IKE: ike, ChildName: child, Cause: event.TSUnacceptable, ByPeer: true,
			Facts: []event.Fact{{Name: "ours", Value: "10.1.0.0/16 === 10.9.0.0/16"}}})
		return errors.New("the peer refused the traffic selectors")
	case Silent:
		if noWait {
			return nil
		}
		e.mu.Unlock()
		<-ctx.Done()
		e.mu.Lock()
		return ctx.Err()
	}
	e.lastID++
	c := Child(e.lastID, child)
	e.sessions[i].Children = append(slices.Clone(e.sessions[i].Children), c)
	e.Bus.Publish(Now, event.ChildUp{IKE: ike, Child: childOf(&c)})
	return nil
}

// InitiateIKE finds the connection's session up, if there is one.
func (e *Engine) InitiateIKE(_ context.Context, conn string, _ bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.ContainsFunc(e.sessions, func(s sa.Info) bool { return s.Conn == conn }) {
		return vici.ErrNotFound
	}
	return nil
}

// Terminate removes the target at once.
func (e *Engine) Terminate(ctx context.Context, t vici.Target, noWait bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.sessions, func(s sa.Info) bool { return s.UniqueID == t.IKE })
	if i < 0 {
		return vici.ErrNotFound
	}
	ike := ikeOf(&e.sessions[i])
	if t.Child == 0 {
		e.sessions = slices.Delete(slices.Clone(e.sessions), i, i+1)
		e.Bus.Publish(Now, event.IKEDown{IKE: ike, Reason: "closed by us"})
		return nil
	}
	children := e.sessions[i].Children
	k := slices.IndexFunc(children, func(c sa.ChildInfo) bool { return c.UniqueID == t.Child })
	if k < 0 {
		return vici.ErrNotFound
	}
	if children[k].Name == Silent && noWait {
		return nil
	}
	if children[k].Name == Silent {
		e.mu.Unlock()
		<-ctx.Done()
		e.mu.Lock()
		return ctx.Err()
	}
	e.Bus.Publish(Now, event.ChildDown{IKE: ike, Child: childOf(&children[k]), Reason: "closed by us"})
	e.sessions[i].Children = slices.Delete(slices.Clone(children), k, k+1)
	return nil
}

// Rekey gives the target new SPIs at once.
func (e *Engine) Rekey(_ context.Context, t vici.Target) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.sessions, func(s sa.Info) bool { return s.UniqueID == t.IKE })
	if i < 0 {
		return vici.ErrNotFound
	}
	if t.Child == 0 {
		e.sessions[i].SPIi, e.sessions[i].SPIr = e.sessions[i].SPIi+1, e.sessions[i].SPIr+1
		return nil
	}
	children := slices.Clone(e.sessions[i].Children)
	k := slices.IndexFunc(children, func(c sa.ChildInfo) bool { return c.UniqueID == t.Child })
	if k < 0 {
		return vici.ErrNotFound
	}
	children[k].SPIIn, children[k].SPIOut = children[k].SPIIn+1, children[k].SPIOut+1
	e.sessions[i].Children = children
	return nil
}

// Reauthenticate gives the IKE SA and its children new ids at once.
func (e *Engine) Reauthenticate(_ context.Context, ike uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.sessions, func(s sa.Info) bool { return s.UniqueID == ike })
	if i < 0 || e.sessions[i].State != sa.IKEEstablished {
		return vici.ErrNotFound
	}
	e.sessions[i].UniqueID += 100
	return nil
}

// Redirect changes a client's address at once. One that is ours to begin with is
// no client.
func (e *Engine) Redirect(_ context.Context, t vici.Target, gateway string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.sessions, func(s sa.Info) bool { return s.UniqueID == t.IKE })
	switch {
	case i < 0:
		return vici.ErrNotFound
	case e.sessions[i].Initiator:
		return errors.New("the peer does not support it")
	}
	e.sessions[i].Remote = netip.AddrPortFrom(netip.MustParseAddr(gateway), 4500)
	return nil
}

// Stats counts the sessions; the other numbers are fixed.
func (e *Engine) Stats() vici.Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	st := vici.Stats{Started: Now.Add(-90 * time.Minute), IKESAs: len(e.sessions), Workers: 4, Idle: 3, QueuedJobs: 1, Timers: 2}
	for _, s := range e.sessions {
		if s.State == sa.IKEConnecting {
			st.HalfOpen++
		}
	}
	return st
}

func ikeOf(s *sa.Info) event.IKE {
	return event.IKE{Conn: s.Conn, UniqueID: s.UniqueID, Local: s.Local, Remote: s.Remote,
		LocalID: s.LocalID, RemoteID: s.RemoteID, SPIi: uint64(s.SPIi), SPIr: uint64(s.SPIr), Initiator: s.Initiator}
}

func childOf(c *sa.ChildInfo) event.Child {
	return event.Child{Name: c.Name, UniqueID: c.UniqueID, ReqID: c.ReqID, SPIIn: c.SPIIn, SPIOut: c.SPIOut, Mode: c.Mode.String()}
}

// Gateway is an established session "gw" with one child "net", its peer behind
// a NAT.
func Gateway() sa.Info {
	return sa.Info{
		UniqueID: 1, Conn: "gw", State: sa.IKEEstablished, Initiator: true,
		Local:   netip.MustParseAddrPort("192.0.2.1:4500"),
		Remote:  netip.MustParseAddrPort("198.51.100.7:4500"),
		LocalID: "moon.example.org", RemoteID: "sun.example.org",
		SPIi: 0x0123456789abcdef, SPIr: 0x00fedcba98765432, NATRemote: true,
		Algorithms: sa.Algorithms{Encr: wire.EncrAESGCM16, EncrBits: 256,
			PRF: wire.PRFHMACSHA2_384, KE: wire.KECurve25519},
		Established: Now.Add(-65 * time.Minute), RekeyAt: Now.Add(3 * time.Hour),
		Children: []sa.ChildInfo{Child(3, "net")},
	}
}

// Half is a session that is being set up by a peer whose name is not known yet.
func Half() sa.Info {
	return sa.Info{
		UniqueID: 2, State: sa.IKEConnecting,
		Local:  netip.MustParseAddrPort("[2001:db8::1]:500"),
		Remote: netip.MustParseAddrPort("[2001:db8::2]:500"),
		SPIi:   0xaaaaaaaaaaaaaaaa, SPIr: 0x0200000000000001,
		Algorithms: sa.Algorithms{Encr: wire.EncrAESCBC, EncrBits: 128, Integ: wire.IntegHMACSHA2_256_128,
			PRF: wire.PRFHMACSHA2_256, KE: wire.KEMODP2048},
	}
}

// Child is an installed CHILD SA.
func Child(id uint64, name string) sa.ChildInfo {
	return sa.ChildInfo{
		UniqueID: id, Name: name, ReqID: uint32(id), State: sa.ChildSAInstalled,
		Mode: dataplane.Tunnel, Proto: dataplane.ESP, Encap: true,
		SPIIn: 0x01c0ffee, SPIOut: 0xcafe0000 + uint32(id),
		Algorithms:  sa.Algorithms{Encr: wire.EncrAESGCM16, EncrBits: 128},
		In:          sa.Usage{Bytes: 5 << 20, Packets: 4321, LastUse: Now.Add(-2 * time.Second)},
		Out:         sa.Usage{Bytes: 840, Packets: 10},
		InstalledAt: Now.Add(-10 * time.Minute), RekeyAt: Now.Add(45 * time.Minute), ExpiresAt: Now.Add(time.Hour),
		LocalTS:  []selector.TS{selector.FromPrefix(netip.MustParsePrefix("10.1.0.0/16"))},
		RemoteTS: []selector.TS{selector.FromPrefix(netip.MustParsePrefix("10.2.0.0/16")), selector.Host(netip.MustParseAddr("10.3.0.1"))},
	}
}
