package esp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"time"
)

// A slot of a ring: the frame's length, what is to be added to frameMax to get
// it (negative, for the XDP program), and the frame.
const (
	slotSize = 2048
	slotHead = 8
	// FrameMax is the longest frame that a ring takes, in bytes, Ethernet header included.
	FrameMax = slotSize - slotHead
)

// Ring holds frames that were made ahead. One goroutine fills it while one
// sender takes from it.
type Ring struct {
	mem    []byte
	slots  uint64
	taken  *uint64 // frames that were sent; written by the sender
	filled *uint64 // frames that were made; written by who fills
	replay bool
}

// NewRing makes a ring of at least that many frames, 2 KiB each, in the
// program's own memory: for a packet socket. XDP brings its own (NewLiveFrames).
func NewRing(frames int) (*Ring, error) {
	slots, err := ringSlots(frames)
	if err != nil {
		return nil, err
	}
	return &Ring{mem: make([]byte, slots*slotSize), slots: slots, taken: new(uint64), filled: new(uint64)}, nil
}

func ringSlots(frames int) (uint64, error) {
	if frames < 1 || frames > 1<<20 {
		return 0, fmt.Errorf("ring: expected 1 to %d frames, got %d", 1<<20, frames)
	}
	slots := uint64(1)
	for slots < uint64(frames) {
		slots *= 2
	}
	return slots, nil
}

// Len is how many frames there is room for.
func (r *Ring) Len() int { return int(r.slots) }

// Ready is how many frames wait to be sent.
func (r *Ring) Ready() uint64 {
	return atomic.LoadUint64(r.filled) - atomic.LoadUint64(r.taken)
}

// Fill makes n frames, or as many as there is room for if n is 0.
func (r *Ring) Fill(src Source, n int) error {
	if r.replay {
		return errors.New("ring: it replays what it has")
	}
	room := r.slots - r.Ready()
	if n == 0 {
		n = int(room)
	}
	if uint64(n) > room {
		return fmt.Errorf("ring: expected at most %d frames, got %d", room, n)
	}
	for range n {
		if err := r.put(src); err != nil {
			return err
		}
	}
	return nil
}

// put makes one frame into the next slot.
func (r *Ring) put(src Source) error {
	at := atomic.LoadUint64(r.filled)
	slot := r.mem[at%r.slots*slotSize:][:slotSize:slotSize]
	frame, err := src.Append(slot[slotHead:slotHead])
	if err != nil {
		return err
	}
	if len(frame) > FrameMax {
		return fmt.Errorf("ring: expected a frame of at most %d bytes, got %d", FrameMax, len(frame))
	}
	binary.NativeEndian.PutUint32(slot, uint32(len(frame)))
	binary.NativeEndian.PutUint32(slot[4:], uint32(len(frame)-FrameMax))
	atomic.StoreUint64(r.filled, at+1)
	return nil
}

// Keep fills the ring again and again while frames are taken, until ctx ends or
// the source fails. It costs about 1 us a frame, on another CPU than the sender's
// if there is one.
func (r *Ring) Keep(ctx context.Context, src Source) error {
	for ctx.Err() == nil {
		room := r.slots - r.Ready()
		if room < r.slots/4 {
			time.Sleep(time.Millisecond)
			continue
		}
		for range min(room, 64) {
			if err := r.put(src); err != nil {
				return err
			}
		}
		runtime.Gosched()
	}
	return nil
}

// Replay makes the sender send the ring's frames again and again: for receivers
// that check no sequence numbers. The ring has to be full.
func (r *Ring) Replay() error {
	if r.Ready() != r.slots {
		return fmt.Errorf("ring: expected all %d frames to be filled before a replay, found %d", r.slots, r.Ready())
	}
	r.replay = true
	atomic.StoreUint64(r.filled, math.MaxUint64/2)
	return nil
}

// frame is the i-th of the frames that wait.
func (r *Ring) frame(i uint64) []byte {
	slot := r.mem[(atomic.LoadUint64(r.taken)+i)%r.slots*slotSize:]
	return slot[slotHead:][:binary.NativeEndian.Uint32(slot)]
}

// take gives back n frames that were sent.
func (r *Ring) take(n uint64) { atomic.AddUint64(r.taken, n) }
