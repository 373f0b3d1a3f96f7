// Package programs holds the tests of the BPF programs: packet in, action,
// packet out, counters. They run in the kernel of the machine (PROG_TEST_RUN),
// without a network.
package programs
