package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"
)

// A training that refused a damaged checkpoint is closed and another one opened: the native time of all of them counts, once.
func TestNativeTimeOfReopenedTrainings(t *testing.T) {
	dir := t.TempDir()
	store, r := stopped(t, dir)
	for _, c := range newestFirst(store.workDir(r.ID)) {
		if err := os.WriteFile(c.path, []byte("damaged"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	clocked := &clockedTrainers{}
	var out bytes.Buffer
	err := Work(t.Context(), WorkerOptions{StudyDir: dir, CheckpointEvery: time.Hour, Only: []string{r.ID}, Stdout: &out,
		Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
			clocked.Trainers = fakeBehaviour{}.trainers(p.Seed)
			return clocked, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	var end Message
	for line := range lines(out.Bytes()) {
		var m Message
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		if m.Kind == "end" {
			end = m
		}
	}
	if clocked.opened != keptCheckpoints+1 || end.Native != 30 {
		t.Errorf("%d trainings of 10 s in native code are told as %v s: %+v", clocked.opened, end.Native, end)
	}
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		if a.RunID == r.ID && a.Outcome == outcomeCommitted && *a.DeviceTime != 30 {
			t.Errorf("%d trainings of 10 s in native code are recorded as %v s", clocked.opened, *a.DeviceTime)
		}
	}

	// Where it cannot be opened again, the attempt fails, and the worker goes on.
	dir = t.TempDir()
	store, r = stopped(t, dir)
	newest := newestFirst(store.workDir(r.ID))[0]
	if err := os.WriteFile(newest.path, []byte("damaged"), 0o666); err != nil {
		t.Fatal(err)
	}
	clocked = &clockedTrainers{failsAt: 2}
	err = Work(t.Context(), WorkerOptions{StudyDir: dir, CheckpointEvery: time.Hour, Only: []string{r.ID},
		Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
			clocked.Trainers = fakeBehaviour{}.trainers(p.Seed)
			return clocked, nil
		}})
	if done, e := store.committed(r); err != nil || e != nil || !done || clocked.opened < 3 {
		t.Errorf("%v %v, committed %v after %d openings", err, e, done, clocked.opened)
	}
}

// clockedTrainers open trainings that each take 10 s of native code.
type clockedTrainers struct {
	Trainers
	opened, failsAt int
}

type clockedTraining struct{ Training }

func (c *clockedTrainers) Open(r *PlannedRun) (Training, error) {
	if c.opened++; c.opened == c.failsAt {
		return nil, errors.New("no training today")
	}
	t, err := c.Trainers.Open(r)
	return clockedTraining{t}, err
}

func (clockedTraining) NativeTime() time.Duration { return 10 * time.Second }

// An attempt that only records what is known of its run already uses no device, and says nothing of one.
func TestAKnownFateIsNoFailedStart(t *testing.T) {
	dir := t.TempDir()
	store, err := openFake(t, faultStudy+"failures: {classes: {out_of_memory: {run: fail}}}\n", dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := workFake(t.Context(), dir, fakeBehaviour{Break: "first"}); err != nil {
		t.Fatal(err)
	}
	rows, records := 0, 0
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		if a.Task == "first" || a.Task == "tuned" {
			rows++
		}
	}
	store.devices.mu.Lock()
	defer store.devices.mu.Unlock()
	if err := store.devices.refresh(); err != nil {
		t.Fatal(err)
	}
	for _, list := range store.devices.records {
		for _, r := range list {
			if r.Kind != recordAttempt {
				continue
			}
			if records++; r.Steps == 0 {
				t.Errorf("on record as a failed start: %+v", r)
			}
		}
	}
	// Six runs fail, each is then recorded as failed for good, and so are the four that start from them.
	if rows != 6+6+4 || records != 6 {
		t.Errorf("%d attempts, %d of them on the device's record", rows, records)
	}
}

// What a failed attempt says of its device is on record before the next one starts there, so a device on which nothing can start wastes three.
func TestAFailureIsOnRecordBeforeTheNextAttempt(t *testing.T) {
	for range 5 {
		dir := t.TempDir()
		if _, err := openFake(t, faultStudy, dir); err != nil {
			t.Fatal(err)
		}
		err := Work(t.Context(), WorkerOptions{StudyDir: dir, Elsewhere: true, Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
			return fakeBehaviour{BlackHole: "GPU-0", Device: "GPU-0"}.trainers(p.Seed), nil
		}})
		if closed := (closedError{}); !errors.As(err, &closed) {
			t.Errorf("the worker ended with %v", err)
		}
		if n := len(readAll[attemptRow](t, dir, "attempts")); n != DefaultPolicy().Starts {
			t.Errorf("%d attempts on a device on which nothing can start, want %d", n, DefaultPolicy().Starts)
		}
	}
}
