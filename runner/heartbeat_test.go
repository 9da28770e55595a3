package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"anynetx/bindings"
	"anynetx/engine"
)

// slowTrainers take a quarter of an hour for everything that comes before a step, and behind the last.
type slowTrainers struct {
	fakeTrainers
	plans bool // only for planning, since a test's clock stands while one of a group holds what the others wait for
}

const slow = 15 * time.Minute

func (s slowTrainers) Need(runs ...*PlannedRun) (int64, error) {
	time.Sleep(slow)
	return s.fakeTrainers.Need(runs...)
}

func (s slowTrainers) Open(r *PlannedRun) (Training, error) {
	t, err := s.fakeTrainers.Open(r)
	if s.plans || err != nil {
		return t, err
	}
	time.Sleep(slow)
	return slowTraining{t}, nil
}

type slowTraining struct{ Training }

func (t slowTraining) Initialize() error {
	time.Sleep(slow)
	return t.Training.Initialize()
}

func (t slowTraining) WriteWeights(w io.Writer) error {
	time.Sleep(slow)
	return t.Training.WriteWeights(w)
}

// As long as a worker has a lease another machine sees that it lives, whatever the run waits for: the device for itself (alone), a context, a
// plan, data, the disk. By a clock that the test turns.
func TestALeaseLivesFromItsFirstMoment(t *testing.T) {
	for _, c := range []struct {
		name   string
		orders Orders
		alone  bool // the runs of one architecture have run out of memory, and wait until nothing is beside them
	}{
		{"alone", Orders{Models: 2}, true},
		{"group", Orders{Models: 1, Group: MostGrouped, MemoryBytes: 200}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			store, err := openFake(t, groupStudy, dir)
			if err != nil {
				t.Fatal(err)
			}
			runs := mustRuns(t, store)
			if c.alone {
				record := deviceRecord{Device: "fake:0", Kind: recordMemory, Model: runs[len(runs)-1].footprintKey()}
				if err := store.noteDevice(record); err != nil {
					t.Fatal(err)
				}
			}
			line, err := json.Marshal(c.orders)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				stdin, hold := io.Pipe()
				go fmt.Fprintf(hold, "%s\n", line)
				done := make(chan error)
				go func() {
					done <- Work(t.Context(), WorkerOptions{StudyDir: dir, Stdin: stdin, Ordered: true, Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
						time.Sleep(slow)
						f := slowTrainers{fakeTrainers{seed: p.Seed, need: 30, step: time.Minute}, c.orders.Group > 1}
						if f.plans {
							f.step = 0
						}
						return f, nil
					}})
				}()
				other, quiet := lease{Host: "other", Machine: "another"}, &silence{}
				waited := map[string]time.Duration{} // between the lease and the attempt's folder, by lease
				const look = time.Minute
				for begin := time.Now(); ; {
					select {
					case err := <-done:
						hold.Close()
						if err != nil {
							t.Error(err)
						}
						longest := time.Duration(0)
						for _, d := range waited {
							longest = max(longest, d)
						}
						if t.Logf("%v of work, the longest wait of a leased run was %v", time.Since(begin), longest); longest < foreignSilence {
							t.Errorf("no run waited longer than %v, which shows nothing", longest)
						}
						return
					case <-time.After(look):
					}
					for _, r := range runs {
						attempts, err := readAttempts(store.workDir(r.ID))
						if err != nil {
							t.Fatal(err)
						}
						for _, a := range attempts {
							if a.end != nil {
								continue
							}
							if !exists(a.lease.folder()) {
								waited[a.lease.path()] += look
							}
							if a.lease.dead(other, quiet) && !exists(a.lease.endPath()) && exists(a.lease.path()) {
								if !t.Failed() { // once is enough
									t.Errorf("another machine takes %s, which is in hand, for dead after %v", r, time.Since(begin))
								}
							}
						}
					}
				}
			})
			tidy(t, dir, groupRuns)
			for _, a := range readAll[attemptRow](t, dir, "attempts") {
				if a.Outcome != outcomeCommitted {
					t.Errorf("%+v", a)
				}
			}
		})
	}
}

// A lane that the device has no room for, though others have, costs nothing: its run waits for one of theirs.
func TestNoRoomForALane(t *testing.T) {
	for _, failure := range []error{&bindings.Error{Status: bindings.OutOfMemory, Text: "no room"}, errors.New("too many contexts")} {
		noRoomForALane(t, failure)
	}
}

// stepsWait keeps trainings from their next step until something has happened.
func stepsWait(happened func() bool) func(*PlannedRun, engine.Position) error {
	return func(*PlannedRun, engine.Position) error {
		for begin := time.Now(); !happened() && time.Since(begin) < time.Minute; {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
}

func noRoomForALane(t *testing.T, failure error) {
	t.Helper()
	dir := t.TempDir()
	if _, err := openFake(t, faultStudy, dir); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	opened, refused := 0, 0
	heldUp := stepsWait(func() bool {
		mu.Lock()
		defer mu.Unlock()
		return refused > 0
	})
	stdin, hold := io.Pipe()
	defer hold.Close()
	go fmt.Fprintln(hold, `{"models":3}`)
	err := Work(t.Context(), WorkerOptions{StudyDir: dir, Stdin: stdin, Ordered: true, Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
		mu.Lock()
		defer mu.Unlock()
		if opened == 2 {
			refused++
			return nil, fmt.Errorf("device fake: %w", failure)
		}
		opened++
		return fakeTrainers{seed: p.Seed, fail: heldUp}, nil
	}})
	if err != nil || refused == 0 {
		t.Fatalf("%d lanes were refused; the worker ended with %v", refused, err)
	}
	tidy(t, dir, faultRuns)
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		if a.Outcome != outcomeCommitted {
			t.Errorf("%+v", a)
		}
	}
	said := 0
	for _, e := range readAll[Event](t, dir, "events") {
		if e.Kind == "no_lane" && strings.Contains(e.Text, failure.Error()) {
			said++
		}
	}
	if said != 1 {
		t.Errorf("%d events say that a lane could not be opened", said)
	}
}

// A device that is lost while a lane is opened: what is held for the lane is given back, and is nobody's failure.
func TestWhatIsHeldIsGivenBack(t *testing.T) {
	dir := t.TempDir()
	store, err := openFake(t, faultStudy, dir)
	if err != nil {
		t.Fatal(err)
	}
	var opened atomic.Int64
	stdin, hold := io.Pipe()
	defer hold.Close()
	go fmt.Fprintln(hold, `{"models":2}`)
	err = Work(t.Context(), WorkerOptions{StudyDir: dir, Stdin: stdin, Ordered: true, Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
		if opened.Add(1) > 1 {
			return nil, &bindings.Error{Status: bindings.DeviceLost, Text: "gone"}
		}
		return fakeTrainers{seed: p.Seed, fail: stepsWait(func() bool { return opened.Load() > 1 })}, nil
	}})
	if classify(err) != classDevice {
		t.Fatalf("the worker ended with %v", err)
	}
	for _, r := range mustRuns(t, store) {
		attempts, err := readAttempts(store.workDir(r.ID))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range attempts {
			if a.end == nil || a.end.Outcome != outcomeStopped {
				t.Errorf("%s is left with %+v", r, a.end)
			}
			if _, err := os.Stat(a.lease.path()); err != nil {
				t.Error(err)
			}
		}
	}
}
