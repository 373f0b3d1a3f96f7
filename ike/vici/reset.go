package vici

import (
	"errors"
	"syscall"
)

// isReset reports that the other end of the socket went away with data unread.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
