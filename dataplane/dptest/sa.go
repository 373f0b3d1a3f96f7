package dptest

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"espalier/dataplane"
)

func request(minSPI, maxSPI uint32) dataplane.SPIRequest {
	return dataplane.SPIRequest{
		Src: there4, Dst: here4, Proto: dataplane.ESP, Mode: dataplane.Tunnel, ReqID: 7,
		Min: minSPI, Max: maxSPI,
	}
}

func mustReserve(t *testing.T, dp dataplane.DataPlane, minSPI, maxSPI uint32) uint32 {
	t.Helper()
	spi, err := dp.ReserveSPI(request(minSPI, maxSPI))
	if err != nil {
		t.Fatalf("ReserveSPI: %v", err)
	}
	if spi < minSPI || spi > maxSPI {
		t.Fatalf("ReserveSPI: 0x%x, expected within 0x%x-0x%x", spi, minSPI, maxSPI)
	}
	return spi
}

func reserveAndTakeOver(t *testing.T, dp dataplane.DataPlane) {
	spi := mustReserve(t, dp, 0x01000000, 0x010fffff)
	sa := inSA(spi)
	got := findSA(t, dp, sa.SAKey)
	if got == nil || !got.Reserved || got.Src != there4 {
		t.Fatalf("after ReserveSPI the list has %+v, expected a reservation from %s", got, there4)
	}
	if _, err := dp.QuerySA(sa.SAKey); !errors.Is(err, dataplane.ErrNotFound) {
		t.Errorf("QuerySA of a reservation: %v, expected ErrNotFound", err)
	}
	mustApply(t, dp, dataplane.InstallSA{SA: sa})
	wantCounts(t, dp, 1, 0)
	if got := findSA(t, dp, sa.SAKey); got == nil || got.Reserved {
		t.Fatalf("after InstallSA the list has %+v, expected an SA", got)
	}
}

func reserveExhausted(t *testing.T, dp dataplane.DataPlane) {
	seen := map[uint32]bool{}
	for range 4 {
		spi := mustReserve(t, dp, 0xc0000000, 0xc0000003)
		if seen[spi] {
			t.Fatalf("SPI 0x%x reserved twice", spi)
		}
		seen[spi] = true
	}
	if _, err := dp.ReserveSPI(request(0xc0000000, 0xc0000003)); !errors.Is(err, dataplane.ErrNoSPI) {
		t.Fatalf("fifth of four SPIs: %v, expected ErrNoSPI", err)
	}
	key := inSA(0xc0000002).SAKey
	mustApply(t, dp, dataplane.DeleteSA{Key: key})
	if spi := mustReserve(t, dp, 0xc0000000, 0xc0000003); spi != key.SPI {
		t.Errorf("got 0x%x, expected the freed 0x%x", spi, key.SPI)
	}
}

func reserveRefused(t *testing.T, dp dataplane.DataPlane) {
	for name, change := range map[string]func(*dataplane.SPIRequest){
		"reserved SPI": func(r *dataplane.SPIRequest) { r.Min = 255 },
		"min > max":    func(r *dataplane.SPIRequest) { r.Min = r.Max + 1 },
		"no address":   func(r *dataplane.SPIRequest) { r.Dst = netip.Addr{} },
		"two families": func(r *dataplane.SPIRequest) { r.Src = there6 },
	} {
		r := request(0x1000, 0x1fff)
		change(&r)
		if spi, err := dp.ReserveSPI(r); err == nil {
			t.Errorf("%s: got 0x%x, expected an error", name, spi)
		}
	}
	wantCounts(t, dp, 0, 0)
}

func installExists(t *testing.T, dp dataplane.DataPlane) {
	sa := inSA(0x1001)
	mustApply(t, dp, dataplane.InstallSA{SA: sa})
	err := dp.Apply([]dataplane.Op{dataplane.DeleteSA{Key: inSA(0x999).SAKey}, dataplane.InstallSA{SA: sa}})
	var op *dataplane.OpError
	if !errors.As(err, &op) || op.Index != 1 || !errors.Is(err, dataplane.ErrExists) {
		t.Fatalf("second install: %v, expected ErrExists of operation 1", err)
	}
	if got, ok := op.Op.(dataplane.InstallSA); !ok || got.SA.SAKey != sa.SAKey {
		t.Errorf("the error names %T, expected the InstallSA", op.Op)
	}
	wantCounts(t, dp, 1, 0)
	// Done again on purpose it stays as it is.
	if err := dp.AdvanceReplay(sa.SAKey, dataplane.Replay{In: 7}); err != nil {
		t.Fatal(err)
	}
	mustApply(t, dp, dataplane.InstallSA{SA: sa, Again: true})
	if st, err := dp.QuerySA(sa.SAKey); err != nil || st.Replay.In != 7 {
		t.Errorf("installed again: %+v, %v, expected the sequence number 7 as before", st.Replay, err)
	}
	// Same SPI and protocol toward another address is another SA.
	far := sa
	far.Dst = other4
	mustApply(t, dp, dataplane.InstallSA{SA: far})
	wantCounts(t, dp, 2, 0)
}

func deleteAbsent(t *testing.T, dp dataplane.DataPlane) {
	p := policy(1, 10)
	mustApply(t, dp,
		dataplane.DeleteSA{Key: inSA(0x1001).SAKey},
		dataplane.DeletePolicy{Key: p.PolicyKey, Owner: 1})
	spi := mustReserve(t, dp, 0x1001, 0x1001)
	mustApply(t, dp, dataplane.DeleteSA{Key: inSA(spi).SAKey})
	wantCounts(t, dp, 0, 0)
}

func listSAs(t *testing.T, dp dataplane.DataPlane) {
	a := inSA(0x1001)
	a.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 4500}
	b := outSA(0x1002)
	b.Dst, b.Src, b.IfID, b.Mode, b.ReqID = there6, here6, 9, dataplane.Transport, 11
	b.Mark = dataplane.Mark{Value: 5, Mask: 0xff}
	b.AEAD = dataplane.Algorithm{}
	b.Crypt = dataplane.Algorithm{Name: "cbc(aes)", Key: make([]byte, 32)}
	b.Auth = dataplane.Algorithm{Name: "hmac(sha256)", Key: make([]byte, 32), ICVBits: 128}
	mustApply(t, dp, dataplane.InstallSA{SA: a}, dataplane.InstallSA{SA: b})
	wantCounts(t, dp, 2, 0)
	got := findSA(t, dp, a.SAKey)
	if got == nil || got.Src != a.Src || got.ReqID != 7 || got.Mode != dataplane.Tunnel || got.Encap == nil ||
		got.Encap.SrcPort != 4500 || got.Encap.DstPort != 4500 || got.Algs != "rfc4106(gcm(aes))" || got.IfID != 0 {
		t.Errorf("listed %+v, expected what was installed", got)
	}
	got = findSA(t, dp, b.SAKey)
	if got == nil || got.Src != b.Src || got.ReqID != 11 || got.Mode != dataplane.Transport || got.Encap != nil ||
		got.Algs != "cbc(aes)/hmac(sha256)" || got.IfID != 9 {
		t.Errorf("listed %+v, expected what was installed", got)
	}
}

func refusedSAs(t *testing.T, dp dataplane.DataPlane) {
	for name, change := range map[string]func(*dataplane.SA){
		"reserved SPI":       func(s *dataplane.SA) { s.SPI = 255 },
		"no source":          func(s *dataplane.SA) { s.Src = netip.Addr{} },
		"two families":       func(s *dataplane.SA) { s.Src = there6 },
		"direction fwd":      func(s *dataplane.SA) { s.Dir = dataplane.Fwd },
		"no algorithm":       func(s *dataplane.SA) { s.AEAD = dataplane.Algorithm{} },
		"AEAD and integrity": func(s *dataplane.SA) { s.Auth = dataplane.Algorithm{Name: "hmac(sha256)"} },
		"cipher alone":       func(s *dataplane.SA) { s.Crypt, s.AEAD = s.AEAD, dataplane.Algorithm{} },
		"AH with AEAD":       func(s *dataplane.SA) { s.Proto = dataplane.AH },
		"soft above hard":    func(s *dataplane.SA) { s.Limits = dataplane.Limits{SoftBytes: 2, HardBytes: 1} },
		"negative lifetime":  func(s *dataplane.SA) { s.Limits = dataplane.Limits{HardTime: -time.Second} },
		"window too large":   func(s *dataplane.SA) { s.ReplayWindow = dataplane.MaxReplayWindow + 1 },
		"ESN, no window":     func(s *dataplane.SA) { s.ESN, s.ReplayWindow = true, 0 },
		"sequence, no ESN":   func(s *dataplane.SA) { s.Seq.Out = 1 << 32 },
		"inbound keepalives": func(s *dataplane.SA) { s.Encap = &dataplane.Encap{SrcPort: 1, DstPort: 2, Keepalive: time.Second} },
		"keepalives every -1 s": func(s *dataplane.SA) {
			s.Dir, s.Encap = dataplane.Out, &dataplane.Encap{SrcPort: 1, DstPort: 2, Keepalive: -time.Second}
		},
		"encapsulated AH": func(s *dataplane.SA) {
			s.Proto, s.AEAD, s.Encap = dataplane.AH, dataplane.Algorithm{}, &dataplane.Encap{SrcPort: 1, DstPort: 2}
			s.Auth = dataplane.Algorithm{Name: "hmac(sha256)", Key: make([]byte, 32), ICVBits: 128}
		},
	} {
		sa := inSA(0x1001)
		change(&sa)
		if err := dp.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}); err == nil {
			t.Errorf("%s: installed, expected an error", name)
		}
	}
	wantCounts(t, dp, 0, 0)
}

func query(t *testing.T, dp dataplane.DataPlane) {
	sa := outSA(0x1001)
	if _, err := dp.QuerySA(sa.SAKey); !errors.Is(err, dataplane.ErrNotFound) {
		t.Fatalf("QuerySA before installing: %v, expected ErrNotFound", err)
	}
	sa.Seq.Out = 41
	mustApply(t, dp, dataplane.InstallSA{SA: sa})
	st, err := dp.QuerySA(sa.SAKey)
	if err != nil {
		t.Fatalf("QuerySA: %v", err)
	}
	if st.Bytes != 0 || st.Packets != 0 || !st.LastUsed.IsZero() || st.Installed.IsZero() || st.Replay.Out != 41 {
		t.Errorf("status %+v, expected an unused SA whose sequence starts at 41", st)
	}
	mustApply(t, dp, dataplane.DeleteSA{Key: sa.SAKey})
	if _, err := dp.QuerySA(sa.SAKey); !errors.Is(err, dataplane.ErrNotFound) {
		t.Errorf("QuerySA after deleting: %v, expected ErrNotFound", err)
	}
}

func advance(t *testing.T, dp dataplane.DataPlane) {
	plain, esn := outSA(0x1001), inSA(0x1002)
	esn.ESN, esn.ReplayWindow = true, 128
	mustApply(t, dp, dataplane.InstallSA{SA: plain}, dataplane.InstallSA{SA: esn})
	for _, c := range []struct {
		key      dataplane.SAKey
		to, want dataplane.Replay
	}{
		{plain.SAKey, dataplane.Replay{Out: 1000}, dataplane.Replay{Out: 1000}},
		{plain.SAKey, dataplane.Replay{Out: 10}, dataplane.Replay{Out: 1000}},
		{esn.SAKey, dataplane.Replay{In: 5<<32 | 7}, dataplane.Replay{In: 5<<32 | 7}},
		{esn.SAKey, dataplane.Replay{In: 4<<32 | 9}, dataplane.Replay{In: 5<<32 | 7}},
	} {
		if err := dp.AdvanceReplay(c.key, c.to); err != nil {
			t.Fatalf("AdvanceReplay(%s, %+v): %v", c.key, c.to, err)
		}
		st, err := dp.QuerySA(c.key)
		if err != nil {
			t.Fatal(err)
		}
		if st.Replay.Out != c.want.Out || st.Replay.In != c.want.In {
			t.Errorf("after AdvanceReplay(%s, %+v): out %d in %d, expected %d, %d", c.key, c.to, st.Replay.Out, st.Replay.In, c.want.Out, c.want.In)
		}
	}
	if err := dp.AdvanceReplay(plain.SAKey, dataplane.Replay{Out: 1 << 32}); err == nil {
		t.Error("a sequence number of 2^32 without ESN was accepted")
	}
	if err := dp.AdvanceReplay(outSA(0x999).SAKey, dataplane.Replay{Out: 1}); !errors.Is(err, dataplane.ErrNotFound) {
		t.Errorf("AdvanceReplay of nothing: %v, expected ErrNotFound", err)
	}
}

func update(t *testing.T, dp dataplane.DataPlane) {
	sa := inSA(0x1001)
	sa.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 4500}
	mustApply(t, dp, dataplane.InstallSA{SA: sa})
	// Neither keys nor algorithms are needed: the daemon may have forgotten them.
	up := dataplane.SA{SAKey: sa.SAKey, Src: sa.Src, Dir: sa.Dir, Mode: sa.Mode, ReqID: sa.ReqID,
		Encap: &dataplane.Encap{SrcPort: 61000, DstPort: 4500}, Flags: dataplane.NoECN,
		Limits: dataplane.Limits{HardBytes: 1 << 30}}
	mustApply(t, dp, dataplane.UpdateSA{SA: up})
	wantCounts(t, dp, 1, 0)
	got := findSA(t, dp, sa.SAKey)
	if got == nil || got.Encap == nil || got.Encap.SrcPort != 61000 || got.Algs != "rfc4106(gcm(aes))" {
		t.Errorf("after UpdateSA: %+v, expected source port 61000 and the same algorithm", got)
	}
	up.SPI = 0x1002
	if err := dp.Apply([]dataplane.Op{dataplane.UpdateSA{SA: up}}); !errors.Is(err, dataplane.ErrNotFound) {
		t.Errorf("UpdateSA of nothing: %v, expected ErrNotFound", err)
	}
	up.SPI = mustReserve(t, dp, 0x1003, 0x1003)
	if err := dp.Apply([]dataplane.Op{dataplane.UpdateSA{SA: up}}); !errors.Is(err, dataplane.ErrNotFound) {
		t.Errorf("UpdateSA of a reservation: %v, expected ErrNotFound", err)
	}
}

func move(t *testing.T, dp dataplane.DataPlane) {
	sa := outSA(0x1001)
	mustApply(t, dp, dataplane.InstallSA{SA: sa})
	if err := dp.AdvanceReplay(sa.SAKey, dataplane.Replay{Out: 500}); err != nil {
		t.Fatal(err)
	}
	mustApply(t, dp, dataplane.MoveSA{Key: sa.SAKey, Dir: dataplane.Out, NewSrc: here4, NewDst: other4,
		Encap: &dataplane.Encap{SrcPort: 4500, DstPort: 61000}})
	wantCounts(t, dp, 1, 0)
	moved := sa.SAKey
	moved.Dst = other4
	got := findSA(t, dp, moved)
	if got == nil || got.Src != here4 || got.Encap == nil || got.Encap.DstPort != 61000 {
		t.Fatalf("after MoveSA: %+v, expected the new address and port", got)
	}
	mustApply(t, dp, dataplane.MoveSA{Key: sa.SAKey, Dir: dataplane.Out, NewSrc: here4, NewDst: other4,
		Encap: &dataplane.Encap{SrcPort: 4500, DstPort: 61000}}) // once more, as after a crash
	wantCounts(t, dp, 1, 0)
	st, err := dp.QuerySA(moved)
	if err != nil || st.Replay.Out < 500 {
		t.Errorf("after MoveSA: sequence %d, %v, expected at least 500: numbers must not repeat", st.Replay.Out, err)
	}
	if err := dp.Apply([]dataplane.Op{dataplane.MoveSA{Key: sa.SAKey, NewSrc: here4, NewDst: there4}}); !errors.Is(err, dataplane.ErrNotFound) {
		t.Errorf("MoveSA of nothing: %v, expected ErrNotFound", err)
	}
	mustApply(t, dp, dataplane.InstallSA{SA: sa})
	if err := dp.Apply([]dataplane.Op{dataplane.MoveSA{Key: moved, NewSrc: here4, NewDst: there4}}); !errors.Is(err, dataplane.ErrExists) {
		t.Errorf("MoveSA onto another: %v, expected ErrExists", err)
	}
	wantCounts(t, dp, 2, 0)
}

func unknownOp(t *testing.T, dp dataplane.DataPlane) {
	sa := inSA(0x1001)
	err := dp.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}, &dataplane.DeleteSA{Key: sa.SAKey}})
	if !errors.Is(err, dataplane.ErrUnknownOp) {
		t.Errorf("a pointer as operation: %v, expected ErrUnknownOp", err)
	}
	wantCounts(t, dp, 0, 0)
}

func closed(t *testing.T, dp dataplane.DataPlane) {
	if err := dp.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if _, open := <-dp.Events(); open {
		t.Error("Events still open after Close")
	}
	if _, err := dp.ReserveSPI(request(0x1000, 0x1fff)); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("ReserveSPI after Close: %v, expected ErrClosed", err)
	}
	if err := dp.Apply([]dataplane.Op{dataplane.InstallSA{SA: inSA(0x1001)}}); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("Apply after Close: %v, expected ErrClosed", err)
	}
	if _, err := dp.QuerySA(inSA(0x1001).SAKey); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("QuerySA after Close: %v, expected ErrClosed", err)
	}
	if _, err := dp.List(); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("List after Close: %v, expected ErrClosed", err)
	}
	if err := dp.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
