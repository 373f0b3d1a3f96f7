package flow

import (
	"net/netip"
	"time"
	"unsafe"

	"espalier/bpf"
	"espalier/internal/event"
)

// Values of ike_spis: whose SPI it is. Those of the last run stay known for one
// run more, so that the engine can tell their peers that they are gone.
const (
	ikeOfThisRun uint32 = iota
	ikeOfLastRun
)

// ageIKE makes the SPIs of this run those of the last one.
func (f *Flow) ageIKE() {
	m := f.maps.byID["ike_spis"]
	if m == nil {
		return
	}
	var k uint64
	var v uint32
	var last, gone []uint64
	for it := m.Iterate(); it.Next(&k, &v); {
		if v == ikeOfThisRun {
			last = append(last, k)
		} else {
			gone = append(gone, k)
		}
	}
	for _, k := range gone {
		f.take(m, k)
	}
	for _, k := range last {
		_ = f.put(m, "ike_spis", k, ikeOfLastRun) // it is there: no room is needed
	}
}

// OwnIKE tells the guard that an IKE SPI is ours, or not any more. It is the
// engine's PacketGuard and does not wait.
func (f *Flow) OwnIKE(spi uint64, used bool) {
	m := f.maps.byID["ike_spis"]
	if !used {
		f.take(m, bpf.MakeIKESPI(spi))
	} else if f.put(m, "ike_spis", bpf.MakeIKESPI(spi), ikeOfThisRun) != nil {
		f.keep.blind()
	}
}

// Peers tells the guard who may begin an IKE SA: anybody, unless known.
func (f *Flow) Peers(prefixes []netip.Prefix, known bool) {
	m := f.maps.byID["peers"]
	if m == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.tab.Programs()
	if !known || len(prefixes) > int(m.MaxEntries()) {
		c.GuardPeers = 0
		return
	}
	now := map[netip.Prefix]bool{}
	for _, p := range prefixes {
		now[p] = true
		if f.peers[p] {
			continue
		}
		if err := putEntry(m, bpf.MakeLPMKey(p), uint32(1)); err != nil {
			f.log.Error().Err(err).Stringer("peer", p).Msg("the guard cannot know all peers, so anybody may begin an IKE SA")
			c.GuardPeers = 0
			return
		}
		f.peers[p] = true
	}
	for p := range f.peers {
		if !now[p] {
			f.take(m, bpf.MakeLPMKey(p))
		}
	}
	f.peers = now
	c.GuardPeers = 1
}

// forgetPeers removes a former run's list: the engine gives its own.
func (f *Flow) forgetPeers() {
	f.tab.Programs().GuardPeers = 0
	clearMap[bpf.LPMKey](f, "peers")
	clearMap[bpf.LPMKey](f, "mss_prefixes")
	clearMap[uint32](f, "mss_ifs")
}

// clearMap empties a map with keys of type K.
func clearMap[K comparable](f *Flow, name string) {
	m := f.maps.byID[name]
	if m == nil {
		return
	}
	var k, zero K
	if m.KeySize() != uint32(unsafe.Sizeof(zero)) {
		return
	}
	// Each step takes the first, since deleting loses the iterator's place.
	for range m.MaxEntries() {
		if m.NextKey(nil, &k) != nil || m.Delete(k) != nil {
			return
		}
	}
}

// mssTable is the programs' limits of TCP's segments.
type mssTable struct{ maps *maps }

// SetPrefix implements MSSTable.
func (t *mssTable) SetPrefix(p netip.Prefix, m MSS) error {
	return t.set("mss_prefixes", bpf.MakeLPMKey(p), m)
}

func (t *mssTable) set(name string, k any, m MSS) error {
	if x := t.maps.byID[name]; x != nil {
		return putEntry(x, k, bpf.MSS{Mss4: m.IPv4, Mss6: m.IPv6})
	}
	return nil // no program would read it
}

// RemovePrefix implements MSSTable.
func (t *mssTable) RemovePrefix(p netip.Prefix) { t.remove("mss_prefixes", bpf.MakeLPMKey(p)) }

func (t *mssTable) remove(name string, k any) {
	if x := t.maps.byID[name]; x != nil {
		_ = x.Delete(k) // not there: fine
	}
}

// SetInterface implements MSSTable.
func (t *mssTable) SetInterface(ifIndex int, m MSS) error {
	return t.set("mss_ifs", uint32(ifIndex), m)
}

// RemoveInterface implements MSSTable.
func (t *mssTable) RemoveInterface(ifIndex int) { t.remove("mss_ifs", uint32(ifIndex)) }

// Routes names who gives the box's own routes into tunnels the size of a TCP
// segment that fits, 0: none; all of them get 0 while Settings.MSS is off. It is called with operations under way, and for
// networks without such a route, too.
func (f *Flow) Routes(fit func(to netip.Prefix, mss int) error) { f.mss.routes(fit) }

// eventRoom is how many events wait until Follow has read them.
const eventRoom = 4096

// Follow takes the path MTUs that IKE finds and the names of CHILD SAs from the bus,
// and publishes there which SAs lose packets, until Close.
func (f *Flow) Follow(bus *event.Bus) {
	sub := bus.Subscribe(eventRoom)
	f.follow.Go(func() {
		defer sub.Close()
		drops := newDropWatch()
		look := time.NewTicker(dropLook)
		defer look.Stop()
		f.tellDrops(drops, bus)
		for {
			select {
			case <-f.stop:
				return
			case <-look.C:
				f.tellDrops(drops, bus)
				continue
			case <-sub.Wait():
			}
			for {
				r, ok := sub.Next()
				if !ok {
					break
				}
				switch ev := r.Event.(type) {
				case event.PathMTU:
					f.mss.pathMTU(ev.Local.Addr(), ev.Remote.Addr(), int(ev.MTU))
				case event.IKEDown:
					f.mss.pathMTU(ev.Local.Addr(), ev.Remote.Addr(), 0)
				case event.ChildUp:
					drops.childUp(&ev)
				case event.ChildDown:
					drops.childDown(&ev)
				}
			}
		}
	})
}

// tellDrops publishes what was lost since the last call. While programs are being
// loaded it is not known who counts, and the next call says it.
func (f *Flow) tellDrops(drops *dropWatch, bus *event.Bus) {
	if !f.work.TryLock() {
		return
	}
	traced := false
	for _, a := range f.hooks {
		traced = traced || a.at == atTrace
	}
	f.work.Unlock()
	list, err := listSPIs(f.tab.Reader, traced)
	if err != nil {
		f.log.Debug().Err(err).Msg("lost packets were not looked for")
		return
	}
	now := time.Now()
	for _, ev := range drops.look(now, list, f.keep.replayWindow) {
		bus.Publish(now, ev)
	}
}
