package sa

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// negotiated is the CHILD SA that the running exchange makes; nil if none.
func (m *Machine) negotiated() *Child {
	for i := range m.s.Children {
		if m.s.Children[i].Status == ChildNegotiated {
			return &m.s.Children[i]
		}
	}
	return nil
}

// resolve puts addresses in the place of "dynamic".
func (m *Machine) resolve(c *ChildConfig) (local, remote []selector.TS) {
	k := &m.s.IKE
	return resolved(c.LocalTS, m.leased(false), k.Local.Addr()), resolved(c.RemoteTS, m.leased(true), k.Remote.Addr())
}

// resolved puts the leased addresses in the place of "dynamic", without any the
// outer one.
func resolved(specs []selector.Spec, leased []netip.Addr, outer netip.Addr) []selector.TS {
	if len(leased) == 0 {
		leased = []netip.Addr{outer}
	}
	out := make([]selector.TS, 0, len(specs))
	for _, s := range specs {
		if !s.Dynamic {
			out = append(out, s.TS)
			continue
		}
		for _, a := range leased {
			out = append(out, s.Resolve(a))
		}
	}
	return out
}

// appendChildOffer adds SA, TSi and TSr to the initiator's IKE_AUTH.
func (m *Machine) appendChildOffer(ps []wire.Payload) []wire.Payload {
	if m.s.Setup.Childless {
		return ps
	}
	c := m.conn.Child(m.s.ChildName)
	local, remote := m.offered(c)
	local, remote = m.packetFirst(c.Name, local, remote)
	ps = appendTerms(ps, m.wish(c), m.s.Setup.ReservedCPI)
	if m.offersPerCPU(c) {
		ps = appendResource(ps, nil)
	}
	spi := binary.BigEndian.AppendUint32(nil, m.s.Setup.ReservedSPI)
	if x := m.s.Setup.Expected; x != nil {
		return append(ps, x.Choice.Answer(spi), wireTS(true, local), wireTS(false, remote))
	}
	// The first CHILD SA has no key exchange of its own (RFC 7296 1.2).
	return append(ps, suite.Offer(suite.WithoutKE(c.Proposals), spi, 0), wireTS(true, local), wireTS(false, remote))
}

// appendChildAnswer adds the responder's side of the child, or why there is none.
func (m *Machine) appendChildAnswer(ps []wire.Payload) []wire.Payload {
	c := m.installedOrNegotiated()
	if c == nil {
		if e := m.s.Setup.ChildError; e != 0 {
			ps = append(ps, &wire.Notify{NotifyType: e})
		}
		return ps
	}
	ps = appendAnswerResource(appendTerms(ps, c.Mode, c.CPIIn), c)
	spi := binary.BigEndian.AppendUint32(nil, c.SPIIn)
	return append(ps, c.Chosen.Answer(spi), wireTS(true, c.PeerTS), wireTS(false, c.LocalTS))
}

func (m *Machine) installedOrNegotiated() *Child {
	if len(m.s.Children) == 0 {
		return nil
	}
	return &m.s.Children[len(m.s.Children)-1]
}

// chooseChild answers the initiator's child offer: which configuration, which
// proposal, which selectors (RFC 7296 2.9). It reports whether there will be a
// CHILD SA; otherwise Setup.ChildError says what the answer tells the peer.
func (m *Machine) chooseChild() bool {
	st := m.s.Setup
	ps := m.kept()
	sa, ok := wire.First[*wire.SA](ps)
	if !ok {
		return false // childless: RFC 6023
	}
	peerLocal, err1 := tsOf(ps, false)
	peerRemote, err2 := tsOf(ps, true)
	if err1 != nil || err2 != nil {
		st.ChildError = wire.NotifyTSUnacceptable
		m.failed(event.TSUnacceptable, false, "", "", event.Fact{Name: "detail", Value: firstErr(err1, err2)})
		return false
	}
	t := m.terms(ps)
	cfg, local, remote, why := m.matchNAT(peerLocal, peerRemote, t.mode)
	if cfg == nil {
		st.ChildError = wire.NotifyTSUnacceptable
		m.tsFailed(false, "", peerLocal, peerRemote, why)
		return false
	}
	choice, mismatch := suite.Select(suite.WithoutKE(cfg.Proposals), sa.Proposals, suite.SelectOptions{PreferPeer: m.env.Settings.PreferPeerProposal, SkipKE: true})
	if mismatch != nil {
		st.ChildError = wire.NotifyNoProposalChosen
		m.failed(event.NoProposalChosen, false, cfg.Name, "give both sides one ESP proposal in common",
			event.Fact{Name: "ours", Value: mismatch.OursText()}, event.Fact{Name: "peer", Value: mismatch.PeerText()}, event.Fact{Name: "part_on", Value: mismatch.PartText()})
		return false
	}
	if !validSPI(choice.SPI) {
		st.ChildError = wire.NotifyNoProposalChosen
		m.failed(event.InvalidSyntax, false, cfg.Name, "", event.Fact{Name: "detail", Value: "the peer's ESP SPI is not 4 octets above 255"})
		return false
	}
	return m.newChild(cfg, choice, local, remote, t, false)
}

// matchChild finds the child whose selectors overlap most with the peer's offer.
func (m *Machine) matchChild(peerLocal, peerRemote []selector.TS, mode dataplane.Mode) (best *ChildConfig, local, remote []selector.TS, why string) {
	bestScore := -1
	wantLocal, wantRemote := selector.Compact(peerLocal), selector.Compact(peerRemote)
	for _, c := range m.conn.Children {
		ourLocal, ourRemote := m.resolve(c)
		l, r := selector.Narrow(ourLocal, peerLocal), selector.Narrow(ourRemote, peerRemote)
		l, r, reason := m.withinLimit(l, r)
		if len(l) == 0 || len(r) == 0 {
			if reason != "" {
				why = reason
			}
			continue
		}
		score := 0
		if c.Mode == mode {
			score += 4
		}
		if sameTS(l, wantLocal) && sameTS(r, wantRemote) {
			score += 2
		}
		if sameTS(l, ourLocal) && sameTS(r, ourRemote) {
			score++
		}
		if score > bestScore {
			best, local, remote, bestScore = c, l, r, score
		}
	}
	return best, local, remote, why
}

// maxPeerSelectors bounds how many narrowed selectors of a side are looked at:
// a peer's list costs the shard its square.
const maxPeerSelectors = 16

// withinLimit drops selectors until the kernel can express what is left with the
// configured number of policies: first those it can't express at all, then from
// the end, for the first is the one that the peer needs most (RFC 7296 2.9).
func (m *Machine) withinLimit(local, remote []selector.TS) (l, r []selector.TS, why string) {
	limit := m.env.Settings.MaxSelectors
	local = local[:min(len(local), maxPeerSelectors)]
	remote = remote[:min(len(remote), maxPeerSelectors)]
	if len(local) == 1 && len(remote) == 1 { // nearly always
		s, err := expandPair(local[0], remote[0], limit)
		if err != nil {
			return nil, nil, err.Error()
		}
		if len(s) == 0 {
			return nil, nil, ""
		}
		return local, remote, ""
	}
	cost := make([][]int, len(local))
	for i := range local {
		cost[i] = make([]int, len(remote))
		for j := range remote {
			s, err := expandPair(local[i], remote[j], limit)
			cost[i][j] = len(s)
			if err != nil {
				cost[i][j], why = limit+1, err.Error()
			}
		}
	}
	rows, cols := indexes(len(local)), indexes(len(remote))
	sum := func(rows, cols []int) (n int) {
		for _, i := range rows {
			for _, j := range cols {
				n += cost[i][j]
			}
		}
		return n
	}
	fits := func(n int) bool { return n > 0 && n <= limit }
	keep := func(xs []int, ok func(int) bool) []int {
		return slices.DeleteFunc(xs, func(x int) bool { return !ok(x) })
	}
	// A selector of which no pair can be expressed stands in nobody's way.
	rows = keep(rows, func(i int) bool { return slices.ContainsFunc(cols, func(j int) bool { return fits(cost[i][j]) }) })
	cols = keep(cols, func(j int) bool { return slices.ContainsFunc(rows, func(i int) bool { return fits(cost[i][j]) }) })
	for len(rows) > 0 && len(cols) > 0 && !fits(sum(rows, cols)) {
		switch {
		case len(rows) >= len(cols) && len(rows) > 1:
			rows = rows[:len(rows)-1]
		case len(cols) > 1:
			cols = cols[:len(cols)-1]
		default:
			return nil, nil, why
		}
	}
	for _, i := range rows {
		l = append(l, local[i])
	}
	for _, j := range cols {
		r = append(r, remote[j])
	}
	return l, r, why
}

func indexes(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// newChild adds the negotiated CHILD SA to the state and derives its keys.
func (m *Machine) newChild(cfg *ChildConfig, choice suite.Choice, local, remote []selector.TS, t terms, initiator bool) bool {
	st, k := m.s.Setup, &m.s.IKE
	keys, err := suite.DeriveChild(m.s.IKE.Chosen.PRF(), k.Keys.D, choice, nil, st.Ni, st.Nr)
	if err != nil {
		st.ChildError = wire.NotifyNoProposalChosen
		m.failed(event.KeyExchangeFailed, false, cfg.Name, "", event.Fact{Name: "detail", Value: err.Error()})
		return false
	}
	c := m.candidate(cfg, k.place(), choice, local, remote, initiator)
	if !m.settleTerms(c, cfg, t) {
		keys.Wipe()
		return false
	}
	c.SPIIn, c.Keys = st.ReservedSPI, keys
	if initiator { // a responder's is reserved from here on
		m.takeCPI(c, st.ReservedCPI)
	}
	m.s.Children = append(m.s.Children, *c)
	st.ReservedSPI, st.ReservedCPI = 0, 0
	return true
}

// candidate is the child that was agreed on, without mode, SPI and keys.
func (m *Machine) candidate(cfg *ChildConfig, at Place, choice suite.Choice, local, remote []selector.TS, initiator bool) *Child {
	c := &Child{
		Name: cfg.Name, Initiator: initiator, ReqID: cfg.ReqID, SPIOut: binary.BigEndian.Uint32(choice.SPI),
		Chosen: choice, LocalTS: local, PeerTS: remote,
		MarkIn: cfg.MarkIn, MarkOut: cfg.MarkOut, MarkInSA: cfg.MarkInSA, IfIDIn: cfg.IfIDIn, IfIDOut: cfg.IfIDOut,
	}
	c.put(at)
	m.keepNAT(c, at)
	return c
}

// acceptTS checks the selectors of the peer's answer to our CREATE_CHILD_SA.
func (m *Machine) acceptTS(c *Create, cfg *ChildConfig, ps []wire.Payload) (local, remote []selector.TS, ok bool) {
	peerLocal, err1 := tsOf(ps, true)
	peerRemote, err2 := tsOf(ps, false)
	ourLocal, ourRemote := m.resolve(cfg)
	for _, like := range [2]*Child{m.child(c.Old), m.child(c.Fallback)} {
		if like != nil {
			ourLocal, ourRemote = like.LocalTS, like.PeerTS
		}
	}
	peerLocal, peerRemote = m.throughNAT(peerLocal, peerRemote, m.terms(ps).mode)
	local, remote = selector.Narrow(ourLocal, peerLocal), selector.Narrow(ourRemote, peerRemote)
	if err1 != nil || err2 != nil || !sameTS(local, selector.Compact(peerLocal)) || !sameTS(remote, selector.Compact(peerRemote)) {
		m.tsFailed(false, cfg.Name, peerLocal, peerRemote, "the peer answered with selectors that are not a part of ours")
		return nil, nil, false
	}
	if _, err := expand(local, remote, m.env.Settings.MaxSelectors); err != nil {
		m.tsFailed(false, cfg.Name, peerLocal, peerRemote, err.Error())
		return nil, nil, false
	}
	return local, remote, true
}

// peerChild finds the configuration and the selectors for the peer's
// CREATE_CHILD_SA: those of the child it rekeys, or the best match. Without a
// configuration, refusal is what the answer says.
func (m *Machine) peerChild(old *Child, ps []wire.Payload) (cfg *ChildConfig, local, remote []selector.TS, refusal wire.NotifyType) {
	peerLocal, err1 := tsOf(ps, false)
	peerRemote, err2 := tsOf(ps, true)
	if err1 != nil || err2 != nil {
		return nil, nil, nil, wire.NotifyInvalidSyntax
	}
	if old == nil {
		mode := m.terms(ps).mode
		var why string
		if cfg, local, remote, why = m.matchNAT(peerLocal, peerRemote, mode); cfg == nil && m.reconfigure() {
			cfg, local, remote, why = m.matchNAT(peerLocal, peerRemote, mode) // a child may have come with a reload
		}
		if cfg == nil {
			m.tsFailed(false, "", peerLocal, peerRemote, why)
			return nil, nil, nil, wire.NotifyTSUnacceptable
		}
		return cfg, local, remote, 0
	}
	if cfg = m.conn.Child(old.Name); cfg == nil {
		return nil, nil, nil, wire.NotifyNoAdditionalSAs // no longer configured
	}
	ourLocal, ourRemote := m.resolve(cfg)
	if old.Mode == dataplane.Transport {
		peerLocal, peerRemote = m.throughNAT(peerLocal, peerRemote, m.terms(ps).mode)
	}
	local, remote = selector.Narrow(ourLocal, peerLocal), selector.Narrow(ourRemote, peerRemote)
	if local, remote, _ = m.withinLimit(local, remote); local == nil || remote == nil {
		m.tsFailed(false, cfg.Name, peerLocal, peerRemote, "")
		return nil, nil, nil, wire.NotifyTSUnacceptable
	}
	return cfg, local, remote, 0
}

// acceptChild checks the responder's answer to our child offer. It reports
// whether there is a CHILD SA; the IKE SA stands in any case (RFC 7296 1.2).
func (m *Machine) acceptChild() bool {
	st := m.s.Setup
	if st.Childless {
		if m.s.ChildName != "" && !m.lacksAddress(m.conn.Child(m.s.ChildName)) {
			m.s.Tasks = append([]Task{{Kind: taskCreateChild, Name: m.s.ChildName}}, m.s.Tasks...)
		}
		return false
	}
	cfg := m.conn.Child(m.s.ChildName)
	ps := m.kept()
	sa, ok := wire.First[*wire.SA](ps)
	if !ok {
		m.childRefused(cfg, ps)
		return false
	}
	if m.lacksAddress(cfg) {
		m.undoPeerChild(sa)
		return false
	}
	choice, err := suite.Accept(suite.WithoutKE(cfg.Proposals), sa.Proposals)
	if err != nil || !validSPI(choice.SPI) || st.Expected != nil && !sameChoice(choice, st.Expected.Choice) {
		m.failed(event.NoProposalChosen, false, cfg.Name, "the peer answered with something we did not offer",
			event.Fact{Name: "ours", Value: suite.Join(cfg.Proposals)}, event.Fact{Name: "peer", Value: suite.JoinWire(sa.Proposals)}, event.Fact{Name: "detail", Value: errText(err, "SPI")})
		m.undoPeerChild(sa)
		return false
	}
	peerLocal, err1 := tsOf(ps, true)
	peerRemote, err2 := tsOf(ps, false)
	ourLocal, ourRemote := m.offered(cfg)
	peerLocal, peerRemote = m.throughNAT(peerLocal, peerRemote, m.terms(ps).mode)
	l, r := selector.Narrow(ourLocal, peerLocal), selector.Narrow(ourRemote, peerRemote)
	switch {
	case err1 != nil || err2 != nil || !sameTS(l, selector.Compact(peerLocal)) || !sameTS(r, selector.Compact(peerRemote)):
		m.tsFailed(false, cfg.Name, peerLocal, peerRemote, "the peer answered with selectors that are not a part of ours")
		m.undoPeerChild(sa)
		return false
	}
	if m.s.Lease != nil {
		ourLocal, _ = m.resolve(cfg)
		l = selector.Narrow(ourLocal, l) // the peer may have left it as wide as we offered it
	}
	if _, err := expand(l, r, m.env.Settings.MaxSelectors); err != nil {
		m.tsFailed(false, cfg.Name, peerLocal, peerRemote, err.Error())
		m.undoPeerChild(sa)
		return false
	}
	if !m.newChild(cfg, choice, l, r, m.terms(ps), true) {
		m.undoPeerChild(sa)
		return false
	}
	return true
}

// undoPeerChild deletes a CHILD SA that the peer has installed and we can't use.
func (m *Machine) undoPeerChild(sa *wire.SA) {
	if len(sa.Proposals) == 1 && validSPI(sa.Proposals[0].SPI) && m.s.Setup.ReservedSPI != 0 {
		m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteSPI, Child: uint64(m.s.Setup.ReservedSPI)})
	}
}

// childRefused explains a responder's refusal of the child.
func (m *Machine) childRefused(cfg *ChildConfig, ps []wire.Payload) {
	n, ok := wire.FindError(ps)
	if !ok {
		m.failed(event.PeerError, true, cfg.Name, "", event.Fact{Name: "detail", Value: "the peer's answer has neither a child nor a reason"})
		return
	}
	if m.expectedRefused(n) {
		return
	}
	switch n.NotifyType {
	case wire.NotifyTSUnacceptable:
		m.tsFailed(true, cfg.Name, nil, nil, "")
	case wire.NotifyNoProposalChosen:
		m.failed(event.NoProposalChosen, true, cfg.Name, "give both sides one ESP proposal in common", event.Fact{Name: "ours", Value: suite.Join(cfg.Proposals)})
	case wire.NotifySinglePairRequired:
		m.retrySinglePair(cfg.Name)
	case wire.NotifyTemporaryFailure:
		m.later(Task{Kind: taskCreateChild, Name: cfg.Name}, m.retryPause())
	default:
		cause, fix := refusal(n.NotifyType)
		m.failed(cause, true, cfg.Name, fix, event.Fact{Name: "exchange", Value: wire.ExchangeIKEAuth.String()}, event.Fact{Name: "notify", Value: n.NotifyType.String()})
	}
}

// tsFailed explains selectors that do not meet, with both lists.
func (m *Machine) tsFailed(byPeer bool, child string, peerLocal, peerRemote []selector.TS, why string) {
	var facts []event.Fact
	for _, c := range m.conn.Children {
		if child != "" && c.Name != child {
			continue
		}
		l, r := m.resolve(c)
		facts = append(facts, event.Fact{Name: "ours_" + c.Name, Value: tsText(l) + " === " + tsText(r)})
	}
	if peerLocal != nil || peerRemote != nil {
		facts = append(facts, event.Fact{Name: "peer", Value: tsText(peerLocal) + " === " + tsText(peerRemote) + " (local to us === remote)"})
	}
	if why != "" {
		facts = append(facts, event.Fact{Name: "detail", Value: why})
	}
	m.failed(event.TSUnacceptable, byPeer, child, "local_ts of one side must overlap remote_ts of the other, in both directions", facts...)
}

func tsText(ts []selector.TS) string {
	parts := make([]string, len(ts))
	for i, t := range ts {
		parts[i] = t.String()
	}
	return strings.Join(parts, ",")
}

func tsTexts(ts []selector.TS) []string {
	parts := make([]string, len(ts))
	for i, t := range ts {
		parts[i] = t.String()
	}
	return parts
}

// sameTS compares as sets.
func sameTS(a, b []selector.TS) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		found := false
		for _, y := range b {
			found = found || x == y
		}
		if !found {
			return false
		}
	}
	return true
}

// wireTS makes TSi (initiator) or TSr.
func wireTS(initiator bool, ts []selector.TS) *wire.TS {
	p := &wire.TS{Initiator: initiator, Selectors: make([]wire.TrafficSelector, len(ts))}
	for i, t := range ts {
		typ := wire.TSIPv4AddrRange
		if t.Start.Is6() {
			typ = wire.TSIPv6AddrRange
		}
		p.Selectors[i] = wire.TrafficSelector{TSType: typ, Protocol: t.Proto, StartPort: t.StartPort, EndPort: t.EndPort, Start: t.Start, End: t.End}
	}
	return p
}

// tsOf reads TSi (initiator) or TSr; selectors of unknown type are passed over.
func tsOf(ps []wire.Payload, initiator bool) ([]selector.TS, error) {
	p, ok := wire.FindTS(ps, initiator)
	if !ok {
		return nil, errMissing("TSi or TSr payload missing beside SA")
	}
	out := make([]selector.TS, 0, len(p.Selectors))
	for _, t := range p.Selectors {
		if t.TSType != wire.TSIPv4AddrRange && t.TSType != wire.TSIPv6AddrRange {
			continue
		}
		out = append(out, selector.TS{Proto: t.Protocol, StartPort: t.StartPort, EndPort: t.EndPort, Start: t.Start, End: t.End})
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

type errMissing string

func (e errMissing) Error() string { return string(e) }

func firstErr(errs ...error) string {
	for _, e := range errs {
		if e != nil {
			return e.Error()
		}
	}
	return ""
}

func errText(err error, otherwise string) string {
	if err != nil {
		return err.Error()
	}
	return otherwise
}

// validSPI: ESP SPIs are 4 octets, those to 255 reserved (RFC 4303 2.1).
func validSPI(b []byte) bool { return len(b) == 4 && binary.BigEndian.Uint32(b) > 255 }

// eventChild names a CHILD SA for observers.
func (c *Child) eventChild() event.Child {
	return event.Child{Name: c.Name, UniqueID: c.UniqueID, ReqID: c.ReqID, CPU: c.cpu(), PerCPU: c.Options&ChildPerCPU != 0 && !c.bound(), SPIIn: c.SPIIn, SPIOut: c.SPIOut, Mode: c.Mode.String(),
		Encap: c.Encap, Proposal: c.Chosen.String(), LocalTS: tsTexts(c.LocalTS), RemoteTS: tsTexts(c.PeerTS)}
}

// childUp tells that a CHILD SA is installed, in the place of old unless that is nil.
func (m *Machine) childUp(c *Child, old *ChildInfo) {
	m.wantPacket(c.Name, nil)
	m.act(Publish{Event: event.ChildUp{IKE: m.eventIKE(), Child: c.eventChild()}, Child: old})
}

// replacedInfo is what is known of a child that a new one takes the place of, in the
// state that strongSwan tells: it is gone already when the peer replaced it.
func (m *Machine) replacedInfo(old *Child, side Side) *ChildInfo {
	if old == nil {
		return nil
	}
	info := m.childInfo(old)
	info.State = ChildSARekeying
	if side == OfPeer {
		info.State = ChildSADeleted
	}
	if info.RekeyAt.IsZero() && !info.ExpiresAt.IsZero() {
		info.RekeyAt = m.env.Now
	}
	return &info
}

func (m *Machine) childDown(c *Child, reason string) {
	info := m.childInfo(c)
	switch {
	case m.s.Phase < Cleaning:
		info.State = ChildSADeleted
	case info.State == ChildSADestroying: // it ends with the IKE SA, whatever it was before
		info.State = ChildSAInstalled
	}
	m.act(Publish{Event: event.ChildDown{IKE: m.eventIKE(), Child: c.eventChild(), Reason: reason}, Child: &info})
	m.followed(c)
}

// identity is the text by which the registry knows a CHILD SA's selectors,
// whatever order the peer gave them.
func identity(ts []selector.TS) string {
	if len(ts) == 1 {
		var room [96]byte
		return string(ts[0].AppendTo(append(room[:0], "1:"...)))
	}
	texts := tsTexts(ts)
	slices.Sort(texts)
	return strconv.Itoa(len(ts)) + ":" + strings.Join(texts, ",")
}
