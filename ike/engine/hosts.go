package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"espalier/ike/sa"
)

// errLookup marks errors of the resolver.
var errLookup = errors.New("host name lookup failed")

// hostsRefresh is how often the names of the configuration are looked up again.
const hostsRefresh = 5 * time.Minute

// hostCache answers for host names at once; a helper keeps it fresh.
type hostCache struct {
	lookupHost func(string) ([]netip.Addr, error) // nil: the system's
	wake       chan struct{}

	mu     sync.RWMutex
	addrs  map[string][]netip.Addr
	wanted map[string]bool
}

func newHostCache(lookup func(string) ([]netip.Addr, error)) *hostCache {
	return &hostCache{lookupHost: lookup, wake: make(chan struct{}, 1), addrs: map[string][]netip.Addr{}, wanted: map[string]bool{}}
}

// lookup is what the cache knows; it never waits for a resolver.
func (h *hostCache) lookup(host string) []netip.Addr {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.addrs[host]
}

// want sets the names to keep fresh: those of the connections.
func (h *hostCache) want(conns []*sa.Connection) {
	wanted := map[string]bool{}
	for _, c := range conns {
		for _, list := range [2][]sa.AddrSpec{c.LocalAddrs, c.RemoteAddrs} {
			for _, a := range list {
				if a.Host != "" {
					wanted[a.Host] = true
				}
			}
		}
	}
	h.mu.Lock()
	h.wanted = wanted
	for host := range h.addrs {
		if !wanted[host] {
			delete(h.addrs, host)
		}
	}
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// run refreshes the names when they change, and from time to time.
func (h *hostCache) run(ctx context.Context) {
	tick := time.NewTicker(hostsRefresh)
	defer tick.Stop()
	for {
		h.mu.RLock()
		names := make([]string, 0, len(h.wanted))
		for host := range h.wanted {
			names = append(names, host)
		}
		h.mu.RUnlock()
		for _, host := range names {
			// On error the old answer stays: a resolver that is down must not
			// take tunnels with it.
			_, _ = h.resolve(ctx, host)
		}
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-tick.C:
		}
	}
}

// resolve asks the resolver and remembers the answer. It waits.
func (h *hostCache) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	var err error
	if h.lookupHost != nil {
		addrs, err = h.lookupHost(host)
	} else {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errLookup, host, err)
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wanted[host] {
		h.addrs[host] = addrs
	}
	return addrs, nil
}
