package esp

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sender sends a ring's frames by one device.
type Sender interface {
	// Ring is where the frames come from.
	Ring() *Ring
	// Close gives back what the kernel holds.
	Close() error

	// send sends the next n frames, all of which wait in the ring, and says how
	// many of them the kernel did not take.
	send(n uint64) (lost uint64, err error)
}

// Pace is how much is sent, and how fast.
type Pace struct {
	// Count ends the sending after that many frames; 0: the context does.
	Count uint64
	// Rate is in frames a second; 0: as fast as it goes.
	Rate float64
	// Batch is how many frames go in one call; 0: 64.
	Batch int
	// CPU is where the sender runs, from 0 on; -1: anywhere.
	CPU int
}

// Report is what was sent and what it cost.
type Report struct {
	// Sent counts frames that the kernel took, Lost those that it did not.
	Sent, Lost uint64
	// Took is the time of sending.
	Took time.Duration
	// CPU is what the sender's thread used of it. Where the kernel doesn't tell
	// the time of soft interrupts apart, the part of the receiver that ran within
	// the sender's system calls is included: see Cost.
	CPU time.Duration
	// Starved counts the times that the ring was empty when frames were due.
	Starved uint64
}

// Share is the part of one CPU that the sender used.
func (r Report) Share() float64 { return float64(r.CPU) / float64(r.Took) }

// Rate is in frames a second.
func (r Report) Rate() float64 { return float64(r.Sent) / r.Took.Seconds() }

// String is for test logs.
func (r Report) String() string {
	return fmt.Sprintf("%d frames in %s (%.0f/s), %d lost, %.0f%% of a CPU, starved %d times", r.Sent, r.Took.Round(time.Millisecond), r.Rate(),
		r.Lost, 100*r.Share(), r.Starved)
}

// Send sends until the pace's count is reached, the context ends, or nothing is
// left in a ring that nobody fills. The calling goroutine keeps its thread while
// it sends; with a CPU given, it is pinned there.
func Send(ctx context.Context, s Sender, p Pace) (Report, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if p.CPU >= 0 {
		back, err := pin(p.CPU)
		if err != nil {
			return Report{}, err
		}
		defer back()
	}
	if p.Batch == 0 {
		p.Batch = 64
	}
	before, err := threadTime()
	if err != nil {
		return Report{}, err
	}
	begin := time.Now()
	r, err := loop(ctx, s, p, begin)
	r.Took = time.Since(begin)
	after, timeErr := threadTime()
	r.CPU = after - before
	return r, errors.Join(err, timeErr)
}

// patience is how long a sender waits for a frame: whoever fills the ring is
// slow, or is not there at all.
const patience = 10 * time.Second

func loop(ctx context.Context, s Sender, p Pace, begin time.Time) (r Report, err error) {
	var offered uint64
	hungry := time.Time{}
	for ctx.Err() == nil && (p.Count == 0 || offered < p.Count) {
		n := uint64(p.Batch)
		if p.Count != 0 {
			n = min(n, p.Count-offered)
		}
		if p.Rate > 0 {
			due := begin.Add(time.Duration(float64(offered) / p.Rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				sleep(wait)
			}
		}
		ready := min(n, s.Ring().Ready())
		if ready == 0 {
			if hungry.IsZero() {
				hungry = time.Now()
				r.Starved++
			}
			if time.Since(hungry) > patience {
				return r, fmt.Errorf("sending: no frame was ready for %s after %d", patience, offered)
			}
			sleep(100 * time.Microsecond)
			continue
		}
		hungry = time.Time{}
		lost, err := s.send(ready)
		offered += ready
		r.Lost += lost
		r.Sent += ready - lost
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// sleep keeps the thread asleep, not only the goroutine: the runtime's timers
// would wake other threads. A short sleep is hidden from the runtime, as the
// sending is (PacketSocket.send); a long one would hold up the garbage collector.
func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	if d > 5*time.Millisecond {
		_ = unix.Nanosleep(&ts, nil) // woken early: the caller looks at the clock
		return
	}
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}

// pin binds the calling thread to a CPU and returns what undoes it.
func pin(cpu int) (func(), error) {
	var old, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		return nil, fmt.Errorf("reading the sender's CPUs: %w", err)
	}
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("pinning the sender to CPU %d: %w", cpu, err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &old) }, nil // it was allowed before
}

// threadTime is the calling thread's CPU time.
func threadTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0, fmt.Errorf("reading the thread's CPU time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
