package flow

import (
	"fmt"

	"espalier/bpf"
	"espalier/dataplane"
)

// maxWindow is the largest replay window that the configuration takes, in packets.
const maxWindow = 4096

// dropWords say what the name of a reason means, and what helps.
var dropWords = map[Reason]struct{ why, fix string }{
	Reason(bpf.DropIntegrity): {
		"the integrity check failed: packets were damaged or forged on the way, or the two sides have different keys",
		"when every packet fails, set the tunnel up again (espctl conn down, up); single ones come from the path or from somebody who forges",
	},
	Reason(bpf.DropNoState): {
		"no SA has their SPI", "the peer uses an SA that has gone here: it learns that by dpd_delay, or set the tunnel up again",
	},
	Reason(bpf.DropExpired): {
		"the SA was past its lifetime", "rekey earlier: a smaller rekey_time, rekey_bytes or rekey_packets, or a larger life_time",
	},
	Reason(bpf.DropNoPolicy): {
		"no policy lets the decrypted packets in", "the peer sends what the tunnel's networks do not have: compare local_ts and remote_ts of both sides",
	},
	Reason(bpf.DropPolicyBlock): {
		"a policy forbids the decrypted packets", "a connection with mode = drop and a priority of its own stands before the tunnel: narrow its networks",
	},
	Reason(bpf.DropTemplate): {
		"the decrypted packets came by another SA than their policy asks for", "two tunnels have the same or overlapping networks: tell them apart by local_ts and remote_ts",
	},
	Reason(bpf.DropMode): {
		"mode or protocol of the SA does not fit the packets", "mode (tunnel, transport, beet) must be the same on both sides",
	},
	Reason(bpf.DropSequence): {
		"the sequence numbers are used up", "use extended ones (-esn in esp_proposals), or rekey earlier (rekey_packets)",
	},
	Reason(bpf.DropMemory): {
		"the kernel had no memory for them", "the box is short of memory for packets: look at free memory, and at net.core.rmem_max and optmem_max",
	},
	Reason(bpf.DropHeader): {
		"a header or the padding is malformed", "the peer builds packets that the kernel cannot read: its implementation or an offload of its network card",
	},
	Reason(bpf.DropEncap): {
		"their UDP encapsulation is not that of the SA", "a NAT on the path has changed: MOBIKE or dpd_delay finds that, encap = yes on both sides forces UDP",
	},
	Reason(bpf.DropSelector): {
		"the decrypted packets are not what their SA is for", "the peer sends what this CHILD SA's networks do not have: compare local_ts and remote_ts of both sides",
	},
	Reason(bpf.DropOutNoState): {
		"a policy asks for an SA that is not there", "start_action = trap or start sets it up; see why it is not up with espctl sa show",
	},
	Reason(bpf.DropOutProto): {
		"the kernel could not encrypt them", "look at the driver of the cipher (espctl host show) and at the kernel's log",
	},
	Reason(bpf.DropOutBundle): {
		"the encrypted packets have no way to the peer", "there is no route to the peer's address: ip route get ADDRESS",
	},
}

// explainDrop says why packets of an SA are lost and what helps, in plain words;
// window is the SA's replay window, 0 when it is not known.
func explainDrop(r Reason, dir dataplane.Direction, window uint32) (why, fix string) {
	if w, ok := dropWords[r]; ok {
		return w.why, w.fix
	}
	if r != Reason(bpf.DropReplay) {
		return "the kernel gives no closer reason", "look at /proc/net/xfrm_stat"
	}
	if dir == dataplane.Out {
		return "the sequence numbers are used up", dropWords[Reason(bpf.DropSequence)].fix
	}
	switch {
	case window == 0:
		why = "they came twice, or later than the replay window allows"
		fix = "when packets overtake each other on the path, a larger replay_window"
	case window >= maxWindow:
		return fmt.Sprintf("they came twice, or more than %d packets late", window), "something on the path repeats packets, or holds them back for long"
	default:
		why = fmt.Sprintf("they came twice, or later than the replay window of %d packets allows", window)
		fix = fmt.Sprintf("when packets overtake each other on the path, replay_window = %d", min(4*window, maxWindow))
	}
	return why, fix + "; otherwise something repeats them"
}
