package engine

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/engine/sockets"
	"espalier/ike/lease"
	"espalier/ike/sa"
)

// standing are the policies that the configuration asks for without any CHILD
// SA, traps aside: guards (leak = block), shunts (mode = pass or drop) and the
// local networks that tunnels leave alone (bypass_lan). What is wanted is worked
// out anew at each change and compared with what is installed; what is new comes
// before what goes. Guards are left in place by a stop, and the next start takes
// them over.
type standing struct {
	mu        sync.Mutex
	installed map[standingKey]dataplane.Policy
	byHand    map[ChildName]bool // shunts installed (true) or uninstalled by Install and Uninstall
}

type standingKey struct {
	dataplane.PolicyKey
	owner uint64
}

// The owners of standing policies; CHILD SAs and traps count from 1.
const (
	guardOwner uint64 = 1<<63 + iota
	shuntOwner
	lanOwner
)

// maxLANs bounds how many local networks are passed by.
const maxLANs = 64

// applyStanding brings the standing policies in line with the configuration and
// the addresses of now. It waits for the kernel only.
func (e *Engine) applyStanding() error {
	st := &e.standing
	st.mu.Lock()
	defer st.mu.Unlock()
	cfg := e.config.Load()
	w := wanted{log: e.log, settings: &cfg.settings, set: cfg.set, lookup: e.hosts.lookup, route: e.opts.Route, policies: map[standingKey]dataplane.Policy{}}
	if w.route == nil {
		w.route = sockets.Route
	}
	for _, c := range cfg.set.All() {
		w.guards(c)
		w.shunts(c, st.byHand)
	}
	var lans []netip.Prefix
	if cfg.settings.BypassLAN {
		lans = e.networks()
		w.lans(lans)
	}
	var err error
	if e.opts.Network != nil {
		spared := lans[:min(len(lans), maxLANs)]
		if cfg.settings.InstallRoutes {
			spared = append(spared, e.passedBy(w.policies)...)
		}
		err = e.opts.Network.Spare(spared)
	}
	if st.installed == nil {
		st.installed = map[standingKey]dataplane.Policy{}
	}
	return errors.Join(err, reconcileStanding(e.dp, st.installed, w.policies))
}

// passedBy are the networks that the box's own traffic reaches in clear by a shunt
// that passes: a route into a wider tunnel, and with it another source address,
// would keep it from that. One to everywhere would take the routes from tunnels
// that other sources have.
func (e *Engine) passedBy(ps map[standingKey]dataplane.Policy) []netip.Prefix {
	own := e.addrs.Load()
	if own == nil {
		return nil
	}
	var out []netip.Prefix
	for _, p := range ps {
		s := &p.Selector
		if p.Owner == shuntOwner && p.Verdict != dataplane.Block && p.Dir == dataplane.Out && s.Proto == 0 && s.SrcPortMask|s.DstPortMask == 0 &&
			p.Mark == (dataplane.Mark{}) && s.Dst.Bits() > 0 && slices.ContainsFunc(*own, s.Src.Contains) {
			out = append(out, s.Dst)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// override installs or uninstalls a shunt by hand.
func (st *standing) override(e *Engine, n ChildName, install bool) error {
	st.mu.Lock()
	if st.byHand == nil {
		st.byHand = map[ChildName]bool{}
	}
	st.byHand[n] = install
	st.mu.Unlock()
	return e.applyStanding()
}

// forget drops what was done by hand to shunts that are not configured any more.
func (st *standing) forget(set *sa.ConnSet) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for n := range st.byHand {
		if c := set.ByName(n.Conn); c == nil || c.ShuntOf(n.Child) == nil {
			delete(st.byHand, n)
		}
	}
}

// endStanding removes what must not outlive the engine: all but the guards.
func (e *Engine) endStanding() error {
	st := &e.standing
	st.mu.Lock()
	defer st.mu.Unlock()
	keep := map[standingKey]dataplane.Policy{}
	for k, p := range st.installed {
		if k.owner == guardOwner {
			keep[k] = p
		}
	}
	return reconcileStanding(e.dp, st.installed, keep)
}

// Guard installs the guards of the connections, for a time when no engine runs:
// before the network is up, say. It returns how many policies they are.
func Guard(dp dataplane.DataPlane, conns []*sa.Connection, pools []*lease.Pool, s Settings, log zerolog.Logger) (int, error) {
	w := wanted{log: log, settings: &s, set: sa.NewConnSet(conns, nil).WithPools(pools), policies: map[standingKey]dataplane.Policy{}}
	for _, c := range conns {
		w.guards(c)
	}
	return len(w.policies), reconcileStanding(dp, map[standingKey]dataplane.Policy{}, w.policies)
}

// reconcileStanding installs what is wanted and then deletes what is not. It goes
// on after an error and returns all of them.
func reconcileStanding(dp dataplane.DataPlane, installed, want map[standingKey]dataplane.Policy) error {
	var errs []error
	for k, p := range want {
		if was, ok := installed[k]; ok && was.Priority == p.Priority && was.Verdict == p.Verdict {
			continue
		}
		if err := dp.Apply([]dataplane.Op{dataplane.InstallPolicy{Policy: p}}); err != nil {
			errs = append(errs, err)
			continue
		}
		installed[k] = p
	}
	for k := range installed {
		if _, ok := want[k]; ok {
			continue
		}
		if err := dp.Apply([]dataplane.Op{dataplane.DeletePolicy{Key: k.PolicyKey, Owner: k.owner}}); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(installed, k)
	}
	return errors.Join(errs...)
}

// wanted collects the standing policies of a configuration. Of two that have the
// same key the first counts.
type wanted struct {
	log      zerolog.Logger
	settings *Settings
	set      *sa.ConnSet
	lookup   func(host string) []netip.Addr       // nil: names are not known
	route    func(netip.Addr) (netip.Addr, error) // nil: own addresses are known from the configuration only
	policies map[standingKey]dataplane.Policy
}

func (w *wanted) add(ps []dataplane.Policy) {
	for _, p := range ps {
		k := standingKey{p.PolicyKey, p.Owner}
		if _, taken := w.policies[k]; !taken {
			w.policies[k] = p
		}
	}
}

// guards collects those of a connection, when leak = block.
func (w *wanted) guards(c *sa.Connection) {
	if !w.settings.BlockLeaks {
		return
	}
	local, remote := w.stands(c)
	for _, ch := range c.Children {
		if !ch.Policies {
			continue
		}
		w.child(c, ch, "leak = block", local, remote, func(r sa.Resolved) ([]dataplane.Policy, error) {
			ps, err := ch.Guards(r, guardOwner, w.settings.MaxSelectors)
			if slices.ContainsFunc(ps, func(p dataplane.Policy) bool { return p.Selector.Src.Addr().Is6() }) {
				ps = append(ps, sa.Neighbours(guardOwner)...)
			}
			return ps, err
		})
	}
}

// shunts collects those of a connection that the configuration or a hand installs.
func (w *wanted) shunts(c *sa.Connection, byHand map[ChildName]bool) {
	if len(c.Shunts) == 0 {
		return
	}
	local, remote := w.stands(c)
	for _, ch := range c.Shunts {
		if !shuntWanted(ChildName{c.Name, ch.Name}, ch, byHand) {
			continue
		}
		w.child(c, ch, "shunt", local, remote, func(r sa.Resolved) ([]dataplane.Policy, error) {
			return ch.Shunted(r, shuntOwner, w.settings.MaxSelectors)
		})
	}
}

// child adds the policies of one child for the selectors that are known.
func (w *wanted) child(c *sa.Connection, ch *sa.ChildConfig, what string, local, remote []selector.TS, make func(sa.Resolved) ([]dataplane.Policy, error)) {
	r := ch.Resolve(local, remote)
	if r.Unknown > 0 {
		w.log.Warn().Str("conn", c.Name).Str("child", ch.Name).Str("for", what).Int("selectors", r.Unknown).
			Msg("dynamic selectors are left out: what they stand for is not known now")
	}
	if len(r.Local) == 0 || len(r.Remote) == 0 {
		return
	}
	ps, err := make(r)
	if err != nil {
		w.log.Error().Str("conn", c.Name).Str("child", ch.Name).Str("for", what).Err(err).Msg("policies left out")
		return
	}
	w.add(ps)
}

// lans collects those that let the traffic within each local network pass.
func (w *wanted) lans(nets []netip.Prefix) {
	if len(nets) > maxLANs {
		w.log.Warn().Int("networks", len(nets)).Int("limit", maxLANs).Msg("bypass_lan: too many local networks, the rest is left out")
		nets = nets[:maxLANs]
	}
	for _, n := range nets {
		sel := dataplane.Selector{Src: n, Dst: n}
		for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In, dataplane.Fwd} {
			w.add([]dataplane.Policy{{
				PolicyKey: dataplane.PolicyKey{Selector: sel, Dir: dir}, Owner: lanOwner,
				Layer: dataplane.LayerStanding, Priority: dataplane.Priority(sel),
			}})
		}
	}
}

// stands are what "dynamic" means on either side of a connection, as far as that
// is known without waiting: the outer addresses, of a virtual address that we ask
// for every address (RFC 7296 2.19), of those that we give away their pools.
func (w *wanted) stands(c *sa.Connection) (local, remote []selector.TS) {
	known := func(specs []sa.AddrSpec) netip.Addr {
		for _, a := range specs {
			if addr, ok := a.Single(); ok {
				return addr
			}
			if a.Host != "" && w.lookup != nil {
				if addrs := w.lookup(a.Host); len(addrs) > 0 {
					return addrs[0]
				}
			}
		}
		return netip.Addr{}
	}
	l, r := known(c.LocalAddrs), known(c.RemoteAddrs)
	if !l.IsValid() && r.IsValid() && w.route != nil {
		if addr, err := w.route(r); err == nil {
			l = addr
		}
	}
	for _, v := range c.VIPs {
		everything, _ := unspecified(v).Prefix(0) // cannot fail
		local = append(local, selector.FromPrefix(everything))
	}
	for _, name := range c.Pools {
		if p := w.set.Pool(name); p != nil {
			remote = append(remote, selector.TS{EndPort: math.MaxUint16, Start: p.Start, End: p.End})
		}
	}
	if len(c.VIPs) == 0 && l.IsValid() {
		local = append(local, selector.Host(l))
	}
	if len(c.Pools) == 0 && r.IsValid() {
		remote = append(remote, selector.Host(r))
	}
	return local, remote
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// networks are the networks that the box is directly connected to.
func (e *Engine) networks() []netip.Prefix {
	list := e.opts.Networks
	if list == nil {
		list = connectedNetworks
	}
	nets, err := list()
	if err != nil {
		e.log.Error().Err(err).Msg("bypass_lan: the local networks could not be listed")
	}
	return nets
}

// connectedNetworks lists the networks of the interfaces that are up, loopback
// and single addresses aside, in order and each once.
func connectedNetworks() ([]netip.Prefix, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || p.IsSingleIP() {
				continue
			}
			if p = p.Masked(); !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out, nil
}
