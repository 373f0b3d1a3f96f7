package sa_test

import (
	"fmt"
	"testing"
	"time"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// where is an exchange of moon's that sun answers with a notify, or a message
// that sun begins.
type where string

const (
	inInit      where = "IKE_SA_INIT response"
	inAuth      where = "IKE_AUTH response" // in place of all
	inAuthChild where = "IKE_AUTH response, child"
	inCreate    where = "CREATE_CHILD_SA response, new child"
	inRekey     where = "CREATE_CHILD_SA response, child rekeyed"
	inRekeyIKE  where = "CREATE_CHILD_SA response, IKE SA rekeyed"
	inAnswer    where = "INFORMATIONAL response"
	inRequest   where = "INFORMATIONAL request"
	inClear     where = "unprotected, in an established SA"
	inAgreed    where = "beside an acceptable child"
)

// outcome is what moon has a minute after.
type outcome struct {
	session  bool // one is established
	same     bool // it is the one from before
	children int
	cause    event.Cause // of the last Failed; empty: none
	by       bool        // ByPeer
	retrying bool        // a Retrying was published
}

var (
	unharmed = outcome{session: true, same: true, children: 1}
	ended    = outcome{}
)

func (o outcome) with(cause event.Cause) outcome {
	o.cause, o.by = cause, true
	return o
}

func (o outcome) having(n int) outcome { o.children = n; return o }

func (o outcome) retried() outcome { o.retrying = true; return o }

// fresh is another session than before.
func (o outcome) fresh() outcome { o.same = false; return o }

// TestNotifies: every notify of RFC 7296 3.10.1 in the exchanges it may come in.
func TestNotifies(t *testing.T) {
	for _, c := range []struct {
		n    wire.NotifyType
		in   where
		data []byte
		want outcome
	}{
		{wire.NotifyUnsupportedCriticalPayload, inInit, []byte{200}, ended.with(event.PeerError)},
		{wire.NotifyUnsupportedCriticalPayload, inAuth, []byte{200}, ended.with(event.PeerError)},
		{wire.NotifyUnsupportedCriticalPayload, inCreate, []byte{200}, unharmed.with(event.PeerError)},
		{wire.NotifyUnsupportedCriticalPayload, inAnswer, []byte{200}, unharmed},
		{wire.NotifyInvalidIKESPI, inClear, nil, unharmed},
		{wire.NotifyInvalidMajorVersion, inInit, []byte{2}, ended.with(event.PeerError)},
		{wire.NotifyInvalidMajorVersion, inClear, []byte{2}, unharmed},
		{wire.NotifyInvalidSyntax, inInit, nil, ended.with(event.PeerError)},
		{wire.NotifyInvalidSyntax, inAuth, nil, ended.with(event.PeerError)},
		{wire.NotifyInvalidSyntax, inCreate, nil, ended.with(event.InvalidSyntax)},
		{wire.NotifyInvalidSyntax, inRekey, nil, ended.with(event.InvalidSyntax)},
		{wire.NotifyInvalidSyntax, inRekeyIKE, nil, ended.with(event.InvalidSyntax)},
		{wire.NotifyInvalidSyntax, inAnswer, nil, ended.with(event.InvalidSyntax)},
		{wire.NotifyInvalidSyntax, inClear, nil, unharmed},
		{wire.NotifyInvalidMessageID, inRequest, []byte{0, 0, 0, 9}, unharmed.with(event.PeerError)},
		{wire.NotifyInvalidMessageID, inClear, nil, unharmed},
		{wire.NotifyInvalidSPI, inRequest, []byte{1, 2, 3, 4}, unharmed.with(event.PeerError)},
		{wire.NotifyInvalidSPI, inClear, []byte{1, 2, 3, 4}, unharmed},
		{wire.NotifyNoProposalChosen, inInit, nil, ended.with(event.NoProposalChosen)},
		{wire.NotifyNoProposalChosen, inAuthChild, nil, unharmed.having(0).with(event.NoProposalChosen)},
		{wire.NotifyNoProposalChosen, inCreate, nil, unharmed.with(event.NoProposalChosen)},
		{wire.NotifyNoProposalChosen, inRekey, nil, unharmed.with(event.NoProposalChosen)},
		{wire.NotifyNoProposalChosen, inRekeyIKE, nil, unharmed.with(event.NoProposalChosen)},
		{wire.NotifyInvalidKEPayload, inInit, []byte{0, 14}, ended.with(event.InvalidKEPayload)}, // modp2048, which we don't offer
		{wire.NotifyInvalidKEPayload, inCreate, []byte{0, 14}, unharmed.with(event.InvalidKEPayload)},
		{wire.NotifyInvalidKEPayload, inRekey, []byte{0, 14}, unharmed.with(event.InvalidKEPayload)},
		{wire.NotifyAuthenticationFailed, inAuth, nil, ended.with(event.AuthenticationFailed)},
		{wire.NotifyAuthenticationFailed, inRequest, nil, ended.with(event.AuthenticationFailed)},
		{wire.NotifyAuthenticationFailed, inAnswer, nil, ended.with(event.AuthenticationFailed)},
		{wire.NotifyAuthenticationFailed, inClear, nil, unharmed},
		{wire.NotifySinglePairRequired, inAuthChild, nil, unharmed.retried()},
		{wire.NotifySinglePairRequired, inCreate, nil, unharmed.having(2).retried()},
		{wire.NotifyNoAdditionalSAs, inAuthChild, nil, unharmed.having(0).with(event.PeerError)},
		{wire.NotifyNoAdditionalSAs, inCreate, nil, unharmed.with(event.PeerError)},
		{wire.NotifyNoAdditionalSAs, inRekey, nil, unharmed.fresh().retried()},
		{wire.NotifyNoAdditionalSAs, inRekeyIKE, nil, unharmed.fresh().retried()},
		{wire.NotifyInternalAddressFailure, inAuthChild, nil, unharmed.having(0).with(event.PeerError)},
		{wire.NotifyFailedCPRequired, inAuthChild, nil, unharmed.having(0).with(event.PeerError)},
		{wire.NotifyTSUnacceptable, inAuthChild, nil, unharmed.having(0).with(event.TSUnacceptable)},
		{wire.NotifyTSUnacceptable, inCreate, nil, unharmed.with(event.TSUnacceptable)},
		{wire.NotifyInvalidSelectors, inRequest, make([]byte, 40), unharmed.with(event.PeerError)},
		{wire.NotifyInvalidSelectors, inClear, make([]byte, 40), unharmed},
		{wire.NotifyTemporaryFailure, inAuthChild, nil, unharmed},
		{wire.NotifyTemporaryFailure, inCreate, nil, unharmed.having(2)},
		{wire.NotifyTemporaryFailure, inRekey, nil, unharmed},
		{wire.NotifyTemporaryFailure, inRekeyIKE, nil, unharmed},
		{wire.NotifyChildSANotFound, inRekey, nil, unharmed},
		{wire.NotifyType(8191), inInit, nil, ended.with(event.PeerError)}, // an error that nobody knows
		{wire.NotifyType(8191), inAuth, nil, ended.with(event.PeerError)},
		{wire.NotifyType(8191), inAuthChild, nil, unharmed.having(0).with(event.PeerError)},
		{wire.NotifyType(8191), inCreate, nil, unharmed.with(event.PeerError)},
		{wire.NotifyType(8191), inRequest, nil, unharmed.with(event.PeerError)},
		// What informs, and asks for nothing here.
		{wire.NotifyInitialContact, inRequest, nil, unharmed},
		{wire.NotifySetWindowSize, inAgreed, []byte{0, 0, 0, 8}, unharmed},
		{wire.NotifySetWindowSize, inRequest, []byte{0, 0, 0, 8}, unharmed},
		{wire.NotifyAdditionalTSPossible, inAgreed, nil, unharmed},
		{wire.NotifyESPTFCPaddingNotSupported, inAgreed, nil, unharmed},
		{wire.NotifyNonFirstFragmentsAlso, inAgreed, nil, unharmed},
		{wire.NotifyHTTPCertLookupSupported, inAgreed, nil, unharmed},
		{wire.NotifyType(40960), inAgreed, []byte("private use"), unharmed},
		{wire.NotifyType(40960), inRequest, nil, unharmed},
	} {
		for _, roundTrip := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, %s, %v", c.n, c.in, roundTrip), func(t *testing.T) {
				x := &notified{t: t, w: satest.New(51)}
				x.w.RoundTrip = roundTrip
				x.moon, x.sun = satest.Pair(x.w, secondChild, pfs)
				x.run(c.in, notify(c.n, c.data...))
				x.check(c.want)
			})
		}
	}
}

type notified struct {
	t         *testing.T
	w         *satest.World
	moon, sun *satest.Node
	f         forger
	from      int // of moon's events, those after
}

// run has the notify come as where says, and a minute pass.
func (x *notified) run(in where, n wire.Payload) {
	early := in == inInit || in == inAuth || in == inAuthChild || in == inAgreed
	if !early {
		x.moon.Initiate("sun", "", sunAddr)
		x.w.Settle(100)
		assertUp(x.t, x.moon, x.sun)
	}
	x.from = len(x.moon.Events)
	var done *bool
	switch in {
	case inInit:
		done = x.f.answerOnce(x.w, x.sun, wire.ExchangeIKESAInit, only(n))
	case inAuth:
		done = x.f.answerOnce(x.w, x.sun, wire.ExchangeIKEAuth, only(n))
	case inAuthChild:
		done = x.f.answerOnce(x.w, x.sun, wire.ExchangeIKEAuth, func(ps []wire.Payload) []wire.Payload {
			return append(refuseChild(1)(ps)[:len(refuseChild(1)(ps))-1], n)
		})
	case inAgreed:
		done = x.f.answerOnce(x.w, x.sun, wire.ExchangeIKEAuth, func(ps []wire.Payload) []wire.Payload { return append(ps, n) })
	case inCreate, inRekey, inRekeyIKE:
		done = x.f.answerOnce(x.w, x.sun, wire.ExchangeCreateChildSA, only(n))
	case inAnswer:
		done = x.f.answerOnce(x.w, x.sun, wire.ExchangeInformational, only(n))
	}
	switch in {
	case inInit, inAuth, inAuthChild, inAgreed:
		x.moon.Initiate("sun", "", sunAddr)
	case inCreate:
		x.moon.Do(0, sa.NewChild{Child: "two"})
	case inRekey:
		x.moon.Do(0, sa.Rekey{ChildID: x.moon.Live()[0].Info().Children[0].UniqueID})
	case inRekeyIKE:
		x.moon.Do(0, sa.Rekey{})
	case inAnswer:
		x.moon.Env.Conns.All()[0].DPDDelay = time.Second // the next check is answered so
		x.w.Advance(1500 * time.Millisecond)
		x.moon.Env.Conns.All()[0].DPDDelay = 0
	case inRequest:
		x.say(n)
	case inClear:
		x.clear(n)
	}
	if early { // before a delete of sun's own can come in between
		x.w.Settle(100)
		x.w.Mangle = nil
	}
	x.w.Advance(time.Minute)
	if done != nil && !*done {
		x.t.Fatal("sun never answered")
	}
}

// say is a protected INFORMATIONAL request of sun's, which moon answers.
func (x *notified) say(n wire.Payload) {
	k := &x.sun.Live()[0].State().IKE
	data := x.f.say(k, wire.ExchangeInformational, k.NextOut, false, n)
	k.NextOut++
	answered := false
	x.w.Mangle = func(p satest.Packet) []satest.Packet {
		h := satest.Must(wire.ParseHeader(p.Data))
		if p.From.Addr() == x.moon.Addr && h.IsResponse() {
			answered = true
			x.f.rewrite(x.moon, p.Data, func(ps []wire.Payload) []wire.Payload {
				if len(ps) != 0 {
					x.t.Errorf("answered with %d payloads", len(ps))
				}
				return ps
			})
		}
		return []satest.Packet{p}
	}
	x.w.Inject(satest.Packet{From: k.Local, To: k.Remote, Data: data})
	x.w.Settle(20)
	if !answered {
		x.t.Error("not answered")
	}
}

// clear is the notify without protection, as request and as response, also while
// a request of ours is under way.
func (x *notified) clear(n wire.Payload) {
	k := x.sun.Live()[0].State().IKE
	for _, waiting := range []bool{false, true} {
		if waiting {
			x.moon.Env.Conns.All()[0].DPDDelay = time.Second
			x.w.Mangle = func(p satest.Packet) []satest.Packet {
				if p.From.Addr() == x.moon.Addr {
					return nil
				}
				return []satest.Packet{p}
			}
			x.w.Advance(1500 * time.Millisecond)
			x.moon.Env.Conns.All()[0].DPDDelay = 0
		}
		m := x.moon.Live()[0]
		for _, flags := range []wire.Flags{0, wire.FlagResponse, wire.FlagInitiator, wire.FlagInitiator | wire.FlagResponse} {
			for id := range uint32(4) {
				before := string(m.Encode(nil))
				count := len(x.moon.Events)
				h := wire.Header{SPIi: k.SPIi, SPIr: k.SPIr, Exchange: wire.ExchangeInformational, MessageID: id, Flags: flags}
				x.moon.Do(0, sa.Received{Local: k.Remote, Remote: k.Local, Data: wire.AppendMessage(nil, h, []wire.Payload{n})})
				m = x.moon.Live()[0]
				if string(m.Encode(nil)) != before {
					x.t.Errorf("flags %x, id %d: the state changed", flags, id)
				}
				if len(x.moon.Events) != count+1 {
					x.t.Errorf("flags %x, id %d: not counted", flags, id)
				}
			}
		}
		x.w.Mangle = nil
	}
}

func (x *notified) check(want outcome) {
	x.t.Helper()
	got := outcome{}
	live := x.moon.Live()
	if len(live) > 1 {
		x.t.Fatalf("%d sessions\n%s", len(live), dump(x.moon))
	}
	if len(live) == 1 && live[0].IsEstablished() {
		got.session, got.same, got.children = true, live[0].ID() == 1, len(live[0].Info().Children)
	}
	for _, e := range x.moon.Events[x.from:] {
		switch e := e.(type) {
		case event.Failed:
			got.cause, got.by = e.Cause, e.ByPeer
		case event.Retrying:
			got.retrying = true
		}
	}
	if got != want {
		x.t.Errorf("got %+v, expected %+v\n%s", got, want, dump(x.moon))
	}
	if !want.session {
		assertNothing(x.t, x.moon)
		return
	}
	// Nothing is left over, and the session goes on.
	if s, r, _ := x.moon.DP.Counts(); s != 2*want.children || r != 0 {
		x.t.Errorf("%d SAs, %d reserved", s, r)
	}
	// What moon has, sun has; it may have more, for it does not know how it answered.
	for _, c := range live[0].Info().Children {
		found := false
		for _, m := range x.sun.Live() {
			for _, o := range m.Info().Children {
				found = found || o.SPIIn == c.SPIOut && o.SPIOut == c.SPIIn
			}
		}
		if !found {
			x.t.Errorf("sun does not have %+v", c)
		}
	}
}
