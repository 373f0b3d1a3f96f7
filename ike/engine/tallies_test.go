package engine

import (
	"testing"
	"testing/synctest"
)

// Both sides count the same messages, each from its own end, by connection and in all.
func TestTallies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moon, sun := pair(t, newFabric(), inline)
		ctx := t.Context()
		if err := moon.Initiate(ctx, "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		info := moon.infos()[0]
		for _, target := range []Target{{IKE: info.UniqueID, Child: info.Children[0].UniqueID}, {IKE: info.UniqueID}} {
			if err := moon.Rekey(ctx, target); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		// Set-up; two rekeyings; a DELETE after each of them.
		ours := Tally{IKERekeysOurs: 1, ChildRekeys: 1, Messages: [4]MessageTally{
			{OutRequests: 1, InResponses: 1}, {OutRequests: 1, InResponses: 1}, {OutRequests: 2, InResponses: 2}, {OutRequests: 2, InResponses: 2}}}
		theirs := Tally{IKERekeysPeer: 1, ChildRekeys: 1, Messages: [4]MessageTally{
			{InRequests: 1, OutResponses: 1}, {InRequests: 1, OutResponses: 1}, {InRequests: 2, OutResponses: 2}, {InRequests: 2, OutResponses: 2}}}
		for _, tc := range []struct {
			b    *box
			conn string
			want Tally
		}{{moon, "sun", ours}, {moon, "", ours}, {sun, "moon", theirs}, {sun, "", theirs}} {
			if got, ok := tc.b.Tally(tc.conn); !ok || got != tc.want {
				t.Errorf("connection %q: %+v\nwant %+v", tc.conn, got, tc.want)
			}
		}
		moon.ResetTally("sun")
		if _, ok := moon.Tally("sun"); ok || len(moon.Tallied()) != 0 {
			t.Error("a connection still counts after a reset")
		}
		if all, _ := moon.Tally(""); all != ours {
			t.Error("the reset of a connection has changed the sums")
		}
		moon.stop()
		sun.stop()
	})
}
