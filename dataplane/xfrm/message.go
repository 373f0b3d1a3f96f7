package xfrm

import (
	"iter"

	"golang.org/x/sys/unix"
)

// message is a netlink request under construction: header, fixed part, attributes.
type message struct{ b []byte }

// newMessage starts a request with a zeroed fixed part of size bytes.
func newMessage(typ, flags uint16, size int) *message {
	m := &message{b: make([]byte, unix.NLMSG_HDRLEN+align(size), 512)}
	native.PutUint16(m.b[4:], typ)
	native.PutUint16(m.b[6:], flags|unix.NLM_F_REQUEST)
	return m
}

// fixed is the part between header and attributes.
func (m *message) fixed() []byte { return m.b[unix.NLMSG_HDRLEN:] }

// attr appends an attribute with n zeroed bytes and returns those.
func (m *message) attr(typ int, n int) []byte {
	at := len(m.b)
	m.b = append(m.b, make([]byte, align(unix.SizeofRtAttr+n))...)
	native.PutUint16(m.b[at:], uint16(unix.SizeofRtAttr+n))
	native.PutUint16(m.b[at+2:], uint16(typ))
	return m.b[at+unix.SizeofRtAttr : at+unix.SizeofRtAttr+n]
}

func (m *message) attrBytes(typ int, b []byte) { copy(m.attr(typ, len(b)), b) }

func (m *message) attrUint32(typ int, v uint32) { native.PutUint32(m.attr(typ, 4), v) }

// wipe clears the request: it may have keys in it.
func (m *message) wipe() { clear(m.b[:cap(m.b)]) }

func align(n int) int { return (n + 3) &^ 3 }

// attributes walks the attributes of b; a malformed rest ends the walk.
func attributes(b []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(native.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			const typeMask = 1<<14 - 1 // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
			if !yield(int(native.Uint16(b[2:]))&typeMask, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

// find returns the first attribute of a type with at least size bytes, or nil.
func find(b []byte, typ, size int) []byte {
	for t, v := range attributes(b) {
		if t == typ && len(v) >= size {
			return v
		}
	}
	return nil
}
