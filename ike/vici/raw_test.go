package vici

import "strings"

// raw prints a message as swanctl --raw does, which is what scripts match.
func raw(m Message) string {
	parts := make([]string, len(m))
	for i, e := range m {
		switch e := e.(type) {
		case KeyValue:
			parts[i] = e.Name + "=" + e.Value
		case List:
			parts[i] = e.Name + "=[" + strings.Join(e.Items, " ") + "]"
		case Section:
			parts[i] = e.Name + " {" + raw(e.Body) + "}"
		}
	}
	return strings.Join(parts, " ")
}
