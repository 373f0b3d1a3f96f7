// Package engine is the shell around the session machines of ike/sa: sockets,
// shards, timers, workers and the registry. It performs the machines' actions
// and brings back what becomes of them; the protocol is theirs.
//
//	sockets ──► front door ──► inbox of a shard ──► sa.Machine.Handle ──► actions
//	               │ drops, counted      ▲                                │
//	               ▼                     │ results, never dropped         ├─► Send, at once
//	      answers without state          ├── workers: key exchange, signatures
//	      (cookie, version, SPI)         └── kernel queue of the shard: SPIs, SAs, policies, request ids
//
// Own SPIs carry one of 256 buckets; a bucket belongs to a shard for the life of
// the process, a session to its bucket for ever. A shard is one goroutine that
// owns its sessions and their timers and waits for nothing but its inbox. What
// shards share (unique ids, request ids, half-open counts) is the registry.
//
// Everything that the network can fill is bounded and counted: the inbox by
// messages and octets, half-open sessions in total and by the peer's prefix, and
// with them the jobs under way; answers without state by a rate.
package engine
