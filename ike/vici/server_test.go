package vici_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"espalier/ike/sa"
	"espalier/ike/vici"
	"espalier/ike/vici/vicitest"
)

// start serves engine at a socket of its own; edit may change the configuration.
func start(t *testing.T, engine *vicitest.Engine, edit func(*vici.Config)) (path string, s *vici.Server) {
	t.Helper()
	cfg := vici.Config{
		Engine: engine, Events: &engine.Bus, Log: zerolog.Nop(),
		Version: vici.Version{Daemon: "espalierd", Version: "1.2.3", SysName: "Linux", Release: "6.12", Machine: "x86_64"},
		Now:     func() time.Time { return vicitest.Now },
	}
	if edit != nil {
		edit(&cfg)
	}
	// Socket paths are short; the test's own folder may not be.
	dir, err := os.MkdirTemp("", "vici")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "vici.sock")
	l, err := vici.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s = vici.NewServer(cfg)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; !errors.Is(err, vici.ErrClosed) {
			t.Errorf("Serve: %v; want ErrClosed", err)
		}
	})
	return path, s
}

func dial(t *testing.T, path string) *vici.Client {
	t.Helper()
	c, err := vici.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// dialRaw is a client that speaks for itself; it never waits longer than a test may.
func dialRaw(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

func segment(t *testing.T, p vici.Packet) []byte {
	t.Helper()
	b, err := p.AppendSegment(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func receive(t *testing.T, r io.Reader) vici.Packet {
	t.Helper()
	b, err := vici.ReadSegment(r)
	if err != nil {
		t.Fatal(err)
	}
	p, err := vici.ParsePacket(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func send(t *testing.T, c net.Conn, packets ...vici.Packet) {
	t.Helper()
	var b []byte
	for _, p := range packets {
		b = append(b, segment(t, p)...)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func request(kv ...string) (m vici.Message) {
	for i := 0; i < len(kv); i += 2 {
		m.Put(kv[i], kv[i+1])
	}
	return m
}

func listNames(t *testing.T, c *vici.Client, req vici.Message) string {
	t.Helper()
	var out []string
	_, err := c.Stream(t.Context(), "list-sas", req, "list-sa", func(m vici.Message) error {
		for _, s := range m.Sections() {
			name := s.Name + "#" + s.Body.Text("uniqueid")
			for _, ch := range s.Body.Section("child-sas").Sections() {
				name += "/" + ch.Name
			}
			out = append(out, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestVersionAndStats(t *testing.T) {
	path, _ := start(t, vicitest.New(vicitest.Gateway(), vicitest.Half()), nil)
	c := dial(t, path)
	got, err := c.Call(t.Context(), "version", nil)
	want := request("daemon", "espalierd", "version", "1.2.3", "sysname", "Linux", "release", "6.12", "machine", "x86_64")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("version: %v, %v", got, err)
	}
	st, err := c.Call(t.Context(), "stats", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ got, want string }{
		{st.Section("uptime").Text("running"), "90 minutes"},
		{st.Section("uptime").Text("since"), vicitest.Now.Add(-90 * time.Minute).Local().Format("Jan 02 15:04:05 2006")},
		{st.Section("workers").Text("total"), "4"},
		{st.Section("workers").Section("active").Text("medium"), "1"},
		{st.Section("queues").Text("medium"), "1"},
		{st.Text("scheduled"), "2"},
		{st.Section("ikesas").Text("total"), "2"},
		{st.Section("ikesas").Text("half-open"), "1"},
	} {
		if tc.got != tc.want {
			t.Errorf("stats: %q; want %q", tc.got, tc.want)
		}
	}
}

func TestListSAsFilters(t *testing.T) {
	gw := vicitest.Gateway()
	gw.Children = append(gw.Children, vicitest.Child(4, "voice"))
	path, _ := start(t, vicitest.New(gw, vicitest.Half()), nil)
	c := dial(t, path)
	for _, tc := range []struct {
		req  vici.Message
		want string
	}{
		{nil, "gw#1/net-3/voice-4 (unnamed)#2"},
		{request("noblock", "yes", "ike", "gw"), "gw#1/net-3/voice-4"},
		{request("ike", "other"), ""},
		{request("ike-id", "2"), "(unnamed)#2"},
		{request("child", "voice"), "gw#1/voice-4"},
		{request("child-id", "3"), "gw#1/net-3"},
		{request("ike", "other", "child", "net"), ""},
	} {
		if got := listNames(t, c, tc.req); got != tc.want {
			t.Errorf("list-sas %v: %q; want %q", tc.req, got, tc.want)
		}
	}
	var cmdErr *vici.CommandError
	if _, err := c.Call(t.Context(), "list-sas", request("ike-id", "gw")); !errors.As(err, &cmdErr) ||
		cmdErr.Message != `ike-id "gw": expected a number` {
		t.Errorf("bad id: %v", err)
	}
}

func TestUnknownNames(t *testing.T) {
	path, _ := start(t, vicitest.New(), nil)
	c := dial(t, path)
	if _, err := c.Call(t.Context(), "make-coffee", nil); !errors.Is(err, vici.ErrUnknownCommand) {
		t.Errorf("unknown command: %v", err)
	}
	if _, err := c.Stream(t.Context(), "version", nil, "rain", func(vici.Message) error { return nil }); !errors.Is(err, vici.ErrUnknownEvent) {
		t.Errorf("unknown event: %v", err)
	}
	if _, err := c.Call(t.Context(), "version", nil); err != nil {
		t.Errorf("the connection does not survive unknown names: %v", err)
	}
}

func TestEventsOnlyWhileRegistered(t *testing.T) {
	path, _ := start(t, vicitest.New(vicitest.Gateway()), nil)
	c := dialRaw(t, path)
	list := vici.Packet{Type: vici.CmdRequest, Name: "list-sas"}
	// All at once: they are served in order, whatever the client waits for.
	send(t, c, list,
		vici.Packet{Type: vici.EventRegister, Name: "list-sa"}, list,
		vici.Packet{Type: vici.EventUnregister, Name: "list-sa"}, list,
		vici.Packet{Type: vici.CmdRequest, Name: "nothing"})
	for i, want := range []vici.PacketType{vici.CmdResponse, vici.EventConfirm, vici.Event, vici.CmdResponse,
		vici.EventConfirm, vici.CmdResponse, vici.CmdUnknown} {
		if got := receive(t, c); got.Type != want {
			t.Fatalf("packet %d: %s; want %s", i, got.Type, want)
		}
	}
}

func TestSplitWrites(t *testing.T) {
	path, _ := start(t, vicitest.New(vicitest.Gateway()), nil)
	c := dialRaw(t, path)
	b := segment(t, vici.Packet{Type: vici.CmdRequest, Name: "version", Message: request("padding", strings.Repeat("x", 300))})
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if p := receive(t, c); p.Type != vici.CmdResponse || p.Message.Text("daemon") != "espalierd" {
		t.Errorf("%+v", p)
	}
}

// A client that breaks the protocol loses its connection, and only that.
func TestProtocolErrorsEndTheConnection(t *testing.T) {
	oversize := binary.BigEndian.AppendUint32(nil, vici.MaxSegment+1)
	for name, bytes := range map[string][]byte{
		"oversize":          oversize,
		"huge":              {0xff, 0xff, 0xff, 0xff},
		"empty":             {0, 0, 0, 0},
		"unknown type":      {0, 0, 0, 1, 99},
		"response":          {0, 0, 0, 1, byte(vici.CmdResponse)},
		"event":             segment(t, vici.Packet{Type: vici.Event, Name: "log"}),
		"unbalanced":        {0, 0, 0, 8, 0, 4, 'p', 'i', 'n', 'g', 2, 2},
		"register and more": {0, 0, 0, 4, 3, 1, 'a', 'b'},
	} {
		t.Run(name, func(t *testing.T) {
			path, s := start(t, vicitest.New(), nil)
			c := dialRaw(t, path)
			if _, err := c.Write(bytes); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(c); len(rest) > 0 {
				t.Errorf("answered %q, %v", rest, err)
			}
			if _, err := dial(t, path).Call(t.Context(), "version", nil); err != nil {
				t.Errorf("another client: %v", err)
			}
			eventually(t, func() bool { return s.Counters().CutOff == 1 })
		})
	}
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	for range 3000 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never happened")
}

func many(n int) []sa.Info {
	out := make([]sa.Info, n)
	for i := range out {
		out[i] = vicitest.Gateway()
		out[i].UniqueID = uint64(i + 1)
	}
	return out
}

// A client that asks for much and reads nothing is cut off; meanwhile others
// are served.
func TestClientThatDoesNotRead(t *testing.T) {
	path, s := start(t, vicitest.New(many(5000)...), func(c *vici.Config) {
		c.QueueLimit, c.WriteTimeout = 64<<10, 300*time.Millisecond
	})
	dead := dialRaw(t, path)
	send(t, dead, vici.Packet{Type: vici.EventRegister, Name: "list-sa"}, vici.Packet{Type: vici.CmdRequest, Name: "list-sas"})
	other := dial(t, path)
	for s.Counters().CutOff == 0 {
		if _, err := other.Call(t.Context(), "version", nil); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return s.Counters().Clients == 1 })
	// What was written before is still there, the end is not.
	n := 0
	for {
		b, err := vici.ReadSegment(dead)
		if err != nil {
			break
		}
		if p, err := vici.ParsePacket(b); err != nil || p.Type == vici.CmdResponse {
			t.Fatalf("packet %d: %s, %v; want events only", n, p.Type, err)
		}
		n++
	}
	if n >= 5001 {
		t.Errorf("%d packets came through", n)
	}
}

// A client that reads slowly gets everything, through a queue that is smaller.
func TestSlowClientGetsEverything(t *testing.T) {
	path, _ := start(t, vicitest.New(many(2000)...), func(c *vici.Config) { c.QueueLimit = 4 << 10 })
	c := dialRaw(t, path)
	send(t, c, vici.Packet{Type: vici.EventRegister, Name: "list-sa"}, vici.Packet{Type: vici.CmdRequest, Name: "list-sas"})
	events := 0
	for {
		p := receive(t, c)
		if p.Type == vici.CmdResponse {
			break
		}
		if p.Type == vici.Event {
			if events++; events%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	if events != 2000 {
		t.Errorf("%d events; want 2000", events)
	}
}

func TestManyClients(t *testing.T) {
	path, s := start(t, vicitest.New(many(20)...), nil)
	var wg sync.WaitGroup
	errs := make(chan error, 60)
	for range 60 {
		wg.Go(func() { errs <- useClient(path) })
	}
	wg.Wait()
	for range 60 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() bool { return s.Counters().Clients == 0 })
	if got := s.Counters(); got.CutOff != 0 || got.Refused != 0 {
		t.Errorf("%+v; want nobody denied", got)
	}
}

func useClient(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := vici.Dial(ctx, path)
	if err != nil {
		return err
	}
	defer c.Close()
	for range 5 {
		n := 0
		if _, err := c.Stream(ctx, "list-sas", nil, "list-sa", func(vici.Message) error { n++; return nil }); err != nil {
			return err
		}
		if n != 20 {
			return fmt.Errorf("%d sessions; want 20", n)
		}
	}
	return nil
}

func TestClientLimit(t *testing.T) {
	path, s := start(t, vicitest.New(), func(c *vici.Config) { c.MaxClients = 2 })
	a, b := dial(t, path), dial(t, path)
	for _, c := range []*vici.Client{a, b} {
		if _, err := c.Call(t.Context(), "version", nil); err != nil {
			t.Fatal(err)
		}
	}
	third := dialRaw(t, path)
	if rest, _ := io.ReadAll(third); len(rest) > 0 {
		t.Errorf("the third client was answered %q", rest)
	}
	if got := s.Counters(); got.Refused != 1 || got.Clients != 2 {
		t.Errorf("%+v; want 1 refused, 2 clients", got)
	}
	a.Close()
	eventually(t, func() bool { return s.Counters().Clients == 1 })
	if _, err := dial(t, path).Call(t.Context(), "version", nil); err != nil {
		t.Errorf("after one left: %v", err)
	}
}

// Waiting between packets is free, stopping within one is not.
func TestHalfASegment(t *testing.T) {
	path, s := start(t, vicitest.New(), func(c *vici.Config) { c.ReadTimeout = 50 * time.Millisecond })
	idle := dial(t, path)
	if _, err := idle.Call(t.Context(), "version", nil); err != nil {
		t.Fatal(err)
	}
	c := dialRaw(t, path)
	if _, err := c.Write([]byte{0, 0, 0, 9, 0}); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v; want the end", rest, err)
	}
	eventually(t, func() bool { return s.Counters().CutOff == 1 })
	if _, err := idle.Call(t.Context(), "version", nil); err != nil {
		t.Errorf("the idle client: %v", err)
	}
}
