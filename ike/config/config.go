// Package config reads swanctl.conf's syntax and keys, checks them against one
// schema, and compiles them to connections, credentials and settings. All
// mistakes are collected, each with file, line and column; a configuration with
// a mistake yields nothing, so nothing is ever half applied.
//
// The way of a configuration: files → [Section] as written (parse.go, load.go)
// → sections in force, references followed (resolve.go) → values checked
// against the schema (schema.go, check.go) → compiled values (compile*.go).
package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"espalier/ike/auth"
	"espalier/ike/lease"
	"espalier/ike/sa"
)

// DefaultPath is where the configuration stands unless a flag says otherwise.
const DefaultPath = "/etc/espalier/espalier.conf"

// DefaultRunDir is where journal and control socket stand unless run_dir says
// otherwise.
const DefaultRunDir = "/run/espalier"

// DefaultStateDir is where what outlives a reboot stands unless state_dir says
// otherwise.
const DefaultStateDir = "/var/lib/espalier"

// Where a connection, pool, authority or credential comes from; a reload of
// either touches only its own.
const (
	OriginFile = "file"
	OriginVici = "vici" // loaded by a client of the control socket
)

// Config is a checked and compiled configuration. It is immutable.
type Config struct {
	Path        string           // the main file
	Missing     bool             // it is not there, see Options.MayMiss
	Files       []string         // every configuration file read, the main file first
	Connections []*sa.Connection // in the order of the files
	Pools       []*lease.Pool    // in the order of the files
	Credentials *auth.Credentials
	Authorities []Authority // in the order of the files
	Settings    Settings
	StrongSwan  StrongSwan
	// Warnings are oddities that do not keep the configuration from working as
	// written, such as a private key without certificate.
	Warnings Errors

	creds credentialSet
	store *credentialStore // what creds was made of

	// Of a configuration that Join made, the two that it joins.
	file   *Config
	loaded *Loaded
}

// Settings are those of section espalier.
type Settings struct {
	SA              sa.Settings
	Listen          []netip.Addr // own addresses; empty: all
	Interfaces      []string     // network interfaces; empty: all
	CookieThreshold int          // half-open IKE SAs from which on cookies are asked for
	HalfOpenLimit   int          // half-open IKE SAs at most
	// The same for the peers of one prefix, and the prefixes' lengths.
	HalfOpenPerPrefix, HalfOpenPrefix4, HalfOpenPrefix6 int

	Firewall     bool          // the packet filter lets tunnels through
	UpdownLimit  time.Duration // for a run of an updown script
	RunDir       string        // folder of journal and control socket
	SwanctlOn    bool          // listen where swanctl looks, too
	SocketGroup  string        // who may use the control sockets beside the owner; empty: nobody
	StateDir     string        // folder of what outlives a reboot
	BlockLeaks   bool          // leak = block
	BypassLAN    bool
	VirtualIP    bool   // put received virtual addresses on the box
	VirtualIPOn  string // interface for them; empty: the one towards the peer
	RoutingTable uint32 // for routes into tunnels
	RoutingPrio  uint32 // of the rule that looks it up
	PathMTU      bool   // of connections that don't say
	FastPath     FastPath
	Tuner        Tuner
}

// FastPath are the settings of the BPF programs.
type FastPath struct {
	On              bool
	Outside, Inside []string // network interfaces; empty: found
	Guard           string   // off, log, on
	Steering        string   // off, hash, pinned, auto
	MSS             bool
	MaxSPIs         int
	// IKE_SA_INIT requests of one prefix: a second (0: any number), at once, and the
	// prefixes' lengths.
	InitRate, InitBurst, InitPrefix4, InitPrefix6 int
}

// Tuner are the settings of the tuner: its mode (off, advise, on) and what it may do
// in a round; 0: none.
type Tuner struct {
	Mode                     string
	Moves, Splits, Settings  int
	Queues, Offloads, Rekeys int
}

// Connection finds a connection by name, nil when there is none.
func (c *Config) Connection(name string) *sa.Connection {
	for _, conn := range c.Connections {
		if conn.Name == name {
			return conn
		}
	}
	return nil
}

// Load reads the configuration at path, what it includes, and the credentials
// in the folders beside it (x509, x509ca, private, rsa, ecdsa, pkcs8).
// Errors: Errors, every mistake found.
func Load(path string) (*Config, error) { return LoadWith(path, Options{}) }

// LoadWith is Load with options.
func LoadWith(path string, o Options) (*Config, error) { return loadWith(osFS{}, path, o) }

// load is Load with a choice of files.
func load(fsys fileSystem, path string) (*Config, error) { return loadWith(fsys, path, Options{}) }

func loadWith(fsys fileSystem, path string, o Options) (*Config, error) {
	rep := newReport()
	l := newLoader(fsys, rep)
	root := &Section{Pos: Pos{File: path}}
	missing := o.MayMiss && isMissing(fsys, path)
	if !missing {
		l.file(path, root, nil, Pos{File: path})
	}
	written := len(rep.errs)
	top, templates := resolve(root, rep)
	newChecker(rep, l.modes).top(top, templates)
	if written > 0 {
		// What is missing may stand in the part that could not be read.
		return nil, rep.err()
	}
	warn := newReport()
	sw := readStrongSwan(fsys, o, top, rep, warn)
	c := &compiler{fs: fsys, rep: rep, warn: warn, path: path, dir: filepath.Dir(path), creds: newCredentialStore(), origin: OriginFile}
	c.creds.fetched = o.CRLs
	cfg := c.config(top)
	if err := rep.err(); err != nil {
		return nil, err
	}
	cfg.Path, cfg.StrongSwan, cfg.Missing = path, sw, missing
	if missing {
		c.warn.add(Pos{File: path}, "a configuration file", cause(fs.ErrNotExist), "until there is one, clients of the control socket such as swanctl load all there is")
	}
	cfg.Files = make([]string, len(rep.files))
	for f, i := range rep.files {
		cfg.Files[i-1] = f
	}
	cfg.Warnings = c.warn.list()
	return cfg, nil
}

// isMissing reports that there is no file, whatever else may be wrong with one.
func isMissing(fsys fileSystem, path string) bool {
	_, _, err := fsys.read(path, maxBytes)
	return errors.Is(err, fs.ErrNotExist)
}

// compiler turns checked sections into values. It goes on after mistakes; its
// results count only when there were none.
type compiler struct {
	fs    fileSystem
	rep   *report
	warn  *report
	path  string // of the main file
	dir   string // where it stands: the credential folders are there, too
	creds *credentialStore
	// origin is OriginVici for what a client sends. It may come before what it
	// refers to, keys and pools, and has no files of its own.
	origin string
}

// config compiles everything.
func (c *compiler) config(top *node) *Config {
	cfg := &Config{Settings: c.settings(top.sub("espalier"))}
	secrets := top.sub("secrets")
	c.privateKeys(secrets)
	if conns := top.sub("connections"); conns != nil {
		for _, n := range conns.subs {
			if n.spec != nil {
				cfg.Connections = append(cfg.Connections, c.connection(n, &cfg.Settings))
			}
		}
	}
	cfg.Pools = c.pools(top.sub("pools"), cfg.Connections, top.sub("connections"))
	cfg.Authorities = c.authorities(top.sub("authorities"))
	c.folders()
	c.sharedKeys(secrets)
	c.usable(cfg.Connections)
	if len(c.rep.errs) == 0 {
		cfg.store = c.creds
		cfg.Credentials, cfg.creds = c.creds.build(c.rep, Pos{File: c.path})
	}
	return cfg
}

// settings compiles section espalier, which may be missing.
func (c *compiler) settings(n *node) Settings {
	if n == nil {
		n = &node{keys: map[string]*entry{}, spec: settingsSpec()}
	}
	s := Settings{
		SA:              sa.DefaultSettings(),
		Listen:          get[[]netip.Addr](n, "listen"),
		Interfaces:      get[[]string](n, "interfaces"),
		CookieThreshold: int(get[uint32](n, "cookie_threshold")),
		HalfOpenLimit:   int(get[uint32](n, "half_open_limit")),

		HalfOpenPerPrefix: int(get[uint32](n, "half_open_limit_prefix")),
		HalfOpenPrefix4:   int(get[uint32](n, "half_open_prefix_v4")),
		HalfOpenPrefix6:   int(get[uint32](n, "half_open_prefix_v6")),

		Firewall:     get[bool](n, "firewall"),
		UpdownLimit:  get[time.Duration](n, "updown_timeout"),
		RunDir:       get[string](n, "run_dir"),
		SwanctlOn:    get[bool](n, "swanctl_socket"),
		SocketGroup:  get[string](n, "socket_group"),
		StateDir:     get[string](n, "state_dir"),
		VirtualIP:    get[bool](n, "install_virtual_ip"),
		VirtualIPOn:  get[string](n, "install_virtual_ip_on"),
		RoutingTable: get[uint32](n, "routing_table"),
		RoutingPrio:  get[uint32](n, "routing_table_prio"),
	}
	s.FastPath = FastPath{
		On: get[bool](n, "fast_path"), Outside: get[[]string](n, "outside"), Inside: get[[]string](n, "inside"),
		Guard: get[string](n, "guard"), Steering: get[string](n, "steering"), MSS: get[bool](n, "mss"), MaxSPIs: int(get[uint32](n, "max_spis")),
		InitRate: int(get[uint32](n, "init_rate")), InitBurst: int(get[uint32](n, "init_burst")),
		InitPrefix4: int(get[uint32](n, "init_prefix_v4")), InitPrefix6: int(get[uint32](n, "init_prefix_v6")),
	}
	s.Tuner = Tuner{Mode: get[string](n, "tune"), Moves: int(get[uint32](n, "tune_moves")), Splits: int(get[uint32](n, "tune_splits")),
		Settings: int(get[uint32](n, "tune_settings")), Queues: int(get[uint32](n, "tune_queues")), Offloads: int(get[uint32](n, "tune_offloads")),
		Rekeys: int(get[uint32](n, "tune_rekeys"))}
	s.BlockLeaks, s.BypassLAN = get[string](n, "leak") == "block", get[bool](n, "bypass_lan")
	s.SA.Port = uint16(get[uint32](n, "port"))
	s.SA.NATTPort = uint16(get[uint32](n, "port_nat_t"))
	s.SA.RetransmitTries = int(get[uint32](n, "retransmit_tries"))
	s.SA.RetransmitTimeout = get[time.Duration](n, "retransmit_timeout")
	s.SA.RetransmitBase = get[float64](n, "retransmit_base")
	s.SA.KeepAlive = get[time.Duration](n, "keep_alive")
	s.SA.KernelKeepAlive = get[string](n, "keep_alive_by") == "kernel"
	s.SA.RetransmitLimit = get[time.Duration](n, "retransmit_limit")
	s.SA.RetransmitJitter = int(get[uint32](n, "retransmit_jitter"))
	s.SA.HalfOpenTimeout = get[time.Duration](n, "half_open_timeout")
	s.SA.FragmentSize = int(get[uint32](n, "fragment_size"))
	s.SA.PathMTUInterval = get[time.Duration](n, "path_mtu_interval")
	s.PathMTU = get[bool](n, "path_mtu")
	s.SA.MaxSelectors = int(get[uint32](n, "max_selectors"))
	s.SA.InstallRoutes = get[bool](n, "install_routes")
	s.SA.FollowRedirects = get[bool](n, "follow_redirects")
	s.SA.CrashDetection = get[bool](n, "quick_crash_detection")
	s.SA.SendVendorID = get[bool](n, "send_vendor_id")
	s.SA.PreferPeerProposal = get[bool](n, "prefer_peer_proposal")
	if s.SA.Port == s.SA.NATTPort {
		c.rep.add(n.at("port_nat_t"), "another port than espalier.port for port_nat_t", "the same", "")
	}
	if s.SA.RetransmitTimeout == 0 {
		c.rep.add(n.at("retransmit_timeout"), "a retransmit_timeout of at least 1s", "0s", "")
	}
	if s.UpdownLimit == 0 {
		c.rep.add(n.at("updown_timeout"), "an updown_timeout of at least 1s", "0s", "")
	}
	if s.SA.HalfOpenTimeout == 0 {
		c.rep.add(n.at("half_open_timeout"), "a half_open_timeout of at least 1s", "0s", "")
	}
	if s.CookieThreshold > s.HalfOpenLimit {
		c.rep.add(n.at("cookie_threshold"), "a cookie_threshold not above half_open_limit", "one above it", "")
	}
	if len(s.Listen) > 0 && len(s.Interfaces) > 0 {
		c.rep.add(n.at("interfaces"), "one of listen and interfaces in espalier", "both", "")
	}
	for _, name := range s.FastPath.Outside {
		if slices.Contains(s.FastPath.Inside, name) {
			c.rep.add(n.at("inside"), "other interfaces than those outside", quote(name), "")
		}
	}
	for key, dir := range map[string]string{"run_dir": s.RunDir, "state_dir": s.StateDir} {
		if !filepath.IsAbs(dir) {
			c.rep.add(n.at(key), "an absolute path for "+key, quote(dir), "")
		}
	}
	return s
}
