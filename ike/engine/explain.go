package engine

import (
	"strings"

	"espalier/internal/event"
)

// explain is a failure in a sentence, for those who asked for the session and
// wait; the log has the same as fields.
func explain(f event.Failed) string {
	var b strings.Builder
	if f.ChildName != "" {
		b.WriteString("child " + f.ChildName + ": ")
	}
	b.WriteString(string(f.Cause))
	if f.ByPeer {
		b.WriteString(" from the peer")
	}
	between := ": "
	for _, fact := range f.Facts {
		b.WriteString(between + fact.Name + " " + fact.Value)
		between = "; "
	}
	if f.Fix != "" {
		b.WriteString(" (" + f.Fix + ")")
	}
	return b.String()
}
