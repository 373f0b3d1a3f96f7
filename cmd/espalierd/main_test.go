package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"espalier/ike/auth"
	"espalier/ike/config"
	"espalier/ike/engine"
	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/ike/vici"
)

const good = `
connections {
  a {
    remote_addrs = 192.0.2.9
    local { auth = psk
      id = moon }
    remote { auth = psk
      id = sun }
    children { net {
      local_ts = 10.1.0.0/16
      remote_ts = 10.2.0.0/16
      start_action = start
    } }
  }
}
secrets { ike-1 { secret = "not to be seen" } }
`

// write puts a configuration where only its owner reads it.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// capture runs the command line and returns what it wrote.
func capture(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "out")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	code = run(args, files[0], files[1])
	var text [2]string
	for i, f := range files {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		text[i] = string(b)
	}
	return code, text[0], text[1]
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	fine, bad := filepath.Join(dir, "fine.conf"), filepath.Join(dir, "bad.conf")
	write(t, fine, good)
	write(t, bad, strings.Replace(strings.Replace(good, "remote_addrs", "remote_adrs", 1), "start_action = start", "start_action = maybe", 1))
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
		lines          int // of stderr
	}{
		{[]string{"--check", "--config", fine}, 0, "no mistakes, connections: 1", "", 0},
		{[]string{"--check", "--config", bad}, 1, "", "bad.conf:4:5: ", 2},
		{[]string{"--check", "--config", filepath.Join(dir, "none.conf")}, 1, "", "none.conf", 1},
		{[]string{"--block", "--config", fine}, 0, "", "nothing to block", 1},
		{[]string{"--block", "--config", bad}, 1, "", "mistake in the configuration", 3},
		{[]string{"--block", "--unblock"}, 2, "", "--block", 1},
		{[]string{"--version"}, 0, "espalierd ", "", 0},
		{[]string{"--nonsense"}, 2, "", "--nonsense", 1},
		{[]string{"--log-level", "loud"}, 2, "", "loud", 1},
	} {
		code, stdout, stderr := capture(t, c.args...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || strings.Count(stderr, "\n") != c.lines {
			t.Errorf("%q: expected code %d, stdout with %q, %d lines on stderr with %q, got %d\n%s\n%s", c.args, c.code, c.stdout, c.lines, c.stderr, code, stdout, stderr)
		}
		if strings.Contains(stdout+stderr, "not to be seen") {
			t.Errorf("%q: the secret was printed", c.args)
		}
	}
}

// Only the file at the default place may miss, and only when the daemon begins.
func TestWhenTheFileMayMiss(t *testing.T) {
	f := flags{Config: config.DefaultPath}
	other := flags{Config: "other"}
	if !f.whenRunning(nil).MayMiss || other.whenRunning(nil).MayMiss || f.whenRunning(&config.Config{}).MayMiss || !f.whenRunning(&config.Config{Missing: true}).MayMiss {
		t.Error("a missing file is taken where it must not be, or refused where it may be")
	}
}

func TestServeRefusesBadConfiguration(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.conf")
	write(t, bad, "connections { a { remote_adrs = 1.2.3.4 } }\n")
	code, _, stderr := capture(t, "--config", bad)
	if code != exitFailed || !strings.Contains(stderr, `"line":1`) || !strings.Contains(stderr, "remote_addrs") {
		t.Errorf("expected exit code 1 and a line with the place and the nearest key, got %d\n%s", code, stderr)
	}
}

// recorder is an engine that only remembers.
type recorder struct {
	calls []engine.Changes
	err   error
}

func (r *recorder) SetPools([]*lease.Pool) {}

func (r *recorder) Apply(_ []*sa.Connection, _ *auth.Credentials, _ engine.Settings, ch engine.Changes) error {
	r.calls = append(r.calls, ch)
	return r.err
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "e.conf")
	write(t, path, good)
	first, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := zerolog.New(&out)
	r := &recorder{}

	f := newInForce(flags{Config: path}, first, r, log)

	write(t, path, strings.Replace(good, "remote_ts", "remote_tz", 1))
	if err := f.reload(); err == nil || f.file != first || len(r.calls) != 0 || !strings.Contains(out.String(), "the running configuration stays") {
		t.Errorf("a configuration with a mistake was applied: %s", out.String())
	}

	write(t, path, good+"# a comment is no change\n")
	if err := f.reload(); err != nil || len(r.calls) != 0 {
		t.Error("a comment was applied as a change")
	}

	same := f.file
	write(t, path, strings.Replace(good, "10.2.0.0/16", "10.3.0.0/16", 1))
	r.err = errors.New("no")
	if err := f.reload(); err == nil || f.file != same || f.running.Load().Connections[0] != same.Connections[0] {
		t.Error("what could not be applied counts as running")
	}
	r.err = nil
	_ = f.reload()
	want := engine.Changes{Start: []engine.ChildName{{Conn: "a", Child: "net"}}}
	if len(r.calls) != 2 || !reflect.DeepEqual(r.calls[1], want) {
		t.Errorf("a changed child: expected %+v, got %+v", want, r.calls)
	}

	write(t, path, "connections { }\n")
	_ = f.reload()
	if len(r.calls) != 3 || !reflect.DeepEqual(r.calls[2].RemovedConns, []string{"a"}) {
		t.Errorf("a removed connection: got %+v", r.calls)
	}
}

// loadText has a client load a connection as a file would say it.
func (f *inForce) loadText(t *testing.T, text string) error {
	t.Helper()
	root, err := config.Parse("text", text)
	if err != nil {
		t.Fatal(err)
	}
	return f.change(func(l *config.Loaded, s *config.Settings) (*config.Loaded, error) {
		return l.WithConnection(config.Tree{Section: root.Items[0].(*config.Section)}, s)
	})
}

// What the file says and what clients loaded have one owner each.
func TestTwoOwners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "e.conf")
	write(t, path, good)
	file, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	f := newInForce(flags{Config: path}, file, r, zerolog.Nop())
	var fetched []int // how many places of CRLs it was told of
	f.fetch = func(uris []string) { fetched = append(fetched, len(uris)) }
	last := func() engine.Changes { return r.calls[len(r.calls)-1] }
	const conn = `%s { remote_addrs = 192.0.2.8
  local { auth = psk
    id = moon }
  remote { auth = psk }
  children { up { start_action = start }
    idle { remote_ts = 10.9.0.0/16 } } }
`
	if err := f.loadText(t, strings.Replace(conn, "%s", "a", 1)); err == nil || len(r.calls) != 0 || !strings.Contains(err.Error(), path) {
		t.Errorf("a name of the file's: expected it to be refused and the file named, got %v", err)
	}
	if err := f.loadText(t, strings.Replace(conn, "%s", "b", 1)); err != nil {
		t.Fatal(err)
	}
	up, idle := engine.ChildName{Conn: "b", Child: "up"}, engine.ChildName{Conn: "b", Child: "idle"}
	if want := (engine.Changes{Start: []engine.ChildName{up, idle}}); !reflect.DeepEqual(last(), want) || len(f.running.Load().Connections) != 2 {
		t.Errorf("loaded: got %+v, want %+v", last(), want)
	}
	if err := f.loadText(t, strings.Replace(conn, "%s", "b", 1)); err != nil || len(r.calls) != 1 {
		t.Errorf("the same again: %v, %d calls", err, len(r.calls))
	}

	// A reload of the file leaves b alone, and says no when it would take its name.
	write(t, path, "connections { }\n")
	if err := f.reload(); err != nil || !reflect.DeepEqual(last(), engine.Changes{RemovedConns: []string{"a"}}) || len(f.running.Load().Connections) != 1 {
		t.Errorf("reload: %v, %+v", err, last())
	}
	write(t, path, strings.Replace(good, " a {", " b {", 1))
	if err := f.reload(); err == nil || len(f.file.Connections) != 0 || len(r.calls) != 2 {
		t.Errorf("the file takes a client's name: %v", err)
	}

	// A child that is gone lives on; unloading takes along what was started.
	if err := f.loadText(t, strings.Replace(strings.Replace(conn, "%s", "b", 1), "idle", "other", 1)); err != nil ||
		!reflect.DeepEqual(last(), engine.Changes{Start: []engine.ChildName{{Conn: "b", Child: "other"}}}) {
		t.Errorf("changed: %v, %+v", err, last())
	}
	err = f.change(func(l *config.Loaded, _ *config.Settings) (*config.Loaded, error) { return l.WithoutConnection("b") })
	if err != nil || !reflect.DeepEqual(last(), engine.Changes{Ended: []engine.ChildName{up}}) {
		t.Errorf("unloaded: %v, %+v", err, last())
	}
	if len(fetched) != 4 { // the changes that took effect
		t.Errorf("told of the CRLs to fetch %d times, expected 4", len(fetched))
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := newNotifier(path, zerolog.Nop())
	for want, send := range map[string]func(){
		"READY=1":                      func() { n.send("READY=1") },
		"RELOADING=1\nMONOTONIC_USEC=": n.reloading,
	} {
		send()
		buf := make([]byte, 200)
		k, err := l.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:k]), want) {
			t.Errorf("expected %q, got %q, %v", want, buf[:k], err)
		}
	}
	newNotifier("", zerolog.Nop()).send("READY=1") // without a manager: nothing
}

// TestKeeper: the service manager gets a socket to keep, and what it holds is closed before the daemon goes on.
func TestKeeper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := newNotifier(path, zerolog.Nop())
	n.Keep("espalier-here-500", int(w.Fd()))
	w.Close()
	kept := expectFD(t, l, "FDSTORE=1\nFDNAME=espalier-here-500")
	if _, err := kept.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if k, err := r.Read(make([]byte, 2)); err != nil || k != 1 {
		t.Errorf("the descriptor is not of the pipe: %d, %v", k, err)
	}
	kept.Close()
	forgotten := make(chan struct{})
	go func() {
		defer close(forgotten)
		n.Forget("espalier-here-500")
	}()
	if f := expectFD(t, l, "FDSTOREREMOVE=1\nFDNAME=espalier-here-500"); f != nil {
		t.Error("a descriptor came where none is expected")
	}
	barrier := expectFD(t, l, "BARRIER=1")
	select {
	case <-forgotten:
		t.Error("the daemon went on before the barrier")
	default:
	}
	barrier.Close()
	<-forgotten
}

// expectFD reads one message and the descriptor that came with it, if any.
func expectFD(t *testing.T, l *net.UnixConn, want string) *os.File {
	t.Helper()
	buf, oob := make([]byte, 200), make([]byte, 64)
	if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	k, oobn, _, _, err := l.ReadMsgUnix(buf, oob)
	if err != nil || string(buf[:k]) != want {
		t.Fatalf("expected %q, got %q, %v", want, buf[:k], err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), want)
		}
	}
	return nil
}

func TestFacadeErrors(t *testing.T) {
	if err := notFound(engine.ErrNotFound); !errors.Is(err, vici.ErrNotFound) {
		t.Errorf("expected vici's error, got %v", err)
	}
}

func TestCrashSecret(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	var out bytes.Buffer
	log := zerolog.New(&out)
	first := crashSecret(dir, log)
	if len(first) != 32 || !crashSecret(dir, log).Equal(first) || out.Len() != 0 {
		t.Fatalf("expected 32 octets that stay, got %d: %s", len(first), out.String())
	}
	path := filepath.Join(dir, "crash-detection.secret")
	if err := os.Truncate(path, 16); err != nil {
		t.Fatal(err)
	}
	if next := crashSecret(dir, log); len(next) != 32 || next.Equal(first) || !strings.Contains(out.String(), "expected 32 octets, found 16") || !strings.Contains(out.String(), path) {
		t.Errorf("a damaged one: %d octets, %s", len(next), out.String())
	}
	out.Reset()
	if none := crashSecret(filepath.Join(path, "below"), log); none != nil || !strings.Contains(out.String(), `"level":"error"`) {
		t.Errorf("a folder that cannot be: %d octets, %s", len(none), out.String())
	}
}
