package vici

import (
	"strings"

	"espalier/internal/event"
)

// troubled raises the problem event, which is Espalier's own: something failed, or an
// SA loses packets, with all that is known of it.
func (c *client) troubled(e event.Event) error {
	switch e := e.(type) {
	case event.Failed:
		return c.failed(e)
	case event.Dropped:
		return c.dropped(e)
	}
	return nil
}

func (c *client) dropped(d event.Dropped) error {
	return c.announce(eventProblem, func() Message {
		var m Message
		m.Put("type", "PACKETS_DROPPED")
		if d.Conn != "" {
			m.Put("ike", d.Conn)
			m.Put("child", d.Child)
		}
		m.Put("cause", d.Reason)
		m.Put("msg", logText(d))
		return m
	})
}

func (c *client) failed(f event.Failed) error {
	return c.announce(eventProblem, func() Message {
		var m Message
		m.Put("type", problemType(&f))
		if f.Conn != "" {
			m.Put("ike", f.Conn)
		}
		if f.UniqueID != 0 {
			m.PutUint("ike-id", f.UniqueID)
		}
		if f.ChildName != "" {
			m.Put("child", f.ChildName)
		}
		m.Put("cause", string(f.Cause))
		m.PutFlag("by-peer", f.ByPeer)
		m.Put("msg", logText(f))
		return m
	})
}

// problemType is charon's alert in capitals where there is one, else the cause.
func problemType(f *event.Failed) string {
	name := alertName(f)
	if name == "" {
		return string(f.Cause)
	}
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
