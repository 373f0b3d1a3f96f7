package vici

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"espalier/internal/event"
)

// controlLogRing is how many events wait for a client that is slower than the
// engine; older ones are lost, which the log says.
const controlLogRing = 256

// parseLevel reads the loglevel option: charon's -1 (silent) to 4, default 1.
func parseLevel(req Message) (int, error) {
	v, ok := req.Get("loglevel")
	if !ok || v == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, fmt.Errorf("loglevel %q: expected -1 to 4", v)
	}
	return n, nil
}

// logScope says which events concern a command; empty fields take all.
type logScope struct {
	conn, child string
	failed      bool // a failure of it was told
}

// silent is the level of a client that wants no log, or does not wait for any.
const silent = -1

// detailLevel is that of what helps to find out why something failed.
const detailLevel = 1

// withControlLog runs do and streams the events of the scope to the client
// meanwhile. err is do's; sendErr says that the client has gone, which ends the
// context that do waits on.
func (c *client) withControlLog(scope *logScope, level int, do func() error) (err, sendErr error) {
	if !c.events[eventControlLog] || level < 0 {
		err = do()
		return err, c.ctx.Err()
	}
	sub := c.srv.cfg.Events.Subscribe(controlLogRing)
	defer sub.Close()
	done := make(chan error, 1)
	go func() { done <- do() }()
	for {
		select {
		case <-sub.Wait():
			if sendErr == nil {
				sendErr = c.drainLog(sub, scope, level)
			}
			if sendErr != nil {
				c.cancel(sendErr)
			}
		case err = <-done:
			if sendErr == nil {
				sendErr = c.drainLog(sub, scope, level)
			}
			return err, sendErr
		}
	}
}

// drainLog raises what waits in the subscription.
func (c *client) drainLog(sub *event.Subscription, scope *logScope, level int) error {
	for {
		r, more := sub.Next()
		if !more {
			return c.ctx.Err()
		}
		l := logLevel(r.Event)
		group, ike, concerns := scope.match(r.Event)
		if !concerns || l > level {
			continue
		}
		if _, failed := r.Event.(event.Failed); failed {
			scope.failed = true
		}
		var m Message
		m.Put("group", group)
		m.PutInt("level", int64(l))
		m.putLogText(ike, logText(r.Event))
		if err := c.raise(eventControlLog, m); err != nil {
			return err
		}
	}
}

// explained raises a control-log event with the reason of a failure that no event
// tells of.
func (c *client) explained(conn string, reason error) error {
	if !c.events[eventControlLog] {
		return nil
	}
	var m Message
	m.Put("group", "IKE")
	m.PutInt("level", detailLevel)
	m.putLogText(event.IKE{Conn: conn}, reason.Error())
	return c.raise(eventControlLog, m)
}

// putLogText is what the log events have in common: the IKE SA, if there is one, and
// the text.
func (m *Message) putLogText(ike event.IKE, text string) {
	if ike.Conn != "" {
		m.Put("ikesa-name", ike.Conn)
	}
	if ike.UniqueID != 0 {
		m.PutUint("ikesa-uniqueid", ike.UniqueID)
	}
	m.Put("msg", text)
}

// match says which of charon's log groups an event belongs to, which IKE SA it
// is about, and whether that concerns the scope.
func (s *logScope) match(e event.Event) (group string, ike event.IKE, concerns bool) {
	child := ""
	switch e := e.(type) {
	case event.IKEUp:
		group, ike = "IKE", e.IKE
	case event.IKEDown:
		group, ike = "IKE", e.IKE
	case event.ChildUp:
		group, ike, child = "CHD", e.IKE, e.Child.Name
	case event.ChildDown:
		group, ike, child = "CHD", e.IKE, e.Child.Name
	case event.Failed:
		group, ike, child = "IKE", e.IKE, e.ChildName
	default:
		return "", ike, false
	}
	concerns = (s.conn == "" || ike.Conn == "" || ike.Conn == s.conn) &&
		(s.child == "" || child == "" || child == s.child)
	return group, ike, concerns
}

// logLevel is charon's level of an event: 0 for what an operator wants to see,
// more for what only a developer wants.
func logLevel(e event.Event) int {
	switch l := e.Level(); {
	case l >= zerolog.InfoLevel:
		return 0
	case l == zerolog.DebugLevel:
		return 2
	}
	return 4
}

// logText is an event in one line: its sentence, then its fields.
func logText(e event.Event) string {
	var buf bytes.Buffer
	log := zerolog.New(&buf)
	log.Log().EmbedObject(e).Send()
	var b strings.Builder
	b.WriteString(e.Message())
	sep := ": "
	for name, value := range fields(buf.Bytes()) {
		b.WriteString(sep + name + "=" + value)
		sep = " "
	}
	return b.String()
}

// fields yields the members of a flat JSON object in their order.
func fields(object []byte) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		dec := json.NewDecoder(bytes.NewReader(object))
		if _, err := dec.Token(); err != nil {
			return
		}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return
			}
			var raw json.RawMessage
			if err := dec.Decode(&raw); err != nil {
				return
			}
			name, _ := key.(string)
			if !yield(name, plain(raw)) {
				return
			}
		}
	}
}

// plain is a JSON value without quotes where it is one word.
func plain(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil && s != "" && !strings.ContainsAny(s, " \t\n\"=") {
		return s
	}
	return string(raw)
}
