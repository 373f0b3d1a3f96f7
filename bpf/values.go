package bpf

import "unsafe"

// Reasons of drops.
const (
	DropNone        = layoutDropReasonDROP_NONE
	DropReplay      = layoutDropReasonDROP_REPLAY
	DropIntegrity   = layoutDropReasonDROP_INTEGRITY
	DropNoState     = layoutDropReasonDROP_NO_STATE
	DropExpired     = layoutDropReasonDROP_EXPIRED
	DropNoPolicy    = layoutDropReasonDROP_NO_POLICY
	DropPolicyBlock = layoutDropReasonDROP_POLICY_BLOCK
	DropTemplate    = layoutDropReasonDROP_TEMPLATE
	DropMode        = layoutDropReasonDROP_MODE
	DropSequence    = layoutDropReasonDROP_SEQUENCE
	DropMemory      = layoutDropReasonDROP_MEMORY
	DropHeader      = layoutDropReasonDROP_HEADER
	DropEncap       = layoutDropReasonDROP_ENCAP
	DropOutNoState  = layoutDropReasonDROP_OUT_NO_STATE
	DropOutProto    = layoutDropReasonDROP_OUT_PROTO
	DropOutBundle   = layoutDropReasonDROP_OUT_BUNDLE
	DropOther       = layoutDropReasonDROP_OTHER
	DropSelector    = layoutDropReasonDROP_SELECTOR
	DropReasons     = layoutDropReasonDROP_REASONS
)

// Totals of a CPU.
const (
	TotalESPUnknown      = layoutTotalTOTAL_ESP_UNKNOWN
	TotalESPTransit      = layoutTotalTOTAL_ESP_TRANSIT
	TotalIKE             = layoutTotalTOTAL_IKE
	TotalKeepalive       = layoutTotalTOTAL_KEEPALIVE
	TotalFragment        = layoutTotalTOTAL_FRAGMENT
	TotalRedirected      = layoutTotalTOTAL_REDIRECTED
	TotalRedirectFailed  = layoutTotalTOTAL_REDIRECT_FAILED
	TotalFlowRedirected  = layoutTotalTOTAL_FLOW_REDIRECTED
	TotalMSSRewritten    = layoutTotalTOTAL_MSS_REWRITTEN
	TotalMSSMalformed    = layoutTotalTOTAL_MSS_MALFORMED
	TotalGuardUnknownSPI = layoutTotalTOTAL_GUARD_UNKNOWN_SPI
	TotalGuardNotPeer    = layoutTotalTOTAL_GUARD_NOT_PEER
	TotalGuardRate       = layoutTotalTOTAL_GUARD_RATE
	TotalGuardIKESPI     = layoutTotalTOTAL_GUARD_IKE_SPI
	TotalGuardMalformed  = layoutTotalTOTAL_GUARD_MALFORMED
	TotalCPUTaken        = layoutTotalTOTAL_CPU_TAKEN
	TotalESPOutUnknown   = layoutTotalTOTAL_ESP_OUT_UNKNOWN
	TotalMalformed       = layoutTotalTOTAL_MALFORMED
	TotalESPBehind       = layoutTotalTOTAL_ESP_BEHIND
	TotalShed            = layoutTotalTOTAL_SHED
	TotalFlowUnfinished  = layoutTotalTOTAL_FLOW_UNFINISHED
	TotalSampling        = layoutTotalTOTAL_SAMPLING // no total
	Totals               = layoutTotalTOTALS
)

// Modes of the guard.
const (
	GuardOff = layoutGuardModeGUARD_OFF
	GuardLog = layoutGuardModeGUARD_LOG
	GuardOn  = layoutGuardModeGUARD_ON
)

// Modes of steering.
const (
	SteerOff  = layoutSteerModeSTEER_OFF
	SteerSlot = layoutSteerModeSTEER_SLOT
	SteerHash = layoutSteerModeSTEER_HASH
)

// Modes of clear packets from inside.
const (
	FlowStay  = layoutFlowModeFLOW_STAY
	FlowList  = layoutFlowModeFLOW_LIST
	FlowGroup = layoutFlowModeFLOW_GROUP
)

// spiBytes are the SPI as it is in packets.
func spiBytes(k *Key) []byte { return (*[4]byte)(unsafe.Pointer(&k.Spi))[:] }
