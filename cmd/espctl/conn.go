package main

import (
	"fmt"
	"strings"
	"time"

	"espalier/ike/vici"
)

type connCmd struct {
	Up   connUpCmd   `cmd:"" help:"Bring up a connection's CHILD SA and wait for it."`
	Down connDownCmd `cmd:"" help:"Take down a connection, or one CHILD SA of it."`

	Redirect connRedirectCmd `cmd:"" help:"Send a connection's clients to another gateway (RFC 5685)."`
}

type connUpCmd struct {
	Name    string        `arg:"" help:"Connection."`
	Child   string        `arg:"" optional:"" help:"Child of the connection; its first one when not given."`
	Timeout time.Duration `placeholder:"DURATION" help:"Give up waiting after this time, e.g. 30s; without it wait until it is up or failed."`
}

type connDownCmd struct {
	Name    string        `arg:"" help:"Connection."`
	Child   string        `arg:"" optional:"" help:"Child whose CHILD SAs go; the IKE SA stays."`
	Force   bool          `help:"Do not wait for the peer's answer."`
	Timeout time.Duration `placeholder:"DURATION" help:"Give up waiting after this time; without it wait until it is gone."`
}

type connRedirectCmd struct {
	Name    string `arg:"" help:"Connection."`
	Gateway string `arg:"" help:"Address or host name that the clients are to go to."`
}

type connResult struct {
	Schema int    `json:"version"`
	Name   string `json:"name"`
	Child  string `json:"child,omitempty"`
	State  string `json:"state"` // up, down, rekeying, reauthenticating or redirected
}

// Run brings the connection up, telling what happens meanwhile.
func (cmd *connUpCmd) Run(e *env) error {
	var req vici.Message
	req.Put("ike", cmd.Name)
	if cmd.Child != "" {
		req.Put("child", cmd.Child)
	}
	if err := e.control("initiate", req, cmd.Timeout); err != nil {
		return err
	}
	return e.tellConn(connResult{schema, cmd.Name, cmd.Child, "up"})
}

// Run takes the connection down, telling what happens meanwhile.
func (cmd *connDownCmd) Run(e *env) error {
	var req vici.Message
	req.Put("ike", cmd.Name)
	if cmd.Child != "" {
		req.Put("child", cmd.Child)
	}
	req.PutFlag("force", cmd.Force)
	if err := e.control("terminate", req, cmd.Timeout); err != nil {
		return err
	}
	return e.tellConn(connResult{schema, cmd.Name, cmd.Child, "down"})
}

// Run asks the clients to go; the log tells when they are gone.
func (cmd *connRedirectCmd) Run(e *env) error {
	var req vici.Message
	req.Put("ike", cmd.Name)
	req.Put("gateway", cmd.Gateway)
	if err := e.control("redirect", req, 0); err != nil {
		return err
	}
	return e.tellConn(connResult{schema, cmd.Name, "", "redirected"})
}

// control runs a command and prints its log, in plain format only.
func (e *env) control(command string, req vici.Message, timeout time.Duration) error {
	if timeout < 0 {
		return fmt.Errorf("--timeout %s: expected at least 0s", timeout)
	}
	if timeout > 0 {
		req.PutInt("timeout", max(timeout.Milliseconds(), 1))
	}
	c, err := e.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Stream(e.ctx, command, req, "control-log", func(m vici.Message) error {
		if e.format != plain {
			return nil
		}
		_, err := fmt.Fprintf(e.stdout, "%s %s\n", printable(m.Text("group")), printable(m.Text("msg")))
		return err
	})
	return e.explain(err)
}

func (e *env) tellConn(r connResult) error {
	if e.format != plain {
		return e.print(r)
	}
	_, err := fmt.Fprintf(e.stdout, "%s is %s\n", strings.TrimSpace(r.Name+" "+r.Child), r.State)
	return err
}
