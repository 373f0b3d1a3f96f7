package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Network says when the box has got or lost an address or a default route: a
// peer may have to be reached in another way from then on.
type Network struct {
	file    *os.File
	changes chan struct{}
	done    chan struct{}
	known   known
	own     uint32
}

// WatchNetwork subscribes to the kernel's addresses and routes, but for those of
// our own routing table. Close ends it.
func WatchNetwork(own uint32) (*Network, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch addresses and routes: netlink socket: %w", err)
	}
	const groups = unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch addresses and routes: netlink groups: %w", err)
	}
	n := &Network{
		file: os.NewFile(uintptr(fd), "rtnetlink"), changes: make(chan struct{}, 1), done: make(chan struct{}), known: known{}, own: own,
	}
	go n.run()
	return n, nil
}

// Changes is readable after a change; several that come together are one. It is
// never closed.
func (n *Network) Changes() <-chan struct{} { return n.changes }

// Close ends the watch.
func (n *Network) Close() error {
	err := n.file.Close()
	<-n.done
	return err
}

func (n *Network) run() {
	defer close(n.done)
	b := make([]byte, 1<<16)
	for {
		l, err := n.file.Read(b)
		switch {
		case errors.Is(err, unix.ENOBUFS): // what was lost may have been one
			clear(n.known)
			n.changed()
		case err != nil:
			return
		case n.known.learn(b[:l], n.own):
			n.changed()
		}
	}
}

func (n *Network) changed() {
	select {
	case n.changes <- struct{}{}:
	default:
	}
}

// known is what has been seen of addresses and default routes, so that the
// kernel's repetitions (each router advertisement renews them) change nothing.
type known map[netItem]bool

// netItem is an address of an interface, or a default route.
type netItem struct {
	route   bool
	family  uint8
	index   uint32 // of the interface
	addr    [16]byte
	table   uint32 // routes: table and metric
	metric  uint32
	nextHop uint8 // routes: how many gateways, 0 for none
}

// maxKnown bounds what is remembered; a box with more default routes and
// addresses forgets all and takes the next repetition for a change.
const maxKnown = 4096

// learn takes a datagram of netlink messages and reports whether one of them
// changes something. What stands in table own does not count.
func (k known) learn(b []byte, own uint32) bool {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return false
	}
	changed := false
	for i := range msgs {
		m := &msgs[i]
		switch m.Header.Type {
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			if it, ok := addressItem(m); ok {
				changed = k.note(it, m.Header.Type == unix.RTM_NEWADDR) || changed
			}
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			it, ok := defaultRouteItem(m)
			if !ok || it.table == own {
				continue
			}
			if m.Header.Type == unix.RTM_NEWROUTE && m.Header.Flags&unix.NLM_F_REPLACE != 0 {
				k.replaced(it)
			}
			// An interface that goes down takes its IPv4 routes along without a word,
			// so that a known one may be new all the same; and the kernel does not
			// repeat them.
			changed = k.note(it, m.Header.Type == unix.RTM_NEWROUTE) || it.family == unix.AF_INET || changed
		}
	}
	return changed
}

// note remembers or forgets an item and reports whether that is news. What goes
// without having been seen was there from the start.
func (k known) note(it netItem, here bool) bool {
	if here == k[it] && here {
		return false
	}
	if !here {
		delete(k, it)
		return true
	}
	if len(k) >= maxKnown {
		clear(k)
	}
	k[it] = true
	return true
}

// replaced forgets the default routes in whose place a new one stands.
func (k known) replaced(by netItem) {
	for it := range k {
		if it != by && it.route && it.family == by.family && it.table == by.table && it.metric == by.metric {
			delete(k, it)
		}
	}
}

// addressItem reads ifaddrmsg. An address that is not usable yet, or that never
// leads anywhere, is none.
func addressItem(m *syscall.NetlinkMessage) (it netItem, ok bool) {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return it, false
	}
	flags, scope := uint32(m.Data[2]), m.Data[3]
	it.family, it.index = m.Data[0], binary.NativeEndian.Uint32(m.Data[4:])
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil || scope == unix.RT_SCOPE_LINK || scope == unix.RT_SCOPE_HOST {
		return it, false
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.IFA_FLAGS && len(a.Value) >= 4:
			flags = binary.NativeEndian.Uint32(a.Value)
		case a.Attr.Type == unix.IFA_LOCAL, a.Attr.Type == unix.IFA_ADDRESS && it.addr == [16]byte{}:
			it.addr = [16]byte{}
			copy(it.addr[:], a.Value)
		}
	}
	if m.Header.Type == unix.RTM_NEWADDR && flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
		return it, false // another message follows when it is usable
	}
	return it, true
}

// defaultRouteItem reads rtmsg of a default route.
func defaultRouteItem(m *syscall.NetlinkMessage) (it netItem, ok bool) {
	if len(m.Data) < unix.SizeofRtMsg || m.Data[1] != 0 || m.Data[7] != unix.RTN_UNICAST {
		return it, false
	}
	it.route, it.family, it.table = true, m.Data[0], uint32(m.Data[4])
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return it, false
	}
	for _, a := range attrs {
		v := a.Value
		switch {
		case a.Attr.Type == unix.RTA_TABLE && len(v) >= 4:
			it.table = binary.NativeEndian.Uint32(v)
		case a.Attr.Type == unix.RTA_PRIORITY && len(v) >= 4:
			it.metric = binary.NativeEndian.Uint32(v)
		case a.Attr.Type == unix.RTA_OIF && len(v) >= 4:
			it.index = binary.NativeEndian.Uint32(v)
		case a.Attr.Type == unix.RTA_GATEWAY:
			it.nextHop = 1
			copy(it.addr[:], v)
		case a.Attr.Type == unix.RTA_MULTIPATH && len(v) >= 8:
			it.nextHop = 2
			copy(it.addr[:], v[4:]) // the first one's interface and gateway
		}
	}
	return it, true
}
