package wire

// TSType is the type of a traffic selector (RFC 7296 3.13.1).
type TSType uint8

// Values of TSType.
const (
	TSIPv4AddrRange TSType = 7
	TSIPv6AddrRange TSType = 8
	TSFCAddrRange   TSType = 9  // RFC 4595
	TSSecLabel      TSType = 10 // RFC 9478
)

// String is the IANA name.
func (t TSType) String() string {
	switch t {
	case TSIPv4AddrRange:
		return "TS_IPV4_ADDR_RANGE"
	case TSIPv6AddrRange:
		return "TS_IPV6_ADDR_RANGE"
	case TSFCAddrRange:
		return "TS_FC_ADDR_RANGE"
	case TSSecLabel:
		return "TS_SECLABEL"
	}
	return unknown("TSType", uint16(t))
}

// CfgType is the type of a CP payload (RFC 7296 3.15).
type CfgType uint8

// Values of CfgType.
const (
	CfgRequest CfgType = 1
	CfgReply   CfgType = 2
	CfgSet     CfgType = 3
	CfgAck     CfgType = 4
)

// String is the IANA name.
func (c CfgType) String() string {
	switch c {
	case CfgRequest:
		return "CFG_REQUEST"
	case CfgReply:
		return "CFG_REPLY"
	case CfgSet:
		return "CFG_SET"
	case CfgAck:
		return "CFG_ACK"
	}
	return unknown("CfgType", uint16(c))
}

// CfgAttr is the type of a configuration attribute (RFC 7296 3.15.1), 0 to 32767.
type CfgAttr uint16

// Values of CfgAttr.
const (
	CfgAttrInternalIP4Address            CfgAttr = 1
	CfgAttrInternalIP4Netmask            CfgAttr = 2
	CfgAttrInternalIP4DNS                CfgAttr = 3
	CfgAttrInternalIP4NBNS               CfgAttr = 4
	CfgAttrInternalIP4DHCP               CfgAttr = 6
	CfgAttrApplicationVersion            CfgAttr = 7
	CfgAttrInternalIP6Address            CfgAttr = 8
	CfgAttrInternalIP6DNS                CfgAttr = 10
	CfgAttrInternalIP6DHCP               CfgAttr = 12
	CfgAttrInternalIP4Subnet             CfgAttr = 13
	CfgAttrSupportedAttributes           CfgAttr = 14
	CfgAttrInternalIP6Subnet             CfgAttr = 15
	CfgAttrMIP6HomePrefix                CfgAttr = 16 // RFC 5026
	CfgAttrInternalIP6Link               CfgAttr = 17 // RFC 5739
	CfgAttrInternalIP6Prefix             CfgAttr = 18 // RFC 5739
	CfgAttrHomeAgentAddress              CfgAttr = 19 // RFC 5026
	CfgAttrPCSCFIP4Address               CfgAttr = 20 // RFC 7651
	CfgAttrPCSCFIP6Address               CfgAttr = 21 // RFC 7651
	CfgAttrFTTKAT                        CfgAttr = 22
	CfgAttrExternalSourceIP4NATInfo      CfgAttr = 23
	CfgAttrTimeoutPeriodForLivenessCheck CfgAttr = 24
	CfgAttrInternalDNSDomain             CfgAttr = 25 // RFC 8598
	CfgAttrInternalDNSSECTA              CfgAttr = 26 // RFC 8598
	CfgAttrEncDNSIP4                     CfgAttr = 27 // RFC 9464
	CfgAttrEncDNSIP6                     CfgAttr = 28 // RFC 9464
	CfgAttrEncDNSDigestInfo              CfgAttr = 29 // RFC 9464
)

// String is the IANA name.
func (c CfgAttr) String() string {
	switch c {
	case CfgAttrInternalIP4Address:
		return "INTERNAL_IP4_ADDRESS"
	case CfgAttrInternalIP4Netmask:
		return "INTERNAL_IP4_NETMASK"
	case CfgAttrInternalIP4DNS:
		return "INTERNAL_IP4_DNS"
	case CfgAttrInternalIP4NBNS:
		return "INTERNAL_IP4_NBNS"
	case CfgAttrInternalIP4DHCP:
		return "INTERNAL_IP4_DHCP"
	case CfgAttrApplicationVersion:
		return "APPLICATION_VERSION"
	case CfgAttrInternalIP6Address:
		return "INTERNAL_IP6_ADDRESS"
	case CfgAttrInternalIP6DNS:
		return "INTERNAL_IP6_DNS"
	case CfgAttrInternalIP6DHCP:
		return "INTERNAL_IP6_DHCP"
	case CfgAttrInternalIP4Subnet:
		return "INTERNAL_IP4_SUBNET"
	case CfgAttrSupportedAttributes:
		return "SUPPORTED_ATTRIBUTES"
	case CfgAttrInternalIP6Subnet:
		return "INTERNAL_IP6_SUBNET"
	case CfgAttrMIP6HomePrefix:
		return "MIP6_HOME_PREFIX"
	case CfgAttrInternalIP6Link:
		return "INTERNAL_IP6_LINK"
	case CfgAttrInternalIP6Prefix:
		return "INTERNAL_IP6_PREFIX"
	case CfgAttrHomeAgentAddress:
		return "HOME_AGENT_ADDRESS"
	case CfgAttrPCSCFIP4Address:
		return "P_CSCF_IP4_ADDRESS"
	case CfgAttrPCSCFIP6Address:
		return "P_CSCF_IP6_ADDRESS"
	case CfgAttrFTTKAT:
		return "FTT_KAT"
	case CfgAttrExternalSourceIP4NATInfo:
		return "EXTERNAL_SOURCE_IP4_NAT_INFO"
	case CfgAttrTimeoutPeriodForLivenessCheck:
		return "TIMEOUT_PERIOD_FOR_LIVENESS_CHECK"
	case CfgAttrInternalDNSDomain:
		return "INTERNAL_DNS_DOMAIN"
	case CfgAttrInternalDNSSECTA:
		return "INTERNAL_DNSSEC_TA"
	case CfgAttrEncDNSIP4:
		return "ENCDNS_IP4"
	case CfgAttrEncDNSIP6:
		return "ENCDNS_IP6"
	case CfgAttrEncDNSDigestInfo:
		return "ENCDNS_DIGEST_INFO"
	}
	return unknown("CfgAttr", uint16(c))
}

// IPCompTransform is the algorithm in an IPCOMP_SUPPORTED notification (RFC 7296 3.10.1).
type IPCompTransform uint8

// Values of IPCompTransform.
const (
	IPCompOUI     IPCompTransform = 1
	IPCompDeflate IPCompTransform = 2
	IPCompLZS     IPCompTransform = 3
	IPCompLZJH    IPCompTransform = 4
)

// String is the IANA name.
func (i IPCompTransform) String() string {
	switch i {
	case IPCompOUI:
		return "IPCOMP_OUI"
	case IPCompDeflate:
		return "IPCOMP_DEFLATE"
	case IPCompLZS:
		return "IPCOMP_LZS"
	case IPCompLZJH:
		return "IPCOMP_LZJH"
	}
	return unknown("IPCompTransform", uint16(i))
}

// PPKIDType is the type of the identity in a PPK_IDENTITY notification (RFC 8784 section 5.1).
type PPKIDType uint8

// Values of PPKIDType.
const (
	PPKIDOpaque PPKIDType = 1
	PPKIDFixed  PPKIDType = 2
)

// String is the IANA name.
func (p PPKIDType) String() string {
	switch p {
	case PPKIDOpaque:
		return "PPK_ID_OPAQUE"
	case PPKIDFixed:
		return "PPK_ID_FIXED"
	}
	return unknown("PPKIDType", uint16(p))
}

// ROHCAttribute is the type of an attribute of a ROHC_SUPPORTED notification (RFC 5857 section 2.1.2), 0 to 32767.
type ROHCAttribute uint16

// Values of ROHCAttribute.
const (
	ROHCMaxCID  ROHCAttribute = 1
	ROHCProfile ROHCAttribute = 2
	ROHCInteg   ROHCAttribute = 3
	ROHCICVLen  ROHCAttribute = 4
	ROHCMRRU    ROHCAttribute = 5
)

// String is the abbreviation in the IANA name.
func (r ROHCAttribute) String() string {
	switch r {
	case ROHCMaxCID:
		return "MAX_CID"
	case ROHCProfile:
		return "ROHC_PROFILE"
	case ROHCInteg:
		return "ROHC_INTEG"
	case ROHCICVLen:
		return "ROHC_ICV_LEN"
	case ROHCMRRU:
		return "MRRU"
	}
	return unknown("ROHCAttribute", uint16(r))
}

// GatewayType is the kind of gateway identity in a REDIRECT or REDIRECTED_FROM notification (RFC 5685 section 10).
type GatewayType uint8

// Values of GatewayType.
const (
	GatewayIPv4 GatewayType = 1
	GatewayIPv6 GatewayType = 2
	GatewayFQDN GatewayType = 3
)

// String is the IANA name.
func (g GatewayType) String() string {
	switch g {
	case GatewayIPv4:
		return "IPv4 address of the new VPN gateway"
	case GatewayIPv6:
		return "IPv6 address of the new VPN gateway"
	case GatewayFQDN:
		return "FQDN of the new VPN gateway"
	}
	return unknown("GatewayType", uint16(g))
}
