package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"espalier/ike/vici"
)

// dial connects to the daemon, or says what may be wrong.
func (e *env) dial() (*vici.Client, error) {
	c, err := vici.Dial(e.ctx, e.socket)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no daemon answers at %s: is espalierd running? (systemctl status espalierd)", e.socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s is not open to this user: run espctl as root", e.socket)
	case errors.Is(err, syscall.ENOTSOCK):
		return nil, fmt.Errorf("%s is not a socket: expected the daemon's control socket", e.socket)
	}
	return nil, fmt.Errorf("the daemon at %s: %w", e.socket, err)
}

// explain makes an error of a call fit for people.
func (e *env) explain(err error) error {
	var cmdErr *vici.CommandError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted; what the daemon has begun goes on")
	case errors.As(err, &cmdErr):
		return errors.New(printable(cmdErr.Message))
	case errors.Is(err, vici.ErrUnknownCommand), errors.Is(err, vici.ErrUnknownEvent):
		return fmt.Errorf("%w: do espctl and espalierd have one version? (espctl version)", err)
	}
	return fmt.Errorf("the daemon at %s: %w", e.socket, err)
}
