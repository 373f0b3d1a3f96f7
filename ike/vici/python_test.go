package vici_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"espalier/ike/vici/vicitest"
)

// A client of another making loads a connection, lists it, and is told what is wrong.
func TestPythonClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	e := vicitest.New(vicitest.Gateway())
	path, _ := start(t, e, nil)
	cert, key := endEntity(t, "moon", false)
	ca, _ := endEntity(t, "ca", true)
	type object = map[string]any
	end := object{"auth": "pubkey", "certs": []string{string(cert)}, "id": "moon"}
	peer := object{"auth": "pubkey", "cacerts": []string{string(ca)}, "id": "*.example.org"}
	conn := object{"version": "2", "remote_addrs": []string{"192.0.2.1", "192.0.2.2"}, "local": end, "remote": peer,
		"children": object{"net": object{"remote_ts": []string{"10.2.0.0/16"}, "mode": "transport"}}}
	var in bytes.Buffer
	for _, request := range []object{
		{"command": "version"},
		{"command": "load-key", "message": object{"type": "any", "data": string(key)}},
		{"command": "load-shared", "message": object{"id": "1", "type": "ike", "data": "\u0000\u00ff", "owners": []string{"sun"}}},
		{"command": "load-conn", "message": object{"py": conn}},
		{"command": "get-conns"},
		{"command": "list-conns", "event": "list-conn"},
		{"command": "list-sas", "event": "list-sa", "message": object{"ike": "gw"}},
		{"command": "load-conn", "message": object{"py": object{"aggressive": "yes"}}},
		{"command": "dance"},
		{"command": "version", "event": "dance"},
		{"command": "unload-conn", "message": object{"name": "py"}},
	} {
		line, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(line, '\n'))
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/client.py", path)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i, want := range []string{
		`"daemon": "espalierd"`, `"success": "yes", "id": "`, `"success": "yes"`, `"success": "yes"`, `{"conns": ["py"]}`,
		`"local-1": {"id": "moon", "class": "public key", "groups": [], "cert_policy": [], "certs": ["CN=moon"]`, `"net-3": {"name": "net", "uniqueid": "3"`,
		`"errmsg": "connections.py.aggressive: expected aggressive = no, since that belongs to IKEv1`, `{"unknown": "command"}`, `{"unknown": "event"}`, `"success": "yes"`,
	} {
		if i >= len(lines) || !strings.Contains(lines[i], want) {
			t.Errorf("answer %d: expected %s in\n%s", i, want, lines[min(i, len(lines)-1)])
		}
	}
	if len(e.Connections()) != 0 || strings.Join(e.Loaded().SharedIDs(), " ") != "1" {
		t.Error("what is loaded in the end is not what was asked for")
	}
}
