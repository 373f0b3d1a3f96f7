package topo

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// responder is a network with one host in it, whose answers a test decides on.
type responder struct {
	from    net.Addr
	answer  func(n int, request []byte) []reply
	packets chan []byte
	closed  chan struct{}
}

// reply comes a while after its request.
type reply struct {
	after time.Duration
	b     []byte
}

func (r *responder) WriteTo(b []byte, _ net.Addr) (int, error) {
	n := int(binary.BigEndian.Uint32(b[icmpHeader+8:]))
	for _, p := range r.answer(n, slices.Clone(b)) {
		go func() {
			select {
			case <-time.After(p.after):
			case <-r.closed:
			}
			select {
			case r.packets <- p.b:
			case <-r.closed:
			}
		}()
	}
	return len(b), nil
}

func (r *responder) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-r.packets:
		return copy(b, p), r.from, nil
	case <-r.closed:
		return 0, nil, net.ErrClosed
	}
}

func (r *responder) Close() error                     { close(r.closed); return nil }
func (r *responder) LocalAddr() net.Addr              { return nil }
func (r *responder) SetDeadline(time.Time) error      { return nil }
func (r *responder) SetReadDeadline(time.Time) error  { return nil }
func (r *responder) SetWriteDeadline(time.Time) error { return nil }

// echoed is the answer to a request.
func echoed(types icmpTypes, request []byte) []byte {
	b := slices.Clone(request)
	b[0] = types.reply
	return b
}

// unreachable is what a router says of a request to the address.
func unreachable(types icmpTypes, to netip.Addr, request []byte) []byte {
	b := make([]byte, icmpHeader+types.header, icmpHeader+types.header+len(request))
	b[0] = types.refusals[0]
	if to.Is4() {
		b[icmpHeader] = 0x45
		copy(b[icmpHeader+16:], to.AsSlice())
	} else {
		copy(b[icmpHeader+24:], to.AsSlice())
	}
	return append(b, request[:icmpHeader]...) // all that RFC 792 promises
}

// numbers are those of the requests without an answer.
func numbers(a Answers) (out []int) {
	for _, m := range a.Missing {
		out = append(out, m.Number)
	}
	return out
}

// TestEchoes: what is lost is named, wherever that is; what is late is not lost; what comes twice counts once; what comes back as something else is no answer.
func TestEchoes(t *testing.T) {
	const count = 25
	var all []int
	for n := range count {
		all = append(all, n+1)
	}
	type network func(types icmpTypes, to netip.Addr, n int, request []byte) []reply
	but := func(is func(n int) bool, other network) network {
		return func(types icmpTypes, to netip.Addr, n int, request []byte) []reply {
			if is(n) {
				return other(types, to, n, request)
			}
			return []reply{{time.Millisecond, echoed(types, request)}}
		}
	}
	these := func(numbers ...int) func(int) bool { return func(n int) bool { return slices.Contains(numbers, n) } }
	lost := func(icmpTypes, netip.Addr, int, []byte) []reply { return nil }
	late := func(d time.Duration) network {
		return func(types icmpTypes, _ netip.Addr, _ int, request []byte) []reply {
			return []reply{{d, echoed(types, request)}}
		}
	}
	twice := func(types icmpTypes, _ netip.Addr, _ int, request []byte) []reply {
		return []reply{{time.Millisecond, echoed(types, request)}, {2 * time.Millisecond, echoed(types, request)}}
	}
	damaged := func(types icmpTypes, _ netip.Addr, _ int, request []byte) []reply {
		b := echoed(types, request)
		b[len(b)-1]++
		return []reply{{time.Millisecond, b}}
	}
	cut := func(types icmpTypes, _ netip.Addr, _ int, request []byte) []reply {
		b := echoed(types, request)
		return []reply{{time.Millisecond, b[:len(b)-1]}}
	}
	foreign := func(types icmpTypes, _ netip.Addr, _ int, request []byte) []reply {
		b := echoed(types, request)
		b[icmpHeader]++ // another program's
		return []reply{{time.Millisecond, b}, {time.Millisecond, request}, {time.Millisecond, b[:4]}}
	}
	unreached := func(types icmpTypes, to netip.Addr, _ int, request []byte) []reply {
		return []reply{{time.Millisecond, unreachable(types, to, request)}}
	}
	others := func(types icmpTypes, to netip.Addr, _ int, request []byte) []reply {
		b := unreachable(types, to.Next(), request) // of a request to somebody else
		cut := unreachable(types, to, request)
		return []reply{{time.Millisecond, b}, {time.Millisecond, b[:20]}, {time.Millisecond, cut[:len(cut)-1]}}
	}
	for _, c := range []struct {
		name    string
		network network
		missing []int
		text    string // in the error
		again   int
		within  time.Duration // of the last request; 0: all of the time is used up
	}{
		{"all", but(these(), nil), nil, "", 0, 10 * time.Millisecond},
		{"one in the middle", but(these(13), lost), []int{13}, "24 of 25 echo requests answered, the slowest (25) after 1ms; missing: 13, sent 00:00:00.240000", 0, 0},
		{"the last", but(these(25), lost), []int{25}, "missing: 25, sent 00:00:00.480000", 0, 0},
		{"the first", but(these(1), lost), []int{1}, "missing: 1, sent 00:00:00.000000", 0, 0},
		{"several", but(these(2, 7, 8, 9, 25), lost), []int{2, 7, 8, 9, 25}, "missing: 7, sent 00:00:00.120000, to 9, sent 00:00:00.160000; missing: 25", 0, 0},
		{"nothing", lost, all, "0 of 25 echo requests answered; missing: 1, sent 00:00:00.000000, to 25, sent 00:00:00.480000", 0, 0},
		{"the last late", but(these(25), late(300*time.Millisecond)), nil, "", 0, 301 * time.Millisecond},
		{"all late and the last very", but(these(25), late(9900*time.Millisecond)), nil, "", 0, 9901 * time.Millisecond},
		{"the last too late", but(these(25), late(10100*time.Millisecond)), []int{25}, "missing: 25", 0, 0},
		{"the last too late, the others late", func(types icmpTypes, _ netip.Addr, n int, request []byte) []reply {
			return []reply{{map[bool]time.Duration{false: 5 * time.Second, true: 12 * time.Second}[n == count], echoed(types, request)}}
		}, []int{25}, "missing: 25", 0, 0},
		{"out of order", func(types icmpTypes, _ netip.Addr, n int, request []byte) []reply {
			return []reply{{time.Duration(200-n) * time.Millisecond, echoed(types, request)}}
		}, nil, "", 0, 200 * time.Millisecond},
		{"as many answers as requests, one of them twice", but(these(5, 13), func(types icmpTypes, to netip.Addr, n int, request []byte) []reply {
			if n == 13 {
				return nil
			}
			return twice(types, to, n, request)
		}), []int{13}, "24 of 25 echo requests answered, the slowest (25) after 1ms, 1 more than once; missing: 13", 1, 0},
		{"twice", but(these(5, 24), twice), nil, "", 2, 10 * time.Millisecond},
		{"damaged", but(these(13), damaged), []int{13}, "missing: 13, sent 00:00:00.240000 (came back damaged)", 0, 0},
		{"cut off", but(these(13), cut), []int{13}, "(came back damaged)", 0, 0},
		{"of others", but(these(13), foreign), []int{13}, "missing: 13, sent 00:00:00.240000.", 0, 0},
		{"refused", but(these(13), unreached), []int{13}, "missing: 13, sent 00:00:00.240000 (ICMP type ", 0, 10 * time.Millisecond},
		{"refused to others", but(these(13), others), []int{13}, "missing: 13, sent 00:00:00.240000.", 0, 0},
	} {
		for _, to := range []netip.Addr{netip.MustParseAddr("10.2.0.10"), netip.MustParseAddr("2001:db8:2::10")} {
			t.Run(c.name+" "+to.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					types := icmpOf(to)
					r := &responder{from: &net.IPAddr{IP: to.AsSlice()}, packets: make(chan []byte), closed: make(chan struct{})}
					r.answer = func(n int, b []byte) []reply { return c.network(types, to, n, b) }
					began := time.Now()
					a := runEcho(t.Context(), "client1", r, Echo{To: to, Count: count, Interval: 20 * time.Millisecond}).Wait()
					took := time.Since(began) - (count-1)*20*time.Millisecond
					if !slices.Equal(numbers(a), c.missing) || a.Sent != count || a.Answered != count-len(c.missing) {
						t.Errorf("expected %v to be missing, got %v: %s", c.missing, numbers(a), a)
					}
					text := strings.ReplaceAll(c.text, "00:00:", began.Format("15:04:"))
					if err := a.Err(); (err != nil) != (c.text != "") || err != nil && !strings.Contains(err.Error()+".", text) {
						t.Errorf("expected an error with %q, got %v", text, err)
					}
					if a.Duplicates != c.again {
						t.Errorf("expected %d to come twice, got %d", c.again, a.Duplicates)
					}
					if c.within > 0 && took > c.within || c.within == 0 && took != 10*time.Second {
						t.Errorf("it took %v from the last request", took)
					}
				})
			})
		}
	}
}

// TestEchoesStopped: requests go on until the stop, which waits for those on their way; the number has more than the 16 bits that a message's header has for it.
func TestEchoesStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := netip.MustParseAddr("10.2.0.10")
		r := &responder{from: &net.IPAddr{IP: to.AsSlice()}, packets: make(chan []byte), closed: make(chan struct{})}
		r.answer = func(n int, b []byte) []reply {
			switch n {
			case 1<<16 + 3:
				return []reply{{time.Millisecond, unreachable(icmp4, to, b)}}
			case 1<<16 + 7:
				return nil
			}
			return []reply{{2 * time.Second, echoed(icmp4, b)}}
		}
		e := runEcho(t.Context(), "client1", r, Echo{To: to, Interval: 10 * time.Millisecond})
		time.Sleep(700*time.Second + time.Millisecond)
		if n := e.Answered(); n != 70_001-200-2 {
			t.Errorf("%d answered in 700 s, expected those of 698 s", n)
		}
		a := e.Stop()
		if a.Sent != 70_001 || !slices.Equal(numbers(a), []int{1<<16 + 3, 1<<16 + 7}) {
			t.Errorf("expected 70001 requests and two without answer, got %s", a)
		} else if a.Missing[0].Why == "" || a.Missing[1].Why != "" {
			t.Errorf("expected the first of them to be refused, got %s", a)
		}
	})
}

// TestEchoesCancelled: whoever is not interested any more does not wait, and is not told that all is well.
func TestEchoesCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := netip.MustParseAddr("10.2.0.10")
		r := &responder{from: &net.IPAddr{IP: to.AsSlice()}, packets: make(chan []byte), closed: make(chan struct{})}
		r.answer = func(_ int, b []byte) []reply { return []reply{{0, echoed(icmp4, b)}} }
		ctx, cancel := context.WithTimeout(t.Context(), 110*time.Millisecond)
		defer cancel()
		a := runEcho(ctx, "client1", r, Echo{To: to, Count: 10}).Wait()
		if err := a.Err(); err == nil || !strings.Contains(err.Error(), "deadline exceeded") || a.Sent != 3 || a.Answered != 3 {
			t.Errorf("expected three answers and that time was over, got %v: %s", err, a)
		}
	})
}

// TestPause: a pause is one of either direction, however the answers came.
func TestPause(t *testing.T) {
	at := func(ms int) time.Time {
		return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
	}
	of := func(sent, took int) request {
		return request{at: at(sent), answered: took > 0, took: time.Duration(took) * time.Millisecond}
	}
	for _, c := range []struct {
		requests []request
		want     time.Duration
	}{
		{nil, 0},
		{[]request{of(0, 1)}, 0},
		{[]request{of(0, 1), of(200, 1), of(400, 1)}, 200 * time.Millisecond},
		{[]request{of(0, 1), of(200, 1), of(1500, 1)}, 1300 * time.Millisecond},                  // nothing was sent
		{[]request{of(0, 1), of(200, 1801), of(400, 1601)}, 2000 * time.Millisecond},             // nothing came
		{[]request{of(0, 601), of(200, 1), of(400, 2)}, 201 * time.Millisecond},                  // in another order
		{[]request{of(0, 1), of(200, 0), of(400, 0), of(600, 1)}, 600 * time.Millisecond},        // lost
		{[]request{of(0, 2001), of(200, 1801), of(400, 1), of(600, 1)}, 1400 * time.Millisecond}, // late
	} {
		if got := collect("client1", Echo{}, c.requests, nil).Pause(); got != c.want {
			t.Errorf("%v: expected %v, got %v", c.requests, c.want, got)
		}
	}
}
