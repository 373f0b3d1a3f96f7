package sa

import (
	"bytes"

	"espalier/ike/wire"
)

// Abilities are what a peer announced in IKE_SA_INIT or IKE_AUTH, as a bitmask.
type Abilities uint32

// The abilities; their numbers are part of the encoding.
const (
	CanFragment  Abilities = 1 << 0 // IKEV2_FRAGMENTATION_SUPPORTED (RFC 7383 2.3)
	CanMOBIKE    Abilities = 1 << 1 // MOBIKE_SUPPORTED (RFC 4555 3.1)
	CanRedirect  Abilities = 1 << 2 // REDIRECT_SUPPORTED (RFC 5685 3)
	CanChildless Abilities = 1 << 3 // CHILDLESS_IKEV2_SUPPORTED (RFC 6023 3)

	CanBEET Abilities = 1 << 20 // knows strongSwan's notify for BEET mode
)

// has reports whether the peer announced all of a.
func (p Abilities) has(a Abilities) bool { return p&a == a }

// appendAbilities adds what we announce in IKE_SA_INIT.
func (m *Machine) appendAbilities(ps []wire.Payload) []wire.Payload {
	ps = m.appendChildless(ps)
	ps = m.appendRedirect(ps)
	ps = m.appendFragmentation(ps)
	if m.conn.wantsBEET() || m.env.Settings.SendVendorID {
		ps = append(ps, &wire.VendorID{Data: strongSwanID})
	}
	return ps
}

// readAbilities notes what the peer's IKE_SA_INIT announces.
func (m *Machine) readAbilities(ps []wire.Payload) {
	announced := func(t wire.NotifyType, a Abilities) {
		if _, ok := wire.FindNotify(ps, t); ok {
			m.s.IKE.Peer |= a
		}
	}
	announced(wire.NotifyChildlessIKEv2Supported, CanChildless)
	announced(wire.NotifyRedirectSupported, CanRedirect)
	announced(wire.NotifyRedirectedFrom, CanRedirect)
	m.readFragmentation(ps)
	for v := range wire.All[*wire.VendorID](ps) {
		if bytes.Equal(v.Data, strongSwanID) {
			m.s.IKE.Peer |= CanBEET
		}
	}
}

// appendAuthExtras adds to IKE_AUTH what is neither identity, authentication nor
// CHILD SA: notifies and the configuration payload. It stands after AUTH.
func (m *Machine) appendAuthExtras(ps []wire.Payload) []wire.Payload {
	ps = m.appendLifetime(ps)
	ps = m.appendMOBIKE(ps)
	ps = m.appendToken(ps, &m.s.IKE)
	if m.s.IKE.Initiator {
		return m.appendConfigRequest(m.appendInitialContact(ps))
	}
	return m.appendConfigReply(ps)
}

// readAuthExtras notes the same of the peer's IKE_AUTH, which is verified by now.
func (m *Machine) readAuthExtras(ps []wire.Payload) {
	m.readLifetime(ps)
	m.readMOBIKE(ps)
	m.readToken(&m.s.IKE, ps)
	if m.s.IKE.Initiator {
		m.readConfigReply(ps)
	}
}
