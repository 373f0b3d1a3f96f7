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
	if err := s.Exit(41); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(wire.Bytes())
	var out, errs strings.Builder
	status, err := Copy(&wire, &out, &errs)
	if status != 41 || err != nil || out.String() != "one\n"+long || errs.String() != "two\n" {
		t.Errorf("expected status 41 and all output, got %d, %v, %d and %d bytes", status, err, out.Len(), errs.Len())
	}
	for cut := range 200 { // a stream that ends before its exit status, wherever it is cut
		if _, err := Copy(bytes.NewReader(whole[:cut]), io.Discard, io.Discard); !errors.Is(err, ErrNoExit) {
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
	if _, err := Copy(&wire, io.Discard, io.Discard); !errors.As(err, &fault) || fault.Reason != "no overlay" {
		t.Errorf("expected the guest's fault, got %v", err)
	}
	for name, stream := range map[string]string{
		"unknown kind":      "?\x00\x00\x00\x01a",
		"too long":          "o\x7f\xff\xff\xff",
		"short exit status": "x\x00\x00\x00\x01a",
	} {
		if _, err := Copy(strings.NewReader(stream), io.Discard, io.Discard); err == nil || errors.Is(err, ErrNoExit) {
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
		}
		return 0, nil
	}
	for _, c := range []struct {
		name   string
		steps  []Step
		status int
		lines  []string
	}{
		{"a command's own status", []Step{{Argv: []string{"fails"}}}, 3, nil},
		{"a failing command ends the run", []Step{{Argv: []string{"missing"}}, {Argv: []string{"fails"}}}, 127, nil},
		{"packages go on", []Step{{Name: "a", Argv: []string{"fails"}}, {Name: "b", Argv: []string{"works"}}}, 3, []string{"FAIL\ta\t", "ok  \tb\t"}},
		{"all is well", []Step{{Name: "a", Argv: []string{"works"}}}, 0, []string{"ok  \ta\t"}},
	} {
		var out, errs strings.Builder
		if got := RunSteps(&Spec{Steps: c.steps}, &out, &errs, run); got != c.status {
			t.Errorf("%s: expected status %d, got %d", c.name, c.status, got)
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
