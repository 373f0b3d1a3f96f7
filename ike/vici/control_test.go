package vici_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/vici"
	"espalier/ike/vici/vicitest"
)

// control runs a command and collects its control-log.
func control(t *testing.T, c *vici.Client, command string, req vici.Message) (log []string, reply vici.Message, err error) {
	t.Helper()
	reply, err = c.Stream(t.Context(), command, req, "control-log", func(m vici.Message) error {
		log = append(log, m.Text("group")+m.Text("level")+" "+m.Text("ikesa-name")+"#"+m.Text("ikesa-uniqueid")+" "+m.Text("msg"))
		return nil
	})
	return log, reply, err
}

func TestInitiate(t *testing.T) {
	for _, tc := range []struct {
		name    string
		req     vici.Message
		err     string // empty: success
		log     string // the only line's beginning; empty: none
		sasThen string
	}{
		{"child", request("child", "net", "ensure", "yes"), "", "CHD0 gw#1 CHILD SA installed: conn=gw ike=1", "gw#1/net-3/net-4"},
		{"child that is up", request("child", "net"), "establishing CHILD_SA 'net' failed", "IKE1 gw# CHILD_SA 'net' is up already, #3", "gw#1/net-3"},
		{"ike alone", request("ike", "gw"), "", "", "gw#1/net-3"},
		{"child within ike", request("ike", "gw", "child", "net", "ensure", "yes"), "", "CHD0 gw#1 CHILD SA installed", "gw#1/net-3/net-4"},
		{"first child", request("ike", "gw", "ensure", "yes"), "", "CHD0 gw#1 CHILD SA installed", "gw#1/net-3/net-4"},
		{"silent log", request("child", "net", "loglevel", "-1"), "establishing CHILD_SA 'net' failed", "", "gw#1/net-3"},
		{"short log", request("child", "net", "loglevel", "0"), "establishing CHILD_SA 'net' failed", "", "gw#1/net-3"},
		{"no name", nil, "missing configuration name", "", "gw#1/net-3"},
		{"no such child", request("child", "nix"), "CHILD_SA config 'nix' not found", "", "gw#1/net-3"},
		{"no such child there", request("child", "nix", "ike", "gw"), "CHILD_SA config 'nix' not found", "", "gw#1/net-3"},
		{"no such ike", request("ike", "nix"), "IKE_SA config 'nix' not found", "", "gw#1/net-3"},
		{"refused", request("child", vicitest.Refused), "establishing CHILD_SA 'refused' failed",
			`IKE0 gw#1 negotiation failed: conn=gw ike=1`, "gw#1/net-3"},
		{"refused and why", request("child", vicitest.Refused, "ensure", "yes"), "establishing CHILD_SA 'refused' failed: the peer refused the traffic selectors",
			`IKE0 gw#1 negotiation failed: conn=gw ike=1`, "gw#1/net-3"},
		{"timeout", request("child", vicitest.Silent, "timeout", "20"), "CHILD_SA 'silent' not established after 20ms", "", "gw#1/net-3"},
		{"no wait", request("child", vicitest.Silent, "timeout", "-1"), "", "", "gw#1/net-3"},
		{"bad timeout", request("child", "net", "timeout", "soon"), `timeout "soon": expected milliseconds`, "", "gw#1/net-3"},
		{"bad level", request("child", "net", "loglevel", "all"), `loglevel "all": expected -1 to 4`, "", "gw#1/net-3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path, _ := start(t, vicitest.New(vicitest.Gateway()), nil)
			c := dial(t, path)
			log, reply, err := control(t, c, "initiate", tc.req)
			checkReply(t, reply, err, tc.err)
			if tc.log == "" && len(log) > 0 || tc.log != "" && (len(log) != 1 || !strings.HasPrefix(log[0], tc.log)) {
				t.Errorf("log %q; want %q", log, tc.log)
			}
			if got := listNames(t, c, nil); got != tc.sasThen {
				t.Errorf("then %q; want %q", got, tc.sasThen)
			}
		})
	}
}

func checkReply(t *testing.T, reply vici.Message, err error, want string) {
	t.Helper()
	var cmdErr *vici.CommandError
	switch {
	case want == "" && (err != nil || reply.Text("success") != "yes"):
		t.Errorf("reply %v, %v; want success", reply, err)
	case want != "" && (!errors.As(err, &cmdErr) || cmdErr.Message != want):
		t.Errorf("reply %v, %v; want %q", reply, err, want)
	}
}

// checkMatches is checkReply with how many SAs the command found.
func checkMatches(t *testing.T, reply vici.Message, err error, want, matches string) {
	t.Helper()
	checkReply(t, reply, err, want)
	var cmdErr *vici.CommandError
	if errors.As(err, &cmdErr) {
		reply = cmdErr.Reply
	}
	if reply.Text("matches") != matches {
		t.Errorf("reply %v; want %q matches", reply, matches)
	}
}

// A failure's facts reach whoever asked for the SA.
func TestControlLogExplains(t *testing.T) {
	path, _ := start(t, vicitest.New(vicitest.Gateway()), nil)
	log, _, _ := control(t, dial(t, path), "initiate", request("child", vicitest.Refused))
	want := `cause=TS_UNACCEPTABLE by_peer=true ours="10.1.0.0/16 === 10.9.0.0/16"`
	if len(log) != 1 || !strings.Contains(log[0], want) {
		t.Errorf("log %q; want %q", log, want)
	}
}

func TestTerminate(t *testing.T) {
	for _, tc := range []struct {
		name             string
		req              vici.Message
		err              string
		matches, deleted string
		sasThen          string
	}{
		{"ike by name", request("ike", "gw"), "", "1", "1", "(unnamed)#2"},
		{"ike by id", request("ike-id", "2"), "", "1", "1", "gw#1/net-3/silent-4"},
		{"child by name", request("child", "net"), "", "1", "1", "gw#1/silent-4 (unnamed)#2"},
		{"child by id", request("child-id", "3", "ike", "gw"), "", "1", "1", "gw#1/silent-4 (unnamed)#2"},
		{"no match", request("child", "net", "ike", "other"), "no matching SAs to terminate found", "0", "0", "gw#1/net-3/silent-4 (unnamed)#2"},
		{"timeout", request("child", "silent", "timeout", "20"), "terminating SA failed", "1", "0", "gw#1/net-3/silent-4 (unnamed)#2"},
		{"empty names select nothing", request("child-id", "0", "child", "", "ike-id", "1", "timeout", "20"), "", "1", "1", "(unnamed)#2"},
		{"nothing named", request("timeout", "20"), "missing terminate selector", "", "", "gw#1/net-3/silent-4 (unnamed)#2"},
		{"bad id", request("child-id", "net"), `child-id "net": expected a number`, "", "", "gw#1/net-3/silent-4 (unnamed)#2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			gw := vicitest.Gateway()
			gw.Children = append(gw.Children, vicitest.Child(4, vicitest.Silent))
			path, _ := start(t, vicitest.New(gw, vicitest.Half()), nil)
			c := dial(t, path)
			log, reply, err := control(t, c, "terminate", tc.req)
			checkReply(t, reply, err, tc.err)
			var cmdErr *vici.CommandError
			if errors.As(err, &cmdErr) {
				reply = cmdErr.Reply
			}
			if reply.Text("matches") != tc.matches || reply.Text("terminated") != tc.deleted {
				t.Errorf("reply %v; want %s matches, %s terminated", reply, tc.matches, tc.deleted)
			}
			if want := tc.deleted == "1"; want != (len(log) == 1) {
				t.Errorf("log %q", log)
			}
			if got := listNames(t, c, nil); got != tc.sasThen {
				t.Errorf("then %q; want %q", got, tc.sasThen)
			}
		})
	}
}

func TestRedirect(t *testing.T) {
	const to = "203.0.113.9"
	for _, tc := range []struct {
		name, err, matches string
		req                vici.Message
	}{
		{"by name", "", "1", request("ike", "gw", "gateway", to)},
		{"by id", "", "1", request("ike-id", "1", "gateway", to)},
		{"by address", "", "1", request("peer-ip", "198.51.100.7", "gateway", to)},
		{"by network", "", "1", request("peer-ip", "198.51.100.0/24", "gateway", to)},
		{"by range", "", "1", request("peer-ip", "198.51.100.1-198.51.100.9", "gateway", to)},
		{"by identity", "", "1", request("peer-id", "sun.example.org", "gateway", to)},
		{"by pattern", "", "1", request("peer-id", "*.example.org", "gateway", to)},
		{"another name", "no matching SAs to redirect found", "0", request("ike", "other", "gateway", to)},
		{"another address", "no matching SAs to redirect found", "0", request("peer-ip", "198.51.100.8", "gateway", to)},
		{"another identity", "no matching SAs to redirect found", "0", request("peer-id", "*.example.com", "gateway", to)},
		{"both must fit", "no matching SAs to redirect found", "0", request("ike", "gw", "peer-ip", "192.0.2.0/24", "gateway", to)},
		{"half open", "no matching SAs to redirect found", "0", request("ike-id", "2", "gateway", to)},
		{"no client of ours", "redirecting failed: the peer does not support it", "1", request("ike", "server", "gateway", to)},
		{"nothing named", "missing redirect selector", "", request("gateway", to)},
		{"no gateway", "missing target gateway", "", request("ike", "gw")},
		{"bad gateway", `gateway: expected an address or a host name, got "a b"`, "", request("ike", "gw", "gateway", "a b")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, server := vicitest.Gateway(), vicitest.Gateway()
			client.Initiator = false
			server.UniqueID, server.Conn = 3, "server"
			server.Remote, server.RemoteID = netip.MustParseAddrPort("192.0.2.77:500"), "mars.example.net"
			engine := vicitest.New(client, vicitest.Half(), server)
			path, _ := start(t, engine, nil)
			reply, err := dial(t, path).Call(t.Context(), "redirect", tc.req)
			checkMatches(t, reply, err, tc.err, tc.matches)
			if went := sessionsOf(engine)[0].Remote.Addr().String() == to; went != (tc.err == "") {
				t.Errorf("redirected: %v", went)
			}
		})
	}
}

func TestRekey(t *testing.T) {
	for _, tc := range []struct {
		name, err, matches string
		req                vici.Message
	}{
		{"ike by name", "", "1", request("ike", "gw")},
		{"child by name", "", "1", request("child", "net")},
		{"no match", "no matching SAs to rekey found", "0", request("child", "other")},
		{"nothing named", "missing rekey selector", "", request()},
		{"bad id", `child-id "net": expected a number`, "", request("child-id", "net")},
		{"no reauthentication", "", "1", request("ike", "gw", "reauth", "no")},
		{"reauthentication", "", "1", request("ike", "gw", "reauth", "yes")},
		{"of a child", "", "1", request("child", "net", "reauth", "yes")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			engine := vicitest.New(vicitest.Gateway())
			before := fmt.Sprint(sessionsOf(engine))
			path, _ := start(t, engine, nil)
			reply, err := dial(t, path).Call(t.Context(), "rekey", tc.req)
			checkMatches(t, reply, err, tc.err, tc.matches)
			if changed := before != fmt.Sprint(sessionsOf(engine)); changed != (tc.err == "") {
				t.Errorf("sessions changed: %v", changed)
			}
			if anew := sessionsOf(engine)[0].UniqueID > 100; anew != (tc.name == "reauthentication") {
				t.Errorf("reauthenticated: %v", anew)
			}
		})
	}
}

func sessionsOf(e *vicitest.Engine) (out []sa.Info) {
	e.Sessions(func(i sa.Info) bool {
		out = append(out, i)
		return true
	})
	return out
}

// A client that leaves during its command frees the server of it.
func TestClientLeavesWhileWaiting(t *testing.T) {
	path, s := start(t, vicitest.New(vicitest.Gateway()), nil)
	c := dialRaw(t, path)
	send(t, c, vici.Packet{Type: vici.EventRegister, Name: "control-log"},
		vici.Packet{Type: vici.CmdRequest, Name: "initiate", Message: request("child", vicitest.Silent)})
	if p := receive(t, c); p.Type != vici.EventConfirm {
		t.Fatalf("%s; want the confirmation", p.Type)
	}
	c.Close()
	eventually(t, func() bool { return s.Counters().Clients == 0 })
	if n := s.Counters().CutOff; n != 0 {
		t.Errorf("%d cut off; the client left by itself", n)
	}
}

// Close does not wait for commands that wait for the network.
func TestCloseWhileWaiting(t *testing.T) {
	path, s := start(t, vicitest.New(vicitest.Gateway()), nil)
	c := dialRaw(t, path)
	send(t, c, vici.Packet{Type: vici.CmdRequest, Name: "version"},
		vici.Packet{Type: vici.CmdRequest, Name: "initiate", Message: request("child", vicitest.Silent)})
	receive(t, c)
	s.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket after Close: %v; want none", err)
	}
}

func TestContextEndsACall(t *testing.T) {
	path, _ := start(t, vicitest.New(vicitest.Gateway()), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := dial(t, path).Call(ctx, "initiate", request("child", vicitest.Silent)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v; want the context's error", err)
	}
}

func TestStreamStopsWhenTheReaderFails(t *testing.T) {
	path, _ := start(t, vicitest.New(many(10)...), nil)
	boom := errors.New("boom")
	n := 0
	_, err := dial(t, path).Stream(t.Context(), "list-sas", nil, "list-sa", func(vici.Message) error { n++; return boom })
	if !errors.Is(err, boom) || n != 1 {
		t.Errorf("%v after %d events", err, n)
	}
}

// The client believes no server: what it answers is checked, too.
func TestClientDistrusts(t *testing.T) {
	for name, answer := range map[string]string{
		"oversize":     "\xff\xff\xff\xff",
		"cut":          "\x00\x00\x00\x05\x01",
		"wrong packet": "\x00\x00\x00\x01\x05",
		"bad message":  "\x00\x00\x00\x02\x01\x02",
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				vici.ReadSegment(theirs)
				theirs.Write([]byte(answer))
				theirs.Close()
			}()
			c := vici.NewClient(ours)
			if _, err := c.Call(t.Context(), "version", nil); err == nil {
				t.Error("no error")
			}
			if _, err := c.Call(t.Context(), "version", nil); err == nil {
				t.Error("no error from the broken connection")
			}
		})
	}
}

func TestListenIsForRootOnly(t *testing.T) {
	path, _ := start(t, vicitest.New(), nil)
	st, err := os.Lstat(path)
	if err != nil || st.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v; want a socket with permissions 0600", st.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the socket: %v, %v", left, err)
	}
}

func TestListenRefusesWhatIsTaken(t *testing.T) {
	path, _ := start(t, vicitest.New(), nil)
	if _, err := vici.Listen(path); err == nil || !strings.Contains(err.Error(), "another daemon answers there") {
		t.Errorf("second daemon: %v", err)
	}
	file := filepath.Join(filepath.Dir(path), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vici.Listen(file); err == nil || !strings.Contains(err.Error(), "found a regular file") {
		t.Errorf("a file: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}

// What a crash leaves behind does not hinder the next start, and a late Close
// of the old listener does not take the new socket away.
func TestListenReplacesADeadSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "vici")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sub", "vici.sock")
	old, err := vici.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	moved := path + ".moved"
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	old.Close() // closes the socket but finds its name taken away
	if err := os.Rename(moved, path); err != nil {
		t.Fatal(err)
	}
	l, err := vici.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	old.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the new socket: %v", err)
	}
	c.Close()
}

// The group, if there is one, may connect, and nobody else.
func TestListenGroup(t *testing.T) {
	dir, err := os.MkdirTemp("", "vici") // its owner's alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path, gid := filepath.Join(dir, "vici.sock"), os.Getgid() // which anybody may give to files
	if os.Getuid() == 0 {
		gid = 4711
	}
	l, err := vici.ListenGroup(path, gid)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for file, want := range map[string]os.FileMode{path: 0o660, dir: 0o710} {
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := st.Sys().(*syscall.Stat_t).Gid; st.Mode().Perm() != want || got != uint32(gid) {
			t.Errorf("%s: got mode %04o and group %d, want %04o and %d", file, st.Mode().Perm(), got, want, gid)
		}
	}
}
