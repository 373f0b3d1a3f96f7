package topo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// Ping sends count echo requests, 50 ms apart, to the address and fails unless each is answered.
func (h *Host) Ping(ctx context.Context, to netip.Addr, count int) error {
	_, err := h.Echo(ctx, Echo{To: to, Count: count})
	return err
}

// PingFrom is Ping with a source address; needed where a gateway itself talks from its inner address.
func (h *Host) PingFrom(ctx context.Context, from, to netip.Addr, count int) error {
	_, err := h.Echo(ctx, Echo{From: from, To: to, Count: count})
	return err
}

// Transfer sends size bytes over TCP from h to the address of the other host and has their SHA-256 sent back, so the stream is known to
// have arrived whole. It returns how long that took.
func (h *Host) Transfer(ctx context.Context, other *Host, addr netip.Addr, size int64) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var listener net.Listener
	err := other.Do(func() (err error) {
		var lc net.ListenConfig
		listener, err = lc.Listen(ctx, "tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("listening in %s: %w", other.Name, err)
	}
	served := make(chan error, 1)
	go func() { served <- serveDigest(listener, size) }()
	defer listener.Close()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	begin := time.Now()
	if err := h.sendStream(ctx, listener.Addr().String(), size); err != nil {
		return 0, fmt.Errorf("TCP from %s to %s: %w", h.Name, other.Name, err)
	}
	took := time.Since(begin)
	return took, <-served
}

// serveDigest takes one connection, reads size bytes and answers with their digest.
func serveDigest(l net.Listener, size int64) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	sum := sha256.New()
	if _, err := io.CopyN(sum, c, size); err != nil {
		return fmt.Errorf("receiving %d bytes: %w", size, err)
	}
	_, err = c.Write(sum.Sum(nil))
	return err
}

// sendStream connects, sends size bytes and compares the digest that comes back.
func (h *Host) sendStream(ctx context.Context, addr string, size int64) error {
	var c net.Conn
	err := h.Do(func() (err error) {
		// A single literal address is dialled on this goroutine, and so in this namespace.
		d := net.Dialer{Timeout: 20 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: false}}
		c, err = d.DialContext(ctx, "tcp", addr)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	sum := sha256.New()
	source := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
	if _, err := io.Copy(io.MultiWriter(c, sum), source); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	got := make([]byte, sha256.Size)
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("reading the receiver's digest: %w", err)
	}
	if string(got) != string(sum.Sum(nil)) {
		return errors.New("the receiver's digest differs from ours: the stream was damaged")
	}
	return nil
}
