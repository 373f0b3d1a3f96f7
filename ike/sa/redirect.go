package sa

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"espalier/ike/wire"
	"espalier/internal/event"
)

// Redirect (RFC 5685): a gateway sends its client to another one, in its answer to
// IKE_SA_INIT or IKE_AUTH, or in an INFORMATIONAL request at any time. The client
// sets up a new session there; one that is established is replaced by it as in
// reauthentication, so that nothing is lost.

// Gateway is where a redirect leads: an address or a host name.
type Gateway struct {
	Addr netip.Addr
	Host string // where Addr is not valid
}

// ParseGateway reads an address or a host name of at most 253 octets.
func ParseGateway(s string) (Gateway, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return Gateway{Addr: a.Unmap()}, nil
	}
	if !isHostName(s) {
		return Gateway{}, fmt.Errorf("gateway: expected an address or a host name, got %q", s)
	}
	return Gateway{Host: s}, nil
}

func isHostName(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return true
}

func (g Gateway) String() string {
	if g.Addr.IsValid() {
		return g.Addr.String()
	}
	return g.Host
}

// The types of a gateway's identity (RFC 5685 10).
const (
	gatewayIPv4 = 1
	gatewayIPv6 = 2
	gatewayFQDN = 3
)

// append writes type, length and identity (RFC 5685 9.2).
func (g Gateway) append(b []byte) []byte {
	typ, id := byte(gatewayFQDN), []byte(g.Host)
	if g.Addr.IsValid() {
		typ, id = gatewayIPv4, g.Addr.AsSlice()
		if g.Addr.Is6() {
			typ = gatewayIPv6
		}
	}
	return append(append(b, typ, byte(len(id))), id...)
}

// parseGateway reads what append writes; rest is the nonce of a redirect in
// IKE_SA_INIT.
func parseGateway(b []byte) (g Gateway, rest []byte, err error) {
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return g, nil, errMissing("REDIRECT: expected a gateway's identity of the length it says, got " + itoa(len(b)) + " octets")
	}
	id, rest := b[2:2+int(b[1])], b[2+int(b[1]):]
	switch typ := b[0]; {
	case typ == gatewayIPv4 && len(id) == 4, typ == gatewayIPv6 && len(id) == 16:
		g.Addr, _ = netip.AddrFromSlice(id)
		g.Addr = g.Addr.Unmap()
	case typ == gatewayFQDN && isHostName(string(id)):
		g.Host = string(id)
	default:
		return g, nil, errMissing("REDIRECT: expected an IPv4 or IPv6 address or a host name, got type " + itoa(int(typ)) + " with " + itoa(len(id)) + " octets")
	}
	return g, rest, nil
}

// Redirection is what a session that came about by redirects knows of them; nil:
// it did not.
type Redirection struct {
	From  Gateway     // who sent us here
	Times []time.Time // of the redirects of late, this one included
}

func (c *coder) gateway(g *Gateway) { addr(c, &g.Addr); raw(c, &g.Host) }

func (c *coder) redirection(r *Redirection) {
	c.gateway(&r.From)
	list(c, &r.Times, instant)
}

// The bound on redirects in a row (RFC 5685 7).
const (
	maxRedirects   = 5
	redirectPeriod = 300 * time.Second
)

// appendRedirect announces that we follow redirects, or from where we came.
func (m *Machine) appendRedirect(ps []wire.Payload) []wire.Payload {
	switch {
	case !m.s.IKE.Initiator || !m.env.Settings.FollowRedirects:
		return ps
	case m.s.Redirect != nil:
		return append(ps, &wire.Notify{NotifyType: wire.NotifyRedirectedFrom, Data: m.s.Redirect.From.append(nil)})
	}
	return append(ps, &wire.Notify{NotifyType: wire.NotifyRedirectSupported})
}

// redirect looks for a redirect among the payloads of an answer or a request, and
// follows it when it may. found says that there is one that we heed; why, when it
// leads nowhere, that it ends the attempt.
func (m *Machine) redirect(ps []wire.Payload, nonce []byte) (found bool, why string) {
	n, ok := wire.FindNotify(ps, wire.NotifyRedirect)
	if !ok {
		return false, ""
	}
	g, rest, err := parseGateway(n.Data)
	switch {
	case !m.s.Began || !m.env.Settings.FollowRedirects: // whoever has rekeyed since (RFC 5685 8)
		m.discard("REDIRECT that we did not say we follow")
		return false, ""
	case err != nil:
		m.discard(err.Error())
		return false, ""
	case nonce != nil && !bytes.Equal(rest, nonce):
		m.discard("REDIRECT in IKE_SA_INIT without our nonce")
		return false, ""
	}
	a := Redirected{To: g, From: Gateway{Addr: m.s.IKE.Remote.Addr()}, Established: m.s.Phase == Established, Child: m.s.ChildName}
	if r := m.s.Redirect; r != nil {
		for _, t := range r.Times {
			if m.env.Now.Sub(t) < redirectPeriod {
				a.Times = append(a.Times, t)
			}
		}
	}
	if a.Times = append(a.Times, m.env.Now); len(a.Times) > maxRedirects {
		m.failed(event.PeerError, true, "", "look for gateways that redirect to each other", event.Fact{Name: "notify", Value: n.NotifyType.String()},
			event.Fact{Name: "to", Value: g.String()}, event.Fact{Name: "redirects", Value: itoa(len(a.Times))})
		return true, "redirected too often"
	}
	for _, t := range m.s.Tasks {
		if t.Kind == taskCreateChild {
			a.Children = append(a.Children, t.Name)
		}
	}
	m.publish(event.Retrying{IKE: m.eventIKE(), Cause: event.PeerError, Facts: []event.Fact{{Name: "notify", Value: n.NotifyType.String()}, {Name: "to", Value: g.String()}}})
	m.act(a)
	return true, "redirected to " + g.String()
}

// redirectedAuth leaves a gateway that answered IKE_AUTH with a redirect: its IKE
// SA is deleted (RFC 5685 6).
func (m *Machine) redirectedAuth() bool {
	found, why := m.redirect(m.kept(), nil)
	if !found {
		return false
	}
	m.s.EndReason = why
	m.to(Closing)
	m.request(&m.s.IKE, wire.ExchangeInformational, wire.NewDelete(wire.ProtoIKE))
	return true
}

// SetRedirect makes a session that has not begun the one that a redirect asks for.
func (m *Machine) SetRedirect(a Redirected, local, remote netip.AddrPort) {
	m.s.IKE.Local, m.s.IKE.Remote = local, remote
	m.s.Redirect = &Redirection{From: a.From, Times: a.Times}
	m.s.Setup.Expected = nil // another peer, another request id
}

// CanRedirect reports whether the peer, a client of ours, follows redirects.
func (m *Machine) CanRedirect() bool {
	return m.s.Phase == Established && m.s.IKE.Peer.has(CanRedirect)
}

// sendRedirect asks the peer to go to another gateway.
func (m *Machine) sendRedirect(g Gateway) {
	if t := (Task{Kind: taskRedirect, Name: g.String()}); m.CanRedirect() && !m.hasTaskKind(taskRedirect) {
		m.queue(t)
	}
}

// beginRedirect sends what sendRedirect queued.
func (m *Machine) beginRedirect(k *IKE, t Task) {
	if g, err := ParseGateway(t.Name); err == nil {
		m.inform(k, t, &wire.Notify{NotifyType: wire.NotifyRedirect, Data: g.append(nil)})
	}
}
