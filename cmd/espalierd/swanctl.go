package main

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane/host"
	"espalier/ike/vici"
)

// helpTimeout bounds how long swanctl may take to say its version, which holds until
// the program is another one: on a box that has just started, or has much to do, five
// seconds were not enough.
const helpTimeout = 30 * time.Second

// installedSwanctl asks the box's swanctl for its version, when somebody wants a
// listing, and again when the program is another one.
type installedSwanctl struct {
	log zerolog.Logger

	mu      sync.Mutex
	asked   os.FileInfo // the program that was asked; nil: none
	release vici.Release
}

// findSwanctl looks where packages and people put the program; nil: it is not there.
func findSwanctl() (string, os.FileInfo) {
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, "swanctl")
		if info, err := os.Stat(path); err == nil {
			return path, info
		}
	}
	return "", nil
}

// get is that version, the newest where there is no swanctl.
func (i *installedSwanctl) get() vici.Release {
	i.mu.Lock()
	defer i.mu.Unlock()
	path, info := findSwanctl()
	if info == nil {
		return vici.Release{}
	}
	if i.asked != nil && os.SameFile(i.asked, info) && i.asked.ModTime().Equal(info.ModTime()) {
		return i.release
	}
	i.asked, i.release = info, vici.Release{}
	ctx, cancel := context.WithTimeout(context.Background(), helpTimeout)
	defer cancel()
	first := ""
	err := host.Local{}.RunScript(ctx, path+" --help", os.Environ(), func(line string) {
		if first == "" {
			first = line
		}
	})
	r, unread := vici.ParseRelease(first)
	if unread != nil {
		i.log.Info().Str("program", path).AnErr("run", err).Err(unread).Msg("listings are those of the newest swanctl")
		return i.release
	}
	i.release = r
	return r
}
