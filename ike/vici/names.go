package vici

import (
	"fmt"
	"strings"

	"espalier/dataplane/selector"
)

// strongSwan spells transforms its own way, and scripts match the spelling.

// tsText is a traffic selector as strongSwan prints it: ranges that are no
// prefix have two dots.
func tsText(ts selector.TS) string {
	s := ts.String()
	if _, isPrefix := ts.Prefix(); isPrefix {
		return s
	}
	return strings.Replace(s, fmt.Sprintf("%s-%s", ts.Start, ts.End), fmt.Sprintf("%s..%s", ts.Start, ts.End), 1)
}

func tsTexts(list []selector.TS) []string {
	out := make([]string, len(list))
	for i, ts := range list {
		out[i] = tsText(ts)
	}
	return out
}
