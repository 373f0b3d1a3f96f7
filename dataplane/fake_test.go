package dataplane_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/dptest"
)

func TestFakeSuite(t *testing.T) {
	for name, o := range map[string]dataplane.FakeOptions{"Full": {}, "Compact": {Compact: true}} {
		t.Run(name, func(t *testing.T) {
			dptest.Run(t, func(t *testing.T) dataplane.DataPlane {
				f := dataplane.NewFake(o)
				t.Cleanup(func() { f.Close() })
				return f
			})
		})
	}
}

func fakeSA(spi uint32, dir dataplane.Direction) dataplane.SA {
	return dataplane.SA{
		SAKey: dataplane.SAKey{Dst: netip.MustParseAddr("192.0.2.1"), Proto: dataplane.ESP, SPI: spi},
		Src:   netip.MustParseAddr("192.0.2.2"), Dir: dir, Mode: dataplane.Tunnel,
		AEAD: dataplane.Algorithm{Name: "rfc4106(gcm(aes))", Key: make([]byte, 20), ICVBits: 128},
	}
}

func TestFakeKeepsItsOwnCopyOfTheKeys(t *testing.T) {
	f := dataplane.NewFake(dataplane.FakeOptions{})
	sa := fakeSA(0x1000, dataplane.In)
	sa.AEAD.Key[0] = 9
	if err := f.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}); err != nil {
		t.Fatal(err)
	}
	sa.AEAD.Key.Wipe()
	if got, ok := f.SA(sa.SAKey); !ok || got.AEAD.Key[0] != 9 {
		t.Error("the installed key changed when the caller wiped its own")
	}
}

func TestFakeFailNext(t *testing.T) {
	f := dataplane.NewFake(dataplane.FakeOptions{})
	boom := errors.New("boom")
	f.FailNext(func(op dataplane.Op) error {
		if i, ok := op.(dataplane.InstallSA); ok && i.SA.SPI == 0x1001 {
			return boom
		}
		return nil
	})
	ops := []dataplane.Op{dataplane.InstallSA{SA: fakeSA(0x1000, dataplane.In)}, dataplane.InstallSA{SA: fakeSA(0x1001, dataplane.In)}}
	if err := f.Apply(ops); !errors.Is(err, boom) {
		t.Fatalf("Apply: %v, expected boom", err)
	}
	if sas, reserved, pols := f.Counts(); sas+reserved+pols != 0 {
		t.Errorf("%d SAs, %d reserved, %d policies left, expected none", sas, reserved, pols)
	}
	if err := f.Apply(ops); err != nil {
		t.Errorf("second Apply: %v, expected one failure only", err)
	}
	f.FailReserve(boom)
	r := dataplane.SPIRequest{Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("192.0.2.1"), Proto: dataplane.ESP, Min: 256, Max: 1 << 20}
	if _, err := f.ReserveSPI(r); !errors.Is(err, boom) {
		t.Errorf("ReserveSPI: %v, expected boom", err)
	}
	if _, err := f.ReserveSPI(r); err != nil {
		t.Errorf("second ReserveSPI: %v, expected one failure only", err)
	}
}

func TestFakeLimits(t *testing.T) {
	now := time.Unix(1000, 0)
	f := dataplane.NewFake(dataplane.FakeOptions{Now: func() time.Time { return now }})
	byPackets, byTime := fakeSA(0x1000, dataplane.Out), fakeSA(0x1001, dataplane.In)
	byPackets.Limits = dataplane.Limits{SoftPackets: 10, HardPackets: 20}
	byTime.Limits = dataplane.Limits{SoftTime: time.Minute, HardTime: time.Hour}
	plain := fakeSA(0x1002, dataplane.Out)
	for _, sa := range []dataplane.SA{byPackets, byTime, plain} {
		if err := f.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(k dataplane.SAKey, hard bool) {
		t.Helper()
		select {
		case e := <-f.Events():
			if x, ok := e.(dataplane.Expire); !ok || x.Key != k || x.Hard != hard {
				t.Fatalf("event %+v, expected Expire of %s, hard %v", e, k, hard)
			}
		default:
			t.Fatalf("no event, expected Expire of %s, hard %v", k, hard)
		}
	}
	none := func() {
		t.Helper()
		select {
		case e := <-f.Events():
			t.Fatalf("event %+v, expected none", e)
		default:
		}
	}
	count := func(k dataplane.SAKey, n uint64) {
		t.Helper()
		if err := f.Count(k, n, n*100); err != nil {
			t.Fatal(err)
		}
	}
	count(byPackets.SAKey, 9)
	none()
	count(byPackets.SAKey, 1)
	want(byPackets.SAKey, false)
	count(byPackets.SAKey, 9)
	none() // soft comes once
	count(byPackets.SAKey, 1)
	want(byPackets.SAKey, true)
	if _, err := f.QuerySA(byPackets.SAKey); !errors.Is(err, dataplane.ErrNotFound) {
		t.Errorf("after the hard limit: %v, expected ErrNotFound", err)
	}
	now = now.Add(time.Minute)
	f.Tick()
	want(byTime.SAKey, false)
	now = now.Add(time.Hour)
	f.Tick()
	want(byTime.SAKey, true)
	none()
	// Without any limit of its own, an SA with 32-bit sequence numbers still ends.
	count(plain.SAKey, 1<<32-1<<28)
	want(plain.SAKey, false)
	count(plain.SAKey, 1<<28-1<<20)
	want(plain.SAKey, true)
}

func BenchmarkFakeTunnel(b *testing.B) {
	f := dataplane.NewFake(dataplane.FakeOptions{Compact: true})
	ops := make([]dataplane.Op, 0, 5)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		sa := fakeSA(0, dataplane.In)
		spi, err := f.ReserveSPI(dataplane.SPIRequest{Src: sa.Src, Dst: sa.Dst, Proto: dataplane.ESP, Min: 256, Max: 1<<32 - 1})
		if err != nil {
			b.Fatal(err)
		}
		sa.SPI = spi
		ops = append(ops[:0], dataplane.InstallSA{SA: sa})
		if err := f.Apply(ops); err != nil {
			b.Fatal(err)
		}
	}
}
