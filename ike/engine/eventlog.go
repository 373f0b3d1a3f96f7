package engine

import (
	"context"

	"github.com/rs/zerolog"

	"espalier/internal/event"
)

// logRing is how many events may wait for the log.
const logRing = 8192

// LogEvents writes every event of the subscription to the log, at the event's
// own level and with its fields, but for the quiet ones, until ctx ends; what is in the ring
// then is written still. How many were lost to a slow log is logged, too. It
// closes the subscription.
func LogEvents(ctx context.Context, sub *event.Subscription, log zerolog.Logger, quiet func(event.Event) bool) {
	defer sub.Close()
	var lost uint64
	drain := func() {
		for {
			r, ok := sub.Next()
			if !ok {
				break
			}
			if quiet != nil && quiet(r.Event) {
				continue
			}
			log.WithLevel(r.Event.Level()).EmbedObject(r.Event).Msg(r.Event.Message())
		}
		if n := sub.Dropped(); n > lost {
			log.Warn().Uint64("events", n-lost).Msg("events lost: the log is too slow")
			lost = n
		}
	}
	for {
		select {
		case <-sub.Wait():
			drain()
		case <-ctx.Done():
			drain()
			return
		}
	}
}
