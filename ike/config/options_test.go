package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/ike/auth"
	"espalier/ike/config/configtest"
	"espalier/ike/sa"
)

// specOf is the description of an option's section, and its name with the prefixes
// that sections of its kind have.
func specOf(t *testing.T, o *configtest.Option) (spec *sectionSpec, path string) {
	t.Helper()
	spec = schema()
	for _, name := range o.Section {
		if spec = spec.sub(name); spec == nil {
			t.Fatalf("%s: expected a section of the schema", o)
		}
		path += "." + spec.name
	}
	return spec, path[1:]
}

// fromFile loads a configuration with keys and certificates beside it.
func fromFile(conf string) (*Config, error) {
	p := makePKI()
	return load(box(conf).with(map[string]memFile{"pubkey/gw.pub": {data: p.gwPub}, "pubkey/peer.pub": {data: p.peerPub}}), confPath)
}

// sameConfig compares what configurations make the daemon do.
func sameConfig(a, b *Config) bool {
	return reflect.DeepEqual(a.Connections, b.Connections) && reflect.DeepEqual(a.Pools, b.Pools) && reflect.DeepEqual(a.Authorities, b.Authorities) &&
		len(a.creds.shared) == len(b.creds.shared) && (len(a.creds.shared) == 0 || a.creds.shared[0].same(&b.creds.shared[0]))
}

// Every option of swanctl.conf is taken at its default, and at another value either
// honoured, so that the configuration differs, or refused by its name and with the
// reason.
func TestEveryOptionOfFiles(t *testing.T) {
	listed := map[string]bool{}
	for _, o := range configtest.Options(t) {
		spec, path := specOf(t, &o)
		k := spec.key(o.Key)
		if k == nil {
			t.Errorf("%s: expected a key of the schema", &o)
			continue
		}
		listed[path+"."+k.name] = true
		plain, err := fromFile(o.Conf(o.With))
		if err != nil && o.Verdict == configtest.Honoured && o.With != "" {
			t.Errorf("%s: without it: %v", &o, err)
		}
		if k.def != "" {
			cfg, err := fromFile(o.Conf(o.With, o.Setting(k.def)))
			judgeDefault(t, &o, k, err, err == nil && sameConfig(cfg, plain))
		}
		cfg, err := fromFile(o.Conf(o.With, o.Setting(o.Value)))
		judge(t, &o, err, err == nil && plain != nil && sameConfig(cfg, plain))
	}
	var all func(*sectionSpec, string)
	all = func(s *sectionSpec, path string) {
		for _, k := range s.keys {
			if name := path + "." + k.name; !listed[name] && k.name != "path_mtu" { // our own
				t.Errorf("options.txt: expected a line for %s", name)
			}
		}
		for _, sub := range s.subs {
			if isPassphrase := sub.key("file") != nil && path == "secrets"; !isPassphrase { // they open files, see TestPassphrases
				all(sub, path+"."+sub.name)
			}
		}
	}
	for _, s := range schema().subs {
		if s.name != "espalier" {
			all(s, s.name)
		}
	}
}

// judge tells whether what became of an option is what the table says; same: it
// made no difference.
func judge(t *testing.T, o *configtest.Option, err error, same bool) {
	t.Helper()
	switch {
	case o.Verdict == configtest.Alone && (err != nil || !same):
		t.Errorf("%s = %s: expected it to make no difference, got one or %v", o, o.Value, err)
	case o.Verdict == configtest.Honoured && (err != nil || same):
		t.Errorf("%s = %s: expected it to be honoured, got no difference or %v", o, o.Value, err)
	}
	if o.Verdict != configtest.Refused {
		return
	}
	if err == nil {
		t.Errorf("%s = %s: expected it to be refused, it was taken", o, o.Value)
	} else if said := err.Error(); !strings.Contains(said, o.Key) && o.Section[0] != "secrets" || !strings.Contains(said, "since") {
		t.Errorf("%s = %s: expected it to be refused by name, with the reason, got %v", o, o.Value, err)
	}
}

// judgeDefault is judge for an option at its default, unless it follows from others
// or the base has another value.
func judgeDefault(t *testing.T, o *configtest.Option, k *keySpec, err error, same bool) {
	t.Helper()
	if err != nil || !same && k.derived == "" && o.Key != "remote_addrs" {
		t.Errorf("%s at its default %s: expected no difference, got one or %v", o, k.def, err)
	}
}

// The same for what clients load.
func TestEveryOptionLoaded(t *testing.T) {
	settings := defaultSettings(t)
	p := makePKI()
	for _, o := range configtest.Options(t) {
		container := o.Section[0]
		load := func(setting string) (*Loaded, error) {
			root, err := Parse(container, o.Conf(o.With, setting))
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(root.Items, func(it Item) bool { return it.(*Section).Name == container })
			in := root.Items[i].(*Section).Items
			tree := Tree{Section: in[len(in)-1].(*Section), Content: map[string][]byte{}}
			placeContent(tree.Section, tree.Content, &p)
			var none *Loaded
			switch container {
			case "connections":
				return none.WithConnection(tree, settings)
			case "pools":
				return none.WithPool(tree)
			}
			return none.WithAuthority(tree)
		}
		if container == "secrets" {
			continue // load-shared: ike/vici's tests
		}
		spec, _ := specOf(t, &o)
		k := spec.key(o.Key)
		plain, _ := load("")
		if k.def != "" {
			l, err := load(o.Setting(k.def))
			judgeDefault(t, &o, k, err, err == nil && sameLoaded(l, plain))
		}
		l, err := load(o.Setting(o.Value))
		judge(t, &o, err, err == nil && plain != nil && sameLoaded(l, plain))
	}
}

func sameLoaded(a, b *Loaded) bool {
	return reflect.DeepEqual(a.conns, b.conns) && reflect.DeepEqual(a.pools, b.pools) && reflect.DeepEqual(a.authorities, b.authorities)
}

// placeContent puts in the place of files what is in them, as clients do.
func placeContent(sec *Section, content map[string][]byte, p *testPKI) {
	files := map[string]string{"gw.pem": p.gw, "peer.pem": p.peer, "ca.pem": p.ca, "gw.pub": p.gwPub, "peer.pub": p.peerPub}
	for _, it := range sec.Items {
		switch it := it.(type) {
		case *Section:
			placeContent(it, content, p)
		case *Setting:
			name := it.Value[strings.LastIndexByte(it.Value, '/')+1:]
			if files[name] != "" {
				it.Value = "/vici/" + name
				content[it.Value] = []byte(files[name])
			}
		}
	}
}

// What is not configured follows from what is, in charon's numbers.
func TestDerivedLimits(t *testing.T) {
	child := func(settings string) *sa.ChildConfig { return mustLoad(t, net(settings)).Connections[0].Children[0] }
	for _, c := range []struct {
		settings                   string
		rekey, life                time.Duration
		rekeyB, lifeB, rekeyP, max uint64
	}{
		{"rekey_time = 1000s", 1000 * time.Second, 1100 * time.Second, 0, 0, 0, 0},
		{"life_time = 1000s", 909 * time.Second, 1000 * time.Second, 0, 0, 0, 0},
		{"life_time = 0", 0, 0, 0, 0, 0, 0},
		{"life_bytes = 1000000\nlife_packets = 1000", time.Hour, 66 * time.Minute, 909090, 1000000, 909, 1000},
	} {
		ch := child(c.settings)
		if ch.RekeyTime != c.rekey || ch.LifeTime != c.life || ch.RekeyBytes != c.rekeyB || ch.LifeBytes != c.lifeB || ch.RekeyPackets != c.rekeyP || ch.LifePackets != c.max {
			t.Errorf("%s: got %+v", c.settings, ch)
		}
	}
	if conn := mustLoad(t, gw("over_time = 8h")).Connections[0]; conn.RandTime != 2*time.Hour {
		t.Errorf("over_time = 8h: expected a rand_time of half of rekey_time, got %s", conn.RandTime)
	}
	if conn := mustLoad(t, "connections { gw {\nlocal { auth = PSK\n } } }\n").Connections[0]; len(conn.Remote) != 1 || conn.Remote[0].Method != auth.MethodAny || conn.Local[0].Method != auth.MethodPSK {
		t.Errorf("no section remote: got %+v", conn.Remote)
	}
}
