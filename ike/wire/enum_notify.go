package wire

// NotifyType is the type of a notification (RFC 7296 3.10.1). Types below 16384 are errors, from there on status; 8192 to
// 16383 and from 40960 on are for private use.
type NotifyType uint16

// Values of NotifyType.
const (
	NotifyUnsupportedCriticalPayload      NotifyType = 1
	NotifyInvalidIKESPI                   NotifyType = 4
	NotifyInvalidMajorVersion             NotifyType = 5
	NotifyInvalidSyntax                   NotifyType = 7
	NotifyInvalidMessageID                NotifyType = 9
	NotifyInvalidSPI                      NotifyType = 11
	NotifyNoProposalChosen                NotifyType = 14
	NotifyInvalidKEPayload                NotifyType = 17
	NotifyAuthenticationFailed            NotifyType = 24
	NotifySinglePairRequired              NotifyType = 34
	NotifyNoAdditionalSAs                 NotifyType = 35
	NotifyInternalAddressFailure          NotifyType = 36
	NotifyFailedCPRequired                NotifyType = 37
	NotifyTSUnacceptable                  NotifyType = 38
	NotifyInvalidSelectors                NotifyType = 39
	NotifyUnacceptableAddresses           NotifyType = 40 // RFC 4555
	NotifyUnexpectedNATDetected           NotifyType = 41 // RFC 4555
	NotifyUseAssignedHoA                  NotifyType = 42 // RFC 5026
	NotifyTemporaryFailure                NotifyType = 43
	NotifyChildSANotFound                 NotifyType = 44
	NotifyInvalidGroupID                  NotifyType = 45 // RFC 9838
	NotifyAuthorizationFailed             NotifyType = 46 // RFC 9838
	NotifyStateNotFound                   NotifyType = 47 // RFC 9370
	NotifyTSMaxQueue                      NotifyType = 48 // RFC 9611
	NotifyRegistrationFailed              NotifyType = 49 // RFC 9838
	NotifyInitialContact                  NotifyType = 16384
	NotifySetWindowSize                   NotifyType = 16385
	NotifyAdditionalTSPossible            NotifyType = 16386
	NotifyIPCompSupported                 NotifyType = 16387
	NotifyNATDetectionSourceIP            NotifyType = 16388
	NotifyNATDetectionDestinationIP       NotifyType = 16389
	NotifyCookie                          NotifyType = 16390
	NotifyUseTransportMode                NotifyType = 16391
	NotifyHTTPCertLookupSupported         NotifyType = 16392
	NotifyRekeySA                         NotifyType = 16393
	NotifyESPTFCPaddingNotSupported       NotifyType = 16394
	NotifyNonFirstFragmentsAlso           NotifyType = 16395
	NotifyMOBIKESupported                 NotifyType = 16396 // RFC 4555
	NotifyAdditionalIP4Address            NotifyType = 16397 // RFC 4555
	NotifyAdditionalIP6Address            NotifyType = 16398 // RFC 4555
	NotifyNoAdditionalAddresses           NotifyType = 16399 // RFC 4555
	NotifyUpdateSAAddresses               NotifyType = 16400 // RFC 4555
	NotifyCookie2                         NotifyType = 16401 // RFC 4555
	NotifyNoNATsAllowed                   NotifyType = 16402 // RFC 4555
	NotifyAuthLifetime                    NotifyType = 16403 // RFC 4478
	NotifyMultipleAuthSupported           NotifyType = 16404 // RFC 4739
	NotifyAnotherAuthFollows              NotifyType = 16405 // RFC 4739
	NotifyRedirectSupported               NotifyType = 16406 // RFC 5685
	NotifyRedirect                        NotifyType = 16407 // RFC 5685
	NotifyRedirectedFrom                  NotifyType = 16408 // RFC 5685
	NotifyTicketLTOpaque                  NotifyType = 16409 // RFC 5723
	NotifyTicketRequest                   NotifyType = 16410 // RFC 5723
	NotifyTicketAck                       NotifyType = 16411 // RFC 5723
	NotifyTicketNack                      NotifyType = 16412 // RFC 5723
	NotifyTicketOpaque                    NotifyType = 16413 // RFC 5723
	NotifyLinkID                          NotifyType = 16414
	NotifyUseWESPMode                     NotifyType = 16415 // RFC 5840
	NotifyROHCSupported                   NotifyType = 16416 // RFC 5857
	NotifyEAPOnlyAuthentication           NotifyType = 16417 // RFC 5998
	NotifyChildlessIKEv2Supported         NotifyType = 16418 // RFC 6023
	NotifyQuickCrashDetection             NotifyType = 16419 // RFC 6290
	NotifyIKEv2MessageIDSyncSupported     NotifyType = 16420 // RFC 6311
	NotifyIPsecReplayCounterSyncSupported NotifyType = 16421 // RFC 6311
	NotifyIKEv2MessageIDSync              NotifyType = 16422 // RFC 6311
	NotifyIPsecReplayCounterSync          NotifyType = 16423 // RFC 6311
	NotifySecurePasswordMethods           NotifyType = 16424 // RFC 6467
	NotifyPSKPersist                      NotifyType = 16425 // RFC 6617
	NotifyPSKConfirm                      NotifyType = 16426 // RFC 6617
	NotifyERXSupported                    NotifyType = 16427 // RFC 6867
	NotifyIFOMCapability                  NotifyType = 16428
	NotifyGroupSender                     NotifyType = 16429 // RFC 9838
	NotifyIKEv2FragmentationSupported     NotifyType = 16430 // RFC 7383
	NotifySignatureHashAlgorithms         NotifyType = 16431 // RFC 7427
	NotifyCloneIKESASupported             NotifyType = 16432 // RFC 7791
	NotifyCloneIKESA                      NotifyType = 16433 // RFC 7791
	NotifyPuzzle                          NotifyType = 16434 // RFC 8019
	NotifyUsePPK                          NotifyType = 16435 // RFC 8784
	NotifyPPKIdentity                     NotifyType = 16436 // RFC 8784
	NotifyNoPPKAuth                       NotifyType = 16437 // RFC 8784
	NotifyIntermediateExchangeSupported   NotifyType = 16438 // RFC 9242
	NotifyIP4Allowed                      NotifyType = 16439 // RFC 8983
	NotifyIP6Allowed                      NotifyType = 16440 // RFC 8983
	NotifyAdditionalKeyExchange           NotifyType = 16441 // RFC 9370
	NotifyUseAGGFRAG                      NotifyType = 16442 // RFC 9347
	NotifySupportedAuthMethods            NotifyType = 16443 // RFC 9593
	NotifySAResourceInfo                  NotifyType = 16444 // RFC 9611
	NotifyUsePPKInt                       NotifyType = 16445 // RFC 9867
	NotifyPPKIdentityKey                  NotifyType = 16446 // RFC 9867
	NotifyIKESAInitFullTranscriptAuth     NotifyType = 16447
)

// String is the IANA name.
func (n NotifyType) String() string {
	switch n {
	case NotifyUnsupportedCriticalPayload:
		return "UNSUPPORTED_CRITICAL_PAYLOAD"
	case NotifyInvalidIKESPI:
		return "INVALID_IKE_SPI"
	case NotifyInvalidMajorVersion:
		return "INVALID_MAJOR_VERSION"
	case NotifyInvalidSyntax:
		return "INVALID_SYNTAX"
	case NotifyInvalidMessageID:
		return "INVALID_MESSAGE_ID"
	case NotifyInvalidSPI:
		return "INVALID_SPI"
	case NotifyNoProposalChosen:
		return "NO_PROPOSAL_CHOSEN"
	case NotifyInvalidKEPayload:
		return "INVALID_KE_PAYLOAD"
	case NotifyAuthenticationFailed:
		return "AUTHENTICATION_FAILED"
	case NotifySinglePairRequired:
		return "SINGLE_PAIR_REQUIRED"
	case NotifyNoAdditionalSAs:
		return "NO_ADDITIONAL_SAS"
	case NotifyInternalAddressFailure:
		return "INTERNAL_ADDRESS_FAILURE"
	case NotifyFailedCPRequired:
		return "FAILED_CP_REQUIRED"
	case NotifyTSUnacceptable:
		return "TS_UNACCEPTABLE"
	case NotifyInvalidSelectors:
		return "INVALID_SELECTORS"
	case NotifyUnacceptableAddresses:
		return "UNACCEPTABLE_ADDRESSES"
	case NotifyUnexpectedNATDetected:
		return "UNEXPECTED_NAT_DETECTED"
	case NotifyUseAssignedHoA:
		return "USE_ASSIGNED_HoA"
	case NotifyTemporaryFailure:
		return "TEMPORARY_FAILURE"
	case NotifyChildSANotFound:
		return "CHILD_SA_NOT_FOUND"
	case NotifyInvalidGroupID:
		return "INVALID_GROUP_ID"
	case NotifyAuthorizationFailed:
		return "AUTHORIZATION_FAILED"
	case NotifyStateNotFound:
		return "STATE_NOT_FOUND"
	case NotifyTSMaxQueue:
		return "TS_MAX_QUEUE"
	case NotifyRegistrationFailed:
		return "REGISTRATION_FAILED"
	case NotifyInitialContact:
		return "INITIAL_CONTACT"
	case NotifySetWindowSize:
		return "SET_WINDOW_SIZE"
	case NotifyAdditionalTSPossible:
		return "ADDITIONAL_TS_POSSIBLE"
	case NotifyIPCompSupported:
		return "IPCOMP_SUPPORTED"
	case NotifyNATDetectionSourceIP:
		return "NAT_DETECTION_SOURCE_IP"
	case NotifyNATDetectionDestinationIP:
		return "NAT_DETECTION_DESTINATION_IP"
	case NotifyCookie:
		return "COOKIE"
	case NotifyUseTransportMode:
		return "USE_TRANSPORT_MODE"
	case NotifyHTTPCertLookupSupported:
		return "HTTP_CERT_LOOKUP_SUPPORTED"
	case NotifyRekeySA:
		return "REKEY_SA"
	case NotifyESPTFCPaddingNotSupported:
		return "ESP_TFC_PADDING_NOT_SUPPORTED"
	case NotifyNonFirstFragmentsAlso:
		return "NON_FIRST_FRAGMENTS_ALSO"
	case NotifyMOBIKESupported:
		return "MOBIKE_SUPPORTED"
	case NotifyAdditionalIP4Address:
		return "ADDITIONAL_IP4_ADDRESS"
	case NotifyAdditionalIP6Address:
		return "ADDITIONAL_IP6_ADDRESS"
	case NotifyNoAdditionalAddresses:
		return "NO_ADDITIONAL_ADDRESSES"
	case NotifyUpdateSAAddresses:
		return "UPDATE_SA_ADDRESSES"
	case NotifyCookie2:
		return "COOKIE2"
	case NotifyNoNATsAllowed:
		return "NO_NATS_ALLOWED"
	case NotifyAuthLifetime:
		return "AUTH_LIFETIME"
	case NotifyMultipleAuthSupported:
		return "MULTIPLE_AUTH_SUPPORTED"
	case NotifyAnotherAuthFollows:
		return "ANOTHER_AUTH_FOLLOWS"
	case NotifyRedirectSupported:
		return "REDIRECT_SUPPORTED"
	case NotifyRedirect:
		return "REDIRECT"
	case NotifyRedirectedFrom:
		return "REDIRECTED_FROM"
	case NotifyTicketLTOpaque:
		return "TICKET_LT_OPAQUE"
	case NotifyTicketRequest:
		return "TICKET_REQUEST"
	case NotifyTicketAck:
		return "TICKET_ACK"
	case NotifyTicketNack:
		return "TICKET_NACK"
	case NotifyTicketOpaque:
		return "TICKET_OPAQUE"
	case NotifyLinkID:
		return "LINK_ID"
	case NotifyUseWESPMode:
		return "USE_WESP_MODE"
	case NotifyROHCSupported:
		return "ROHC_SUPPORTED"
	case NotifyEAPOnlyAuthentication:
		return "EAP_ONLY_AUTHENTICATION"
	case NotifyChildlessIKEv2Supported:
		return "CHILDLESS_IKEV2_SUPPORTED"
	case NotifyQuickCrashDetection:
		return "QUICK_CRASH_DETECTION"
	case NotifyIKEv2MessageIDSyncSupported:
		return "IKEV2_MESSAGE_ID_SYNC_SUPPORTED"
	case NotifyIPsecReplayCounterSyncSupported:
		return "IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED"
	case NotifyIKEv2MessageIDSync:
		return "IKEV2_MESSAGE_ID_SYNC"
	case NotifyIPsecReplayCounterSync:
		return "IPSEC_REPLAY_COUNTER_SYNC"
	case NotifySecurePasswordMethods:
		return "SECURE_PASSWORD_METHODS"
	case NotifyPSKPersist:
		return "PSK_PERSIST"
	case NotifyPSKConfirm:
		return "PSK_CONFIRM"
	case NotifyERXSupported:
		return "ERX_SUPPORTED"
	case NotifyIFOMCapability:
		return "IFOM_CAPABILITY"
	case NotifyGroupSender:
		return "GROUP_SENDER"
	case NotifyIKEv2FragmentationSupported:
		return "IKEV2_FRAGMENTATION_SUPPORTED"
	case NotifySignatureHashAlgorithms:
		return "SIGNATURE_HASH_ALGORITHMS"
	case NotifyCloneIKESASupported:
		return "CLONE_IKE_SA_SUPPORTED"
	case NotifyCloneIKESA:
		return "CLONE_IKE_SA"
	case NotifyPuzzle:
		return "PUZZLE"
	case NotifyUsePPK:
		return "USE_PPK"
	case NotifyPPKIdentity:
		return "PPK_IDENTITY"
	case NotifyNoPPKAuth:
		return "NO_PPK_AUTH"
	case NotifyIntermediateExchangeSupported:
		return "INTERMEDIATE_EXCHANGE_SUPPORTED"
	case NotifyIP4Allowed:
		return "IP4_ALLOWED"
	case NotifyIP6Allowed:
		return "IP6_ALLOWED"
	case NotifyAdditionalKeyExchange:
		return "ADDITIONAL_KEY_EXCHANGE"
	case NotifyUseAGGFRAG:
		return "USE_AGGFRAG"
	case NotifySupportedAuthMethods:
		return "SUPPORTED_AUTH_METHODS"
	case NotifySAResourceInfo:
		return "SA_RESOURCE_INFO"
	case NotifyUsePPKInt:
		return "USE_PPK_INT"
	case NotifyPPKIdentityKey:
		return "PPK_IDENTITY_KEY"
	case NotifyIKESAInitFullTranscriptAuth:
		return "IKE_SA_INIT_FULL_TRANSCRIPT_AUTH"
	}
	return unknown("NotifyType", uint16(n))
}

// IsError reports whether the type is an error: below 16384. One that isn't known and comes in a response still makes
// the exchange fail (RFC 7296 3.10.1).
func (n NotifyType) IsError() bool { return n < 16384 }
