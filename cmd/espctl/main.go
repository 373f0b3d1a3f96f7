// Command espctl shows and steers a running espalierd and its fast path, in bpftool's grammar:
//
//	espctl [OPTIONS] OBJECT COMMAND [ARGUMENTS]
//
// Unique beginnings of objects and commands do, so "espctl sa s" is "espctl sa
// show". Each object has a file of its own. Exit codes: 0 done, 1 failed, 2 not
// understood, 3 converted with something missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"espalier/dataplane/flow"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
	exitLost   = 3 // convert: some lines could not be carried over
)

// cli is the whole grammar.
type cli struct {
	Socket string `placeholder:"PATH" default:"${socket}" help:"Control socket of the daemon (${default})."`
	JSON   bool   `short:"j" help:"Print JSON."`
	Pretty bool   `short:"p" help:"Print JSON for people. Implies --json."`
	Pins   string `placeholder:"DIR" help:"Folder of the fast path's pinned maps (that of this network namespace below /sys/fs/bpf/espalier)."`
	State  string `placeholder:"PATH" default:"${state}" help:"What the daemon left about the fast path (${default})."`

	Version versionCmd `cmd:"" help:"Versions of espctl and of the daemon."`
	SA      saCmd      `cmd:"" name:"sa" help:"IKE SAs and their CHILD SAs."`
	Conn    connCmd    `cmd:"" help:"Configured connections: list, bring up, take down, reload."`
	Plan    planCmd    `cmd:"" help:"What a reload of the configuration would change."`
	Cert    certCmd    `cmd:"" help:"Certificates that the daemon has: its own, those of CAs, and those of peers it has met."`
	Pool    poolCmd    `cmd:"" help:"Pools of virtual addresses and who has them."`
	Log     logCmd     `cmd:"" help:"What happens to SAs, as it happens."`
	Tune    tuneCmd    `cmd:"" help:"The tuner: what it does to keep CPUs evenly busy, and why."`
	SPI     spiCmd     `cmd:"" name:"spi" help:"What the fast path counts of each SA; works without the daemon, as the rest below."`
	Drop    dropCmd    `cmd:"" help:"Packets that were lost, by SA and reason."`
	Guard   guardCmd   `cmd:"" help:"What stops packets that nobody asked for."`
	Host    hostCmd    `cmd:"" help:"The box: what of the fast path is attached, and where."`
	Convert convertCmd `cmd:"" whole:"" help:"Write the configuration that does what an ipsec.conf does; works without the daemon. Not to be shortened."`
}

// env is what commands run with.
type env struct {
	ctx    context.Context // ends on the first SIGINT or SIGTERM
	socket string
	format format
	stdout io.Writer
	stderr io.Writer

	pinned  pinned
	readers flow.ReaderOptions
	now     func() time.Time
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, kernel{}, time.Now)) }

// run parses and executes a command line and returns the exit code.
func run(args []string, stdout, stderr io.Writer, pinned pinned, now func() time.Time) int {
	var grammar cli
	parser, err := newParser(&grammar, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "espctl: %v\n", err)
		return exitFailed
	}
	args, err = expand(parser.Model.Node, args)
	if err != nil {
		fmt.Fprintf(stderr, "espctl: %v\n", err)
		return exitUsage
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "espctl: %v (espctl help shows what there is)\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := &env{ctx: ctx, socket: grammar.Socket, format: formatOf(grammar.JSON, grammar.Pretty), stdout: stdout, stderr: stderr,
		pinned: pinned, readers: flow.ReaderOptions{Pins: grammar.Pins, State: grammar.State}, now: now}
	if err := command.Run(e); err != nil {
		fmt.Fprintf(stderr, "espctl: %v\n", err)
		if errors.Is(err, errLost) {
			return exitLost
		}
		return exitFailed
	}
	return 0
}
