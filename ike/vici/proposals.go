package vici

import (
	"strconv"

	"espalier/ike/sa"
	"espalier/ike/suite"
	"espalier/ike/wire"
)

// defaultPort is IKE's (RFC 7296 2.23), in force where a connection says nothing.
const defaultPort = 500

// putPorts tells the ports of a connection.
func (m *Message) putPorts(conn *sa.Connection) {
	for _, p := range []struct {
		name string
		port uint16
	}{{"local_port", conn.LocalPort}, {"remote_port", conn.RemotePort}} {
		if p.port == 0 {
			p.port = defaultPort
		}
		m.PutUint(p.name, uint64(p.port))
	}
}

// proposalLists are the kinds of transforms as charon names and orders them.
var proposalLists = []struct {
	name string
	kind wire.TransformType
}{
	{"encr", wire.TransformENCR}, {"integ", wire.TransformINTEG}, {"prf", wire.TransformPRF}, {"ke", wire.TransformKE},
	{"ake1", wire.TransformADDKE1}, {"ake2", wire.TransformADDKE1 + 1}, {"ake3", wire.TransformADDKE1 + 2}, {"ake4", wire.TransformADDKE1 + 3},
	{"ake5", wire.TransformADDKE1 + 4}, {"ake6", wire.TransformADDKE1 + 5}, {"ake7", wire.TransformADDKE1 + 6}, {"sn", wire.TransformESN},
}

// proposalsSection numbers proposals from 0; each has a list for every kind of
// transform that it has.
func proposalsSection(ps []suite.Proposal) (m Message) {
	for i, p := range ps {
		var body Message
		for _, l := range proposalLists {
			var names []string
			for _, t := range p.Of(l.kind) {
				name := suite.AlgorithmName(t.Type, t.ID)
				if t.KeyBits != 0 {
					name += "_" + strconv.Itoa(int(t.KeyBits))
				}
				names = append(names, name)
			}
			if len(names) > 0 {
				body.PutList(l.name, names)
			}
		}
		m.PutSection(strconv.Itoa(i), body)
	}
	return m
}
