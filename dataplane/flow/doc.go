// Package flow is the BPF half of the data plane: it loads and attaches the
// programs of package bpf, pins them so that they outlive the daemon, and keeps
// their maps in step with what XFRM holds: SPIs, peers, TCP's segment sizes.
package flow
