package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"anynetx/bindings"
	"anynetx/engine"
)

// gauge counts the trainings that are open at a time, as trainers see them.
type gauge struct {
	mu        sync.Mutex
	open      map[string]int64 // what each needs, by run ID
	most      int
	mostBytes int64
	want      int            // trainings take no step before so many were open at a time
	beside    map[string]int // the most others that were open during a run's last opening, by run ID
}

// gaugedTrainers are fake trainers under a gauge.
type gaugedTrainers struct {
	fakeTrainers
	g    *gauge
	need func(*PlannedRun) int64
}

func (t gaugedTrainers) Need(runs ...*PlannedRun) (int64, error) { return t.need(runs[0]), nil }

func (t gaugedTrainers) Open(r *PlannedRun) (Training, error) {
	training, err := t.fakeTrainers.Open(r)
	t.g.mu.Lock()
	defer t.g.mu.Unlock()
	t.g.open[r.ID], t.g.beside[r.ID] = t.need(r), 0
	sum := int64(0)
	for id, n := range t.g.open {
		sum += n
		t.g.beside[id] = max(t.g.beside[id], len(t.g.open)-1)
	}
	t.g.most, t.g.mostBytes = max(t.g.most, len(t.g.open)), max(t.g.mostBytes, sum)
	return gaugedTraining{training, t.g, r.ID}, err
}

type gaugedTraining struct {
	Training
	g  *gauge
	id string
}

func (t gaugedTraining) Step() error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		t.g.mu.Lock()
		most := t.g.most
		t.g.mu.Unlock()
		if most >= t.g.want {
			break
		}
	}
	return t.Training.Step()
}

func (t gaugedTraining) Close() {
	t.g.mu.Lock()
	delete(t.g.open, t.id)
	t.g.mu.Unlock()
	t.Training.Close()
}

// workOn runs a worker in this process on these orders, which must come to so many trainings at a time.
func workOn(t *testing.T, dir string, want int, orders Orders, f func(p *Plan) gaugedTrainers) *gauge {
	t.Helper()
	g := &gauge{open: map[string]int64{}, beside: map[string]int{}, want: want}
	line, err := json.Marshal(orders)
	if err != nil {
		t.Fatal(err)
	}
	stdin, hold := io.Pipe()
	defer hold.Close()
	go fmt.Fprintf(hold, "%s\n", line)
	err = Work(t.Context(), WorkerOptions{StudyDir: dir, Stdin: stdin, Ordered: true, Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
		trainers := f(p)
		trainers.g = g
		return trainers, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestSeveralModelsInAWorkerGiveTheSameBytes(t *testing.T) {
	one, three := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, three} {
		if _, err := openFake(t, faultStudy, dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := workFake(t.Context(), one, fakeBehaviour{}); err != nil {
		t.Fatal(err)
	}
	g := workOn(t, three, 3, Orders{Models: 3}, func(p *Plan) gaugedTrainers {
		return gaugedTrainers{fakeTrainers: fakeTrainers{seed: p.Seed, step: time.Millisecond}, need: func(*PlannedRun) int64 { return 0 }}
	})
	if g.most != 3 {
		t.Errorf("%d runs were in training at a time, want 3", g.most)
	}
	sameBytes(t, bytesOf(t, one), three)
	tidy(t, three, faultRuns)
}

func TestRunsStartWhereTheyFit(t *testing.T) {
	dir := t.TempDir()
	if _, err := openFake(t, faultStudy, dir); err != nil {
		t.Fatal(err)
	}
	// 100 bytes for runs of 40 and 15, with 5 more that each takes beyond its plan: 45+45 and 45+20+20 fit, never more than 3.
	g := workOn(t, dir, 2, Orders{Models: 3, MemoryBytes: 100, ExtraBytes: 5}, func(p *Plan) gaugedTrainers {
		return gaugedTrainers{fakeTrainers: fakeTrainers{seed: p.Seed, step: time.Millisecond}, need: func(r *PlannedRun) int64 {
			if r.Task.Name == "first" {
				return 40
			}
			return 15
		}}
	})
	if g.mostBytes > 90 || g.most < 2 || g.most > 3 {
		t.Errorf("%d runs with %d planned bytes were in training at a time; want 2 to 3 with at most 90", g.most, g.mostBytes)
	}
	tidy(t, dir, faultRuns)
}

// Behind runs that do not fit, the longest that does is leased.
func TestASmallerRunFits(t *testing.T) {
	store, err := openFake(t, faultStudy, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	q := queue{store: store, me: identity()}
	if err := q.refresh(); err != nil {
		t.Fatal(err)
	}
	var small *PlannedRun // the shortest that can start
	for _, r := range q.runs {
		if r.Source == nil {
			small = r
		}
	}
	asked := 0
	o, err := q.next(func(r *PlannedRun) bool { asked++; return r == small })
	if err != nil || o.lease == nil || o.run != small || asked < 4 {
		t.Fatalf("leased %v after %d were asked for, want %v: %v", o.run, asked, small, err)
	}
	o.lease.rest()
}

func TestOrders(t *testing.T) {
	two := []int64{30, 30}
	for _, c := range []struct {
		o      Orders
		need   int64
		beside []int64
		want   bool
	}{
		{Orders{Models: 2}, 1, nil, true},
		{Orders{Models: 2}, 1, two, false},                                   // as many as there may be
		{Orders{Models: 3}, 1 << 60, two, true},                              // no limit known
		{Orders{Models: 3, MemoryBytes: 100}, 40, two, true},                 // to the byte
		{Orders{Models: 3, MemoryBytes: 100}, 41, two, false},                //
		{Orders{Models: 3, MemoryBytes: 100, ExtraBytes: 1}, 38, two, false}, // three extras
		{Orders{Models: 3, MemoryBytes: 100}, 101, nil, false},               // others are on the device: it waits
		{Orders{Models: 3, MemoryBytes: 100, Exclusive: true}, 101, nil, true},
		{Orders{Models: 3, MemoryBytes: 100, Exclusive: true}, 101, two, false},
		{Orders{Models: 3, MemoryBytes: -1, Exclusive: true}, 1, nil, false}, // others have taken all there is
	} {
		if got := c.o.fits(c.need, c.beside); got != c.want {
			t.Errorf("%+v, %d beside %v: %v", c.o, c.need, c.beside, got)
		}
	}
}

func TestARunThatWasOutOfMemoryIsTriedAlone(t *testing.T) {
	dir := t.TempDir()
	if _, err := openFake(t, faultStudy, dir); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	failed := "" // the run that fails once
	g := workOn(t, dir, 3, Orders{Models: 3}, func(p *Plan) gaugedTrainers {
		f := fakeTrainers{seed: p.Seed, step: time.Millisecond, fail: func(r *PlannedRun, at engine.Position) error {
			mu.Lock()
			defer mu.Unlock()
			if failed == "" && at.Epoch == 1 {
				failed = r.ID
				return &bindings.Error{Status: bindings.OutOfMemory, Text: "no room"}
			}
			return nil
		}}
		return gaugedTrainers{fakeTrainers: f, need: func(*PlannedRun) int64 { return 0 }}
	})
	if failed == "" || g.most != 3 {
		t.Fatalf("nothing failed, or only %d were in training at a time", g.most)
	}
	if n := g.beside[failed]; n != 0 {
		t.Errorf("%d others were in training while it was tried again", n)
	}
	tidy(t, dir, faultRuns)
}

// A fault that a worker cannot go on after asks the other lanes for a checkpoint, and is what the worker ends with.
func TestALostDeviceStopsAllLanes(t *testing.T) {
	dir := t.TempDir()
	if _, err := openFake(t, faultStudy, dir); err != nil {
		t.Fatal(err)
	}
	stdin, hold := io.Pipe()
	defer hold.Close()
	go fmt.Fprintln(hold, `{"models":3}`)
	err := Work(t.Context(), WorkerOptions{StudyDir: dir, Stdin: stdin, Ordered: true, Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
		return fakeTrainers{seed: p.Seed, step: 5 * time.Millisecond, fail: func(r *PlannedRun, at engine.Position) error {
			if at.Epoch == 1 {
				return &bindings.Error{Status: bindings.DeviceLost, Text: "gone"}
			}
			return nil
		}}, nil
	}})
	if classify(err) != classDevice || errors.Is(err, ErrStopped) {
		t.Fatalf("the worker ended with %v", err)
	}
}

// Trainers that take more than they plan: of all runs that need the same memory one runs out of it, the others are not put beside anything.
func TestOneRunOfAKindRunsOutOfMemory(t *testing.T) {
	const planned = 30
	store, ranOut := outOfMemory(t, planned, 45)
	if len(ranOut) == 0 {
		t.Error("nothing ran out of memory")
	}
	for kind, n := range ranOut {
		if n > 1 {
			t.Errorf("%d runs of one kind ran out of memory (%s)", n, kind)
		}
	}
	for _, r := range mustRuns(t, store) {
		want := map[bool]int64{false: planned, true: 39}[ranOut[r.footprintKey()] > 0]
		if n, err := store.footprint(r, planned); err != nil || n != want {
			t.Errorf("a run whose kind ran out of memory %d times is given %d bytes, want %d (%v)", ranOut[r.footprintKey()], n, want, err)
		}
	}
	// The control: where they take what they plan, none does.
	if _, ranOut := outOfMemory(t, planned, planned); len(ranOut) != 0 {
		t.Errorf("what fits runs out of memory: %v", ranOut)
	}
}

// outOfMemory carries a study out on a device of 100 bytes, three at a time, and counts the runs that ran out of memory by their kind.
func outOfMemory(t *testing.T, planned, takes int) (*Store, map[string]int) {
	t.Helper()
	dir := t.TempDir()
	store, err := openFake(t, faultStudy, dir)
	if err != nil {
		t.Fatal(err)
	}
	const capacity = 100
	var mu sync.Mutex
	open := map[string]bool{}
	workOn(t, dir, 3, Orders{Models: 3, MemoryBytes: capacity, Exclusive: true}, func(p *Plan) gaugedTrainers {
		f := fakeTrainers{seed: p.Seed, step: time.Millisecond, fail: func(r *PlannedRun, at engine.Position) error {
			mu.Lock()
			defer mu.Unlock()
			if !open[r.ID] && (len(open)+1)*takes > capacity { // memory is taken at the start
				return &bindings.Error{Status: bindings.OutOfMemory, Text: "no room"}
			}
			if open[r.ID] = true; at.Epoch == r.Task.Epochs-1 && at.Step == at.StepsPerEpoch-1 {
				delete(open, r.ID)
			}
			return nil
		}}
		return gaugedTrainers{fakeTrainers: f, need: func(*PlannedRun) int64 { return int64(planned) }}
	})
	tidy(t, dir, faultRuns)
	ranOut := map[string]int{}
	byID := map[string]*PlannedRun{}
	for _, r := range mustRuns(t, store) {
		byID[r.ID] = r
	}
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		if a.Outcome == outcomeFailed && byID[a.RunID] != nil {
			ranOut[byID[a.RunID].footprintKey()]++
		}
	}
	return store, ranOut
}
