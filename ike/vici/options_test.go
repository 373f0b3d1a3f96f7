package vici_test

import (
	"crypto/x509"
	"encoding/pem"
	"reflect"
	"slices"
	"strings"
	"testing"

	"espalier/ike/config"
	"espalier/ike/config/configtest"
	"espalier/ike/vici"
	"espalier/ike/vici/vicitest"
)

// asSwanctl is what swanctl sends of a section of a file: lists where a key has
// several values, and the content of files.
func asSwanctl(sec *config.Section, files map[string]string) (m vici.Message) {
	lists := []string{"local_addrs", "remote_addrs", "proposals", "esp_proposals", "ah_proposals", "local_ts", "remote_ts", "vips", "pools", "groups", "cert_policy",
		"dns", "nbns", "dhcp", "netmask", "server", "subnet", "split_include", "split_exclude", "crl_uris", "ocsp_uris"}
	for _, it := range sec.Items {
		switch it := it.(type) {
		case *config.Section:
			m = append(m, section(it.Name, asSwanctl(it, files)))
		case *config.Setting:
			switch {
			case config.TakesContent(it.Key) && it.Key != "cacert":
				m = append(m, vici.List{Name: it.Key, Items: []string{files[it.Value]}})
			case it.Key == "cacert" || it.Key == "file":
				m.Put("cacert", files[it.Value[strings.LastIndexByte(it.Value, '/')+1:]])
			case slices.Contains(lists, it.Key):
				m = append(m, vici.List{Name: it.Key, Items: strings.Split(it.Value, ", ")})
			default:
				m.Put(it.Key, it.Value)
			}
		}
	}
	return m
}

// Each option of swanctl.conf, as swanctl sends it, is honoured or refused by its
// name and with the reason.
func TestEveryOption(t *testing.T) {
	cert, _ := endEntity(t, "gw.example.com", false)
	ca, _ := endEntity(t, "ca", true)
	block, _ := pem.Decode(cert)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pub := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: parsed.RawSubjectPublicKeyInfo}))
	files := map[string]string{"gw.pem": string(cert), "peer.pem": string(cert), "ca.pem": string(ca), "gw.pub": pub, "peer.pub": pub}
	for _, o := range configtest.Options(t) {
		if o.Key == "file" && o.Section[0] == "connections" {
			continue // swanctl sends a name, which config's tests know
		}
		without, _ := tryOption(t, &o, "", files)
		with, said := tryOption(t, &o, o.Setting(o.Value), files)
		switch same := reflect.DeepEqual(with, without); {
		case o.Verdict == configtest.Honoured && (said != "yes" || same):
			t.Errorf("%s = %s: expected it to be honoured, got no difference or %q", &o, o.Value, said)
		case o.Verdict == configtest.Alone && said != "yes":
			t.Errorf("%s = %s: expected it to be taken, got %q", &o, o.Value, said)
		case o.Verdict == configtest.Refused && (said == "yes" || !strings.Contains(said, o.Key) && o.Section[0] != "secrets" || !strings.Contains(said, "since")):
			t.Errorf("%s = %s: expected it to be refused by its name and with the reason, got %q", &o, o.Value, said)
		}
	}
}

// tryOption loads what the option stands in into an empty daemon, and tells what is
// loaded then, and "yes" or why not.
func tryOption(t *testing.T, o *configtest.Option, setting string, files map[string]string) (*config.Loaded, string) {
	t.Helper()
	e := vicitest.New()
	path, _ := start(t, e, nil)
	c := dial(t, path)
	root, err := config.Parse("options", o.Conf(o.With, setting))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(root.Items, func(it config.Item) bool { return it.(*config.Section).Name == o.Section[0] })
	in := root.Items[i].(*config.Section).Items
	sec := in[len(in)-1].(*config.Section)
	kind := map[string]string{"connections": "conn", "pools": "pool", "authorities": "authority"}[o.Section[0]]
	command, req := "load-"+kind, vici.Message{section(sec.Name, asSwanctl(sec, files))}
	switch {
	case strings.HasPrefix(sec.Name, "token"):
		command, req = "load-token", asSwanctl(sec, nil)
	case kind == "":
		command, req = "load-shared", sharedRequest(sec)
	}
	_, said := ask(t, c, command, req)
	return e.Loaded(), said
}

// sharedRequest is what swanctl sends of a section of secrets.
func sharedRequest(sec *config.Section) (m vici.Message) {
	typ, _, _ := strings.Cut(sec.Name, "-")
	m.Put("id", sec.Name)
	m.Put("type", strings.ToUpper(typ))
	var owners []string
	data := ""
	for _, it := range sec.Items {
		if s := it.(*config.Setting); s.Key == "secret" {
			data = s.Value
		} else {
			owners = append(owners, s.Value)
		}
	}
	m.Put("data", data)
	return append(m, vici.List{Name: "owners", Items: owners})
}
