package runner

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"anynetx/anynetx"
	"anynetx/results"
)

// patientStudy fails runs without closing the only device.
const patientStudy = faultStudy + "failures: {starts: 1000}\n"

// failedStudy runs a study whose first task runs out of memory.
func failedStudy(t *testing.T, study, dir string) {
	t.Helper()
	c := startStudy(t, study, dir, 2, behaviour(fakeBehaviour{Step: time.Millisecond, Break: "first"}))
	if err := c.Wait(); err == nil {
		t.Fatal("a study with failed runs ended with exit code 0")
	}
	if s := c.summary(t); !s.Complete || s.FailureClasses[classMemory] != 6 || s.FailureClasses[classSource] != 4 {
		t.Fatalf("%+v", s)
	}
}

// Runs that are tried again, with those that waited for them, come to the bytes of a study in which nothing ever failed.
func TestRetry(t *testing.T) {
	study := writeStudy(t, patientStudy)
	want := undisturbed(t, study, 2, behaviour(fast))
	for _, compacted := range []bool{false, true} {
		dir := t.TempDir()
		failedStudy(t, study, dir)
		if compacted {
			if _, err := Compact(dir); err != nil {
				t.Fatal(err)
			}
		}
		before, err := results.ReadTable[attemptRow](dir, "attempts")
		if err != nil {
			t.Fatal(err)
		}
		watcher := NewWatcher(dir) // of which nobody asks anything while the runs are tried again
		look := func(when string, want, done int) {
			t.Helper()
			v, err := watcher.Look()
			if err != nil {
				t.Fatal(err)
			}
			if len(v.Results) != want || v.Status.Done != done || !v.Status.Complete {
				t.Errorf("%s: %d results of %+v, want %d, and %d runs done", when, len(v.Results), *v.Status, want, done)
			}
		}
		look("failed", 0, 0)
		done, err := Retry(dir, RetryOptions{Classes: []string{"oom"}})
		if err != nil || len(done.Runs) != 6+4 {
			t.Fatalf("%d runs are open again, want 10 (%v)", len(done.Runs), err)
		}
		if rows, err := results.ReadTable[runRow](dir, "runs"); err != nil || len(rows) != 0 {
			t.Errorf("%d rows of failed runs are left (%v)", len(rows), err)
		}
		if kept, err := filepath.Glob(filepath.Join(dir, "work/superseded/*.runs")); err != nil || len(kept) != 10 {
			t.Errorf("%d superseded rows are kept, want 10 (%v)", len(kept), err)
		}
		s := runStudy(t, study, dir, 2, behaviour(fast))
		if s.Done != faultRuns || s.Failed != 0 {
			t.Errorf("%+v", s)
		}
		if !compacted {
			sameBytes(t, want, dir)
		}
		look("tried again", faultRuns-2, faultRuns) // two are second replicates
		tidy(t, dir, faultRuns)
		after, err := results.ReadTable[attemptRow](dir, "attempts")
		if err != nil || len(after) != len(before)+faultRuns {
			t.Errorf("%d attempts after %d, want %d more (%v)", len(after), len(before), faultRuns, err)
		}
		// What is done is never open again, whatever is asked.
		all, err := results.ReadTable[runRow](dir, "runs")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Retry(dir, RetryOptions{Runs: []string{all[0].RunID}}); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "has not failed") {
			t.Errorf("%v", err)
		}
		if _, err := Retry(dir, RetryOptions{Classes: []string{"oom"}}); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "no run has failed") {
			t.Errorf("%v", err)
		}
	}
}

// One run of a class, while the study goes on: the living workers take it up.
func TestRetryWhileRunning(t *testing.T) {
	text := patientStudy[:strings.Index(patientStudy, "  - {name: tuned")] + "  - {name: other, dataset: two, architectures: {first: 2}}\nfailures: {attempts: 1, starts: 1000}\n"
	study, dir := writeStudy(t, text), t.TempDir()
	b := fakeBehaviour{Step: 2 * time.Millisecond, Break: "first", BreakWhile: filepath.Join(t.TempDir(), "broken")}
	if err := os.WriteFile(b.BreakWhile, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	file, letGo := hold(t) // two workers are held by the other task, the others meet what fails
	b.Hold, b.HoldTask = file, "other"
	c := startStudy(t, study, dir, 4, behaviour(b))
	var done *Retried
	eventually(t, "a run that failed is open again", func() bool {
		if !found(t, dir, "runs/*/*.parquet") {
			return false
		}
		os.Remove(b.BreakWhile)
		var err error
		done, err = Retry(dir, RetryOptions{Classes: []string{"oom"}})
		return err == nil
	})
	letGo()
	err := c.Wait()
	if s := c.summary(t); err != nil && s.Failed == 0 || s.Done+s.Failed != 8 || s.Failed > 6-len(done.Runs) {
		t.Errorf("%v %+v\n%s", err, s, c.err.String())
	}
	for _, r := range done.Runs {
		log, err := ReadLog(dir, r.RunID)
		if err != nil || log.Status != statusDone || len(log.Attempts) < 2 || log.Attempts[0].Class != classMemory {
			t.Errorf("%+v %v", log, err)
		}
	}
}

// A failed run is not opened again while the worker that recorded the failure has still to remove the run's folder, which would then be another's.
func TestRetryComesAfterTheLastWord(t *testing.T) {
	dir := t.TempDir()
	if _, err := openFake(t, faultStudy+"failures: {attempts: 1, starts: 1000}\n", dir); err != nil {
		t.Fatal(err)
	}
	none := errors.New("no error")
	early, late := error(nil), error(nil) // what was said, once each
	err := Work(t.Context(), WorkerOptions{StudyDir: dir, Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
		return fakeBehaviour{Break: "first"}.trainers(p.Seed), nil
	}, Hook: func(at string) error {
		switch {
		case at == "attempts published" && early == nil && found(t, dir, "runs/*/*.parquet"):
			_, err := Retry(dir, RetryOptions{Classes: []string{"oom"}})
			early = cmp.Or(err, none)
		case at == "work cleared" && late == nil:
			_, err := Retry(dir, RetryOptions{Classes: []string{"oom"}})
			late = cmp.Or(err, none)
		}
		return nil
	}})
	if err != nil || early == nil || !strings.Contains(early.Error(), "in the hands of process") || late != none {
		t.Errorf("%v; before the folder is removed: %v; after: %v", err, early, late)
	}
}

// A kill between the steps of a retry leaves a study that a run or another retry goes on with.
func TestRetryKilledBetween(t *testing.T) {
	study, dir := writeStudy(t, patientStudy), t.TempDir()
	want := undisturbed(t, study, 2, behaviour(fast))
	failedStudy(t, study, dir)
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range mustRuns(t, store) {
		if i%2 == 0 { // the row is away, its epochs are not
			path, err := results.Path(dir, "runs", r.Task.Dataset, r.ID)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	rows, err := results.ReadTable[runRow](dir, "runs")
	if err != nil || len(rows) != 5 {
		t.Fatalf("%d rows %v", len(rows), err)
	}
	var ids []string
	for _, r := range rows {
		ids = append(ids, r.RunID)
	}
	if _, err := Retry(dir, RetryOptions{Runs: ids}); err != nil {
		t.Fatal(err)
	}
	runStudy(t, study, dir, 2, behaviour(fast))
	sameBytes(t, want, dir)
}

func TestCancel(t *testing.T) {
	study, dir := writeStudy(t, patientStudy), t.TempDir()
	want := undisturbed(t, study, 2, behaviour(fast))
	file, _ := hold(t) // no run ends by itself
	slow := behaviour(fakeBehaviour{Hold: file})
	ctx, release := context.WithTimeout(t.Context(), 2*time.Minute)
	defer release()
	c := startStudy(t, study, dir, 2, slow)
	// A run in hand, which ends at its next step; the study goes on.
	mine := active(t, dir, 2)[0]
	if err := CancelRun(ctx, dir, mine.RunID); err != nil {
		t.Fatal(err)
	}
	if log, err := ReadLog(dir, mine.RunID); err != nil || log.Class != classCancelled || log.Attempts[0].PID != int64(mine.PID) {
		t.Errorf("%+v %v", log, err)
	}
	active(t, dir, 2)
	if err := Cancel(ctx, dir); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil || !strings.Contains(c.err.String(), "study cancel") {
		t.Errorf("the cancelled study ended with %v: %s", err, c.err.String())
	}
	if s := c.summary(t); s.Complete || s.FailureClasses[classCancelled] != 1 {
		t.Errorf("%+v", s)
	}
	// A run that nobody has in hand, which an attempt has left a checkpoint of.
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	var open *PlannedRun
	for _, r := range mustRuns(t, store) {
		if exists(store.workDir(r.ID)) {
			open = r
		}
	}
	if open == nil {
		t.Fatal("no run was stopped on its way")
	}
	if err := CancelRun(ctx, dir, open.ID); err != nil {
		t.Fatal(err)
	}
	if err := CancelRun(ctx, dir, open.ID); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "committed already") {
		t.Errorf("%v", err)
	}
	if exists(store.cancelledPath(open.ID)) || exists(store.workDir(open.ID)) {
		t.Error("a cancelled run leaves files behind")
	}
	if err := Cancel(ctx, dir); err != nil { // nobody works on it; the next run is not stopped by it
		t.Fatal(err)
	}
	if _, err := Retry(dir, RetryOptions{Classes: []string{classCancelled}}); err != nil {
		t.Fatal(err)
	}
	runStudy(t, study, dir, 2, behaviour(fast))
	sameBytes(t, want, dir)
	tidy(t, dir, faultRuns)
	if err := Cancel(ctx, dir); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "complete") {
		t.Errorf("a complete study is cancelled: %v", err)
	}
}

// The record of a run whose process died with words.
func TestReadLog(t *testing.T) {
	text := patientStudy[:strings.Index(patientStudy, ", classes: 6")] + ", architectures: {first: 1}}\nfailures: {attempts: 2, starts: 1000}\n"
	study, dir := writeStudy(t, text), t.TempDir()
	c := startStudy(t, study, dir, 1, behaviour(fakeBehaviour{Step: time.Millisecond, Crash: "first", LastWords: "\x1b[31mthe device is on fire"}))
	if err := c.Wait(); err == nil {
		t.Fatal("a study whose runs crash ended with exit code 0")
	}
	rows, err := results.ReadTable[runRow](dir, "runs")
	if err != nil || len(rows) != 1 {
		t.Fatal(len(rows), err)
	}
	for _, r := range rows {
		log, err := ReadLog(dir, r.RunID)
		if err != nil {
			t.Fatal(err)
		}
		if len(log.Attempts) != 3 || log.Status != statusFailed || log.Attempts[0].Class != classCrash {
			t.Errorf("%+v", log)
		}
		for i, a := range log.Attempts {
			if words := strings.Contains(a.Stderr, "the device is on fire"); words != (i < 2) {
				t.Errorf("attempt %d: standard error %q", a.Attempt, a.Stderr)
			}
		}
		decisions := 0
		for _, e := range log.Events {
			if e.Kind == "decision" {
				decisions++
			}
		}
		if decisions != 2 {
			t.Errorf("%d decisions are among the events, want 2: %+v", decisions, log.Events)
		}
		var text strings.Builder
		if err := log.WriteText(&text); err != nil || strings.ContainsRune(text.String(), 0x1b) || !strings.Contains(text.String(), "on fire") {
			t.Errorf("%q %v", text.String(), err)
		}
	}
	if _, err := ReadLog(dir, "0000000000000000"); !errors.Is(err, anynetx.ErrInput) {
		t.Errorf("%v", err)
	}
}
