package main

// table is every figure with its goal, in the order of measuring. A new one is
// a line here, a row in docs/figures.md (--write), and, when no source measures
// it yet, a source beside gobench.go.
func table() []figure {
	psk := &goBench{pkg: "espalier/ike/engine", bench: "BenchmarkSetup/PSK", time: "1000x", count: 7}
	ecdsa := &goBench{pkg: "espalier/ike/engine", bench: "BenchmarkSetup/ECDSA-P256", time: "500x", count: 7}
	tunnels := &goBench{pkg: "espalier/ike/engine", bench: "BenchmarkTunnels", time: "20000x", count: 3}
	idle := &goBench{pkg: "espalier/ike/engine", bench: "BenchmarkIdle", time: "10000x", count: 3}
	pinned := &labBench{pkg: "espalier/tools/lab/fastpath", bench: "BenchmarkSteeringPinned", count: 5}
	split := &labBench{pkg: "espalier/tools/lab/fastpath", bench: "BenchmarkSteeringSplit", count: 5}
	cost := &labBench{pkg: "espalier/tools/lab/fastpath", bench: "BenchmarkSteeringCost", count: 5}
	steer := &goBench{pkg: "espalier/dataplane/flow/programs", bench: "BenchmarkSteer", time: "15x", count: 3}
	many := &goBench{pkg: "espalier/dataplane/flow/programs", bench: "BenchmarkManySAs", time: "1x", count: 3}
	skewed := &labBench{pkg: "espalier/tools/lab/fastpath", bench: "BenchmarkTunerSkewed", count: 1, steady: true}
	busy := &labBench{pkg: "espalier/tools/lab/fastpath", bench: "BenchmarkTunerBusy", count: 1, steady: true}
	wandering := &labBench{pkg: "espalier/tools/lab/fastpath", bench: "BenchmarkTunerBusy", count: 1}
	percpu := &labBench{pkg: "espalier/tools/lab/fastpath", bench: "BenchmarkTunerPerCPU", count: 1, steady: true}
	sending := &labBench{pkg: "espalier/tools/lab/fastpath", bench: "BenchmarkTunerSending", count: 1, steady: true}
	tuner := &goBench{pkg: "espalier/dataplane/tune", bench: "BenchmarkTuner10k", time: "1x", count: 3}
	mss := &goBench{pkg: "espalier/dataplane/flow/programs", bench: "BenchmarkMSS", time: "15x", count: 3}
	load := &goBench{pkg: "espalier/cmd/espalierd", bench: "BenchmarkLoadConns", time: "1x", count: 5}
	listing := &goBench{pkg: "espalier/cmd/espalierd", bench: "BenchmarkListLatency", time: "5x", count: 3, procs: 2}
	return []figure{
		{
			name: "setup_psk_cpu_ms", unit: "ms", op: atMost, limit: 0.29, from: psk, metric: "cpu-ms/setup", beside: "x25519-us/op",
			what: "CPU time of a whole set-up with PSK, IKE SA and first CHILD SA, aes128gcm16-prfsha256-x25519, both ends, no kernel. " +
				"The limit is a quarter of what charon 6.0.6 needs; it holds for a machine whose X25519 takes 48 us an operation.",
		},
		{
			name: "setup_psk_over_pubkey", unit: "ratio", op: atMost, limit: 1.5, from: psk, metric: "x25519-ratio",
			what: "The same, divided by two key generations and two agreements of the standard library's X25519 in the same process: " +
				"what no implementation gets by without, and hardly depends on the machine.",
		},
		{
			name: "setup_psk_allocs", unit: "allocations", op: atMost, limit: 450, from: psk, metric: "allocs/setup",
			what: "Heap allocations of a set-up with PSK, both ends. The number hardly varies, so the limit stands close above what it is: " +
				"allocating and collecting is a quarter of what a set-up costs beyond X25519, and more of it should be noticed.",
		},
		{
			name: "setup_ecdsa_cpu_ms", unit: "ms", op: atMost, limit: 0.7, from: ecdsa, metric: "cpu-ms/setup", beside: "x25519-us/op",
			what: "CPU time of a set-up with ECDSA P-256 certificates of one CA, otherwise as with PSK: two signatures and two verifications, " +
				"for the chains are known from the first set-up on, as charon knows them in its certificate cache. A peer's first set-up " +
				"has two verifications more, about 0.18 ms.",
		},
		{
			name: "tunnel_memory_kib", unit: "KiB", op: atMost, limit: 12, from: tunnels, metric: "KiB/tunnel", beside: "heap-KiB/tunnel",
			what: "Resident memory of one end of a tunnel, IKE SA and CHILD SA, among 20,000, the fake data plane's part included: what the " +
				"process of both ends grew by, garbage given back, divided by all ends.",
		},
		{
			name: "tunnel_setups_per_s", unit: "1/s", op: atLeast, limit: 2500, from: tunnels, metric: "setups/s",
			what: "How fast 20,000 tunnels come up, one after the other, both ends in one process on one CPU, PSK, no kernel. The limit leaves " +
				"a third for what setup_psk_cpu_ms does not see: tables of this size, and the collector that looks at them.",
		},
		{
			name: "tunnel_idle_10k_cpu_percent", unit: "percent", op: atMost, limit: 5, from: idle, metric: "cpu-percent", beside: "messages/s",
			what: "Share of one core that 10,000 tunnels without traffic take at one end: dead peer detection after 30 s of silence, CHILD SAs " +
				"rekeyed every hour, IKE SAs every four. The engine's part: the system calls for messages and for the kernel's SAs are not in it.",
		},
		{
			name: "xdp_steering_gain_pinned", unit: "ratio", op: atLeast, limit: 3.5, from: pinned, metric: "gain", beside: "Mbps-on",
			what: "How much more ESP a gateway decrypts when XDP gives all four tunnels to the idle CPU, against where the one queue of the NIC is: " +
				"on the CPU that a sender keeps busy, which replays sealed packets as fast as it can. In the lab, two CPUs, one run; for an idle machine.",
		},
		{
			name: "xdp_steering_gain_split", unit: "ratio", op: atLeast, limit: 1.6, from: split, metric: "gain", beside: "sender-share",
			what: "The same with 60,000 packets a second, more than one CPU decrypts, from a sender that costs little (XDP live frames; the part of " +
				"a CPU that it uses is beside): two tunnels stay on its CPU, two go to the other one.",
		},
		{
			name: "xdp_steering_cpu_per_packet", unit: "ratio", op: atMost, limit: 1.25, from: cost, metric: "cpu-ratio", beside: "us/packet-off",
			what: "CPU time of a packet, from the wire to the client behind the gateway, when it is given to another CPU, against when it stays, at " +
				"60,000 a second, more than one CPU decrypts. The sender's own part is measured apart and left out.",
		},
		{
			name: "xdp_steer_over_pass_ns", unit: "ns", op: atMost, limit: 40, from: steer, metric: "ns-over-pass", beside: "ns-over-redirect",
			what: "What an ESP packet of a known SA costs in esp_in, parsed, counted and its CPU chosen, above a program that only passes; " +
				"the median of runs that alternate. The redirect is decided, not done: a test run enqueues nothing.",
		},
		{
			name: "xdp_1m_over_100", unit: "ratio", op: atMost, limit: 2, from: many, metric: "zipf-1m-over-100", beside: "ns-100",
			what: "The same with another SA each time, a million of them against a hundred, drawn as Zipf has it (the nth with a probability " +
				"of 1/n). One cache line a packet is the SA's own: its entry in the index, with the counters.",
		},
		{
			name: "xdp_1m_over_100_uniform", unit: "ratio", op: atMost, limit: 5, from: many, metric: "uniform-1m-over-100", beside: "ns-100",
			what: "The same, all with the same probability: nothing of the SA is ever in the CPU's own caches. It depends on the machine's memory: " +
				"a read of memory takes 150 ns where it was measured.",
		},
		{
			name: "tc_mss_over_pass_ns", unit: "ns", op: atMost, limit: 15, from: mss, metric: "ns-over-pass", beside: "syn-ns-over-pass",
			what: "What a TCP segment that is no SYN costs in mss_in above a program that does nothing. The limit is ours: every packet of the inside " +
				"pays it, and it should be less than a percent of forwarding it.",
		},
		{
			name: "vici_load_1000_s", unit: "s", op: atMost, limit: 2, from: load, metric: "s/1000", beside: "again-s",
			what: "Seconds for 1,000 connections with a trap each to be loaded over the control socket, one command each as swanctl --load-conns " +
				"does, into the running engine over the fake data plane, on one CPU, the client's part included; beside it the same again, unchanged.",
		},
		{
			name: "vici_list_10k_latency_rise", unit: "ratio", op: atMost, limit: 1.2, from: listing, metric: "latency-ratio", beside: "ms",
			what: "How much longer it takes to set up a tunnel with a gateway while it lists its 10,000 SAs to a client, again and again, than while " +
				"it does not; medians of 1,000 each, alternating in one process on two CPUs.",
		},
		{
			name: "tuner_over_oracle_percpu", unit: "ratio", op: atLeast, limit: 0.95, from: percpu, metric: "over-oracle", beside: "sender-share",
			what: "As tuner_over_oracle_skewed with one tunnel whose peer takes SAs of single CPUs (RFC 9611) and sends half of it on each of two CPUs of its own, " +
				"on the SAs that it has for them: the tuner begins with one CHILD SA, and has IKE make another one. The sender's part of a CPU, when the gateway drops all, is beside.",
		},
		{
			name: "tuner_gain_percpu", unit: "ratio", op: atLeast, limit: 1.3, from: percpu, metric: "gain", beside: "best-split",
			what: "The same against no steering at all.",
		},
		{
			name: "tuner_over_oracle_skewed", unit: "ratio", op: atLeast, limit: 0.95, from: skewed, metric: "over-oracle", beside: "best-split",
			what: "ESP decrypted with the tuner, 5 s after it began, against the better of the two best static choices of CPUs, which are searched among all before: 8 tunnels of one " +
				"load, of which a hash has put 7 on one of two CPUs, 1.4 times what one CPU decrypts beside a sender that costs little. " +
				"The median of five, in turn; in the lab, each of whose CPUs is one of this machine (lab --steady), for an idle machine.",
		},
		{
			name: "tuner_gain_skewed", unit: "ratio", op: atLeast, limit: 1.3, from: skewed, metric: "gain", beside: "best-split",
			what: "The same against no steering at all: every packet on the CPU that the card's only queue is on.",
		},
		{
			name: "tuner_over_oracle_busy", unit: "ratio", op: atLeast, limit: 0.95, from: busy, metric: "over-oracle", beside: "gain",
			what: "As tuner_over_oracle_skewed with 4 tunnels that arrive on the CPU that a sender keeps busy, which sends as fast as it can; a hash has left half of them there. " +
				"The gain over no steering is beside: about as much as the best choice has. A sender that waits makes it vary, by a fifth from one measurement of the same choice to the next.",
		},
		{
			name: "tuner_gain_busy", unit: "ratio", op: atLeast, limit: 3.5, from: wandering, metric: "gain", beside: "over-oracle",
			what: "Tunnels and sender as in tuner_over_oracle_busy, against no steering at all, but in another lab, without --steady: the sender's program and the kernel that decrypts beside it take turns there, and the machine " +
				"gives them different CPUs, so that a turn takes long. One and the same choice of CPUs gets half or twice as much done there from one second to the next, and so does the tuner, whose share of the best choice is beside.",
		},
		{
			name: "tuner_over_oracle_sending", unit: "ratio", op: atLeast, limit: 0.95, from: sending, metric: "over-oracle", beside: "best-split",
			what: "As tuner_over_oracle_skewed with what is encrypted: 4 connections from inside that arrive on one CPU, 1.4 times what that one encrypts beside a sender that costs little.",
		},
		{
			name: "tuner_gain_sending", unit: "ratio", op: atLeast, limit: 1.3, from: sending, metric: "gain", beside: "best-split",
			what: "The same against no steering at all.",
		},
		{
			name: "tuner_cpu_10k_percent", unit: "percent", op: atMost, limit: 1, from: tuner, metric: "cpu-percent", beside: "rounds",
			what: "Share of one CPU that the tuner itself takes with 10,000 SAs that all have traffic, over the minute from its start: reading the table and /proc, and deciding, at the times that it chooses.",
		},
	}
}
