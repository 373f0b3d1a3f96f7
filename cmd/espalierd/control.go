package main

import (
	"errors"
	"fmt"
	"net"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/rs/zerolog"

	"espalier/ike/config"
	"espalier/ike/vici"
)

// swanctlSocket is where swanctl looks unless it is told otherwise.
const swanctlSocket = "/var/run/charon.vici"

// listen opens the control socket in runDir and, unless charon has it, swanctl's.
// Only the first is needed. Clients wait until serveControl.
func listen(runDir string, s *config.Settings, log zerolog.Logger) ([]net.Listener, error) {
	gid, err := groupID(s.SocketGroup)
	if err != nil {
		return nil, err
	}
	own, err := vici.ListenGroup(filepath.Join(runDir, "vici.sock"), gid)
	if err != nil {
		return nil, err
	}
	listeners := []net.Listener{own}
	if s.SwanctlOn {
		l, err := vici.ListenGroup(swanctlSocket, gid)
		if err == nil {
			listeners = append(listeners, l)
		} else {
			log.Info().Err(err).Msg("swanctl needs --uri to find this daemon")
		}
	}
	return listeners, nil
}

// groupID finds a group of the box by its name or number; none is nobody's.
func groupID(group string) (int, error) {
	if group == "" {
		return vici.OwnerOnly, nil
	}
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("socket_group: expected a group of this box, found %q", group)
	}
	return strconv.Atoi(g.Gid)
}

// serveControl has the server serve them until it is closed.
func serveControl(server *vici.Server, listeners []net.Listener, log zerolog.Logger) {
	for _, l := range listeners {
		go func() {
			if err := server.Serve(l); err != nil && !errors.Is(err, vici.ErrClosed) {
				log.Error().Err(err).Msg("control server failed")
			}
		}()
	}
}
