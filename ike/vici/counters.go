package vici

// Counters are what charon counts for a connection, or for all.
type Counters struct {
	IKERekeyInit, IKERekeyResp, ChildRekey uint64
	Invalid, InvalidSPI                    uint64
	Init, Auth, CreateChild, Info          MessageCounters
}

// MessageCounters are the messages of one exchange, repetitions aside.
type MessageCounters struct{ InRequests, InResponses, OutRequests, OutResponses uint64 }

// getCounters tells the counters of all connections together, of one, or with all =
// yes of each that has some.
func (c *client) getCounters(req Message) (Message, error) {
	e := c.srv.cfg.Engine
	names := []string{req.Text("name")}
	if req.Text("all") == "yes" {
		names = e.CountedConnections()
	}
	var sections Message
	for _, name := range names {
		n, ok := e.Counters(name)
		if ok {
			sections = append(sections, Section{name, countersSection(&n)})
		} else if req.Text("all") != "yes" {
			m := Message{Section{"counters", nil}}
			return append(m, failure("no counters found for this connection")...), nil
		}
	}
	return append(Message{Section{"counters", sections}}, success()...), nil
}

// resetCounters sets those to zero that getCounters would tell.
func (c *client) resetCounters(req Message) (Message, error) {
	e := c.srv.cfg.Engine
	if req.Text("all") != "yes" {
		e.ResetCounters(req.Text("name"))
		return success(), nil
	}
	e.ResetCounters("")
	for _, name := range e.CountedConnections() {
		e.ResetCounters(name)
	}
	return success(), nil
}

func countersSection(n *Counters) Message {
	var m Message
	m.PutUint("ike-rekey-init", n.IKERekeyInit)
	m.PutUint("ike-rekey-resp", n.IKERekeyResp)
	m.PutUint("child-rekey", n.ChildRekey)
	m.PutUint("invalid", n.Invalid)
	m.PutUint("invalid-spi", n.InvalidSPI)
	for _, ex := range []struct {
		name string
		n    *MessageCounters
	}{{"ike-init", &n.Init}, {"ike-auth", &n.Auth}, {"create-child", &n.CreateChild}, {"info", &n.Info}} {
		m.PutUint(ex.name+"-in-req", ex.n.InRequests)
		m.PutUint(ex.name+"-in-resp", ex.n.InResponses)
		m.PutUint(ex.name+"-out-req", ex.n.OutRequests)
		m.PutUint(ex.name+"-out-resp", ex.n.OutResponses)
	}
	return m
}
