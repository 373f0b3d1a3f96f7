package sa

import "espalier/ike/wire"

// Traffic counts what a step has taken and made: messages, their repetitions aside,
// and SAs that were replaced. It is for observers and no part of the state.
type Traffic struct {
	Messages                  [ExchangeKinds]Messages
	IKERekeysOurs             uint32 // begun by us
	IKERekeysPeer, ChildRekey uint32
}

// Messages are those of one exchange, which were authentic where they could be.
type Messages struct{ InRequests, InResponses, OutRequests, OutResponses uint32 }

// The exchanges that Traffic counts.
const (
	CountedInit = iota
	CountedAuth
	CountedCreateChild
	CountedInformational
	ExchangeKinds
)

// counted is where an exchange's messages are counted; nil: nowhere.
func (m *Machine) counted(ex wire.ExchangeType) *Messages {
	c := &m.env.Traffic.Messages
	switch ex {
	case wire.ExchangeIKESAInit:
		return &c[CountedInit]
	case wire.ExchangeIKEAuth:
		return &c[CountedAuth]
	case wire.ExchangeCreateChildSA:
		return &c[CountedCreateChild]
	case wire.ExchangeInformational:
		return &c[CountedInformational]
	}
	return nil
}

func (m *Machine) countIn(msg *wire.Message) {
	if c := m.counted(msg.Exchange); c != nil && msg.IsResponse() {
		c.InResponses++
	} else if c != nil {
		c.InRequests++
	}
}

func (m *Machine) countOut(ex wire.ExchangeType, response bool) {
	if c := m.counted(ex); c != nil && response {
		c.OutResponses++
	} else if c != nil {
		c.OutRequests++
	}
}
