package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// lingerTime is how long the output of a script is still read after its end: what
// it has left running may hold it open for ever.
const lingerTime = 300 * time.Millisecond

// maxScriptLine bounds a line of a script's output; longer ones come in parts.
const maxScriptLine = 4096

// RunScript implements Verbs.
func (Local) RunScript(ctx context.Context, command string, env []string, line func(string)) error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("run script: %w", err)
	}
	defer read.Close()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, "/", write, write
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Start()
	if cerr := write.Close(); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("run script: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		eachLine(read, line)
	}()
	err = cmd.Wait()
	if derr := read.SetReadDeadline(time.Now().Add(lingerTime)); derr != nil {
		read.Close()
	}
	<-done
	if err != nil {
		return fmt.Errorf("script: %w", err)
	}
	return nil
}

// eachLine calls f for each line until nothing more comes.
func eachLine(r io.Reader, f func(string)) {
	b := bufio.NewReaderSize(r, maxScriptLine)
	for {
		text, err := b.ReadSlice('\n')
		if n := len(text); n > 0 {
			if text[n-1] == '\n' {
				n--
			}
			f(string(text[:n]))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
