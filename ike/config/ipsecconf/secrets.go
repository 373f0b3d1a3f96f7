package ipsecconf

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"espalier/ike/config"
)

// secrets converts ipsec.secrets.
func (c *converter) secrets(path string) error {
	r := &secretReader{converter: c}
	return r.file(path, nil)
}

// secretReader reads ipsec.secrets and what it includes.
type secretReader struct {
	*converter
	budget
	count int
}

func (r *secretReader) file(path string, stack []string) error {
	text, err := r.read(r.in.Files, path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	stack = append(slices.Clone(stack), path)
	var entry line
	for _, l := range splitLines(text) {
		if l.indented && entry.text != "" {
			entry.text += "\n" + l.text // an entry goes on in indented lines
			continue
		}
		r.entry(path, entry, stack)
		entry = l
	}
	r.entry(path, entry, stack)
	return nil
}

// entry takes "[identities] : KIND secret". Notes never hold what stands after
// the kind, and nothing of a line that cannot be read.
func (r *secretReader) entry(path string, l line, stack []string) {
	if l.text == "" {
		return
	}
	words := fields(l.text)
	if words[0].text == "include" && len(words) == 2 {
		r.include(path, l.number, words[1].text, stack)
		return
	}
	if r.settings++; r.settings > maxSettings {
		r.notes.lost(path, l.number, "a secret", fmt.Sprintf("expected at most %d secrets", maxSettings))
		return
	}
	colon := slices.IndexFunc(words, func(w word) bool { return w.text == ":" && !w.quoted })
	if colon < 0 || colon+1 >= len(words) {
		r.notes.lost(path, l.number, "a line", "expected identities, a colon and a kind of secret")
		return
	}
	ids, kind, args := words[:colon], strings.ToUpper(words[colon+1].text), words[colon+2:]
	lost := func(kind, why string) { r.notes.lost(path, l.number, "a secret of kind "+kind, why) }
	switch kind {
	case "PSK", "EAP", "NTLM", "PPK", "XAUTH":
		if len(args) != 1 {
			lost(kind, "expected one secret")
			return
		}
		if kind == "XAUTH" {
			lost(kind, "that is IKEv1, and Espalier speaks IKEv2 only")
			return
		}
		section := map[string]string{"PSK": "ike", "EAP": "eap", "NTLM": "ntlm", "PPK": "ppk"}[kind]
		if why := r.shared(section, ids, args[0]); why != "" {
			lost(kind, why)
		}
	case "RSA", "ECDSA", "PKCS8", "P12", "BLISS":
		if why := r.keyFile(kind, args); why != "" {
			lost(kind, why)
		}
	case "PIN":
		lost(kind, "a key on a token is not supported yet")
	default:
		r.notes.lost(path, l.number, "a line", "expected a kind of secret such as PSK or RSA after the colon")
	}
}

func (r *secretReader) include(path string, number int, pattern string, stack []string) {
	paths, why := included(r.in.Files, path, pattern, stack)
	for _, inc := range paths {
		if err := r.file(inc, stack); err != nil && why == "" {
			why = err.Error()
		}
	}
	if why != "" {
		r.notes.lost(path, number, "include "+pattern, why)
	}
}

// maxIDs bounds the identities of one secret.
const maxIDs = 1000

// shared writes a secret that belongs to identities.
func (r *secretReader) shared(kind string, ids []word, value word) string {
	name := r.secretName(kind)
	at := []string{"secrets", name}
	if why := r.schema.Refusal(at, "", ""); why != "" {
		return why
	}
	if len(ids) > maxIDs {
		return fmt.Sprintf("expected at most %d identities", maxIDs)
	}
	sec := &config.Section{Name: name}
	if why := r.put(sec, at, "secret", secretText(value)); why != "" {
		return why
	}
	for i, id := range ids {
		text := id.text
		if rest, ok := strings.CutPrefix(text, "@["); ok && strings.HasSuffix(rest, "]") {
			text = "keyid:" + strings.TrimSuffix(rest, "]")
		}
		if why := r.put(sec, at, fmt.Sprintf("id-%d", i+1), text); why != "" {
			return why
		}
	}
	r.keep(sec)
	return ""
}

// keyFile writes what opens a key's file.
func (r *secretReader) keyFile(kind string, args []word) string {
	if len(args) == 0 || args[0].text == "{" || strings.HasPrefix(args[0].text, "0") && kind == "RSA" && len(args[0].text) > 64 {
		return "a key must be a file of its own, in private"
	}
	file := args[0].text
	folder := "private"
	if kind == "P12" {
		folder = "pkcs12"
	}
	r.needs(printable(fmt.Sprintf("the key file %s to %s beside espalier.conf (mode 600).", file, folder)))
	if len(args) == 1 {
		return ""
	}
	if args[1].text == "%prompt" {
		return "expected the passphrase of " + filepath.Base(file) + ": nobody is there to be asked"
	}
	name := r.secretName(folder)
	at := []string{"secrets", name}
	if why := r.schema.Refusal(at, "", ""); why != "" {
		return why
	}
	sec := &config.Section{Name: name}
	if why := r.put(sec, at, "file", filepath.Base(file)); why != "" {
		return why
	}
	if why := r.put(sec, at, "secret", secretText(args[1])); why != "" {
		return why
	}
	r.keep(sec)
	return ""
}

func (r *secretReader) secretName(kind string) string {
	r.count++
	return fmt.Sprintf("%s-%d", kind, r.count)
}

func (r *secretReader) keep(sec *config.Section) {
	secrets := r.top("secrets")
	secrets.Items = append(secrets.Items, sec)
}

// secretText writes a secret so that it is read as it was: only bare words have
// the forms 0x and 0s.
func secretText(w word) string {
	if !w.quoted {
		switch rest, hexed := strings.CutPrefix(w.text, "0x"); {
		case hexed:
			if b, err := hex.DecodeString(strings.ReplaceAll(rest, "_", "")); err == nil {
				return "0x" + hex.EncodeToString(b)
			}
			return w.text
		case strings.HasPrefix(w.text, "0s"):
			return w.text
		}
	}
	plain := !strings.HasPrefix(w.text, "0x") && !strings.HasPrefix(w.text, "0s") &&
		!strings.ContainsFunc(w.text, func(r rune) bool { return !unicode.IsPrint(r) })
	if plain {
		return w.text
	}
	return "0s" + base64.StdEncoding.EncodeToString([]byte(w.text))
}

// word is a word of ipsec.secrets.
type word struct {
	text   string
	quoted bool
}

// fields cuts a line into words, quotes taken off. A colon is a word of its own
// where it follows a space, as in "a : PSK", or ends an identity before a space.
func fields(s string) []word {
	var out []word
	for {
		s = strings.TrimLeft(s, " \t\n")
		if s == "" {
			return out
		}
		if q := s[0]; q == '"' || q == '\'' {
			end := strings.IndexByte(s[1:], q)
			if end < 0 {
				return append(out, word{s[1:], true})
			}
			out = append(out, word{s[1 : 1+end], true})
			s = s[2+end:]
			continue
		}
		end := strings.IndexAny(s, " \t\n")
		if end < 0 {
			end = len(s)
		}
		text := s[:end]
		s = s[end:]
		switch {
		case text == ":":
			out = append(out, word{text: ":"})
		case strings.HasPrefix(text, ":") && !strings.HasPrefix(text, "::") && len(text) > 1:
			out = append(out, word{text: ":"}, word{text: text[1:]})
		case strings.HasSuffix(text, ":") && !strings.HasSuffix(text, "::"):
			out = append(out, word{text: strings.TrimSuffix(text, ":")}, word{text: ":"})
		default:
			out = append(out, word{text: text})
		}
	}
}
