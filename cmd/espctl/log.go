package main

import (
	"errors"
	"fmt"
	"strings"

	"espalier/ike/vici"
)

type logCmd struct {
	Monitor logMonitorCmd `cmd:"" help:"Print what happens, until interrupted."`
	Alerts  logAlertsCmd  `cmd:"" help:"Print failures, with what is known of each, until interrupted."`
}

type (
	logMonitorCmd struct {
		Count int `short:"n" placeholder:"N" help:"End after N lines."`
	}
	logAlertsCmd struct {
		Count int `short:"n" placeholder:"N" help:"End after N lines."`
	}
)

type logLine struct {
	Schema int    `json:"version"`
	Group  string `json:"group,omitempty"`
	IKE    string `json:"ike,omitempty"` // connection
	ID     string `json:"ike_id,omitempty"`
	Child  string `json:"child,omitempty"`
	Alert  string `json:"alert,omitempty"`
	Cause  string `json:"cause,omitempty"`
	Text   string `json:"text"`
}

// Run follows the log.
func (cmd *logMonitorCmd) Run(e *env) error {
	return e.follow("log", cmd.Count, func(m vici.Message) logLine {
		return logLine{Schema: schema, Group: m.Text("group"), IKE: m.Text("ikesa-name"), ID: m.Text("ikesa-uniqueid"), Text: m.Text("msg")}
	})
}

// Run follows the alerts.
func (cmd *logAlertsCmd) Run(e *env) error {
	return e.follow("problem", cmd.Count, func(m vici.Message) logLine {
		return logLine{Schema: schema, IKE: m.Text("ike"), ID: m.Text("ike-id"), Child: m.Text("child"), Alert: m.Text("type"), Cause: m.Text("cause"), Text: m.Text("msg")}
	})
}

// errEnough ends what was only to be followed for some lines.
var errEnough = errors.New("enough")

// follow prints an event's messages until the user or the count ends it.
func (e *env) follow(event string, count int, line func(vici.Message) logLine) error {
	c, err := e.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	n := 0
	err = c.Follow(e.ctx, event, func(m vici.Message) error {
		l := line(m)
		var err error
		if e.format != plain {
			err = e.print(l)
		} else {
			head := strings.TrimSpace(l.Group + l.Alert)
			if l.IKE != "" {
				head += fmt.Sprintf(" <%s|%s>", l.IKE, l.ID)
			}
			_, err = fmt.Fprintf(e.stdout, "%s %s\n", printable(head), printable(l.Text))
		}
		if n++; err == nil && n == count {
			err = errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) || e.ctx.Err() != nil {
		return nil // as it was wanted
	}
	return e.explain(err)
}
