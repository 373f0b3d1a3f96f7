package vici

import (
	"context"
	"errors"
	"fmt"
	"time"

	"espalier/ike/config"
)

// loadTimeout bounds how long a change of what is loaded waits for its turn and its
// effect. What has begun by then is done all the same.
const loadTimeout = time.Minute

// findLoader is findCommand for what changes the configuration.
func findLoader(name string) command {
	switch name {
	case "load-conn":
		return (*client).loadConn
	case "unload-conn":
		return unloader("connection", (*config.Loaded).WithoutConnection)
	case "load-pool":
		return (*client).loadPool
	case "unload-pool":
		return (*client).unloadPool
	case "load-authority":
		return (*client).loadAuthority
	case "unload-authority":
		return unloader("authority", (*config.Loaded).WithoutAuthority)
	case "load-cert":
		return (*client).loadCert
	case "load-key":
		return (*client).loadKey
	case "unload-key":
		return (*client).unloadKey
	case "load-token":
		return (*client).loadToken
	case "load-shared":
		return (*client).loadShared
	case "unload-shared":
		return (*client).unloadShared
	case "clear-creds":
		return (*client).clearCreds
	case "flush-certs":
		return (*client).flushCerts
	}
	return nil
}

// change changes what clients have loaded and makes the reply: all of the change
// takes effect, or nothing does.
func (c *client) change(f func(*config.Loaded, *config.Settings) (*config.Loaded, error)) Message {
	ctx, cancel := context.WithTimeout(c.ctx, loadTimeout)
	defer cancel()
	if err := c.srv.cfg.Engine.ChangeLoaded(ctx, f); err != nil {
		return failure("%s", mistakes(err))
	}
	return success()
}

// loadTrees loads each section of a message.
func (c *client) loadTrees(req Message, container, what string, load func(*config.Loaded, config.Tree, *config.Settings) (*config.Loaded, error)) (Message, error) {
	var trees []config.Tree
	for _, e := range req {
		s, is := e.(Section)
		if !is {
			return failure("%s: expected a section for each %s, found the value %q", container, what, e.ElementName()), nil
		}
		t, err := treeOf(container, s)
		if err != nil {
			return failure("%s", err), nil
		}
		t.Odd = c.odd
		trees = append(trees, t)
	}
	if len(trees) == 0 {
		return failure("%s: expected a section named by the %s, found none", container, what), nil
	}
	return c.change(func(l *config.Loaded, s *config.Settings) (*config.Loaded, error) {
		var err error
		for _, t := range trees {
			if l, err = load(l, t, s); err != nil {
				return nil, err
			}
		}
		return l, nil
	}), nil
}

// odd logs what works, if not as it was perhaps meant.
func (c *client) odd(w *config.Error) {
	c.srv.cfg.Log.Warn().Str("option", w.File).Str("expected", w.Expected).Str("found", w.Found).Msg("odd in what a client loads")
}

// loadConn loads a connection, or replaces the one that was loaded under its name:
// sessions stay as they are, what is negotiated from then on goes by the new one.
func (c *client) loadConn(req Message) (Message, error) {
	return c.loadTrees(req, "connections", "connection", (*config.Loaded).WithConnection)
}

// loadPool loads a pool. Addresses that are leased stay so.
func (c *client) loadPool(req Message) (Message, error) {
	return c.loadTrees(req, "pools", "pool", func(l *config.Loaded, t config.Tree, _ *config.Settings) (*config.Loaded, error) {
		return l.WithPool(t)
	})
}

func (c *client) loadAuthority(req Message) (Message, error) {
	return c.loadTrees(req, "authorities", "authority", func(l *config.Loaded, t config.Tree, _ *config.Settings) (*config.Loaded, error) {
		return l.WithAuthority(t)
	})
}

// unloader is the command that unloads what is named.
func unloader(what string, unload func(*config.Loaded, string) (*config.Loaded, error)) command {
	return func(c *client, req Message) (Message, error) {
		return c.unload(req, "name", what, unload), nil
	}
}

func (c *client) unload(req Message, key, what string, unload func(*config.Loaded, string) (*config.Loaded, error)) Message {
	name := req.Text(key)
	if name == "" {
		return failure("missing %s of the %s", key, what)
	}
	return c.change(func(l *config.Loaded, _ *config.Settings) (*config.Loaded, error) {
		next, err := unload(l, name)
		if errors.Is(err, config.ErrNotLoaded) {
			err = fmt.Errorf("%s '%s' not found: no client loaded it", what, name)
		}
		return next, err
	})
}

// unloadPool keeps a pool whose addresses are in use, as charon does.
func (c *client) unloadPool(req Message) (Message, error) {
	name := req.Text("name")
	for _, p := range c.srv.cfg.Engine.Pools() {
		if p.Name == name && p.Online > 0 {
			return failure("pool '%s' has %d online leases, unable to unload", name, p.Online), nil
		}
	}
	return c.unload(req, "name", "pool", (*config.Loaded).WithoutPool), nil
}
