package topo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Echo says which echo requests are sent, and what is waited for.
type Echo struct {
	To   netip.Addr
	From netip.Addr // the source; none: what the route says
	// Count is how many; 0: until Stop.
	Count int
	// Interval lies between two requests; 0: 50 ms. What is late is not made up for by sending faster.
	Interval time.Duration
	// Size is the data of a request in bytes, zeros but for the first 12; 0: 56, as ping(8) has it.
	Size int
	// CPU is where they are sent; nil: anywhere.
	CPU *int
	// Wait is how long answers may take after the last request; 0: 10 s.
	Wait time.Duration
}

// waitParts is how many parts the time for answers has. A machine that stands still, however long, uses up one of them; what came meanwhile is read in the next.
const waitParts = 20

// Echoes are echo requests on their way. Unlike ping(8), which waits for its last answers twice the longest time that one took before, and counts what is on
// its way when it is stopped as lost, they know each request by its number and wait for each as long as Echo.Wait says.
type Echoes struct {
	echo  Echo
	host  string
	conn  net.PacketConn
	nonce [8]byte
	stop  func() // sends no more
	more  context.Context
	news  chan struct{} // an answer has come
	done  chan struct{}

	mu       sync.Mutex
	requests []request // of number i+1
	err      error
}

// StartEcho begins to send.
func (h *Host) StartEcho(e Echo) (*Echoes, error) {
	ctx, cancel := context.WithCancel(context.Background())
	s, err := h.startEcho(ctx, e)
	if err != nil {
		cancel()
		return nil, err
	}
	h.net.daemons = append(h.net.daemons, background{s, cancel})
	return s, nil
}

// Echo sends all of e.Count requests and waits for the answers; the error names each that did not come.
func (h *Host) Echo(ctx context.Context, e Echo) (Answers, error) {
	if e.Count <= 0 {
		return Answers{}, fmt.Errorf("%s: echo to %s: expected a number of requests, got %d", h.Name, e.To, e.Count)
	}
	s, err := h.startEcho(ctx, e)
	if err != nil {
		return Answers{}, err
	}
	a := s.Wait()
	return a, a.Err()
}

func (h *Host) startEcho(ctx context.Context, e Echo) (*Echoes, error) {
	network, from := "ip4:1", "0.0.0.0"
	if e.To.Is6() {
		network, from = "ip6:58", "::"
	}
	if e.From.IsValid() {
		from = e.From.String()
	}
	var conn net.PacketConn
	err := h.Do(func() (err error) {
		var lc net.ListenConfig
		conn, err = lc.ListenPacket(ctx, network, from)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: echo to %s: %w", h.Name, e.To, err)
	}
	return runEcho(ctx, h.Name, conn, e), nil
}

// runEcho sends and receives over the connection, whose packets are ICMP messages without IP headers, and closes it in the end.
func runEcho(ctx context.Context, host string, conn net.PacketConn, e Echo) *Echoes {
	if e.Interval == 0 {
		e.Interval = 50 * time.Millisecond
	}
	if e.Size == 0 {
		e.Size = 56
	}
	if e.Wait == 0 {
		e.Wait = 10 * time.Second
	}
	e.Size = max(e.Size, echoName)
	s := &Echoes{echo: e, host: host, conn: conn, news: make(chan struct{}, 1), done: make(chan struct{})}
	s.more, s.stop = context.WithCancel(ctx)
	rand.Read(s.nonce[:])
	go s.run(ctx)
	return s
}

func (s *Echoes) run(ctx context.Context) {
	defer close(s.done)
	defer s.stop()
	received := make(chan struct{})
	go func() {
		defer close(received)
		s.receive()
	}()
	if err := s.send(); err != nil {
		s.fail(err)
	}
	part := time.NewTicker(max(s.echo.Wait/waitParts, 1))
	defer part.Stop()
	for left := waitParts; left > 0 && ctx.Err() == nil && !s.settled(); {
		select {
		case <-s.news:
		case <-part.C:
			left--
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil && (!s.settled() || s.sent() < s.echo.Count) {
		s.fail(ctx.Err())
	}
	s.conn.Close()
	<-received
}

// send sends until there were enough.
func (s *Echoes) send() error {
	if s.echo.CPU != nil {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		var set unix.CPUSet
		set.Set(*s.echo.CPU)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("CPU %d: %w", *s.echo.CPU, err)
		}
	}
	types, to := icmpOf(s.echo.To), &net.IPAddr{IP: s.echo.To.AsSlice()}
	next := time.NewTicker(s.echo.Interval) // which leaves out what is not taken in time
	defer next.Stop()
	for n := 1; ; n++ {
		s.mu.Lock()
		s.requests = append(s.requests, request{at: time.Now()})
		s.mu.Unlock()
		if _, err := s.conn.WriteTo(echoRequest(types, s.nonce, n, s.echo.Size), to); err != nil {
			s.refuse(n, err.Error())
		}
		if n == s.echo.Count {
			return nil
		}
		select {
		case <-next.C:
		case <-s.more.Done():
			return nil
		}
		if s.more.Err() != nil {
			return nil
		}
	}
}

// receive reads until the connection is closed.
func (s *Echoes) receive() {
	types := icmpOf(s.echo.To)
	b := make([]byte, 1<<16)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.fail(fmt.Errorf("receiving: %w", err))
			return
		}
		peer, _ := from.(*net.IPAddr)
		if low, why, ok := refused(types, s.nonce, s.echo.To, b[:n]); ok {
			s.refuse(s.latest(low), fmt.Sprintf("%s from %s", why, from))
		} else if n, whole, ok := answered(types, s.nonce, b[:n], s.echo.Size); ok && peer != nil && peer.IP.Equal(s.echo.To.AsSlice()) {
			s.answer(n, whole)
		}
	}
}

// latest is the last request whose number ends like that, or 0.
func (s *Echoes) latest(low uint16) int {
	n := s.sent()
	n -= int(uint16(n) - low)
	return max(n, 0)
}

func (s *Echoes) answer(n int, whole bool) {
	now := time.Now()
	s.change(n, func(r *request) {
		switch {
		case !whole:
			r.damaged++
		case r.answered:
			r.again++
		default:
			r.answered, r.took = true, now.Sub(r.at)
		}
	})
}

func (s *Echoes) refuse(n int, why string) {
	s.change(n, func(r *request) { r.refusal = why })
}

func (s *Echoes) change(n int, f func(*request)) {
	s.mu.Lock()
	if n >= 1 && n <= len(s.requests) {
		f(&s.requests[n-1])
	}
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

func (s *Echoes) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

func (s *Echoes) sent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// settled tells whether no request can still be answered.
func (s *Echoes) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if !r.answered && r.refusal == "" {
			return false
		}
	}
	return true
}

// Answered is how many requests have been answered up to now.
func (s *Echoes) Answered() int { return s.answers().Answered }

// Stop sends no more, and waits for the answers to what was sent.
func (s *Echoes) Stop() Answers {
	s.stop()
	return s.Wait()
}

// Wait waits until all of the requests are sent and answered, or the time for that is over.
func (s *Echoes) Wait() Answers {
	<-s.done
	return s.answers()
}

func (s *Echoes) answers() Answers {
	s.mu.Lock()
	defer s.mu.Unlock()
	return collect(s.host, s.echo, s.requests, s.err)
}

// background are echoes that end with the network, and show in a failed test's log what became of them.
type background struct {
	s   *Echoes
	end context.CancelFunc
}

// Stop implements stopper: nobody waits for these answers any more.
func (b background) Stop() error {
	b.end()
	<-b.s.done
	return nil
}

// Log implements stopper.
func (b background) Log() string { return b.s.answers().String() }

func (b background) title() string { return fmt.Sprintf("echoes from %s to %s", b.s.host, b.s.echo.To) }
