package main

// table is every figure with its goal, in the order of measuring. A new one is
// a line here, a row in docs/figures.md (--write), and, when no source measures
// it yet, a source beside gobench.go.
func table() []figure {
	psk := &goBench{pkg: "espalier/ike/engine", bench: "BenchmarkSetup/PSK", time: "1000x", count: 7}
	ecdsa := &goBench{pkg: "espalier/ike/engine", bench: "BenchmarkSetup/ECDSA-P256", time: "500x", count: 7}
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
	}
}
