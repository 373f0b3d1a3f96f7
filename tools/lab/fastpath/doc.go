// Package fastpath tests the BPF programs with real traffic in the lab: steering,
// counting, the guard and TCP's segment sizes, on gateways whose tunnels have
// static keys. A peer of its own, tools/bench/esp, sends from the wire.
package fastpath
