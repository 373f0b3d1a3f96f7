package event

import (
	"testing"
	"time"
)

func TestSlowReaderLosesOldestAndCounts(t *testing.T) {
	var b Bus
	b.Publish(time.Time{}, IKEDown{Reason: "nobody listens"})
	slow, fast := b.Subscribe(2), b.Subscribe(10)
	for _, r := range []string{"a", "b", "c"} {
		b.Publish(time.Unix(1, 0), IKEDown{Reason: r})
	}
	read := func(s *Subscription) (out string) {
		for {
			r, ok := s.Next()
			if !ok {
				return out
			}
			out += r.Event.(IKEDown).Reason
		}
	}
	<-slow.Wait()
	if got := read(slow); got != "bc" || slow.Dropped() != 1 {
		t.Errorf("slow reader: got %q, dropped %d; want the newest two and 1", got, slow.Dropped())
	}
	if got := read(fast); got != "abc" || fast.Dropped() != 0 {
		t.Errorf("fast reader: got %q, dropped %d", got, fast.Dropped())
	}
	slow.Close()
	b.Publish(time.Time{}, IKEDown{Reason: "d"})
	if got := read(slow) + read(fast); got != "d" {
		t.Errorf("after Close: got %q, want only the open subscription to read d", got)
	}
}
