package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// notifier tells systemd where the daemon stands (sd_notify(3)), and has it hold
// the IKE sockets for the next run (sockets.Keeper); without a socket it does nothing.
type notifier struct {
	addr string
	log  zerolog.Logger
}

func newNotifier(addr string, log zerolog.Logger) notifier {
	if rest, ok := strings.CutPrefix(addr, "@"); ok {
		addr = "\x00" + rest // the abstract namespace
	}
	return notifier{addr, log}
}

// send tells of a state and passes descriptors with it.
func (n notifier) send(state string, fds ...int) {
	if n.addr == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.addr, Net: "unixgram"})
	if err == nil {
		err = transmit(conn, state, fds)
		conn.Close()
	}
	if err != nil {
		n.log.Debug().Err(err).Str("state", state).Msg("the service manager could not be told")
	}
}

// transmit is conn.WriteMsgUnix, which refuses datagrams on a connected socket.
func transmit(conn *net.UnixConn, state string, fds []int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte(state), rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(werr, err)
}

// Keep implements sockets.Keeper. systemd does it up to FileDescriptorStoreMax=.
func (n notifier) Keep(name string, fd int) {
	n.send("FDSTORE=1\nFDNAME="+name, fd)
}

// barrierTime is how long the service manager may take to close a descriptor.
const barrierTime = 5 * time.Second

// Forget implements sockets.Keeper. systemd reads messages in their order, and closes
// the pipe of the barrier when it has come to that (sd_notify_barrier(3)).
func (n notifier) Forget(name string) {
	if n.addr == "" {
		return
	}
	n.send("FDSTOREREMOVE=1\nFDNAME=" + name)
	r, w, err := os.Pipe()
	if err != nil {
		n.log.Warn().Err(err).Msg("no pipe to wait for the service manager")
		return
	}
	defer r.Close()
	n.send("BARRIER=1", int(w.Fd()))
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(barrierTime)); err != nil {
		n.log.Warn().Err(err).Msg("a pipe without deadline")
		return
	}
	if _, err := r.Read(make([]byte, 1)); os.IsTimeout(err) {
		n.log.Warn().Str("socket", name).Dur("waited", barrierTime).Msg("the service manager has not said that it closed a socket of the last run")
	}
}

// reloading carries the time that Type=notify-reload wants to see.
func (n notifier) reloading() {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		ts = unix.Timespec{}
	}
	n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", ts.Nano()/1000))
}
