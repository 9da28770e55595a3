package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"anynetx/results"

	"go.uber.org/goleak"
)

func someProgress() Snapshot {
	return Snapshot{Study: "quick", Runs: 96, Done: 40, Failed: 1, FailureClasses: map[string]int{"diverged": 1}, Workers: 2, ImagesPerSecond: 1234.5, Elapsed: 60, Remaining: ptr(130.0),
		Tasks: []string{"a", "b"}, Best: map[string]Result{"b": {"x", TestError{Top1: ptr(12.345)}}, "a": {"y", TestError{Top5: ptr(3.0)}}},
		GPUs:    []DeviceSample{{Device: "GPU-1b2c3d4e-5f60", Utilisation: ptr(97.0), MemoryUsed: ptr(int64(3 << 29)), MemoryTotal: ptr(int64(80 << 30)), PowerW: ptr(310.0)}},
		Running: []RunningRun{{Task: "a", ArchID: "abc", Device: "cpu", Epoch: 2, Epochs: 4, Share: 0.5, TestError: TestError{Top1: ptr(20.0)}}}}
}

func TestProgressForms(t *testing.T) {
	var out bytes.Buffer
	plain, err := NewProgress(&out, ProgressAuto) // no terminal: plain lines
	if err != nil {
		t.Fatal(err)
	}
	plain.Update(someProgress())
	plain.Note("label \x1b[31m")
	plain.Close()
	if want := "40/96 runs done, 1 failed (1 diverged), 1234 images/s, about 2 min left, best error: a 3.00 % top-5, b 12.35 %\nlabel  [31m\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	out.Reset()
	lines, err := NewProgress(&out, ProgressJSON)
	if err != nil {
		t.Fatal(err)
	}
	lines.Update(someProgress())
	lines.Note("x")
	lines.Close()
	for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil || i == 0 && (m["kind"] != "progress" || m["done"] != 40.0 || m["eta_s"] != 130.0) || i == 1 && m["kind"] != "note" {
			t.Errorf("%s: %v", line, err)
		}
	}
	out.Reset()
	drawn, err := NewProgress(&out, ProgressTTY)
	if err != nil {
		t.Fatal(err)
	}
	drawn.Update(someProgress())
	drawn.Note("hello")
	drawn.Update(someProgress())
	drawn.Close()
	if text := out.String(); strings.Count(text, "\x1b[4A\x1b[J") != 1 || !strings.Contains(text, "  GPU-1b2c3d4e   97 % busy   1.5 of 80.0 GiB  310 W\n") || !strings.Contains(text, "hello\nquick ") || !strings.Contains(text, "epoch 2/4") {
		t.Errorf("%q", text)
	}
	if _, err := NewProgress(&out, "loud"); err == nil {
		t.Error("a mode that does not exist was accepted")
	}
}

type watcher struct {
	snapshots []Snapshot
	on        func(Snapshot)
}

func (w *watcher) Update(s Snapshot) {
	w.snapshots = append(w.snapshots, s)
	if w.on != nil {
		w.on(s)
	}
}
func (w *watcher) Note(string) {}
func (w *watcher) Close()      {}

// The coordinator in this process: what it reports, what it leaves running, and how it stops.
func TestRunStopsAndGoesOn(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Setenv(roleVariable, "worker")
	file, letGo := hold(t) // the second task: a run is done, and the study is not complete
	t.Setenv(fakeVariable, strings.TrimPrefix(behaviour(fakeBehaviour{Step: 10 * time.Millisecond, Hold: file, HoldTask: "tuned"}), fakeVariable+"="))
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &watcher{on: func(s Snapshot) {
		if s.Done > 0 {
			cancel()
		}
	}}
	o := RunOptions{StudyFile: writeStudy(t, faultStudy), Dir: dir, Workers: 2, Describe: fakeData, Progress: w}
	s, err := Run(ctx, o)
	if !errors.Is(err, ErrStopped) || s == nil || s.Complete || s.Done == 0 {
		t.Fatalf("%+v %v", s, err)
	}
	status, err := Status(dir)
	if err != nil || status.Done != s.Done || status.Runs != faultRuns || status.Complete || status.Running != 0 {
		t.Errorf("%+v %v, want %d done", status, err, s.Done)
	}
	var text strings.Builder
	if err := status.WriteText(&text); err != nil || !strings.HasSuffix(text.String(), "nobody works on it; `anynetx study run FILE.yaml --out "+dir+"` goes on where it was\n") {
		t.Errorf("%v\n%s", err, &text)
	}
	letGo()
	w = &watcher{}
	o.Progress = w
	s2, err := Run(t.Context(), o)
	if err != nil || !s2.Complete || s2.Earlier != s.Done || s2.Done != faultRuns || s2.Images == 0 {
		t.Fatalf("%+v %v", s2, err)
	}
	last := w.snapshots[len(w.snapshots)-1]
	if last.Done != faultRuns || len(last.Best) != 4 || last.Workers != 0 || len(last.Running) != 0 {
		t.Errorf("%+v", last)
	}
	if status, err = Status(dir); err != nil || !status.Complete || status.Tasks[0].Best == nil {
		t.Errorf("%+v %v", status, err)
	}
	// A complete study ends at once and changes nothing; a compacted one too.
	want := bytesOf(t, dir)
	if s, err := Run(t.Context(), o); err != nil || s.Images != 0 || !s.Complete {
		t.Errorf("%+v %v", s, err)
	}
	sameBytes(t, want, dir)
	if _, err := results.Compact(dir); err != nil {
		t.Fatal(err)
	}
	if s, err := Run(t.Context(), o); err != nil || s.Images != 0 || s.Done != faultRuns {
		t.Errorf("after compaction: %+v %v", s, err)
	}
	if rows, err := results.ReadTable[runRow](dir, "runs"); err != nil || len(rows) != faultRuns {
		t.Errorf("%d runs after compaction: %v", len(rows), err)
	}
}

func TestMissingData(t *testing.T) {
	o := RunOptions{StudyFile: writeStudy(t, strings.ReplaceAll(faultStudy, "dataset: two", "dataset: missing")), Dir: t.TempDir(), Describe: fakeData}
	if _, err := Run(t.Context(), o); err == nil || exitCode(err) != exitInput || !strings.Contains(err.Error(), "task tuned") {
		t.Errorf("%v", err)
	}
	if _, err := Status(o.Dir); err == nil || exitCode(err) != exitInput {
		t.Errorf("status of a folder without a study: %v", err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "letter.txt"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "letter.txt") {
		t.Errorf("a folder with other things in it: %v", err)
	}
}
