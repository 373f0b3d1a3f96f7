package vici

import (
	"errors"
	"sync"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// The events that come at any time, to whoever registered for them.
const (
	eventLog         = "log"
	eventAlert       = "alert"
	eventIKEUpDown   = "ike-updown"
	eventIKERekey    = "ike-rekey"
	eventIKEUpdate   = "ike-update"
	eventChildUpDown = "child-updown"
	eventChildRekey  = "child-rekey"
	eventProblem     = "problem" // Espalier's own
)

// watchRing is how many events wait for a client that is slower than the engine;
// older ones are lost to it.
const watchRing = 1024

// logEventLevel is the highest of charon's levels that the log event has.
const logEventLevel = 1

// comesAnyTime reports whether an event belongs to no command.
func comesAnyTime(name string) bool {
	switch name {
	case eventLog, eventAlert, eventIKEUpDown, eventIKERekey, eventIKEUpdate, eventChildUpDown, eventChildRekey, eventProblem:
		return true
	}
	return false
}

// watches are a client's registrations for events that come at any time. A pump
// reads each of the buses while one of its events is registered for; it waits for
// the client's queue, never the bus for it.
type watches struct {
	mu   sync.Mutex // held while an event goes out: after unregistering none does
	on   map[string]bool
	log  *pump
	sas  *pump
	wait sync.WaitGroup
}

// pump reads one bus.
type pump struct {
	sub  *event.Subscription
	stop chan struct{}
}

// watch registers for an event, or unregisters.
func (c *client) watch(name string, on bool) {
	w := &c.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.on == nil {
		w.on = map[string]bool{}
	}
	w.on[name] = on
	c.run1(&w.log, c.srv.cfg.Events, w.on[eventLog] || w.on[eventProblem], func(r event.Record) error {
		return errors.Join(c.logged(r.Event), c.troubled(r.Event))
	})
	sas := w.on[eventAlert] || w.on[eventIKEUpDown] || w.on[eventIKERekey] || w.on[eventIKEUpdate] || w.on[eventChildUpDown] || w.on[eventChildRekey]
	seen := &sightings{client: c, ended: map[uint64]bool{}, down: map[uint64]sa.IKEState{}}
	c.run1(&w.sas, c.srv.cfg.Sightings, sas, seen.take)
}

// run1 starts or stops a pump.
func (c *client) run1(p **pump, bus *event.Bus, wanted bool, take func(event.Record) error) {
	switch {
	case wanted == (*p != nil) || bus == nil:
	case wanted:
		n := &pump{sub: bus.Subscribe(watchRing), stop: make(chan struct{})}
		*p = n
		c.watches.wait.Go(func() { c.pump(n, take) })
	default:
		close((*p).stop)
		*p = nil
	}
}

// pump hands on what comes, until it is stopped or the client ends.
func (c *client) pump(p *pump, take func(event.Record) error) {
	defer p.sub.Close()
	for {
		select {
		case <-p.sub.Wait():
		case <-p.stop:
			return
		case <-c.ctx.Done():
			return
		}
		for {
			r, more := p.sub.Next()
			if !more {
				break
			}
			if err := take(r); err != nil {
				c.cancel(err)
				return
			}
		}
	}
}

// announce sends an event that the client is registered for.
func (c *client) announce(name string, make func() Message) error {
	w := &c.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.on[name] {
		return nil
	}
	return c.send(Packet{Type: Event, Name: name, Message: make()})
}

// logged raises the log event.
func (c *client) logged(e event.Event) error {
	l := logLevel(e)
	if l > logEventLevel {
		return nil
	}
	group, ike, _ := (&logScope{}).match(e)
	if group == "" {
		group = "DMN" // charon's group for what belongs to no other
	}
	return c.announce(eventLog, func() Message {
		var m Message
		m.Put("group", group)
		m.PutInt("level", int64(l))
		m.Put("thread", "0")
		m.putLogText(ike, logText(e))
		return m
	})
}

// sightings turns what happens to sessions into events.
type sightings struct {
	client *client
	ended  map[uint64]bool        // CHILD SAs that were replaced: their end needs no word
	down   map[uint64]sa.IKEState // IKE SAs that end, in the state in which they began to
}

func (s *sightings) take(r event.Record) error {
	seen, ok := r.Event.(sa.Sighting)
	if !ok {
		return nil
	}
	if len(s.ended) > watchRing { // those whose end was lost would stay
		clear(s.ended)
	}
	if len(s.down) > watchRing {
		clear(s.down)
	}
	c, info, now := s.client, &seen.Info, r.Time
	switch e := seen.Event.(type) {
	case event.Failed:
		return s.failed(&e, info, r)
	case event.IKEUp:
		return c.announce(eventIKEUpDown, func() Message { return upDown(true, connName(info), ikeSection(info, now)) })
	case event.IKEDown:
		return s.ikeDown(info, r)
	case event.IKERekeyed:
		return c.announce(eventIKERekey, func() Message {
			old := *info
			old.SPIi, old.SPIr, old.State = wire.SPI(e.OldSPIi), wire.SPI(e.OldSPIr), sa.IKERekeying
			return Message{Section{connName(info), Message{Section{"old", ikeSection(&old, now)}, Section{"new", ikeSection(info, now)}}}}
		})
	case event.IKEMoved:
		return c.announce(eventIKEUpdate, func() Message {
			old := *info
			old.Local, old.Remote = e.OldLocal, e.OldRemote
			var m Message
			m.Put("local-host", hostText(e.Local))
			m.PutUint("local-port", uint64(e.Local.Port()))
			m.Put("remote-host", hostText(e.Remote))
			m.PutUint("remote-port", uint64(e.Remote.Port()))
			m.PutSection(connName(info), ikeSection(&old, now))
			return m
		})
	case event.ChildUp:
		return s.childUp(info, &e.Child, seen.Child, r)
	case event.ChildDown:
		return s.childDown(info, &e.Child, seen.Child, r)
	}
	return nil
}

// failed tells that something failed. An IKE SA that the peer refuses ends with it and was never
// up, which charon tells as an end all the same.
func (s *sightings) failed(f *event.Failed, info *sa.Info, r event.Record) error {
	if f.Cause == event.PeerTimeout {
		s.down[info.UniqueID] = sa.IKEEstablished // no delete is sent
	}
	up := !info.Established.IsZero()
	switch {
	case !up:
		info.State = sa.IKEConnecting
	case info.State > sa.IKERekeying:
		info.State = sa.IKEEstablished // it ends by this
	}
	if err := s.alerted(f, info, r); err != nil {
		return err
	}
	if !info.Initiator || up || ofChild(f) || f.Cause == event.PeerTimeout {
		return nil
	}
	return s.client.announce(eventIKEUpDown, func() Message { return upDown(false, connName(info), ikeSection(info, r.Time)) })
}

// ikeDown tells that an IKE SA has ended. As with charon its CHILD SAs follow.
func (s *sightings) ikeDown(info *sa.Info, r event.Record) error {
	if _, told := s.down[info.UniqueID]; !told {
		s.down[info.UniqueID] = sa.IKEDeleting
	}
	info.State = s.down[info.UniqueID]
	return s.client.announce(eventIKEUpDown, func() Message { return upDown(false, connName(info), ikeSection(info, r.Time)) })
}

// childUp tells of a new CHILD SA, which may take the place of another one.
func (s *sightings) childUp(info *sa.Info, child *event.Child, old *sa.ChildInfo, r event.Record) error {
	c := s.client
	ch := childOf(info, child)
	if old == nil {
		return c.announce(eventChildUpDown, func() Message { return c.names().childUpDown(true, info, &ch, r) })
	}
	s.ended[old.UniqueID] = true
	return c.announce(eventChildRekey, func() Message {
		body := ikeSection(info, r.Time)
		pair := Message{Section{"old", c.names().childSection(old, r.Time)}, Section{"new", c.names().childSection(&ch, r.Time)}}
		body.PutSection("child-sas", Message{Section{ch.Name, pair}})
		return Message{Section{connName(info), body}}
	})
}

// childDown tells of a CHILD SA that is gone, unless another one had its place.
func (s *sightings) childDown(info *sa.Info, child *event.Child, was *sa.ChildInfo, r event.Record) error {
	if s.ended[child.UniqueID] {
		delete(s.ended, child.UniqueID)
		return nil
	}
	if info.State >= sa.IKEDestroying {
		info.State = sa.IKEDeleting
		if state, ok := s.down[info.UniqueID]; ok {
			info.State = state
		}
	}
	if was == nil {
		ch := childOf(info, child)
		was = &ch
	}
	return s.client.announce(eventChildUpDown, func() Message { return s.client.names().childUpDown(false, info, was, r) })
}

// childOf finds the child of an event; of one that is gone, the event's own words
// are what is left.
func childOf(info *sa.Info, child *event.Child) sa.ChildInfo {
	for i := range info.Children {
		if info.Children[i].UniqueID == child.UniqueID {
			return info.Children[i]
		}
	}
	return sa.ChildInfo{UniqueID: child.UniqueID, Name: child.Name, ReqID: child.ReqID, State: sa.ChildSADestroying,
		Mode: modeOf(child.Mode), SPIIn: child.SPIIn, SPIOut: child.SPIOut, Encap: child.Encap,
		LocalTS: parseTexts(child.LocalTS), RemoteTS: parseTexts(child.RemoteTS)}
}

func (n *Names) childUpDown(up bool, info *sa.Info, ch *sa.ChildInfo, r event.Record) Message {
	body := ikeSection(info, r.Time)
	body.PutSection("child-sas", Message{Section{childName(ch), n.childSection(ch, r.Time)}})
	return upDown(up, connName(info), body)
}

func upDown(up bool, conn string, body Message) Message {
	var m Message
	m.PutFlag("up", up)
	m.PutSection(conn, body)
	return m
}

// modeOf reads a mode's name.
func modeOf(name string) dataplane.Mode {
	for _, m := range []dataplane.Mode{dataplane.Transport, dataplane.BEET, dataplane.IPTFS} {
		if m.String() == name {
			return m
		}
	}
	return dataplane.Tunnel
}

// parseTexts reads traffic selectors; those that are none are left out.
func parseTexts(list []string) []selector.TS {
	var out []selector.TS
	for _, text := range list {
		if s, err := selector.Parse(text); err == nil && !s.Dynamic {
			out = append(out, s.TS)
		}
	}
	return out
}
