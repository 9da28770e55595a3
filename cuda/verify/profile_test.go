package verify

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"anynetx/bindings"
	"anynetx/engine"
)

// traced is what the harness's profiler has written down while f ran.
func traced(t *testing.T, f func()) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trace")
	t.Setenv("ANX_HOST_TRACE", path)
	f()
	os.Unsetenv("ANX_HOST_TRACE")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// shape is a trace in one line: a range is name(...), launches behind each other in one place are a single *. Ranges that are not
// balanced, or of another domain, fail the test.
func shape(t *testing.T, lines []string) string {
	t.Helper()
	var b strings.Builder
	depth := 0
	for _, line := range lines {
		switch name, ok := strings.CutPrefix(line, "push anynetx "); {
		case ok:
			depth++
			b.WriteString(name + "(")
		case line == "pop anynetx":
			depth--
			b.WriteString(")")
		case line == "launch":
			if !strings.HasSuffix(b.String(), "*") {
				b.WriteString("*")
			}
		default:
			b.WriteString("<" + line + ">")
		}
		if depth < 0 {
			t.Fatalf("a range is left that was not entered: %v", lines)
		}
	}
	if depth != 0 {
		t.Fatalf("%d ranges are not left: %v", depth, lines)
	}
	return b.String()
}

const (
	trainRanges    = "train(*input(*)forward(*)loss(*)backward(*)update(*))"
	evaluateRanges = "evaluate(*input(*)forward(*)loss(*))"
)

// TestRanges: a profiler sees every run and its phases, and no graph; without it, or with graphs kept, it sees graphs and no range. What it
// sees changes no bit.
func TestRanges(t *testing.T) {
	onHarness(t)
	ctx, n := open(t, backend()), networks(t)[2]
	state := func(during func(*engine.Trainer)) []byte {
		trainer, err := smallTrainer(ctx, n, 0.02)
		if err != nil {
			t.Fatal(err)
		}
		defer trainer.Close()
		during(trainer)
		var b bytes.Buffer
		if err := trainer.WriteCheckpoint(&b, nil); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	trace := func(flags bindings.Trace) {
		if err := ctx.Trace(flags); err != nil {
			t.Fatal(err)
		}
	}
	step := func(trainer *engine.Trainer) {
		if err := trainer.Step(); err != nil {
			t.Fatal(err)
		}
	}
	epoch := func(trainer *engine.Trainer) {
		for p := trainer.Position(); p.Step < p.StepsPerEpoch; p = trainer.Position() {
			step(trainer)
		}
		if _, err := trainer.EndEpoch(); err != nil {
			t.Fatal(err)
		}
	}
	var graphed, ranged []byte
	got := shape(t, traced(t, func() { graphed = state(epoch) }))
	if want := strings.Repeat("*<graph>", 5); got != want {
		t.Errorf("without a profiler: %s, want %s", got, want)
	}
	got = shape(t, traced(t, func() {
		ranged = state(func(trainer *engine.Trainer) {
			trace(bindings.TraceRanges)
			step(trainer)
			trace(bindings.TraceRanges | bindings.TraceRecord)
			step(trainer)
			trace(bindings.TraceRanges)
			epoch(trainer)
			trace(0)
		})
	}))
	if want := trainRanges + "<start>" + trainRanges + "<stop>" + trainRanges + trainRanges + evaluateRanges; got != want {
		t.Errorf("in ranges: %s, want %s", got, want)
	}
	if !bytes.Equal(graphed, ranged) {
		t.Error("ranges change what is learnt")
	}
	got = shape(t, traced(t, func() {
		state(func(trainer *engine.Trainer) {
			trace(bindings.TraceRecord)
			step(trainer)
			trace(0)
		})
	}))
	if want := "<start>*<graph><stop>"; got != want {
		t.Errorf("with graphs kept: %s, want %s", got, want)
	}
	wantStatus(t, ctx.Trace(4), bindings.InvalidArgument, "unknown flags 4")
}

// TestRangesOfFailedRuns: ranges are left where a launch is refused, in whatever phase, and where the device is lost.
func TestRangesOfFailedRuns(t *testing.T) {
	onHarness(t)
	n := networks(t)[2]
	failed := map[string]bool{}
	for _, launches := range []int{0, 1, 2, 30, 60, 90, 120} {
		ctx := open(t, backend())
		trainer, err := smallTrainer(ctx, n, 0.02)
		if err != nil {
			t.Fatal(err)
		}
		got := shape(t, traced(t, func() {
			if err := ctx.Trace(bindings.TraceRanges); err != nil {
				t.Fatal(err)
			}
			t.Setenv("ANX_HOST_REFUSE", fmt.Sprint(launches))
			err = trainer.Step()
			os.Unsetenv("ANX_HOST_REFUSE")
		}))
		if err == nil {
			t.Logf("a step has no more than %d launches", launches)
		} else {
			wantStatus(t, err, bindings.Internal, "error of the harness")
			failed[got] = true
		}
		trainer.Close()
		ctx.Close()
	}
	if len(failed) < 4 {
		t.Errorf("launches were refused in %d places only: %v", len(failed), failed)
	}
	ctx := open(t, backend())
	trainer, err := smallTrainer(ctx, n, 0.02)
	if err != nil {
		t.Fatal(err)
	}
	shape(t, traced(t, func() {
		if err := ctx.Trace(bindings.TraceRanges | bindings.TraceRecord); err != nil {
			t.Fatal(err)
		}
		t.Setenv("ANX_HOST_LOSE", "40")
		err = trainer.Step()
		os.Unsetenv("ANX_HOST_LOSE")
		wantStatus(t, err, bindings.DeviceLost, "is lost")
		wantStatus(t, ctx.Trace(0), bindings.DeviceLost, "start another process")
		trainer.Close()
		ctx.Close()
	}))
}
