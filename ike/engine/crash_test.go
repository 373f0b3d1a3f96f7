package engine

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ike/sa"
	"espalier/ike/wire"
	"espalier/internal/secret"
)

func crashSecret(b byte) secret.Bytes { return bytes.Repeat([]byte{b}, 32) }

// powerFails ends a box as its peers see it whose power fails: without a word.
func (b *box) powerFails(f *fabric) {
	f.setPass(func(from, to netip.AddrPort, _ []byte) bool { return false })
	b.end()
	f.setPass(nil)
}

// TestRestartWithoutState: the peer of a gateway that has lost its sessions sets the
// tunnel up again after its first message; without the secret of the former run it
// would need a run of retransmissions. A wrong token is counted.
func TestRestartWithoutState(t *testing.T) {
	for _, c := range []struct {
		name     string
		secret   byte // of the new run
		crashes  uint64
		wrong    uint64
		atOnce   bool
		detected string
	}{
		{"the secret is kept", 's', 1, 0, true, "PEER_LOST_IKE_SA"},
		{"another secret", 'x', 0, 1, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFabric()
				restart := func(c *sa.Connection) {
					c.Children[0].Start, c.Children[0].DPDAction, c.DPDDelay = true, sa.FollowStart, time.Hour
				}
				sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, func(o *Options) { o.CrashSecret = crashSecret('s') })
				moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(restart)}, func(o *Options) { o.CrashSecret = crashSecret('m') })
				time.Sleep(2 * steadyTime) // what comes and goes would wait
				before := moon.infos()
				if len(before) != 1 || len(before[0].Children) != 1 {
					t.Fatalf("no tunnel: %+v", before)
				}
				sun.powerFails(f)
				again := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, func(o *Options) { o.CrashSecret = crashSecret(c.secret) })
				moon.saw()
				if err := moon.Rekey(t.Context(), Target{IKE: before[0].UniqueID, Child: before[0].Children[0].UniqueID}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				after := moon.infos()
				up := len(again.infos()) == 1 && len(again.infos()[0].Children) == 1
				if up != c.atOnce || c.atOnce && (after[len(after)-1].SPIi == before[0].SPIi) {
					t.Errorf("the tunnel is up again: %v, expected %v", up, c.atOnce)
				}
				if s := moon.Stats(); s.Crashes != c.crashes || s.WrongTokens != c.wrong {
					t.Errorf("%d crashes found, %d wrong tokens, expected %d and %d", s.Crashes, s.WrongTokens, c.crashes, c.wrong)
				}
				if log := moon.saw(); c.detected != "" && (!strings.Contains(log, c.detected) || !strings.Contains(log, "shows the token that it gave us")) {
					t.Errorf("the log does not say it in plain words: %s", log)
				}
				if s := again.Stats(); s.Answers != 1 {
					t.Errorf("%d answers to unknown SPIs, expected one", s.Answers)
				}
			})
		})
	}
}

// TestNoTokenForStrangers: who knows the SPIs of a live IKE SA, and no more, gets no
// token that ends it, whatever flags it sets; and the tokens are shown at a bounded
// rate.
func TestNoTokenForStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, func(o *Options) { o.CrashSecret = crashSecret('s'); fourShards(o) })
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(started)}, func(o *Options) { o.CrashSecret = crashSecret('m') })
		time.Sleep(time.Second)
		live := moon.infos()[0]
		p := newProbe(f, "192.0.2.99")
		shown := 0
		for _, flags := range []wire.Flags{0, wire.FlagInitiator, wire.FlagResponse, wire.FlagResponse | wire.FlagInitiator} {
			for _, swap := range []bool{false, true} {
				h := wire.Header{SPIi: live.SPIi, SPIr: live.SPIr, Exchange: wire.ExchangeInformational, MessageID: 3, Flags: flags}
				if swap {
					h.SPIi, h.SPIr = h.SPIr, h.SPIi
				}
				for _, answer := range p.ask(wire.AppendMessage(nil, h, []wire.Payload{&wire.SK{Body: make([]byte, 64)}})) {
					// The stranger passes on what it has got, as sun's word to moon.
					msg, err := wire.ParseMessage(answer)
					if err != nil {
						t.Fatal(err)
					}
					if _, ok := wire.FindNotify(msg.Payloads, wire.NotifyQuickCrashDetection); ok {
						shown++
					}
					for _, towards := range []wire.Flags{wire.FlagResponse, wire.FlagResponse | wire.FlagInitiator} {
						h := msg.Header
						h.SPIi, h.SPIr, h.Flags = live.SPIi, live.SPIr, towards
						for _, victim := range []string{moonAddr, sunAddr} {
							_ = p.tr.Send(p.from, netip.AddrPortFrom(netip.MustParseAddr(victim), 500), wire.AppendMessage(nil, h, msg.Payloads))
						}
					}
				}
			}
		}
		synctest.Wait()
		if shown == 0 {
			t.Error("no answer had a token: the test tests nothing")
		}
		for _, b := range []*box{moon, sun} {
			if is := b.infos(); len(is) != 1 || is[0].SPIi != live.SPIi || b.Stats().Crashes != 0 {
				t.Errorf("the IKE SA was ended: %+v", is)
			}
		}
		if moon.Stats().WrongTokens == 0 || sun.Stats().WrongTokens == 0 {
			t.Error("no wrong token reached the sessions: the test tests nothing")
		}
	})
}
