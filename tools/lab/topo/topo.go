// Package topo builds, inside a lab guest, the network that tunnels are tested in: client, gateway, gateway, client in network
// namespaces, an optional NAT router between the gateways, and a wire on which everything that passes is counted. It starts strongSwan and
// Espalier in the gateways and pushes traffic.
//
//	client1 eth0 ── in0 gw1 out0 ── port1 wire port2 ── out0 gw2 in0 ── eth0 client2
//	client1 eth0 ── in0 gw1 out0 ── in0 nat out0 ── port1 wire port2 ── out0 gw2 in0 ── eth0 client2
//
// Every network has both families. Routes lead the clients' traffic over the wire with or without a tunnel, so that
// what is not protected shows on the wire as clear text instead of vanishing.
package topo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Family is an address family.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String is IPv4 or IPv6.
func (f Family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// Config chooses what the network looks like. Its zero value is the plain one.
type Config struct {
	// NAT puts a router that masquerades gw1 between gw1 and the wire.
	NAT bool
	// MTU of the links between the gateways in bytes; 0 is 1500.
	MTU int
}

// Net is a network that was built.
type Net struct {
	Client1, GW1, GW2, Client2 *Host
	// Router is the NAT router, or nil.
	Router *Host
	// Wire is the bridge that all traffic between the gateways passes.
	Wire *Host

	dir     string
	daemons []stopper
}

type stopper interface {
	Stop() error
	Log() string
	title() string
}

// Host is one namespace and the addresses that the network gave it.
type Host struct {
	// Name is the namespace's name.
	Name string

	net          *Net
	outer, inner map[Family]netip.Addr
}

// Outer is the gateway's (or router's) address towards the wire; behind NAT gw1's is the private one. It is invalid for clients.
func (h *Host) Outer(f Family) netip.Addr { return h.outer[f] }

// Inner is the client's address, or the gateway's in its client's network.
func (h *Host) Inner(f Family) netip.Addr { return h.inner[f] }

// Subnet is the network of the inner address: the /24 or /64 that a gateway protects.
func (h *Host) Subnet(f Family) netip.Prefix {
	bits := 24
	if f == IPv6 {
		bits = 64
	}
	p, _ := h.inner[f].Prefix(bits) // fails on an invalid address only, with an invalid prefix
	return p
}

// PublicAddr is the address at which the other gateway sees this one: the router's, when there is one before it.
func (h *Host) PublicAddr(f Family) netip.Addr {
	if h == h.net.GW1 && h.net.Router != nil {
		return h.net.Router.outer[f]
	}
	return h.outer[f]
}

// New builds the network for a test, takes it down when the test ends, and prints the daemons' logs when it failed.
func New(tb testing.TB, cfg Config) *Net {
	tb.Helper()
	n, err := Build(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("building the network: %v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			for _, d := range n.daemons {
				tb.Logf("log of %s:\n%s", d.title(), d.Log())
			}
		}
		if err := n.Close(); err != nil {
			tb.Errorf("taking the network down: %v", err)
		}
	})
	return n
}

// Build builds the network; only one can stand at a time. Close takes it down.
func Build(ctx context.Context, cfg Config) (*Net, error) {
	dir, err := os.MkdirTemp("", "topo-")
	if err != nil {
		return nil, err
	}
	n := &Net{dir: dir}
	pair := func(f4, f6 string) map[Family]netip.Addr {
		return map[Family]netip.Addr{IPv4: netip.MustParseAddr(f4), IPv6: netip.MustParseAddr(f6)}
	}
	n.Client1 = &Host{Name: "client1", net: n, inner: pair("10.1.0.10", "2001:db8:1::10")}
	n.Client2 = &Host{Name: "client2", net: n, inner: pair("10.2.0.10", "2001:db8:2::10")}
	n.GW1 = &Host{Name: "gw1", net: n, inner: pair("10.1.0.1", "2001:db8:1::1"), outer: pair("192.0.2.1", "2001:db8:f::1")}
	n.GW2 = &Host{Name: "gw2", net: n, inner: pair("10.2.0.1", "2001:db8:2::1"), outer: pair("192.0.2.2", "2001:db8:f::2")}
	n.Wire = &Host{Name: "wire", net: n}
	if cfg.NAT {
		n.GW1.outer = pair("172.16.0.2", "fd00:16::2")
		n.Router = &Host{Name: "router", net: n, inner: pair("172.16.0.1", "fd00:16::1"), outer: pair("192.0.2.3", "2001:db8:f::3")}
	}
	if err := n.build(ctx, cfg); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// hosts are all namespaces.
func (n *Net) hosts() []*Host {
	all := []*Host{n.Client1, n.GW1, n.GW2, n.Client2, n.Wire}
	if n.Router != nil {
		all = append(all, n.Router)
	}
	return all
}

// Close stops the daemons and removes the namespaces.
func (n *Net) Close() error {
	var errs []error
	for _, d := range n.daemons {
		errs = append(errs, d.Stop())
	}
	var batch strings.Builder
	for _, h := range n.hosts() {
		if _, err := os.Stat(h.path()); err == nil {
			fmt.Fprintf(&batch, "netns del %s\n", h.Name)
		}
	}
	errs = append(errs, ipBatch(context.Background(), "", batch.String()), os.RemoveAll(n.dir))
	return errors.Join(errs...)
}

// UserModeLinux reports whether the kernel is one that runs as a process, with the machine's own processor: much faster than an emulated one.
func UserModeLinux() bool {
	info, _ := os.ReadFile("/proc/cpuinfo")
	return strings.Contains(string(info), "User Mode Linux")
}

// path is where the namespace is mounted.
func (h *Host) path() string { return filepath.Join("/run/netns", h.Name) }
