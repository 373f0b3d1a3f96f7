package sa

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// coder walks a value once and either writes or reads it, so that the two
// directions of the encoding cannot part. Integers are varints, lengths precede
// contents. The first error sticks.
type coder struct {
	reading bool
	version uint64
	b       []byte
	err     error
}

func (c *coder) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("session state: %s, %d octets before its end", what, len(c.b))
	}
	c.b = nil
}

func (c *coder) uint(v uint64) uint64 {
	if !c.reading {
		c.b = binary.AppendUvarint(c.b, v)
		return v
	}
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail("expected a number")
		return 0
	}
	c.b = c.b[n:]
	return v
}

func num[T ~uint8 | ~uint16 | ~uint32 | ~uint64](c *coder, p *T) {
	v := c.uint(uint64(*p))
	if uint64(T(v)) != v {
		c.fail(fmt.Sprintf("number %d does not fit %T", v, *p))
		return
	}
	*p = T(v)
}

func boolean(c *coder, p *bool) {
	v := uint8(0)
	if *p {
		v = 1
	}
	num(c, &v)
	*p = v != 0
}

// raw codes octets; nil and empty are one and are read as nil.
func raw[T ~[]byte | ~string](c *coder, p *T) {
	n := c.uint(uint64(len(*p)))
	if !c.reading {
		c.b = append(c.b, *p...)
		return
	}
	if n > uint64(len(c.b)) {
		c.fail(fmt.Sprintf("expected %d octets", n))
		return
	}
	if n == 0 {
		*p = T("")
		var zero T
		*p = zero
		return
	}
	*p = T(string(c.b[:n]))
	c.b = c.b[n:]
}

func fixed(c *coder, p []byte) {
	if !c.reading {
		c.b = append(c.b, p...)
		return
	}
	if len(c.b) < len(p) {
		c.fail(fmt.Sprintf("expected %d octets", len(p)))
		return
	}
	copy(p, c.b)
	c.b = c.b[len(p):]
}

// sha256Sum codes a SHA-256, of which zero stands for none.
func sha256Sum(c *coder, p *[32]byte) {
	there := *p != [32]byte{}
	boolean(c, &there)
	if there {
		fixed(c, p[:])
	}
}

// list codes a slice; nil and empty are one and are read as nil.
func list[T any](c *coder, p *[]T, each func(*coder, *T)) {
	n := c.uint(uint64(len(*p)))
	if c.reading {
		// Every element takes at least one octet.
		if n > uint64(len(c.b)) {
			c.fail(fmt.Sprintf("list of %d elements", n))
			return
		}
		*p = nil
		if n > 0 {
			*p = make([]T, n)
		}
	}
	for i := range *p {
		each(c, &(*p)[i])
	}
}

// optional codes a pointer that may be nil.
func optional[T any](c *coder, p **T, each func(*coder, *T)) {
	there := *p != nil
	boolean(c, &there)
	if !there || c.err != nil {
		*p = nil
		return
	}
	if c.reading {
		*p = new(T)
	}
	each(c, *p)
}

func addr(c *coder, p *netip.Addr) {
	var b []byte
	if !c.reading {
		b, _ = p.MarshalBinary() // never fails
	}
	raw(c, &b)
	if c.reading && c.err == nil {
		if err := p.UnmarshalBinary(b); err != nil {
			c.fail("expected an address: " + err.Error())
		}
	}
}

func addrPort(c *coder, p *netip.AddrPort) {
	a, port := p.Addr(), p.Port()
	addr(c, &a)
	num(c, &port)
	*p = netip.AddrPortFrom(a, port)
}

// instant codes a time to the nanosecond; zero stays zero.
func instant(c *coder, p *time.Time) {
	v := uint64(0)
	if !p.IsZero() {
		v = uint64(p.UnixNano())
	}
	num(c, &v)
	*p = time.Time{}
	if v != 0 {
		*p = time.Unix(0, int64(v))
	}
}
