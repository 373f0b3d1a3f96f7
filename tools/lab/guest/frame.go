package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Kind tells what a frame carries.
type Kind byte

const (
	// KindStdout carries bytes that a step wrote to its standard output.
	KindStdout Kind = 'o'
	// KindStderr carries bytes that a step wrote to its standard error.
	KindStderr Kind = 'e'
	// KindStep ends a step: what came since the one before is its output. It carries nothing.
	KindStep Kind = 's'
	// KindExit carries the exit status (4 bytes, big endian) and is the last frame: all output went before it.
	KindExit Kind = 'x'
	// KindFault carries a sentence: why the guest could not run the job. No frame follows it.
	KindFault Kind = 'f'
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case KindStdout:
		return "stdout"
	case KindStderr:
		return "stderr"
	case KindStep:
		return "step"
	case KindExit:
		return "exit"
	case KindFault:
		return "fault"
	}
	return fmt.Sprintf("Kind(%#02x)", byte(k))
}

// MaxFrame is the longest payload of a frame in bytes; longer output is split.
const MaxFrame = 32 << 10

// ErrNoExit is returned by Copy when the stream ends without an exit status: the guest died.
var ErrNoExit = errors.New("the guest ended without an exit status")

// FaultError is the guest's own word on why it could not run the job.
type FaultError struct{ Reason string }

func (e *FaultError) Error() string { return "the guest could not run the command: " + e.Reason }

// Sender writes frames. It may be used by several goroutines.
type Sender struct {
	mu sync.Mutex
	w  io.Writer
}

// NewSender returns a Sender that writes to w.
func NewSender(w io.Writer) *Sender { return &Sender{w: w} }

// Send writes one or more frames of the kind with all of b.
func (s *Sender) Send(k Kind, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		n := min(len(b), MaxFrame)
		frame := make([]byte, 5, 5+n)
		frame[0] = byte(k)
		binary.BigEndian.PutUint32(frame[1:], uint32(n))
		if _, err := s.w.Write(append(frame, b[:n]...)); err != nil {
			return fmt.Errorf("sending a frame of %s: %w", k, err)
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
}

// Exit sends the exit status, the last frame.
func (s *Sender) Exit(status int) error {
	return s.Send(KindExit, binary.BigEndian.AppendUint32(nil, uint32(status)))
}

// Writer returns an io.Writer whose bytes go out as frames of the kind.
func (s *Sender) Writer(k Kind) io.Writer { return frameWriter{s, k} }

type frameWriter struct {
	s *Sender
	k Kind
}

func (w frameWriter) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := w.s.Send(w.k, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Copy reads frames from r until the exit status, which it returns, writes their output to stdout and stderr, and calls ended, unless nil, after each step. It
// fails with ErrNoExit when the stream ends early, with a FaultError when the guest says why it could not run the job, and
// when a frame is malformed.
func Copy(r io.Reader, stdout, stderr io.Writer, ended func()) (int, error) {
	head := make([]byte, 5)
	buf := make([]byte, MaxFrame)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return 0, ErrNoExit
		}
		k, n := Kind(head[0]), binary.BigEndian.Uint32(head[1:])
		if n > MaxFrame {
			return 0, fmt.Errorf("frame of %s: expected at most %d bytes, got a length of %d", k, MaxFrame, n)
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return 0, ErrNoExit
		}
		var err error
		switch k {
		case KindStdout:
			_, err = stdout.Write(buf[:n])
		case KindStderr:
			_, err = stderr.Write(buf[:n])
		case KindStep:
			if ended != nil {
				ended()
			}
		case KindExit:
			if n != 4 {
				return 0, fmt.Errorf("frame of exit: expected 4 bytes, got %d", n)
			}
			return int(binary.BigEndian.Uint32(buf[:4])), nil
		case KindFault:
			return 0, &FaultError{Reason: string(buf[:n])}
		default:
			return 0, fmt.Errorf("unknown frame %s of %d bytes", k, n)
		}
		if err != nil {
			return 0, fmt.Errorf("passing on %s: %w", k, err)
		}
	}
}
