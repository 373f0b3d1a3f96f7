package vici

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Client is a connection to a vici server. One command runs at a time; calls
// from several goroutines wait for each other.
type Client struct {
	mu   sync.Mutex
	conn net.Conn
	r    *bufio.Reader
}

// ErrUnknownCommand and ErrUnknownEvent say that the server does not know the
// name.
var (
	ErrUnknownCommand = errors.New("the daemon does not know this command")
	ErrUnknownEvent   = errors.New("the daemon does not know this event")
)

// CommandError is a command's own failure, success=no.
type CommandError struct {
	Command string
	Message string // the daemon's words
	Reply   Message
}

func (e *CommandError) Error() string { return e.Command + ": " + e.Message }

// Dial connects to the server's Unix socket.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return NewClient(conn), nil
}

// NewClient makes a client of a connection, which it then owns.
func NewClient(conn net.Conn) *Client {
	return &Client{conn: conn, r: bufio.NewReader(conn)}
}

// Close ends the connection; a command under way fails.
func (c *Client) Close() error { return c.conn.Close() }

// Call runs a command. Errors: ErrUnknownCommand; *CommandError when the
// daemon says that it failed; ctx's, after which the client is of no more use.
func (c *Client) Call(ctx context.Context, command string, req Message) (Message, error) {
	return c.Stream(ctx, command, req, "", nil)
}

// Stream runs a command and hands each event of that name to fn while the
// command runs. When fn fails the connection is closed and the error returned.
// Errors: those of Call; ErrUnknownEvent.
func (c *Client) Stream(ctx context.Context, command string, req Message, event string, fn func(Message) error) (Message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := c.stream(command, req, event, fn)
	if err != nil && ctx.Err() != nil {
		c.conn.Close()
		return nil, ctx.Err()
	}
	return reply, err
}

func (c *Client) stream(command string, req Message, event string, fn func(Message) error) (Message, error) {
	if event != "" {
		if err := c.register(EventRegister, event, fn); err != nil {
			return nil, err
		}
	}
	reply, err := c.request(command, req, event, fn)
	if err != nil || event == "" {
		return reply, err
	}
	if err := c.register(EventUnregister, event, fn); err != nil {
		return nil, err
	}
	return reply, nil
}

// Follow registers for an event and hands each to fn, until ctx ends or fn fails; the
// connection is closed then. Errors: ctx's; fn's; ErrUnknownEvent.
func (c *Client) Follow(ctx context.Context, event string, fn func(Message) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := c.register(EventRegister, event, fn)
	for err == nil {
		var body []byte
		var p Packet
		if body, err = ReadSegment(c.r); err == nil {
			p, err = ParsePacket(body)
		}
		if err == nil && p.Type == Event && p.Name == event {
			err = fn(p.Message)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (c *Client) register(t PacketType, event string, fn func(Message) error) error {
	p, err := c.exchange(Packet{Type: t, Name: event}, event, fn)
	if err != nil {
		return err
	}
	switch p.Type {
	case EventConfirm:
		return nil
	case EventUnknown:
		return fmt.Errorf("event %s: %w", event, ErrUnknownEvent)
	}
	return c.broken(fmt.Errorf("%s after %s: expected EVENT_CONFIRM or EVENT_UNKNOWN", p.Type, t))
}

func (c *Client) request(command string, req Message, event string, fn func(Message) error) (Message, error) {
	p, err := c.exchange(Packet{Type: CmdRequest, Name: command, Message: req}, event, fn)
	if err != nil {
		return nil, err
	}
	switch p.Type {
	case CmdUnknown:
		return nil, fmt.Errorf("%s: %w", command, ErrUnknownCommand)
	case CmdResponse:
	default:
		return nil, c.broken(fmt.Errorf("%s after a command: expected CMD_RESPONSE or CMD_UNKNOWN", p.Type))
	}
	if p.Message.Text("success") == "no" {
		why := p.Message.Text("errmsg")
		if why == "" {
			why = "failed, the daemon gives no reason"
		}
		return nil, &CommandError{Command: command, Message: why, Reply: p.Message}
	}
	return p.Message, nil
}

// exchange sends a packet and reads until something else than an event comes.
func (c *Client) exchange(p Packet, event string, fn func(Message) error) (Packet, error) {
	segment, err := p.AppendSegment(nil)
	if err != nil {
		return Packet{}, err
	}
	if _, err := c.conn.Write(segment); err != nil {
		return Packet{}, c.broken(err)
	}
	for {
		body, err := ReadSegment(c.r)
		if err != nil {
			return Packet{}, c.broken(fmt.Errorf("the daemon's answer to %s %s: %w", p.Type, p.Name, err))
		}
		got, err := ParsePacket(body)
		if err != nil {
			return Packet{}, c.broken(fmt.Errorf("the daemon's answer to %s %s: %w", p.Type, p.Name, err))
		}
		if got.Type != Event {
			return got, nil
		}
		if got.Name != event || fn == nil {
			continue
		}
		if err := fn(got.Message); err != nil {
			return Packet{}, c.broken(err)
		}
	}
}

// broken closes a connection whose position in the stream is lost.
func (c *Client) broken(err error) error {
	c.conn.Close()
	return err
}
