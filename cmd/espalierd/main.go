// Command espalierd is the IPsec gateway's daemon: it reads the configuration,
// opens the kernel's XFRM and the IKE sockets, and runs the IKE engine until
// SIGTERM. SIGHUP reads the configuration again and applies what differs.
//
// Exit codes: 0 after a clean stop, or when --check finds no mistake; 1 after a
// failure, or when --check finds one; 2 when the command line is not understood.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"espalier/ike/config"
	"espalier/ike/pki"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// flags are the whole command line.
type flags struct {
	Config   string `placeholder:"FILE" default:"${config}" help:"Configuration file (${default})."`
	Check    bool   `xor:"mode" help:"Read and check the configuration, print one line a mistake, and exit."`
	Block    bool   `xor:"mode" help:"Install what leak = block asks for, before the network is up, and exit."`
	Unblock  bool   `xor:"mode" help:"Remove what a run that has ended left in the kernel, the blocks of leak = block included, and exit."`
	RunDir   string `placeholder:"DIR" help:"Folder of the journal and the control socket, instead of the configuration's."`
	StateDir string `placeholder:"DIR" help:"Folder of what outlives a reboot, instead of the configuration's."`
	LogLevel string `enum:",trace,debug,info,warn,error" default:"" placeholder:"LEVEL" help:"Least level to log: trace, debug, info, warn or error (what the loggers of strongswan.conf say, else info)."`
	// StrongSwan's settings of charon that have a meaning here.
	StrongswanConf string           `placeholder:"FILE" help:"strongswan.conf whose settings of charon count where the configuration does not say otherwise (${strongswan}, if it is there)."`
	Version        kong.VersionFlag `help:"Print the version and exit."`

	crls *pki.CRLCache // those that are fetched; nil: none
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main with its surroundings as arguments; it returns the exit code.
func run(args []string, stdout, stderr *os.File) int {
	// Keys stand in memory: no core dumps, and no ptrace by the same user.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintf(stderr, "espalierd: core dumps could not be disabled: %v\n", err)
		return exitFailed
	}
	var f flags
	code, done := -1, false
	parser, err := kong.New(&f, kong.Name("espalierd"), kong.Description("The daemon of Espalier, an IPsec gateway."),
		kong.Vars{"config": config.DefaultPath, "strongswan": config.DefaultStrongSwan, "version": "espalierd " + version()},
		kong.Writers(stdout, stderr), kong.Exit(func(c int) { code, done = c, true }))
	if err != nil {
		fmt.Fprintf(stderr, "espalierd: %v\n", err)
		return exitFailed
	}
	_, err = parser.Parse(args)
	switch {
	case done: // --help or --version
		return code
	case err != nil:
		fmt.Fprintf(stderr, "espalierd: %v (see --help)\n", err)
		return exitUsage
	case f.Check:
		return check(f, stdout, stderr)
	}
	log := newLog(stderr, isatty.IsTerminal(stderr.Fd()), zerolog.TraceLevel).Level(f.level())
	switch {
	case f.Block:
		return exitCode(block(f, log), log)
	case f.Unblock:
		return exitCode(unblock(f, log), log)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	return exitCode(serve(ctx, f, log), log)
}

// exitCode logs what ended the program.
func exitCode(err error, log zerolog.Logger) int {
	if err != nil {
		log.Error().Err(err).Msg("espalierd failed")
		return exitFailed
	}
	return 0
}

// level is the least level to log before strongswan.conf was read.
func (f *flags) level() zerolog.Level {
	level, _ := zerolog.ParseLevel(f.LogLevel) // an enum of its names
	if f.LogLevel == "" {
		level = zerolog.InfoLevel
	}
	return level
}

// options are those that the configuration is loaded with.
func (f *flags) options() config.Options {
	if f.StrongswanConf == "" {
		return config.Options{StrongSwan: config.DefaultStrongSwan, Optional: true, CRLs: f.crls}
	}
	return config.Options{StrongSwan: f.StrongswanConf, CRLs: f.crls}
}

// whenRunning are the options of a daemon: who comes from strongSwan may have nothing
// but what swanctl loads. A file that was there must not vanish.
func (f *flags) whenRunning(was *config.Config) config.Options {
	o := f.options()
	o.MayMiss = f.Config == config.DefaultPath
	if was != nil {
		o.MayMiss = was.Missing
	}
	return o
}

// check loads the configuration and reports on it, one line a mistake.
func check(f flags, stdout, stderr io.Writer) int {
	cfg, err := config.LoadWith(f.Config, f.options())
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	for _, w := range cfg.Warnings {
		fmt.Fprintln(stdout, "warning:", w)
	}
	for _, key := range cfg.StrongSwan.Unused {
		fmt.Fprintf(stdout, "%s: not used: %s\n", cfg.StrongSwan.Path, key)
	}
	fmt.Fprintf(stdout, "%s: no mistakes, connections: %d\n", f.Config, len(cfg.Connections))
	return 0
}

// newLog writes for people on a terminal, JSON lines elsewhere.
func newLog(w io.Writer, terminal bool, level zerolog.Level) zerolog.Logger {
	if terminal {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000"}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// version is the module's version, or the commit for a build from a tree.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v += " (" + s.Value[:12] + ")"
		}
	}
	return v
}
