package main

import (
	"errors"
	"net"
	"path/filepath"

	"github.com/rs/zerolog"

	"espalier/ike/vici"
)

// swanctlSocket is where swanctl looks unless it is told otherwise.
const swanctlSocket = "/var/run/charon.vici"

// listen opens the control socket in runDir and, unless charon has it, swanctl's.
// Only the first is needed. Clients wait until serveControl.
func listen(runDir string, swanctl bool, log zerolog.Logger) ([]net.Listener, error) {
	own, err := vici.Listen(filepath.Join(runDir, "vici.sock"))
	if err != nil {
		return nil, err
	}
	listeners := []net.Listener{own}
	if swanctl {
		l, err := vici.Listen(swanctlSocket)
		if err == nil {
			listeners = append(listeners, l)
		} else {
			log.Info().Err(err).Msg("swanctl needs --uri to find this daemon")
		}
	}
	return listeners, nil
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
