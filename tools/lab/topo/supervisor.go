package topo

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Supervisor stands in for systemd: it listens to what a daemon says of itself
// (sd_notify(3)), holds the descriptors that it is given (FDSTORE=1), and has the
// next start get them (sd_listen_fds(3)).
type Supervisor struct {
	keeps  bool // or it takes nothing, as a unit does without FileDescriptorStoreMax=
	notify *net.UnixConn
	path   string
	names  []string
	files  []*os.File
}

// listen opens the socket that the daemon finds in NOTIFY_SOCKET.
func (s *Supervisor) listen(path string) (err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.path = path
	if s.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		return fmt.Errorf("listening for the daemon's readiness: %w", err)
	}
	return nil
}

// Held are the names of what is held for the next start.
func (s *Supervisor) Held() []string { return s.names }

// environment is what a start finds of this supervisor; LISTEN_PID, which must be the
// daemon's own, is missing.
func (s *Supervisor) environment() []string {
	env := []string{"NOTIFY_SOCKET=" + s.path}
	if len(s.files) > 0 {
		env = append(env, fmt.Sprintf("LISTEN_FDS=%d", len(s.files)), "LISTEN_FDNAMES="+strings.Join(s.names, ":"))
	}
	return env
}

// ready reads messages for a moment, does what they ask for, and is true when the
// daemon says that it is ready.
func (s *Supervisor) ready() (bool, error) {
	if err := s.notify.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		return false, err
	}
	buf, oob := make([]byte, 4096), make([]byte, 4096)
	n, oobn, _, _, err := s.notify.ReadMsgUnix(buf, oob)
	if err != nil {
		return false, nil // no message: the caller looks whether there may still be one
	}
	files, err := received(oob[:oobn])
	if err != nil {
		return false, err
	}
	vars := map[string]string{}
	for line := range bytes.Lines(buf[:n]) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		vars[name] = value
	}
	switch {
	case vars["FDSTORE"] == "1" && s.keeps && vars["FDNAME"] != "":
		s.hold(vars["FDNAME"], files)
		return false, nil
	case vars["FDSTOREREMOVE"] == "1":
		s.drop(vars["FDNAME"])
	}
	for _, f := range files { // for a BARRIER, that is the answer
		f.Close()
	}
	return vars["READY"] == "1", nil
}

func (s *Supervisor) hold(name string, files []*os.File) {
	for _, f := range files {
		s.names, s.files = append(s.names, name), append(s.files, f)
	}
}

func (s *Supervisor) drop(name string) {
	names, files := s.names, s.files
	s.names, s.files = nil, nil
	for i, f := range files {
		if names[i] == name {
			f.Close()
		} else {
			s.hold(names[i], files[i:i+1])
		}
	}
}

// Stop implements stopper: what is held is closed.
func (s *Supervisor) Stop() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	s.files, s.names = nil, nil
	return errors.Join(errs...)
}

// Log implements stopper.
func (s *Supervisor) Log() string { return fmt.Sprintf("holds %q", s.names) }

func (s *Supervisor) title() string { return "supervisor" }

// received are the descriptors in control messages.
func received(oob []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "held"))
		}
	}
	return files, nil
}
