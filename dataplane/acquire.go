package dataplane

// ForgetAcquire removes the kernel's record of a packet that waits for an SA, as an
// Acquire has told of it: while that stands no further packet is reported, and
// none may be sent. The record becomes an SPI first, for it has no name of its own;
// r has the template's addresses, as Src our own one.
func ForgetAcquire(dp DataPlane, r SPIRequest) error {
	spi, err := dp.ReserveSPI(r)
	if err != nil {
		return err
	}
	return dp.Apply([]Op{DeleteSA{Key: SAKey{Dst: r.Dst, Proto: r.Proto, SPI: spi, Mark: r.Mark}}})
}
