package host

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Speed is how fast the kernel encrypts on one CPU.
type Speed struct {
	Cipher         string  `json:"cipher"`
	Driver         string  `json:"driver"` // the preferred one, which is what was measured
	By             By      `json:"by"`
	Piece          int     `json:"piece_bytes"`
	BytesPerSecond float64 `json:"bytes_per_second"` // system calls included
}

// By is the way in which a cipher was measured.
type By string

// Ways.
const (
	ByAlg By = "AF_ALG" // the cipher alone, in pieces of 16 KiB
	BySA  By = "SA"     // datagrams by an SA: the IP stack is part of it
)

const (
	speedPiece = 16 << 10
	speedKey   = 16 + 4 // AES-128 and a salt (RFC 4106 8.1)
	speedAAD   = 16     // the ESP header and the IV, as the kernel counts them
	speedICV   = 16
)

// MeasureCipher encrypts with AES-GCM as ESP has it for a while, on one CPU that then
// does nothing else: through AF_ALG, or by an SA where the kernel lets no program use
// this cipher, as Linux does from 7.3 on (crypto.af_alg_restrict). Errors: both ways
// are closed.
func (l Local) MeasureCipher(ctx context.Context, d time.Duration) (Speed, error) {
	s, err := l.measureAlg(ctx, d)
	if err == nil || ctx.Err() != nil {
		return s, err
	}
	s, saErr := l.measureSA(ctx, d)
	if saErr != nil {
		return s, fmt.Errorf("%w; by an SA: %w", err, saErr)
	}
	return s, nil
}

// measureAlg measures through AF_ALG.
func (l Local) measureAlg(ctx context.Context, d time.Duration) (Speed, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The kernel loads it by itself where it may start modprobe.
	const module = "algif_aead"
	if l.moduleState(module, l.kernel().modules) == ModuleLoadable {
		_ = l.LoadModule(module) // the socket says what is missing
	}
	fd, err := openCipher()
	if err != nil {
		return Speed{}, fmt.Errorf("measure %s: %w", espCipher, err)
	}
	defer unix.Close(fd)
	control := encryptControl()
	in, out := make([]byte, speedAAD+speedPiece), make([]byte, speedAAD+speedPiece+speedICV)
	piece := func() error {
		if _, err := unix.SendmsgN(fd, in, control, nil, 0); err != nil {
			return fmt.Errorf("measure %s: send: %w", espCipher, err)
		}
		if n, err := unix.Read(fd, out); err != nil || n != len(out) {
			return fmt.Errorf("measure %s: read %d of %d octets: %w", espCipher, n, len(out), err)
		}
		return nil
	}
	if err := piece(); err != nil { // the first one is slower
		return Speed{}, err
	}
	began, n := time.Now(), 0
	passed := time.Duration(0)
	for ; passed < d && ctx.Err() == nil; passed = time.Since(began) {
		if err := piece(); err != nil {
			return Speed{}, err
		}
		n++
	}
	s := Speed{Cipher: espCipher, By: ByAlg, Piece: speedPiece}
	if n > 0 {
		s.BytesPerSecond = float64(n*speedPiece) / passed.Seconds()
	}
	if c := l.ciphers(); len(c) > 0 {
		s.Driver = c[0].Driver
	}
	return s, ctx.Err()
}

// openCipher is a socket that encrypts with a key that nobody knows.
func openCipher() (int, error) {
	parent, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("the kernel lets no program use its ciphers (module algif_aead): %w", err)
	}
	defer unix.Close(parent)
	if err := unix.Bind(parent, &unix.SockaddrALG{Type: "aead", Name: espCipher}); err != nil {
		return 0, fmt.Errorf("the kernel lets no program use this cipher (module algif_aead, crypto.af_alg_restrict): %w", err)
	}
	key := make([]byte, speedKey)
	if _, err := rand.Read(key); err != nil {
		return 0, err
	}
	err = unix.SetsockoptString(parent, unix.SOL_ALG, unix.ALG_SET_KEY, string(key))
	clear(key)
	if err == nil {
		// The length of the value is the length of the tag.
		err = unix.SetsockoptString(parent, unix.SOL_ALG, unix.ALG_SET_AEAD_AUTHSIZE, string(make([]byte, speedICV)))
	}
	if err != nil {
		return 0, fmt.Errorf("key: %w", err)
	}
	// The address of what is accepted is empty, which package unix takes for an error.
	fd, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(parent), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// encryptControl is the control message of each piece: encrypt, with this IV, and so
// many octets in clear.
func encryptControl() []byte {
	var out []byte
	add := func(kind int32, data []byte) {
		b := make([]byte, unix.CmsgSpace(len(data)))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		h.Level, h.Type = unix.SOL_ALG, kind
		h.SetLen(unix.CmsgLen(len(data)))
		copy(b[unix.CmsgLen(0):], data)
		out = append(out, b...)
	}
	word := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	add(unix.ALG_SET_OP, word(unix.ALG_OP_ENCRYPT))
	add(unix.ALG_SET_IV, append(word(8), make([]byte, 8)...)) // struct af_alg_iv
	add(unix.ALG_SET_AEAD_ASSOCLEN, word(speedAAD))
	return out
}
