package xfrm

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// FuzzMessages: whatever a netlink socket delivers, decoding does not panic.
func FuzzMessages(f *testing.F) {
	k := testPolicy(0)
	p := dataplane.Policy{PolicyKey: k, Templates: []dataplane.Template{{ReqID: 1}}}
	f.Add(encodePolicy(uint16(nl.XFRM_MSG_NEWPOLICY), &p).fixed())
	x := &XFRM{features: dataplane.Features{SADir: true, NATKeepalive: true}}
	key, _ := testSA(1)
	sa := dataplane.SA{SAKey: key, Src: key.Dst, ESN: true, ReplayWindow: 64, Encap: &dataplane.Encap{}, AEAD: dataplane.Algorithm{Name: "a", Key: make([]byte, 4)}}
	f.Add(x.encodeSA(uint16(nl.XFRM_MSG_NEWSA), &sa).fixed())
	f.Add([]byte{})
	f.Add(make([]byte, sizePolicyInfo-1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= sizeSAInfo {
			raw := rawSA{b: b}
			raw.installed()
			raw.status()
			raw.window()
			m := x.again(&raw, nl.XFRM_MSG_NEWSA, change{limits: &dataplane.Limits{}, encap: &encapChange{}, flags: &flagChange{}}, &ownSA{dir: dataplane.Out})
			_ = m.skipAhead(raw.esn())
		}
		decodePolicy(b)
		decodeAcquire(b)
		decodeExpire(b)
		decodeMapping(b)
		c := &conn{}
		_, _ = c.answer(b, func(uint16, []byte) {})
		events := &XFRM{policies: dataplane.NewPolicyTable(), events: dataplane.NewEventQueue(2)}
		r := &notices{handle: func(typ nl.XfrmMsgType, body []byte) {
			events.event(typ, body)
			decodeChange(typ, body)
		}}
		r.datagram(b)
		for _, typ := range []nl.XfrmMsgType{nl.XFRM_MSG_NEWSA, nl.XFRM_MSG_DELSA, nl.XFRM_MSG_EXPIRE} {
			decodeChange(typ, b)
		}
	})
}

// TestPolicyRoundTrip: what is encoded is decoded to the same.
func TestPolicyRoundTrip(t *testing.T) {
	for n := range 4 {
		p := dataplane.Policy{PolicyKey: testPolicy(n), Priority: 99, Flags: dataplane.PolicyCPUAcquire}
		got, _, ok := decodePolicy(encodePolicy(uint16(nl.XFRM_MSG_NEWPOLICY), &p).fixed())
		if !ok || got.PolicyKey != p.PolicyKey || got.Priority != 99 || got.Flags != p.Flags {
			t.Errorf("%+v became %+v", p, got)
		}
	}
}

// TestKernelErrors: number, plain words and the kernel's own text.
func TestKernelErrors(t *testing.T) {
	body := make([]byte, 4+unix.NLMSG_HDRLEN)
	native.PutUint32(body, uint32(0xffffffff&-int64(unix.EPERM)))
	m := &message{b: body}
	copy(m.attr(1, 6), "words\x00")
	err := result(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, m.b)
	if want := "not permitted: needs CAP_NET_ADMIN in this network namespace (kernel: words)"; err == nil || err.Error() != want || !errors.Is(err, unix.EPERM) {
		t.Errorf("%v, expected %q", err, want)
	}
	sa := dataplane.SA{AEAD: dataplane.Algorithm{Name: "x"}, SAKey: dataplane.SAKey{Proto: dataplane.ESP}}
	if got := explainInstall(&kernelError{errno: unix.EEXIST}, &sa); !errors.Is(got, dataplane.ErrExists) {
		t.Errorf("EEXIST became %v", got)
	}
	if err := result(unix.NLMSG_ERROR, 0, make([]byte, 4)); err != nil {
		t.Errorf("an acknowledgement became %v", err)
	}
}

// TestSkipAhead: the number moves by the margin in both forms of the state,
// carries into the upper half with ESN, and refuses to wrap without.
func TestSkipAhead(t *testing.T) {
	if seqMargin < 1<<16 {
		t.Errorf("margin %d: expected more than the kernel sends between reading and removal", seqMargin)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		esn    bool
		window uint32
	}{{false, 0}, {false, 64}, {true, 0}, {true, 64}} {
		for i := range 50 {
			seq := rnd.Uint64() >> (rnd.Uint64N(32) + 32)
			if c.esn {
				seq = rnd.Uint64() >> (rnd.Uint64N(60) + 1)
				if i%2 == 0 {
					seq |= 1<<32 - 1 // carries
				}
			}
			x := &XFRM{features: dataplane.Features{SADir: c.window == 0}}
			key, _ := testSA(0)
			dir := dataplane.Out
			sa := dataplane.SA{SAKey: key, Src: key.Dst, Dir: dir, ESN: c.esn, Seq: dataplane.Replay{Out: seq}}
			raw := rawSA{b: x.encodeSA(uint16(nl.XFRM_MSG_NEWSA), &sa).fixed()}
			m := x.again(&raw, nl.XFRM_MSG_NEWSA, change{}, &ownSA{dir: dir})
			err := m.skipAhead(c.esn)
			if wraps := !c.esn && seq+seqMargin >= 1<<32; wraps != (err != nil) {
				t.Fatalf("esn %v, %#x: %v, expected an error: %v", c.esn, seq, err, wraps)
			}
			if got := (&rawSA{b: m.fixed()}).replay().Out; err == nil && got != seq+seqMargin {
				t.Fatalf("esn %v, %#x became %#x, expected %#x", c.esn, seq, got, seq+seqMargin)
			}
		}
	}
}
