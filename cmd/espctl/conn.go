package main

import (
	"fmt"
	"strings"
	"time"

	"espalier/ike/vici"
)

type connCmd struct {
	Show   connShowCmd   `cmd:"" aliases:"list" help:"List configured connections and their children."`
	Reload connReloadCmd `cmd:"" help:"Read the configuration file again and apply what differs; espctl plan says what."`

	Up   connUpCmd   `cmd:"" help:"Bring up a connection's CHILD SA and wait for it."`
	Down connDownCmd `cmd:"" help:"Take down a connection, or one CHILD SA of it."`

	Redirect connRedirectCmd `cmd:"" help:"Send a connection's clients to another gateway (RFC 5685)."`
}

type connShowCmd struct {
	Name string `arg:"" optional:"" help:"Only this connection."`
}

type connReloadCmd struct{}

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

type connsResult struct {
	Schema int        `json:"version"`
	Conns  []connConf `json:"connections"`
}

// connConf is a configured connection.
type connConf struct {
	Name     string      `json:"name"`
	Local    []string    `json:"local_addrs"`
	Remote   []string    `json:"remote_addrs"`
	LocalID  string      `json:"local_id,omitempty"`
	RemoteID string      `json:"remote_id,omitempty"`
	Auth     string      `json:"auth,omitempty"` // ours
	Children []childConf `json:"children"`
}

type childConf struct {
	Name   string   `json:"name"`
	Mode   string   `json:"mode"`
	Local  []string `json:"local_ts"`
	Remote []string `json:"remote_ts"`
}

// Run lists the connections, whoever configured them.
func (cmd *connShowCmd) Run(e *env) error {
	c, err := e.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	var req vici.Message
	if cmd.Name != "" {
		req.Put("ike", cmd.Name)
	}
	res := connsResult{schema, []connConf{}}
	_, err = c.Stream(e.ctx, "list-conns", req, "list-conn", func(m vici.Message) error {
		for _, s := range m.Sections() {
			res.Conns = append(res.Conns, decodeConn(s))
		}
		return nil
	})
	if err != nil {
		return e.explain(err)
	}
	if e.format != plain {
		return e.print(res)
	}
	for _, c := range res.Conns {
		fmt.Fprintf(e.stdout, "%s %s === %s", printable(c.Name), ends(c.LocalID, c.Local), ends(c.RemoteID, c.Remote))
		if c.Auth != "" {
			fmt.Fprintf(e.stdout, ", %s", c.Auth)
		}
		fmt.Fprintln(e.stdout)
		for _, ch := range c.Children {
			fmt.Fprintf(e.stdout, "  %s %s %s === %s\n", printable(ch.Name), ch.Mode, strings.Join(ch.Local, " "), strings.Join(ch.Remote, " "))
		}
	}
	if len(res.Conns) == 0 {
		fmt.Fprintln(e.stdout, "no connections")
	}
	return nil
}

func decodeConn(s vici.Section) connConf {
	local, remote := s.Body.Section("local-1"), s.Body.Section("remote-1")
	c := connConf{Name: s.Name, Local: listOf(s.Body, "local_addrs"), Remote: listOf(s.Body, "remote_addrs"),
		LocalID: local.Text("id"), RemoteID: remote.Text("id"), Auth: local.Text("class"), Children: []childConf{}}
	for _, ch := range s.Body.Section("children").Sections() {
		c.Children = append(c.Children, childConf{ch.Name, ch.Body.Text("mode"), listOf(ch.Body, "local-ts"), listOf(ch.Body, "remote-ts")})
	}
	return c
}

// ends is one side of a connection: identity and addresses.
func ends(id string, addrs []string) string {
	return strings.TrimSpace(printable(id) + " " + strings.Join(addrs, " "))
}

// Run has the daemon read its file.
func (connReloadCmd) Run(e *env) error {
	c, err := e.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Call(e.ctx, "reload-settings", nil); err != nil {
		return e.explain(err)
	}
	if e.format != plain {
		return e.print(struct {
			Schema int    `json:"version"`
			State  string `json:"state"`
		}{schema, "reloaded"})
	}
	_, err = fmt.Fprintln(e.stdout, "reloaded")
	return err
}

// Run brings the connection up, telling what happens meanwhile.
func (cmd *connUpCmd) Run(e *env) error {
	var req vici.Message
	req.Put("ike", cmd.Name)
	if cmd.Child != "" {
		req.Put("child", cmd.Child)
	}
	req.Put("ensure", "yes")
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
