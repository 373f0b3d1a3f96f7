package vici

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"espalier/dataplane/selector"
)

// strongSwan spells transforms its own way, and scripts match the spelling.

// Names are those of protocols and services on this box: traffic selectors are
// listed by them, as strongSwan has it from the C library. What has no name is
// its number.
type Names struct {
	protocols map[uint8]string
	services  map[service]string
}

type service struct {
	proto string
	port  uint16
}

// ReadNames reads protocols(5) and services(5). A file that is not there has no
// names; of several for one number the first counts.
func ReadNames(protocols, services string) *Names {
	n := &Names{map[uint8]string{}, map[service]string{}}
	eachName(protocols, func(name, number string) {
		if v, err := strconv.ParseUint(number, 10, 8); err == nil && n.protocols[uint8(v)] == "" {
			n.protocols[uint8(v)] = name
		}
	})
	eachName(services, func(name, number string) {
		port, proto, _ := strings.Cut(number, "/")
		if v, err := strconv.ParseUint(port, 10, 16); err == nil && n.services[service{proto, uint16(v)}] == "" {
			n.services[service{proto, uint16(v)}] = name
		}
	})
	return n
}

// eachName calls f with the first two words of every line, comments aside.
func eachName(path string, f func(name, number string)) {
	b, err := os.ReadFile(path)
	if err != nil {
		return // as the C library does: a box need not have them
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if words := strings.Fields(text); len(words) > 1 {
			f(words[0], words[1])
		}
	}
}

// spelled puts the box's names, or numbers, into the text of a selector. Nil
// leaves it as it is.
func (n *Names) spelled(text string, ts selector.TS) string {
	addrs, limits, ok := strings.Cut(text, "[")
	if n == nil || !ok {
		return text
	}
	proto := n.protocols[ts.Proto]
	if ts.Proto == 0 || proto == "" {
		proto = strconv.Itoa(int(ts.Proto))
	}
	_, port, hasPort := strings.Cut(strings.TrimSuffix(limits, "]"), "/")
	switch {
	case !hasPort:
		return addrs + "[" + proto + "]"
	case ts.Opaque():
		port = "OPAQUE"
	case ts.StartPort == ts.EndPort:
		if name := n.services[service{proto, ts.StartPort}]; name != "" {
			port = name
		}
	}
	return addrs + "[" + proto + "/" + port + "]"
}

// tsText is a traffic selector as strongSwan prints it: ranges that are no
// prefix have two dots.
func (n *Names) tsText(ts selector.TS) string {
	s := ts.String()
	if _, isPrefix := ts.Prefix(); !isPrefix {
		s = strings.Replace(s, fmt.Sprintf("%s-%s", ts.Start, ts.End), fmt.Sprintf("%s..%s", ts.Start, ts.End), 1)
	}
	return n.spelled(s, ts)
}

func (n *Names) tsTexts(list []selector.TS) []string {
	out := make([]string, len(list))
	for i, ts := range list {
		out[i] = n.tsText(ts)
	}
	return out
}
