package main

import (
	"fmt"
	"net"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// notifier tells systemd where the daemon stands (sd_notify(3)); without a
// socket it does nothing.
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

func (n notifier) send(state string) {
	if n.addr == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.addr, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		n.log.Debug().Err(err).Str("state", state).Msg("the service manager could not be told")
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
