package guest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	var wire bytes.Buffer
	s := NewSender(&wire)
	long := strings.Repeat("0123456789", 10_000) // several frames
	for _, w := range []struct {
		kind Kind
		text string
	}{{KindStdout, "one\n"}, {KindStderr, "two\n"}, {KindStdout, long}} {
		if _, err := io.WriteString(s.Writer(w.kind), w.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Send(KindStep, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Exit(41); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(wire.Bytes())
	var out, errs strings.Builder
	steps := 0
	status, err := Copy(&wire, &out, &errs, func() { steps++ })
	if status != 41 || err != nil || out.String() != "one\n"+long || errs.String() != "two\n" || steps != 1 {
		t.Errorf("expected status 41, all output and one step, got %d, %v, %d and %d bytes, %d steps", status, err, out.Len(), errs.Len(), steps)
	}
	for cut := range 200 { // a stream that ends before its exit status, wherever it is cut
		if _, err := Copy(bytes.NewReader(whole[:cut]), io.Discard, io.Discard, nil); !errors.Is(err, ErrNoExit) {
			t.Fatalf("cut after %d bytes: expected ErrNoExit, got %v", cut, err)
		}
	}
}

func TestFrameFaults(t *testing.T) {
	var wire bytes.Buffer
	if err := NewSender(&wire).Send(KindFault, []byte("no overlay")); err != nil {
		t.Fatal(err)
	}
	var fault *FaultError
	if _, err := Copy(&wire, io.Discard, io.Discard, nil); !errors.As(err, &fault) || fault.Reason != "no overlay" {
		t.Errorf("expected the guest's fault, got %v", err)
	}
	for name, stream := range map[string]string{
		"unknown kind":      "?\x00\x00\x00\x01a",
		"too long":          "o\x7f\xff\xff\xff",
		"short exit status": "x\x00\x00\x00\x01a",
	} {
		if _, err := Copy(strings.NewReader(stream), io.Discard, io.Discard, nil); err == nil || errors.Is(err, ErrNoExit) {
			t.Errorf("%s: expected an error about the frame, got %v", name, err)
		}
	}
}

func TestRunSteps(t *testing.T) {
	run := func(step Step, env []string, stdout, stderr io.Writer) (int, error) {
		switch step.Argv[0] {
		case "missing":
			return 0, errors.New("not found")
		case "fails":
			return 3, nil
		case "taken":
			return 0, ErrTaken
		}
		return 0, nil
	}
	for _, c := range []struct {
		name   string
		steps  []Step
		status int
		lines  []string // one for each step of ours that has a name
	}{
		{"a command's own status", []Step{{Argv: []string{"fails"}}}, 3, nil},
		{"a failing command ends the run", []Step{{Argv: []string{"missing"}}, {Argv: []string{"fails"}}}, 127, nil},
		{"packages go on", []Step{{Name: "a", Argv: []string{"fails"}}, {Name: "b", Argv: []string{"works"}}}, 3, []string{"FAIL\ta\t", "ok  \tb\t"}},
		{"what is taken says nothing", []Step{{Name: "a", Argv: []string{"taken"}}, {Name: "b", Argv: []string{"works"}}}, 0, []string{"ok  \tb\t"}},
		{"all is well", []Step{{Name: "a", Argv: []string{"works"}}}, 0, []string{"ok  \ta\t"}},
	} {
		var out, errs strings.Builder
		ended := 0
		if got := RunSteps(&Spec{Steps: c.steps}, &out, &errs, run, func() { ended++ }); got != c.status {
			t.Errorf("%s: expected status %d, got %d", c.name, c.status, got)
		}
		if len(c.lines) > 0 && ended != len(c.lines) {
			t.Errorf("%s: expected %d steps to end, got %d", c.name, len(c.lines), ended)
		}
		lines := strings.SplitAfter(out.String(), "\n")
		if len(lines)-1 != len(c.lines) {
			t.Errorf("%s: expected %q, got %q", c.name, c.lines, out.String())
			continue
		}
		for i, l := range c.lines {
			if !strings.HasPrefix(lines[i], l) {
				t.Errorf("%s: expected %q, got %q", c.name, l, lines[i])
			}
		}
	}
}
