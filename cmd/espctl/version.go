package main

import (
	"fmt"
	"runtime/debug"

	"espalier/ike/vici"
)

type versionCmd struct{}

type versionResult struct {
	Schema int            `json:"version"`
	Client clientVersion  `json:"client"`
	Daemon *daemonVersion `json:"daemon"` // null when none answers
}

type clientVersion struct {
	Version string `json:"version"`
}

type daemonVersion struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SysName string `json:"sysname"`
	Release string `json:"release"`
	Machine string `json:"machine"`
}

// Run tells the client's version in any case, then the daemon's.
func (versionCmd) Run(e *env) error {
	res := versionResult{Schema: schema, Client: clientVersion{buildVersion()}}
	daemon, err := e.daemonVersion()
	if err == nil {
		res.Daemon = daemon
	}
	if e.format != plain {
		if printErr := e.print(res); printErr != nil {
			return printErr
		}
		return err
	}
	fmt.Fprintf(e.stdout, "espctl %s\n", res.Client.Version)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "%s %s (%s %s, %s)\n", printable(daemon.Name), printable(daemon.Version),
		printable(daemon.SysName), printable(daemon.Release), printable(daemon.Machine))
	return err
}

func (e *env) daemonVersion() (*daemonVersion, error) {
	c, err := e.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, err := c.Call(e.ctx, "version", vici.Message{})
	if err != nil {
		return nil, e.explain(err)
	}
	return &daemonVersion{m.Text("daemon"), m.Text("version"), m.Text("sysname"), m.Text("release"), m.Text("machine")}, nil
}

// buildVersion is the module's version, or for a build from a working tree the
// commit.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version, revision := info.Main.Version, ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			revision = " (" + s.Value[:12] + ")"
		}
	}
	if version == "" || version == "(devel)" {
		version = "devel"
	}
	return version + revision
}
