package wire

// VendorID is the Vendor ID payload (RFC 7296 3.12).
type VendorID struct {
	Data []byte
}

// Type is PayloadVendorID.
func (p *VendorID) Type() PayloadType { return PayloadVendorID }

// AppendBody appends the vendor id.
func (p *VendorID) AppendBody(b []byte) []byte { return append(b, p.Data...) }

func (p *VendorID) bodyLen() int { return len(p.Data) }
