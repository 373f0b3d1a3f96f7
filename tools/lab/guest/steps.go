package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Runner starts one step, waits for it and returns its exit status (128 plus the signal when a signal ended it). It also sees to it that no process of the
// step is left when it returns.
type Runner func(step Step, env []string, stdout, stderr io.Writer) (int, error)

// ErrTaken is what a Runner returns for a step that another guest has claimed.
var ErrTaken = errors.New("another guest runs this step")

// RunSteps runs the steps of spec one after the other, calls ended, unless nil, after each that this guest has run, and returns the status of the first one that failed, or 0. A step without a
// name that fails ends the run; a named one does not, as a package that fails does not end 'go test'.
func RunSteps(spec *Spec, stdout, stderr io.Writer, run Runner, ended func()) int {
	first := 0
	for _, step := range spec.Steps {
		if st, err := os.Stat(step.Dir); err != nil || !st.IsDir() {
			step.Dir = "/"
		}
		begin := time.Now()
		status, err := run(step, spec.Env, stdout, stderr)
		if errors.Is(err, ErrTaken) {
			continue
		}
		if err != nil {
			fmt.Fprintf(stderr, "lab: %s: %v\n", step.Argv[0], err)
			status = 127
		}
		if step.Name != "" {
			fmt.Fprint(stdout, closing(step.Name, status, time.Since(begin)))
		}
		if ended != nil {
			ended()
		}
		if status != 0 && first == 0 {
			first = status
		}
		if status != 0 && step.Name == "" {
			break
		}
	}
	return first
}

// closing is the line that ends a named step, in the words of 'go test'.
func closing(name string, status int, took time.Duration) string {
	word := "ok  "
	if status != 0 {
		word = "FAIL"
	}
	return fmt.Sprintf("%s\t%s\t%.3fs\n", word, name, took.Seconds())
}
