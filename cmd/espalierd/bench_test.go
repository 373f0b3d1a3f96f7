package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/config"
	"espalier/ike/engine"
	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/vici"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// cable joins two transports in memory.
type cable struct {
	mu   sync.Mutex
	ends map[netip.Addr]*plug
}

type plug struct {
	cable  *cable
	in     chan sockets.Datagram
	closed chan struct{}
	once   sync.Once
}

func (c *cable) join(addr netip.Addr) *plug {
	p := &plug{cable: c, in: make(chan sockets.Datagram, 64), closed: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends == nil {
		c.ends = map[netip.Addr]*plug{}
	}
	c.ends[addr] = p
	return p
}

func (p *plug) Receive(fn func(sockets.Datagram)) error {
	for {
		select {
		case d := <-p.in:
			fn(d)
		case <-p.closed:
			return nil
		}
	}
}

func (p *plug) Send(local, remote netip.AddrPort, data []byte) error {
	p.cable.mu.Lock()
	to := p.cable.ends[remote.Addr()]
	p.cable.mu.Unlock()
	if to != nil {
		select {
		case to.in <- sockets.Datagram{Local: remote, Remote: local, Data: bytes.Clone(data)}:
		default: // lost, as in a network
		}
	}
	return nil
}

func (p *plug) SendWhole(local, remote netip.AddrPort, data []byte, _ uint8) error {
	return p.Send(local, remote, data)
}

func (p *plug) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// daemon is what serve makes, without kernel, sockets and file: an engine, what is in
// force, and a control socket.
type daemon struct {
	*engine.Engine
	socket string
	plane  *dataplane.Fake
}

func startDaemon(b *testing.B, c *cable, addr string, conns []*sa.Connection) *daemon {
	b.Helper()
	ip := netip.MustParseAddr(addr)
	creds := auth.NewBuilder()
	if err := creds.AddShared(secret.Bytes("correct horse battery staple"), nil, "bench"); err != nil {
		b.Fatal(err)
	}
	file := &config.Config{Path: "bench", Connections: conns, Credentials: creds.Build(), Settings: config.Settings{SA: sa.DefaultSettings()}}
	d := &daemon{plane: dataplane.NewFake(dataplane.FakeOptions{}), socket: filepath.Join(b.TempDir(), "v")}
	bus, log := new(event.Bus), zerolog.New(io.Discard)
	var err error
	d.Engine, err = engine.New(engine.Options{
		DataPlane: d.plane, Conns: conns, Creds: file.Credentials, Settings: engine.DefaultSettings(), Bus: bus, Log: log,
		Sockets: c.join(ip), Route: func(netip.Addr) (netip.Addr, error) { return ip, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	force, tasks := newInForce(flags{}, file, d.Engine, log), make(chan func())
	server := vici.NewServer(vici.Config{Engine: facade{d.Engine, force, force.reload, tasks}, Events: bus, Log: log})
	l, err := vici.Listen(d.socket)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	wg.Go(func() {
		if err := d.Run(ctx); err != nil {
			b.Errorf("Run: %v", err)
		}
	})
	wg.Go(func() {
		for {
			select {
			case task := <-tasks:
				task()
			case <-ctx.Done():
				return
			}
		}
	})
	b.Cleanup(func() {
		cancel()
		server.Close()
		wg.Wait()
	})
	for d.Engine.Stats().Started.IsZero() {
		time.Sleep(time.Millisecond)
	}
	return d
}

// BenchmarkLoadConns loads 1,000 connections over the control socket, one command
// each, as swanctl --load-conns does, into a running engine over the fake data plane.
//
//	s/1000    seconds for that
//	again-s   the same when nothing has changed
func BenchmarkLoadConns(b *testing.B) {
	const n = 1000
	var first, again []float64
	for range b.N {
		d := startDaemon(b, &cable{}, "192.0.2.1", nil)
		c, err := vici.Dial(b.Context(), d.socket)
		if err != nil {
			b.Fatal(err)
		}
		load := func() float64 {
			start := time.Now()
			for i := range n {
				if _, err := c.Call(b.Context(), "load-conn", vici.Message{vici.Section{Name: fmt.Sprintf("site-%d", i), Body: loadedSite(i)}}); err != nil {
					b.Fatal(err)
				}
			}
			return time.Since(start).Seconds()
		}
		first, again = append(first, load()), append(again, load())
		if got := len(d.Connections()); got != n {
			b.Fatalf("%d connections are loaded, not %d", got, n)
		}
		c.Close()
	}
	b.ReportMetric(median(first), "s/1000")
	b.ReportMetric(median(again), "again-s")
}

// loadedSite is a connection as swanctl sends it.
func loadedSite(i int) (m vici.Message) {
	m.Put("version", "2")
	m.PutList("local_addrs", []string{"192.0.2.1"})
	m.PutList("remote_addrs", []string{fmt.Sprintf("198.51.%d.%d", i>>8, i&0xff)})
	m.PutList("proposals", []string{"aes256-sha256-x25519", "aes128gcm16-prfsha256-ecp256"})
	m.Put("dpd_delay", "30s")
	for _, side := range []string{"local", "remote"} {
		m.PutSection(side, vici.Message{vici.KeyValue{Name: "auth", Value: "psk"}, vici.KeyValue{Name: "id", Value: fmt.Sprintf("%s-%d.example.org", side, i)}})
	}
	var child vici.Message
	child.PutList("local_ts", []string{"10.1.0.0/16"})
	child.PutList("remote_ts", []string{fmt.Sprintf("10.%d.%d.0/24", 16+i>>8, i&0xff)})
	child.PutList("esp_proposals", []string{"aes256gcm16-x25519"})
	child.Put("start_action", "trap")
	m.PutSection("children", vici.Message{vici.Section{Name: "net", Body: child}})
	return m
}

// BenchmarkListLatency has a gateway with 10,000 tunnels list them all, again and
// again, to a client that only reads, while new tunnels are set up with it: b.N times
// alternately with the listing and without.
//
//	latency-ratio   the median set-up with the listing over that without
//	ms              that without
//	lists           how often all were listed meanwhile
func BenchmarkListLatency(b *testing.B) {
	const tunnels, probes = 10000, 200
	c := &cable{}
	sun := startDaemon(b, c, "192.0.2.2", []*sa.Connection{satest.Conn("moon", "sun.example.org", "*.example.org", "10.2.0.0/16", "10.0.0.0/8")})
	conns := make([]*sa.Connection, tunnels+probes)
	for i := range conns {
		conns[i] = satest.Conn(fmt.Sprintf("c%d", i), fmt.Sprintf("moon%d.example.org", i), "sun.example.org", fmt.Sprintf("10.%d.%d.0/28", 16+i>>8, i&0xff), "10.2.0.0/16",
			func(c *sa.Connection) {
				c.RemoteAddrs = []sa.AddrSpec{{Start: netip.MustParseAddr("192.0.2.2"), End: netip.MustParseAddr("192.0.2.2")}}
			})
	}
	moon := startDaemon(b, c, "192.0.2.1", conns)
	for i := range tunnels {
		if err := moon.Initiate(b.Context(), conns[i].Name, "net", false); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	var with, without []float64
	lists := 0
	for range b.N {
		without = append(without, probe(b, moon, conns[tunnels:])...)
		stop := keepListing(b, sun.socket)
		with = append(with, probe(b, moon, conns[tunnels:])...)
		lists += stop()
	}
	b.ReportMetric(median(with)/median(without), "latency-ratio")
	b.ReportMetric(median(without), "ms")
	b.ReportMetric(float64(lists), "lists")
}

// probe sets each connection up, tells how many milliseconds that took, and takes it down.
func probe(b *testing.B, d *daemon, conns []*sa.Connection) []float64 {
	var out []float64
	for _, c := range conns {
		start := time.Now()
		if err := d.Initiate(b.Context(), c.Name, "net", false); err != nil {
			b.Fatal(err)
		}
		out = append(out, float64(time.Since(start))/float64(time.Millisecond))
	}
	for _, c := range conns {
		var id uint64
		d.SessionsOf(c.Name, 0, func(i sa.Info) bool { id = i.UniqueID; return false })
		if err := d.Terminate(b.Context(), engine.Target{IKE: id}, false); err != nil {
			b.Fatal(err)
		}
	}
	return out
}

// keepListing lists all SAs until stop, which tells how often that was. The client
// does not parse: swanctl does that in another process.
func keepListing(b *testing.B, socket string) (stop func() int) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	send := func(p vici.Packet) {
		segment, err := p.AppendSegment(nil)
		if err == nil {
			_, err = conn.Write(segment)
		}
		if err != nil {
			b.Error(err)
		}
	}
	// Until the packet comes that answers.
	await := func(answer vici.PacketType) bool {
		for {
			segment, err := vici.ReadSegment(conn)
			if err != nil {
				return false
			}
			if vici.PacketType(segment[0]) == answer {
				return true
			}
		}
	}
	send(vici.Packet{Type: vici.EventRegister, Name: "list-sa"})
	await(vici.EventConfirm)
	lists, ended, done := 0, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ended:
				return
			default:
			}
			send(vici.Packet{Type: vici.CmdRequest, Name: "list-sas"})
			if !await(vici.CmdResponse) {
				return
			}
			lists++
		}
	}()
	return func() int {
		close(ended)
		<-done
		conn.Close()
		return lists
	}
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}
