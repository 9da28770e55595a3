package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"anynetx/bindings"
	"anynetx/engine"
)

// groupStudy trains two architectures on sets of different sizes, for different times, at different rates and of different classes: all runs of one architecture share
// launches, but for those of the last task, whose batch is another one.
const groupStudy = `name: groups
seed: 3
population:
  architectures:
    - {depths: [1, 1, 1, 1], widths: [8, 8, 8, 8], bottlenecks: [1, 1, 1, 1], group_widths: [4, 4, 4, 4]}
    - {depths: [1, 1, 1, 1], widths: [8, 8, 8, 16], bottlenecks: [1, 1, 1, 1], group_widths: [4, 4, 4, 4]}
recipes:
  tiny: {batch: 16}
  other: {batch: 16, learning_rate: 0.2, warmup_epochs: 1, augmentation: {flip: true}}
  large: {batch: 32}
defaults: {recipe: tiny, epochs: 3, stem: simple_stem_in, stem_width: 8, resolution: 16, classes: 6}
tasks:
  - {name: first, dataset: one, replicates: 2}
  - {name: second, dataset: two, epochs: 4, recipe: other}
  - {name: small, dataset: three, train_images: 96, classes: 3}
  - {name: longer, dataset: one, epochs: 5, start: {continue: first}}
  - {name: tuned, dataset: two, start: {init: small}}
  - {name: batch, dataset: one, recipe: large}
`

const groupRuns = 2 * 7

// groupOf says how a worker in this process trains groupStudy.
type groupOf struct {
	orders Orders
	fake   fakeTrainers
	hook   func(point string) error
	every  time.Duration // checkpoints
}

// train carries a study out, or goes on with it.
func (g groupOf) train(ctx context.Context, t *testing.T, dir string) error {
	t.Helper()
	line, err := json.Marshal(g.orders)
	if err != nil {
		t.Fatal(err)
	}
	stdin, hold := io.Pipe()
	defer hold.Close()
	go fmt.Fprintf(hold, "%s\n", line)
	return Work(ctx, WorkerOptions{StudyDir: dir, Stdin: stdin, Ordered: true, CheckpointEvery: g.every, Hook: g.hook,
		Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
			f := g.fake
			f.seed = p.Seed
			return f, nil
		}})
}

var grouped = Orders{Models: 1, Group: MostGrouped}

// alone is the study without groups.
func alone(t *testing.T, fake fakeTrainers) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	if _, err := openFake(t, groupStudy, dir); err != nil {
		t.Fatal(err)
	}
	if err := (groupOf{orders: Orders{Models: 1}, fake: fake}).train(t.Context(), t, dir); err != nil {
		t.Fatal(err)
	}
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		if a.RunsPerLaunch != nil && *a.RunsPerLaunch != 1 {
			t.Errorf("without groups %v runs were in a launch: %+v", *a.RunsPerLaunch, a)
		}
	}
	return bytesOf(t, dir)
}

// groupsOf is the size of the largest group that a study had, by what is on record, and how many there were.
func groupsOf(t *testing.T, dir string) (largest, groups int) {
	t.Helper()
	seen := map[string]bool{} // each member has the same event
	for _, e := range readAll[Event](t, dir, "events") {
		if seen[e.Text] {
			continue
		}
		seen[e.Text] = true
		n := 0
		if _, err := fmt.Sscanf(e.Text, "%d runs of architecture", &n); err == nil && strings.Contains(e.Text, "common launches") {
			largest, groups = max(largest, n), groups+1
		}
	}
	return largest, groups
}

// Runs of one architecture train in common launches, and end in the bytes that they have alone. Who shared them is on record.
func TestGroup(t *testing.T) {
	want, dir := alone(t, fakeTrainers{}), t.TempDir()
	if _, err := openFake(t, groupStudy, dir); err != nil {
		t.Fatal(err)
	}
	if err := (groupOf{orders: grouped, every: time.Millisecond}).train(t.Context(), t, dir); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, want, dir)
	tidy(t, dir, groupRuns)
	if largest, groups := groupsOf(t, dir); largest != 4 || groups < 4 { // of each architecture those from scratch, then those that start from them
		t.Errorf("%d groups, of %d runs at most", groups, largest)
	}
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		n := 0.0
		if a.RunsPerLaunch != nil {
			n = *a.RunsPerLaunch
		}
		switch {
		case a.Outcome != outcomeCommitted:
			t.Errorf("an attempt ended %+v", a)
		case a.Task == "batch" && n != 1, a.Task == "small" && n != 4, a.Task == "first" && (n <= 3 || n > 4), a.Task == "second" && (n <= 2.5 || n > 4):
			t.Errorf("%v runs were in the launches of %+v", n, a)
		}
	}
}

// A run that diverges leaves its group alone; so does one that fails otherwise, and it is tried again by itself.
func TestARunFailsInAGroup(t *testing.T) {
	diverge := func(r *PlannedRun, at engine.Position) error {
		if r.Task.Name == "first" && r.Replicate == 1 && at.Epoch == 1 && at.Step == 3 {
			return &engine.DivergedError{Epoch: 1, Step: 3, Reason: "the loss was NaN"}
		}
		return nil
	}
	want, dir := alone(t, fakeTrainers{fail: diverge}), t.TempDir()
	if _, err := openFake(t, groupStudy, dir); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	failed := map[string]bool{}
	fake := fakeTrainers{fail: func(r *PlannedRun, at engine.Position) error {
		mu.Lock()
		defer mu.Unlock()
		if r.Task.Name == "second" && at.Epoch == 2 && at.Step == 1 && !failed[r.ID] { // the longest: when it is taken again, others of its kind are open
			failed[r.ID] = true
			return errors.New("a bit has fallen over")
		}
		return diverge(r, at)
	}}
	if err := (groupOf{orders: grouped, fake: fake}).train(t.Context(), t, dir); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, want, dir)
	tidy(t, dir, groupRuns)
	if len(failed) != 2 {
		t.Fatalf("%d runs failed on the way", len(failed))
	}
	last := map[string]attemptRow{}
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		switch second := failed[a.RunID] && a.Attempt == 2; {
		case a.Attempt > 1 && !second:
			t.Errorf("another run than the failed one was tried again: %+v", a)
		case second && (*a.RunsPerLaunch != 1 || a.ResumedFrom == nil || *a.ResumedFrom < 20):
			t.Errorf("a run that failed in a group went on %+v", a)
		}
		last[a.RunID] = a
	}
	for id := range failed {
		if last[id].Attempt != 2 || last[id].Outcome != outcomeCommitted {
			t.Errorf("%+v", last[id])
		}
	}
}

// A launch that fails, at the first step or on the way, at a step or at the end of an epoch, fails all that are in it: each of them is tried again
// by itself, from where it was, at the cost of no attempt and of no device's reputation.
func TestALaunchFails(t *testing.T) {
	want := alone(t, fakeTrainers{})
	lost := &bindings.Error{Status: bindings.OutOfMemory, Text: "no room for the program"}
	for _, c := range []struct {
		name  string
		at    engine.Position // of one that is in the launch
		err   error
		class string
	}{
		{"out of memory at the first step", engine.Position{Epoch: 0, Step: 0}, lost, classMemory},
		{"an error at the first step", engine.Position{Epoch: 0, Step: 0}, errors.New("a bit has fallen over"), classInternal},
		{"an error on the way", engine.Position{Epoch: 1, Step: 4}, errors.New("a bit has fallen over"), classInternal},
		{"out of memory at the end of an epoch", engine.Position{Epoch: 1, Step: 10}, lost, classMemory},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := openFake(t, groupStudy+"failures: {attempts: 1}\n", dir); err != nil {
				t.Fatal(err)
			}
			hit := map[string]bool{} // runs of the launches that failed, one for each architecture
			archs := map[string]bool{}
			fake := fakeTrainers{launch: func(list []Training) error {
				first := list[0].(*fakeTraining).r
				if !slices.ContainsFunc(list, func(t Training) bool { p := t.Position(); return p.Epoch == c.at.Epoch && p.Step == c.at.Step }) || archs[first.Member.ID] {
					return nil
				}
				archs[first.Member.ID] = true
				for _, t := range list {
					hit[t.(*fakeTraining).r.ID] = true
				}
				return c.err
			}}
			if err := (groupOf{orders: grouped, fake: fake}).train(t.Context(), t, dir); err != nil {
				t.Fatal(err)
			}
			sameBytes(t, want, dir)
			tidy(t, dir, groupRuns)
			if len(archs) != 2 || len(hit) < 4 {
				t.Fatalf("launches of %d architectures with %d runs failed", len(archs), len(hit))
			}
			attempts := map[string]int{}
			for _, a := range readAll[attemptRow](t, dir, "attempts") {
				attempts[a.RunID]++
				second := hit[a.RunID] && a.Attempt == 2
				switch {
				case hit[a.RunID] && a.Attempt == 1 && (a.Outcome != outcomeFailed || a.FailureClass != c.class),
					second && (a.Outcome != outcomeCommitted || *a.RunsPerLaunch != 1 || (a.ResumedFrom == nil) != (c.at.Epoch == 0)),
					!hit[a.RunID] && a.Outcome != outcomeCommitted:
					t.Errorf("%+v", a)
				}
			}
			for id, n := range attempts {
				if hit[id] != (n == 2) || n > 2 {
					t.Errorf("run %s had %d attempts", id, n)
				}
			}
		})
	}
}

// A disk that is full when one of a group writes its checkpoint stops the worker and is nobody's failure; the same command goes on.
func TestADiskIsFullInAGroup(t *testing.T) {
	want, dir := alone(t, fakeTrainers{}), t.TempDir()
	if _, err := openFake(t, groupStudy, dir); err != nil {
		t.Fatal(err)
	}
	var full atomic.Int64
	hook := func(point string) error {
		if strings.HasPrefix(point, "checkpoint-000001") && strings.HasSuffix(point, "written") && full.Add(1) == 3 {
			return &os.PathError{Op: "write", Path: point, Err: syscall.ENOSPC}
		}
		return nil
	}
	if err := (groupOf{orders: grouped, hook: hook}).train(t.Context(), t, dir); classify(err) != classFolder || !strings.Contains(err.Error(), "free space there") {
		t.Fatalf("the worker ended with %v", err)
	}
	if err := (groupOf{orders: grouped}).train(t.Context(), t, dir); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, want, dir)
	tidy(t, dir, groupRuns)
	failed := 0
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		if a.Outcome == outcomeFailed {
			if failed++; a.FailureClass != classFolder {
				t.Errorf("%+v", a)
			}
		}
	}
	if failed != 1 { // the others were stopped
		t.Errorf("%d attempts failed", failed)
	}
}

// Where there is no room for a group there is for a smaller one, and no run fails. A group that cannot be at all trains one by one.
func TestNoRoomForAGroup(t *testing.T) {
	want := alone(t, fakeTrainers{})
	for _, c := range []struct {
		room int
		err  error
	}{{3, &bindings.Error{Status: bindings.OutOfMemory, Text: "no room"}}, {2, &bindings.Error{Status: bindings.OutOfMemory, Text: "no room"}},
		{1, &bindings.Error{Status: bindings.OutOfMemory, Text: "no room"}}, {1, errors.New("records differ")}} {
		dir, asked := t.TempDir(), []int(nil)
		if _, err := openFake(t, groupStudy, dir); err != nil {
			t.Fatal(err)
		}
		fake := fakeTrainers{groups: func(runs int) error {
			if asked = append(asked, runs); runs > c.room {
				return c.err
			}
			return nil
		}}
		if err := (groupOf{orders: grouped, fake: fake}).train(t.Context(), t, dir); err != nil {
			t.Fatal(err)
		}
		sameBytes(t, want, dir)
		tidy(t, dir, groupRuns)
		tooMany := 0
		for _, n := range asked {
			if n > c.room {
				tooMany++
			}
		}
		if tries := map[int]int{3: 1, 2: 2, 1: 3}[c.room]; tooMany > 2*tries { // for each architecture once
			t.Errorf("room for %d (%v): groups of %v were tried", c.room, c.err, asked)
		}
		if largest, _ := groupsOf(t, dir); largest != c.room && c.room > 1 || largest > 1 && c.room == 1 {
			t.Errorf("room for %d: the largest group had %d runs", c.room, largest)
		}
		for _, a := range readAll[attemptRow](t, dir, "attempts") {
			if a.Outcome == outcomeFailed {
				t.Errorf("room for %d: %+v", c.room, a)
			}
		}
	}
}

// Groups take the memory there is: 100 bytes, runs of 30.
func TestAGroupFitsIntoMemory(t *testing.T) {
	dir := t.TempDir()
	if _, err := openFake(t, groupStudy, dir); err != nil {
		t.Fatal(err)
	}
	if err := (groupOf{orders: Orders{Models: 1, Group: MostGrouped, MemoryBytes: 100, ExtraBytes: 5, Exclusive: true}, fake: fakeTrainers{need: 30}}).train(t.Context(), t, dir); err != nil {
		t.Fatal(err)
	}
	if largest, _ := groupsOf(t, dir); largest != 3 {
		t.Errorf("the largest group had %d runs, want 3", largest)
	}
	tidy(t, dir, groupRuns)
}

// Members go on from where each of them was. One whose checkpoint is damaged goes on from the one before, beside the others.
func TestAGroupResumes(t *testing.T) {
	want, dir := alone(t, fakeTrainers{}), t.TempDir()
	store, err := openFake(t, groupStudy, dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var written atomic.Int64
	hook := func(point string) error {
		if strings.HasPrefix(point, "checkpoint-000001") && strings.HasSuffix(point, "renamed") && written.Add(1) == 12 {
			stop()
		}
		return nil
	}
	if err := (groupOf{orders: grouped, hook: hook, every: time.Millisecond, fake: fakeTrainers{step: time.Millisecond}}).train(ctx, t, dir); !errors.Is(err, ErrStopped) {
		t.Fatalf("the worker ended with %v", err)
	}
	var begun []*PlannedRun
	at := map[string]bool{}
	for _, r := range mustRuns(t, store) {
		if list := newestFirst(store.workDir(r.ID)); len(list) > 0 {
			begun = append(begun, r)
			at[list[0].name()] = true
		}
	}
	if len(begun) != 4 || len(at) < 2 {
		t.Fatalf("%d runs have a checkpoint, at %v", len(begun), at)
	}
	damaged := newestFirst(store.workDir(begun[0].ID))
	if err := os.WriteFile(damaged[0].path, []byte("damaged"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := (groupOf{orders: grouped}).train(t.Context(), t, dir); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, want, dir)
	tidy(t, dir, groupRuns)
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		i := slices.IndexFunc(begun, func(r *PlannedRun) bool { return r.ID == a.RunID })
		if i >= 0 && a.Outcome == outcomeCommitted && (a.ResumedFrom == nil || (*a.RunsPerLaunch == 1) != (i == 0)) {
			t.Errorf("%d of %d: %+v", i, len(begun), a)
		}
	}
}

// A run is cancelled while it trains in a group.
func TestARunOfAGroupIsCancelled(t *testing.T) {
	dir := t.TempDir()
	store, err := openFake(t, groupStudy, dir)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(mustRuns(t, store), func(r *PlannedRun) bool { return r.Task.Name == "second" })
	victim := mustRuns(t, store)[i]
	var once sync.Once
	fake := fakeTrainers{fail: func(r *PlannedRun, at engine.Position) error {
		if r.ID == victim.ID && at.Step == 5 {
			once.Do(func() {
				if err := os.MkdirAll(store.Dir+"/work/cancelled", 0o777); err != nil {
					t.Error(err)
				}
				if err := os.WriteFile(store.cancelledPath(r.ID), nil, 0o666); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second) // it looks once a second
			})
		}
		return nil
	}}
	if err := (groupOf{orders: grouped, fake: fake}).train(t.Context(), t, dir); err != nil {
		t.Fatal(err)
	}
	tidy(t, dir, groupRuns)
	for _, r := range readAll[runRow](t, dir, "runs") {
		if want := map[bool]string{true: classCancelled}[r.RunID == victim.ID]; r.FailureClass != want {
			t.Errorf("%+v", r)
		}
	}
}

// The whole program: workers that are killed while they train groups lose what lies behind the last checkpoints.
func TestGroupsKilledAndResumed(t *testing.T) {
	study := writeStudy(t, groupStudy)
	want := undisturbed(t, study, 1, behaviour(fast))
	var lost, resumed atomic.Int64
	n := seeds() / 6
	t.Run("seeds", func(t *testing.T) {
		for seed := range uint64(n) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				killer(t, 2*seed+1, study, dir, 1, behaviour(fast), devicesAre(gpus(1)), groupVariable+"=0")
				sameBytes(t, want, dir)
				tidy(t, dir, groupRuns)
				if largest, _ := groupsOf(t, dir); largest < 3 {
					t.Errorf("the largest group had %d runs", largest)
				}
				l, r := disturbances(t, dir)
				lost.Add(l)
				resumed.Add(r)
			})
		}
	})
	t.Logf("%d attempts were killed, %d went on from a checkpoint", lost.Load(), resumed.Load())
	if lost.Load() < n || resumed.Load() < n/2 {
		t.Errorf("only %d attempts were killed and %d resumed: the kills miss the work", lost.Load(), resumed.Load())
	}
}

// One run that takes its process down, or hangs, is found out among those in its launches, at the cost of no attempt of theirs.
func TestOneOfAGroupIsAtFault(t *testing.T) {
	for name, c := range map[string]struct {
		class string
		b     fakeBehaviour
	}{
		"crash": {classCrash, fakeBehaviour{Step: time.Millisecond, Crash: "second"}},
		"hang":  {classHung, fakeBehaviour{Step: time.Millisecond, Hang: "second"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Where nothing hangs each run has one attempt: those that are not at fault have spent none.
			failures := map[string]string{"crash": "attempts: 1", "hang": "hang: {factor: 2, floor_s: 8, start_s: 600}"}[name] // not below pausedFor: a machine may stand still for so long
			study := writeStudy(t, groupStudy+"failures: {elsewhere_s: 0, settle_s: 0, "+failures+"}\n")
			dir := t.TempDir()
			c.b.Child = filepath.Join(t.TempDir(), "child")
			p := startStudy(t, study, dir, 1, behaviour(c.b), devicesAre(gpus(1)), groupVariable+"=0")
			err := p.Wait()
			failed := 0
			for _, r := range readAll[runRow](t, dir, "runs") {
				if r.Status != statusDone {
					if failed++; r.Task != "second" || r.FailureClass != c.class {
						t.Errorf("%+v", r)
					}
				}
			}
			if want := map[string]int{"crash": 2}[name]; failed != want { // one run hangs, once
				t.Errorf("%d runs failed, want %d: %v\n%s", failed, want, err, p.err.String())
			}
			tidy(t, dir, groupRuns)
			hung := 0
			for _, a := range readAll[attemptRow](t, dir, "attempts") {
				if a.FailureClass == classHung {
					hung++
				}
				if a.Attempt > 1 && a.Outcome == outcomeCommitted && a.Task == "second" && *a.RunsPerLaunch != 1 {
					t.Errorf("tried again in a group: %+v", a)
				}
			}
			if name == "hang" && hung < 4 {
				t.Errorf("%d of the 4 runs that waited for the one that hung are under suspicion", hung)
			}
			if largest, _ := groupsOf(t, dir); largest != 4 {
				t.Errorf("the largest group had %d runs", largest)
			}
		})
	}
}
