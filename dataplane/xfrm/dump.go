package xfrm

import (
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// dumpedPolicy is a policy with the time the kernel got it.
type dumpedPolicy struct {
	dataplane.Policy
	added time.Time
}

// getSA reads an SA or a reserved SPI. The caller wipes it.
// Errors: dataplane.ErrNotFound.
func (x *XFRM) getSA(k *dataplane.SAKey) (*rawSA, error) {
	var raw *rawSA
	err := x.conn.request(encodeSAID(nl.XFRM_MSG_GETSA, k), func(typ uint16, body []byte) {
		if typ == uint16(nl.XFRM_MSG_NEWSA) && len(body) >= sizeSAInfo {
			raw = &rawSA{b: append([]byte(nil), body...)}
		}
	})
	if isErrno(err, unix.ESRCH) || err == nil && raw == nil {
		return nil, dataplane.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// eachSA dumps all SAs; what each gets is gone when it returns. begin is called
// before the first, and again when the dump has to start anew.
func (x *XFRM) eachSA(begin func(), each func(*rawSA)) error {
	return x.conn.dump(uint16(nl.XFRM_MSG_GETSA), sizeSAID, begin, func(typ uint16, body []byte) {
		if typ == uint16(nl.XFRM_MSG_NEWSA) && len(body) >= sizeSAInfo {
			each(&rawSA{b: body})
		}
	})
}

// eachPolicy dumps all policies but those of sockets.
func (x *XFRM) eachPolicy(begin func(), each func(*dumpedPolicy)) error {
	return x.conn.dump(uint16(nl.XFRM_MSG_GETPOLICY), sizePolicyID, begin, func(typ uint16, body []byte) {
		if typ != uint16(nl.XFRM_MSG_NEWPOLICY) {
			return
		}
		if p, added, ok := decodePolicy(body); ok {
			each(&dumpedPolicy{p, added})
		}
	})
}
