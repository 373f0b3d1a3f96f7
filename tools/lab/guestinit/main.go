// Guestinit is the first process of the lab's guest: it makes a root whose writes vanish, mounts what a Debian system
// expects, runs the job's steps and answers in frames. The lab builds it without cgo, since the initial root of a guest has no
// libraries.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"espalier/tools/lab/guest"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guestinit: this is the first process of a lab guest, not a command for people")
		os.Exit(2)
	}
	defer powerOff()
	if err := mountKernelFS(""); err != nil {
		complain(err)
		return
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		complain(err)
		return
	}
	if strings.Contains(string(cmdline), guest.ProbeArg) {
		complain(errors.New(guest.ProbeAnswer))
		return
	}
	if err := work(); err != nil {
		complain(err)
	}
}

// complain writes to the kernel's console: nobody else listens yet.
func complain(err error) {
	if c, e := os.OpenFile("/dev/console", os.O_WRONLY, 0); e == nil {
		fmt.Fprintf(c, "guestinit: %v\n", err)
		c.Close()
	}
}

// work runs the job. An error means that not even the channel to the host could be opened.
func work() error {
	if err := loadModules(); err != nil {
		return err
	}
	raw, err := os.ReadFile(guest.SpecFile)
	if err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	var spec guest.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return fmt.Errorf("reading the job %s: %w", guest.SpecFile, err)
	}
	ch, err := openChannel(spec.Channel)
	if err != nil {
		return err
	}
	out := guest.NewSender(ch)
	if err := enterRoot(&spec); err != nil {
		return out.Send(guest.KindFault, []byte(err.Error()))
	}
	for _, kv := range spec.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			os.Setenv(k, v) // so that a step's command is found in the step's PATH
		}
	}
	status := guest.RunSteps(&spec, out.Writer(guest.KindStdout), out.Writer(guest.KindStderr), runStep, func() {
		_ = out.Send(guest.KindStep, nil) // a host that no longer listens ends the guest anyway
	})
	unix.Sync()
	return out.Exit(status)
}

// powerOff ends the guest. The host ends it as soon as it has read the exit status, so usually nobody gets to the end of this.
func powerOff() {
	unix.Sync()
	time.Sleep(200 * time.Millisecond) // the serial console of a dying guest still has its last words to say
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
