package main

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"espalier/dataplane/flow"
	"espalier/ike/vici"
)

func newParser(grammar *cli, stdout, stderr io.Writer) (*kong.Kong, error) {
	return kong.New(grammar,
		kong.Name("espctl"),
		kong.Description("Shows and steers a running espalierd. Unique beginnings of objects and commands do: espctl sa s."),
		kong.Vars{"socket": vici.DefaultSocket, "state": flow.DefaultState},
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true, WrapUpperBound: 100}),
	)
}

// expand turns bpftool's grammar into what the parser takes: unique beginnings
// of objects and commands into their names, the word help into --help, a
// missing object into help, and a missing command into show where there is one.
func expand(node *kong.Node, args []string) ([]string, error) {
	var out []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--" || len(commandsOf(node)) == 0:
			return append(out, args[i:]...), nil
		case isFlag(arg):
			out = append(out, arg)
			if takesValue(node, arg) && i+1 < len(args) {
				i++
				out = append(out, args[i])
			}
		case arg == "help":
			return append(out, "--help"), nil
		default:
			next, err := find(node, arg)
			if err != nil {
				return nil, err
			}
			node = next
			out = append(out, node.Name)
		}
	}
	if len(commandsOf(node)) == 0 {
		return out, nil
	}
	if slices.ContainsFunc(commandsOf(node), func(n *kong.Node) bool { return n.Name == "show" }) {
		return append(out, "show"), nil
	}
	return append(out, "--help"), nil
}

func isFlag(arg string) bool { return len(arg) > 1 && arg[0] == '-' }

func commandsOf(node *kong.Node) []*kong.Node {
	var out []*kong.Node
	for _, n := range node.Children {
		if n.Type == kong.CommandNode && !n.Hidden {
			out = append(out, n)
		}
	}
	return out
}

// takesValue reports whether the argument after the flag belongs to it. Flags
// may stand before and after the object.
func takesValue(node *kong.Node, arg string) bool {
	for ; node != nil; node = node.Parent {
		for _, f := range node.Flags {
			if arg == "--"+f.Name || f.Short != 0 && arg == "-"+string(f.Short) {
				return f.Target.Kind() != reflect.Bool
			}
		}
	}
	return false
}

// find returns the command of that name or the only one that begins so; those
// tagged whole need their whole name.
func find(node *kong.Node, word string) (*kong.Node, error) {
	var found []*kong.Node
	for _, n := range commandsOf(node) {
		all := append([]string{n.Name}, n.Aliases...)
		if slices.Contains(all, word) {
			return n, nil
		}
		if !n.Tag.Has("whole") && slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, word) }) {
			found = append(found, n)
		}
	}
	what := "object"
	if node.Parent != nil {
		what = "command of " + node.Name
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("%s %q: expected %s", what, word, namesOf(commandsOf(node)))
	}
	return nil, fmt.Errorf("%s %q may be %s: say more of it", what, word, namesOf(found))
}

// namesOf lists names the way a sentence does.
func namesOf(nodes []*kong.Node) string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	if last := len(names) - 1; last > 0 {
		return strings.Join(names[:last], ", ") + " or " + names[last]
	}
	return strings.Join(names, "")
}
