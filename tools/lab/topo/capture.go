package topo

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Counts is what passed the wire.
type Counts struct {
	// ESP counts bare ESP packets, UDPESP such in UDP port 4500.
	ESP, UDPESP int
	// Repeated counts ESP packets with an SPI and a sequence number that were on the wire before: with one key that must never be.
	// Reflected counts those that are the same packet once more, behind a router.
	Repeated, Reflected int
	// RepeatedSPIs are those of the first of them.
	RepeatedSPIs []uint32
	// IKE counts IKE messages on ports 500 and 4500, Keepalive NAT keepalives.
	IKE, Keepalive int
	// Clear counts everything else of IP that carries or answers traffic: TCP, other UDP, echo requests and replies ...
	Clear int
	// Fragments counts fragments after the first, whose content cannot be told; of ESP they are counted as ESP.
	Fragments int
	// Control counts what a link always has: ARP, neighbour discovery, multicast listener reports, ICMP errors.
	Control int
	// Bytes is the sum of the lengths of the IP packets of ESP and UDPESP.
	Bytes int64
	// Lost counts packets that the capture missed; a test that asserts on the absence of something must see 0.
	Lost int
	// ClearSamples describes the first packets of Clear.
	ClearSamples []string

	sequences map[uint64]sighting // by SPI and sequence number
}

// Protected is the number of ESP packets, in UDP or not.
func (c Counts) Protected() int { return c.ESP + c.UDPESP }

// Capture counts what passes the wire between the gateways.
type Capture struct {
	wire *Host
	fd   *os.File
	done chan struct{}

	mu     sync.Mutex
	counts Counts
	marker uint64        // of the last mark seen
	marked chan struct{} // closed, and replaced, at each mark
}

const (
	snapLength   = 256
	captureQueue = 64 << 20 // bytes of packets that may wait for the counting goroutine
	markType     = 0x88b5   // an Ethernet type for local experiments
	maxSamples   = 8
)

var markers atomic.Uint64

// Capture starts counting on the wire, where packets are seen as the network sees them: on a gateway's own device the kernel also shows
// those that it has just decrypted.
func (n *Net) Capture() (*Capture, error) {
	c := &Capture{wire: n.Wire, done: make(chan struct{}), marked: make(chan struct{})}
	err := n.Wire.Do(func() error {
		fd, err := packetSocket(unix.ETH_P_ALL)
		if err != nil {
			return err
		}
		c.fd = os.NewFile(uintptr(fd), "capture")
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureQueue)
	})
	if err != nil {
		return nil, fmt.Errorf("capturing on the wire: %w", err)
	}
	go c.loop()
	return c, nil
}

// packetSocket opens a non-blocking packet socket on port1 of the namespace that it is called in.
func packetSocket(proto uint16) (int, error) {
	dev, err := net.InterfaceByName("port1")
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	big := proto<<8 | proto>>8
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: big, Ifindex: dev.Index}); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// loop counts until the socket is closed.
func (c *Capture) loop() {
	defer close(c.done)
	buf := make([]byte, snapLength)
	for {
		n, err := c.fd.Read(buf)
		if err != nil {
			return
		}
		c.mu.Lock()
		if n >= 22 && binary.BigEndian.Uint16(buf[12:]) == markType {
			c.marker = binary.BigEndian.Uint64(buf[14:])
			close(c.marked)
			c.marked = make(chan struct{})
		} else {
			c.counts.add(buf[:n])
		}
		c.mu.Unlock()
	}
}

// Counts returns what has passed so far: every packet that was on the wire when it was called is counted.
func (c *Capture) Counts() (Counts, error) {
	if err := c.sync(); err != nil {
		return Counts{}, err
	}
	var lost *unix.TpacketStats
	raw, err := c.fd.SyscallConn()
	if err != nil {
		return Counts{}, err
	}
	if e := raw.Control(func(fd uintptr) {
		lost, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); e != nil || err != nil {
		return Counts{}, fmt.Errorf("reading the capture's losses: %v, %w", e, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Lost += int(lost.Drops) // reading resets it
	out := c.counts
	out.sequences = nil // it goes on being written
	out.RepeatedSPIs = append([]uint32(nil), out.RepeatedSPIs...)
	out.ClearSamples = append([]string(nil), out.ClearSamples...)
	return out, nil
}

// Reset forgets what has passed so far.
func (c *Capture) Reset() error {
	if _, err := c.Counts(); err != nil { // also resets the kernel's count of losses
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts = Counts{}
	return nil
}

// sync sends a mark over the wire's port and waits until the loop has met it, and so everything before it.
func (c *Capture) sync() error {
	id := markers.Add(1)
	frame := make([]byte, 60)
	for i := range 6 {
		frame[i] = 0xff
	}
	binary.BigEndian.PutUint16(frame[12:], markType)
	binary.BigEndian.PutUint64(frame[14:], id)
	err := c.wire.Do(func() error {
		fd, err := packetSocket(0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Write(fd, frame)
		return err
	})
	if err != nil {
		return fmt.Errorf("marking the capture: %w", err)
	}
	for deadline := time.After(20 * time.Second); ; {
		c.mu.Lock()
		seen, next := c.marker, c.marked
		c.mu.Unlock()
		if seen >= id {
			return nil
		}
		select {
		case <-next:
		case <-c.done:
			return fmt.Errorf("the capture has ended")
		case <-deadline:
			return fmt.Errorf("the capture did not see its mark: packets were lost")
		}
	}
}

// Close ends the capture.
func (c *Capture) Close() error {
	err := c.fd.Close()
	<-c.done
	return err
}
