package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"

	"espalier/ike/sa"
	"espalier/ike/vici"
	"espalier/ike/vici/vicitest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"espctl": main, "fakectl": fakectl})
}

// The scripts talk to real servers over made-up engines: $SOCKET has the sessions
// of vicitest and one with a hostile peer, $EMPTY has none, $DEAD was left
// behind by a daemon that crashed.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			// Socket paths are short; a script's folder may not be.
			dir, err := os.MkdirTemp("", "espctl")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			for name, sessions := range map[string][]sa.Info{
				"SOCKET": {vicitest.Gateway(), vicitest.Half(), hostile()}, "EMPTY": nil,
			} {
				path := filepath.Join(dir, name)
				if err := serve(env, path, vicitest.New(sessions...)); err != nil {
					return err
				}
				env.Setenv(name, path)
			}
			dead := filepath.Join(dir, "DEAD")
			env.Setenv("DEAD", dead)
			return abandon(dead)
		},
	})
}

// hostile is a session whose peer chose an identity that clears terminals.
func hostile() sa.Info {
	s := vicitest.Gateway()
	s.UniqueID, s.Conn, s.RemoteID = 5, "evil", "\x1b[2Jadmin"
	s.Children = nil
	return s
}

func serve(env *testscript.Env, path string, engine *vicitest.Engine) error {
	l, err := vici.Listen(path)
	if err != nil {
		return err
	}
	s := vici.NewServer(vici.Config{
		Engine: engine, Events: &engine.Bus, Log: zerolog.Nop(), Now: func() time.Time { return vicitest.Now },
		Version: vici.Version{Daemon: "espalierd", Version: "1.2.3", SysName: "Linux", Release: "6.12", Machine: "x86_64"},
		More:    tunerOf(),
	})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	env.Defer(func() {
		s.Close()
		if err := <-done; !errors.Is(err, vici.ErrClosed) {
			panic(fmt.Sprintf("Serve: %v", err))
		}
	})
	return nil
}

// abandon leaves a socket at which nobody listens.
func abandon(path string) error {
	l, err := vici.Listen(path + ".then")
	if err != nil {
		return err
	}
	if err := os.Rename(path+".then", path); err != nil {
		return err
	}
	return l.Close()
}
