package main

import (
	"github.com/rs/zerolog"

	"espalier/ike/config"
	"espalier/internal/event"
)

// levels are what parts of the daemon log at least, by the groups of strongSwan's
// loggers. Empty: as the logger is.
type levels map[string]zerolog.Level

// levelsOf are those of strongswan.conf, unless the command line has a level.
func levelsOf(f flags, cfg *config.Config) levels {
	if f.LogLevel != "" || len(cfg.StrongSwan.Levels) == 0 {
		return nil
	}
	out := levels{}
	for group, level := range cfg.StrongSwan.Levels {
		out[group] = [...]zerolog.Level{zerolog.ErrorLevel, zerolog.WarnLevel, zerolog.InfoLevel, zerolog.DebugLevel, zerolog.TraceLevel, zerolog.TraceLevel}[level+1]
	}
	return out
}

// of is the level of a group.
func (l levels) of(group string) zerolog.Level {
	if level, ok := l[group]; ok {
		return level
	}
	return l["default"]
}

// log is the logger of a part that belongs to the groups; the most talkative counts.
func (l levels) log(log zerolog.Logger, groups ...string) zerolog.Logger {
	if len(l) == 0 {
		return log
	}
	level := zerolog.ErrorLevel
	for _, g := range groups {
		level = min(level, l.of(g))
	}
	return log.Level(level)
}

// engineGroups are the groups of what the engine logs.
var engineGroups = []string{"ike", "chd", "net", "mgr"}

// quiet reports whether an event is below its group's level.
func (l levels) quiet(e event.Event) bool {
	if len(l) == 0 {
		return false
	}
	group := "ike"
	switch e.(type) {
	case event.ChildUp, event.ChildDown, event.FellBack, event.ScriptFailed:
		group = "chd"
	case event.Discarded, event.PathMTU:
		group = "net"
	}
	return e.Level() < l.of(group)
}

// tellStrongSwan says what of a strongswan.conf is used, and what is not.
func tellStrongSwan(cfg *config.Config, log zerolog.Logger) {
	sw := cfg.StrongSwan
	if len(sw.Used) > 0 {
		log.Info().Str("file", sw.Path).Strs("keys", sw.Used).Msg("settings of strongSwan's that are used")
	}
	if len(sw.Unused) > 0 {
		log.Warn().Str("file", sw.Path).Strs("keys", sw.Unused).Msg("settings of strongSwan's that are not used")
	}
}
