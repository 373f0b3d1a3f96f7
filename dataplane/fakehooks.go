package dataplane

import "time"

// Inject reports an event as if the kernel had; it never waits.
func (f *Fake) Inject(e Event) { f.events.Push(e) }

// FailNext makes an operation of Apply fail: fail is asked before each
// operation, until it answers with an error, which becomes that operation's.
// nil takes the request back. fail must not call the Fake.
func (f *Fake) FailNext(fail func(Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failOp = fail
}

// FailReserve makes the next ReserveSPI fail with err.
func (f *Fake) FailReserve(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failSPI = err
}

// SA is what was installed under the key, keys included; ok is false when
// nothing is, when it is only reserved, or when the Fake is Compact.
func (f *Fake) SA(k SAKey) (sa SA, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, s, err := f.live(&k)
	if err != nil || s.full == nil {
		return SA{}, false
	}
	return *cloneSA(s.full), true
}

// Counts says how many SAs are installed, SPIs reserved and policies standing.
func (f *Fake) Counts() (sas, reserved, policies int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sas {
		if s.reserved {
			reserved++
		}
	}
	return len(f.sas) - reserved, reserved, f.policies.Len()
}

// Applied counts the operations of successful Apply calls.
func (f *Fake) Applied() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// Queried counts the calls of QuerySA.
func (f *Fake) Queried() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.queried
}

// Count does what traffic does: it adds packets and bytes to an SA, moves its
// sequence number, marks it used, and reports Expire when a limit is reached;
// at a hard limit the SA is gone. Errors: ErrNotFound.
func (f *Fake) Count(k SAKey, packets, bytes uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, s, err := f.live(&k)
	if err != nil {
		return err
	}
	s.packets += packets
	s.bytes += bytes
	s.used = f.now().UnixNano()
	if s.dir == Out {
		s.out += packets
	} else {
		s.in += packets
	}
	f.expire(id, s)
	return nil
}

// CountDrops adds to the counters of packets that an inbound SA refused.
// Errors: ErrNotFound.
func (f *Fake) CountDrops(k SAKey, window, replay, integrity uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, s, err := f.live(&k)
	if err != nil {
		return err
	}
	s.drops[0] += window
	s.drops[1] += replay
	s.drops[2] += integrity
	return nil
}

// Tick ends the SAs whose time limits the clock has passed, with an Expire each.
func (f *Fake) Tick() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, s := range f.sas {
		if !s.reserved {
			f.expire(id, s)
		}
	}
}

// expire compares an SA with its limits.
func (f *Fake) expire(id saID, s *fakeSA) {
	age := time.Duration(f.now().UnixNano() - s.installed)
	l := &s.limits
	over := func(bytes, packets uint64, d time.Duration) bool {
		return bytes != 0 && s.bytes >= bytes || packets != 0 && s.packets >= packets || d != 0 && age >= d
	}
	switch {
	case over(l.HardBytes, l.HardPackets, l.HardTime):
		delete(f.sas, id)
		f.tell(id)
		f.events.Push(Expire{Key: id.key(), ReqID: s.reqID, Hard: true})
	case !s.softExpired && over(l.SoftBytes, l.SoftPackets, l.SoftTime):
		s.softExpired = true
		f.events.Push(Expire{Key: id.key(), ReqID: s.reqID})
	}
}
