// Package simulator runs two gateways, made of session machines and a thin
// model of the engine's shell, against each other: on a virtual clock, over a
// network that loses, delays, doubles and reorders, with jobs that come back
// late and crashes between any two actions; NATs change their mappings and
// gateways their addresses. Everything follows from a seed.
//
// While it runs, an observer on the wire checks the message window (RFC 7296
// 2.1 to 2.3) without knowing a key, and another one at the kernel that no key
// protects two SAs and that a rekeying loses no packet. When the network is
// well again and time has passed, both sides must agree on everything and
// nothing may be left over.
//
//	run.go       the run: clock, queue of events, what a run answers
//	profile.go   what a seed is like: network, jobs, crashes, configuration
//	driver.go    what operators do to the gateways
//	gateway.go   a gateway: sessions, registry, store, crash and restart
//	jobs.go      its jobs
//	contacts.go  uniqueness and reauthentication, as far as the shell decides
//	network.go   the network, with NATs
//	topology.go  where the gateways stand, and how that changes
//	traffic.go   packets of the tunnels
//	traps.go     policies without SA, whose packets ask for one
//	extras.go    limits of packets, held back children, fragments
//	wire.go      the observer on the wire
//	kernel.go    the observer at the kernel
//	check.go     what must hold at the end
//	fault.go     faults that are planted to see that they are found
//	faults.go    which ones
package simulator
