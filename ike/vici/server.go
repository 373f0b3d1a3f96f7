package vici

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"espalier/internal/event"
)

// Config is what a Server is made of. Engine, Events and Version are required;
// a zero elsewhere means the default.
type Config struct {
	Engine Engine
	Events *event.Bus // where the engine publishes: the source of control-log and log
	// Sightings is where it publishes each sa.Sighting, the source of the events about
	// SAs; nil: there are none.
	Sightings *event.Bus
	Version   Version
	Names     *Names // nil: those of the configuration's language
	// Release is the one whose listings clients expect; nil: the newest.
	Release func() Release
	Log     zerolog.Logger
	Now     func() time.Time // default time.Now
	// More are commands beside the server's own, by name.
	More map[string]Command

	MaxClients   int           // connections at a time, default 64; more are closed at once
	QueueLimit   int           // octets that wait for one client at most, default 1 MiB
	WriteTimeout time.Duration // for a client to take what waits for it, default 10 s
	ReadTimeout  time.Duration // for a client to finish a segment it began, default 10 s
}

// Command answers a request; its context ends with the client. An error is the
// reply of a command that failed.
type Command func(context.Context, Message) (Message, error)

// Version is what the version command tells.
type Version struct {
	Daemon  string // e.g. "espalierd"
	Version string
	SysName string // uname's sysname, release and machine
	Release string
	Machine string
}

func (s *Server) release() Release {
	if s.cfg.Release == nil {
		return Release{}
	}
	return s.cfg.Release()
}

// Server serves vici clients. A client that reads slowly, or not at all, makes
// its own commands wait and is cut off after WriteTimeout; nobody else notices.
type Server struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	clients   map[*client]struct{}

	refused atomic.Uint64
	cutOff  atomic.Uint64
}

// NewServer makes a server; Serve gives it work.
func NewServer(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	setDefault(&cfg.MaxClients, 64)
	setDefault(&cfg.QueueLimit, 1<<20)
	setDefault(&cfg.WriteTimeout, 10*time.Second)
	setDefault(&cfg.ReadTimeout, 10*time.Second)
	s := &Server{cfg: cfg, listeners: map[net.Listener]struct{}{}, clients: map[*client]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

func setDefault[T int | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// ErrClosed is Serve's error after Close.
var ErrClosed = errors.New("control server is closed")

// Serve accepts clients from l until Close, then returns ErrClosed; l is closed
// in any case. It may run for several listeners at once.
func (s *Server) Serve(l net.Listener) error {
	if !s.addListener(l) {
		l.Close()
		return ErrClosed
	}
	defer s.dropListener(l)
	for {
		conn, err := l.Accept()
		if err == nil {
			s.admit(conn)
			continue
		}
		if s.ctx.Err() != nil {
			return ErrClosed
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("control socket: %w", err)
		}
		// Out of descriptors, mostly: wait for some to come back.
		s.cfg.Log.Warn().Err(err).Msg("control client not accepted")
		select {
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
		}
	}
}

// Close cuts off all clients and waits until their commands have returned.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	listeners := s.listeners
	s.listeners = map[net.Listener]struct{}{}
	s.mu.Unlock()
	s.cancel()
	for l := range listeners {
		l.Close()
	}
	s.wg.Wait()
}

// ClientCounters are what a server had to deny.
type ClientCounters struct {
	Clients int    // connected now
	Refused uint64 // closed at once because MaxClients were connected
	CutOff  uint64 // closed because they broke the protocol or did not read
}

// Counters reads the server's counters.
func (s *Server) Counters() ClientCounters {
	s.mu.Lock()
	n := len(s.clients)
	s.mu.Unlock()
	return ClientCounters{Clients: n, Refused: s.refused.Load(), CutOff: s.cutOff.Load()}
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) dropListener(l net.Listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	l.Close()
}

// admit starts serving a client, or refuses it.
func (s *Server) admit(conn net.Conn) {
	s.mu.Lock()
	if s.closed || len(s.clients) >= s.cfg.MaxClients {
		full := !s.closed
		s.mu.Unlock()
		defer conn.Close()
		if full {
			// Counted first: who sees the connection closed finds it counted.
			s.refused.Add(1)
			s.cfg.Log.Warn().Int("limit", s.cfg.MaxClients).Msg("control client refused, too many are connected")
		}
		return
	}
	c := newClient(s, conn)
	s.clients[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		c.run()
		s.mu.Lock()
		delete(s.clients, c)
		s.mu.Unlock()
	}()
}
