package main

import (
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"espalier/ike/config"
	"espalier/internal/event"
)

// TestLevels shows what is logged with strongSwan's levels: by group, unless the
// command line says otherwise.
func TestLevels(t *testing.T) {
	cfg := &config.Config{StrongSwan: config.StrongSwan{Levels: map[string]int{"default": 0, "knl": 3, "chd": -1, "net": 2}}}
	l := levelsOf(flags{}, cfg)
	for group, want := range map[string]zerolog.Level{"knl": zerolog.TraceLevel, "chd": zerolog.ErrorLevel, "net": zerolog.DebugLevel, "cfg": zerolog.WarnLevel} {
		if got := l.of(group); got != want {
			t.Errorf("%s: got %s, want %s", group, got, want)
		}
	}
	for _, c := range []struct {
		e     event.Event
		quiet bool
	}{{event.ChildUp{}, true}, {event.IKEUp{}, true}, {event.Failed{}, false}, {event.Discarded{}, false}, {event.ScriptFailed{}, true}} {
		if got := l.quiet(c.e); got != c.quiet {
			t.Errorf("%T: quiet %v, want %v", c.e, got, c.quiet)
		}
	}
	var b strings.Builder
	base := zerolog.New(&b).Level(zerolog.InfoLevel)
	knl, cfgs := l.log(base, "knl"), l.log(base, "cfg")
	knl.Trace().Msg("a")
	cfgs.Info().Msg("b")
	both := l.log(base, "cfg", "net")
	both.Debug().Msg("c")
	if got := strings.Count(b.String(), "\n"); got != 2 || strings.Contains(b.String(), `"b"`) {
		t.Errorf("got %s", b.String())
	}
	for _, none := range []levels{levelsOf(flags{LogLevel: "info"}, cfg), levelsOf(flags{}, &config.Config{})} {
		b.Reset()
		plain := none.log(base, "knl")
		plain.Debug().Msg("d")
		if none.quiet(event.ChildUp{}) || b.Len() != 0 {
			t.Errorf("levels %v change the log: %s", none, b.String())
		}
	}
}
