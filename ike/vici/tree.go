package vici

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"espalier/ike/config"
)

// treeOf makes a section of a configuration out of one of a message, as the parser
// of files does: what follows, the table of options included, is the same for both.
// Places are dotted names, from the container (connections, say) on.
func treeOf(container string, s Section) (config.Tree, error) {
	t := treeMaker{content: map[string][]byte{}}
	sec, err := t.section(s, container)
	return config.Tree{Section: sec, Content: t.content}, err
}

type treeMaker struct {
	content map[string][]byte
}

func (t *treeMaker) section(s Section, path string) (*config.Section, error) {
	if s.Name == "" {
		return nil, fmt.Errorf("%s: expected a name for the section, found an empty one", path)
	}
	path += "." + s.Name
	out := &config.Section{Name: s.Name, Pos: config.Pos{File: path}}
	for _, e := range s.Body {
		var item config.Item
		var err error
		switch e := e.(type) {
		case Section:
			item, err = t.section(e, path)
		case List:
			item, err = t.setting(e.Name, e.Items, path)
		case KeyValue:
			item, err = t.setting(e.Name, []string{e.Value}, path)
		}
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

// setting joins a list as files write it. Where files have names of further files,
// clients send what is in these; it gets a name.
func (t *treeMaker) setting(key string, values []string, path string) (*config.Setting, error) {
	path += "." + key
	text := make([]string, 0, len(values))
	for _, v := range values {
		switch {
		case v == "":
			continue
		case config.TakesContent(key):
			name := fmt.Sprintf("/vici/%d", len(t.content)+1)
			t.content[name] = []byte(v)
			v = name
		case !utf8.ValidString(v) || strings.ContainsRune(v, 0):
			return nil, fmt.Errorf("%s: expected UTF-8 text, found other octets", path)
		}
		text = append(text, v)
	}
	at := config.Pos{File: path}
	return &config.Setting{Key: key, Value: strings.Join(text, ", "), Pos: at, ValuePos: at}, nil
}

// mostMistakes is how many a reply tells.
const mostMistakes = 10

// mistakes is an error in one line.
func mistakes(err error) string {
	var list config.Errors
	if !errors.As(err, &list) {
		return err.Error()
	}
	var text []string
	for _, e := range list[:min(len(list), mostMistakes)] {
		text = append(text, e.Error())
	}
	if more := len(list) - mostMistakes; more > 0 {
		text = append(text, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(text, "; ")
}
