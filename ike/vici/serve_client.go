package vici

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// pipelined is how many packets of a client are read ahead of the command that
// it has in flight; beyond that its socket fills up.
const pipelined = 4

// client is the server's end of one connection: a goroutine reads packets, one
// answers them in order, one writes, and others follow the engine's events while
// they are registered for. What any of them ends, ends all.
type client struct {
	srv    *Server
	conn   net.Conn
	ctx    context.Context
	cancel context.CancelCauseFunc
	out    *queue
	in     chan Packet

	// events are those of commands that are registered; only the answering goroutine
	// uses them.
	events  map[string]bool
	watches watches
}

func (c *client) names() *Names { return c.srv.cfg.Names }

func newClient(s *Server, conn net.Conn) *client {
	c := &client{
		srv: s, conn: conn,
		out:    newQueue(s.cfg.QueueLimit),
		in:     make(chan Packet, pipelined),
		events: map[string]bool{},
	}
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	return c
}

// errGone says that the client closed its end.
var errGone = errors.New("closed by the client")

// run serves the client until it leaves, breaks the protocol, or the server closes.
func (c *client) run() {
	stop := context.AfterFunc(c.ctx, func() { c.conn.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(c.read)
	wg.Go(c.write)
	c.answer()
	wg.Wait()
	c.watches.wait.Wait()
	c.conn.Close()
	if err := context.Cause(c.ctx); !errors.Is(err, errGone) && c.srv.ctx.Err() == nil {
		c.srv.cutOff.Add(1)
		c.srv.cfg.Log.Warn().Err(err).Msg("control client cut off")
	}
}

// read parses packets until the connection ends.
func (c *client) read() {
	r := bufio.NewReader(c.conn)
	for {
		p, err := c.readPacket(r)
		if err != nil {
			c.cancel(err)
			return
		}
		select {
		case c.in <- p:
		case <-c.ctx.Done():
			return
		}
	}
}

// readPacket waits as long as it takes for a packet to begin, but not for the
// rest of it.
func (c *client) readPacket(r *bufio.Reader) (Packet, error) {
	if _, err := r.Peek(1); err != nil {
		if isGone(err) {
			err = errGone
		}
		return Packet{}, err
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(c.srv.cfg.ReadTimeout)); err != nil {
		return Packet{}, err
	}
	body, err := ReadSegment(r)
	if err != nil {
		return Packet{}, fmt.Errorf("reading a segment: %w", err)
	}
	if err := c.conn.SetReadDeadline(time.Time{}); err != nil {
		return Packet{}, err
	}
	return ParsePacket(body)
}

// isGone tells a client that left from one that failed.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || isReset(err)
}

// write sends what the queue holds; each lot has WriteTimeout to be taken.
func (c *client) write() {
	for {
		select {
		case <-c.out.wake:
		case <-c.ctx.Done():
			return
		}
		lot := net.Buffers(c.out.takeAll())
		if len(lot) == 0 {
			continue
		}
		err := c.conn.SetWriteDeadline(time.Now().Add(c.srv.cfg.WriteTimeout))
		if err == nil {
			_, err = lot.WriteTo(c.conn)
		}
		if err != nil {
			if isGone(err) {
				err = errGone
			} else {
				err = fmt.Errorf("the client does not take what it asked for: %w", err)
			}
			c.cancel(err)
			return
		}
	}
}

// answer handles packets one after the other, so that replies and registrations
// take effect in the order in which they were sent.
func (c *client) answer() {
	for {
		var p Packet
		select {
		case p = <-c.in:
		case <-c.ctx.Done():
			return
		}
		reply, err := c.handle(&p)
		if err == nil {
			err = c.send(reply)
		}
		if err != nil {
			c.cancel(err)
			return
		}
	}
}

// handle makes the reply to one packet.
func (c *client) handle(p *Packet) (Packet, error) {
	switch p.Type {
	case CmdRequest:
		cmd := findCommand(p.Name)
		if more := c.srv.cfg.More[p.Name]; cmd == nil && more != nil {
			cmd = more.answer
		}
		if cmd == nil {
			return Packet{Type: CmdUnknown}, nil
		}
		reply, err := cmd(c, p.Message)
		return Packet{Type: CmdResponse, Message: reply}, err
	case EventRegister, EventUnregister:
		if !knownEvent(p.Name) {
			return Packet{Type: EventUnknown}, nil
		}
		if comesAnyTime(p.Name) {
			c.watch(p.Name, p.Type == EventRegister)
		} else {
			c.events[p.Name] = p.Type == EventRegister
		}
		return Packet{Type: EventConfirm}, nil
	}
	return Packet{}, fmt.Errorf("%s from a client: expected a command or a registration", p.Type)
}

// raise sends an event if the client registered for it. It waits while the
// client's queue is full.
func (c *client) raise(name string, m Message) error {
	if !c.events[name] {
		return nil
	}
	return c.send(Packet{Type: Event, Name: name, Message: m})
}

func (c *client) send(p Packet) error {
	segment, err := p.AppendSegment(nil)
	if err != nil {
		return err
	}
	return c.out.push(c.ctx, segment)
}
