package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/anynetx"
	"anynetx/results"
)

func found(t *testing.T, dir, pattern string) bool {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return len(list) > 0
}

// committedOnce checks that of all attempts at a run one committed it.
func committedOnce(t *testing.T, dir string) {
	t.Helper()
	attempts, err := results.ReadTable[attemptRow](dir, "attempts")
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, a := range attempts {
		if a.Outcome == outcomeCommitted {
			times[a.RunID]++
		}
	}
	for id, n := range times {
		if n != 1 {
			t.Errorf("run %s was committed %d times", id, n)
		}
	}
}

// Three that joined, one of them killed and one told to stop and joined again, beside a `study run`: the same bytes as one alone.
func TestJoin(t *testing.T) {
	file, letGo := hold(t)
	slow := fakeBehaviour{Step: 5 * time.Millisecond, Hold: file}
	study, dir := writeStudy(t, faultStudy), t.TempDir()
	want := undisturbed(t, study, 2, behaviour(fast))
	if _, err := openFake(t, faultStudy, dir); err != nil {
		t.Fatal(err)
	}
	killed := startStudy(t, "", dir, 1, behaviour(slow))
	warned := startStudy(t, "", dir, 1, behaviour(slow))
	active(t, dir, 2)
	run := startStudy(t, study, dir, 1, behaviour(slow))
	stays := startStudy(t, "", dir, 1, behaviour(slow))
	eventually(t, "a checkpoint", func() bool { return found(t, dir, "work/*/*/checkpoint-*") })
	killed.Process.Kill()
	for range 3 { // batch systems repeat themselves
		warned.Process.Signal(syscall.SIGUSR1)
		warned.Process.Signal(syscall.SIGTERM)
	}
	killed.Wait()
	warned.Wait()
	letGo()
	if code := warned.ProcessState.ExitCode(); code != exitStopped {
		t.Errorf("told to stop by USR1 and TERM, it ended with %v\n%s", warned.ProcessState, warned.err.String())
	}
	again := startStudy(t, "", dir, 1, behaviour(slow))
	for _, c := range []*coordinatorProcess{run, stays, again} {
		if err := c.Wait(); err != nil {
			t.Errorf("%v\n%s", err, c.err.String())
		}
	}
	sameBytes(t, want, dir)
	tidy(t, dir, faultRuns)
	committedOnce(t, dir)
}

// While others work on a plan it cannot be altered, nor its tables be compacted. When they are gone, it can.
func TestJoinedStudyIsNotAltered(t *testing.T) {
	dir := t.TempDir()
	if _, err := openFake(t, faultStudy, dir); err != nil {
		t.Fatal(err)
	}
	_, leave, err := joinStudy(t.Context(), &folderLocks{dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openFake(t, faultStudy, dir); err != nil {
		t.Errorf("the study as it is was refused: %v", err)
	}
	grown := faultStudy + "  - {name: added, dataset: two}\n"
	if _, err := openFake(t, grown, dir); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "others have joined") {
		t.Errorf("a study that grew: %v", err)
	}
	if _, err := Compact(dir); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "others have joined") {
		t.Errorf("compact: %v", err)
	}
	leave()
	if _, err := openFake(t, grown, dir); err != nil {
		t.Error(err)
	}
	if _, err := Compact(dir); err != nil {
		t.Error(err)
	}
	if _, _, err := joinStudy(t.Context(), &folderLocks{dir: t.TempDir()}); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "not a study folder") {
		t.Errorf("an empty folder: %v", err)
	}
}

// A file system without locks, as some network file systems are: two coordinators and one that joined cannot be told apart by locks, but leases
// do it. It is said aloud.
func TestWithoutLocks(t *testing.T) {
	study, dir := writeStudy(t, faultStudy), t.TempDir()
	want := undisturbed(t, study, 2, behaviour(fast))
	missing := locksVariable + "=missing"
	first := startStudy(t, study, dir, 1, behaviour(fast), missing)
	eventually(t, "a plan", func() bool { return exists(filepath.Join(dir, "plan.json")) })
	list := []*coordinatorProcess{first, startStudy(t, study, dir, 2, behaviour(fast), missing), startStudy(t, "", dir, 1, behaviour(fast), missing)}
	for _, c := range list {
		if err := c.Wait(); err != nil {
			t.Errorf("%v\n%s", err, c.err.String())
		}
		if !strings.Contains(c.err.String(), "locks do not work") {
			t.Errorf("nobody said so: %s", c.err.String())
		}
	}
	sameBytes(t, want, dir)
	committedOnce(t, dir)
	events, err := results.ReadTable[Event](dir, "events")
	if err != nil {
		t.Fatal(err)
	}
	said := 0
	for _, e := range events {
		if e.Kind == "no_locks" {
			said++
		}
	}
	if said != len(list) {
		t.Errorf("%d events no_locks, want %d", said, len(list))
	}
}

func TestJoinCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{nil, 0}, {fmt.Errorf("2 of 9 %w", ErrFailedRuns), 1}, {ErrCancelled, 1}, {anynetx.Inputf("no such folder"), 2}, {errNoWorker, 69}, {ErrClosedDevices, 69},
		{errors.New("something else"), 70}, {diskError(&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), 74}, {ErrStopped, 75},
	} {
		if code := JoinCode(c.err); code != c.code {
			t.Errorf("%v: exit code %d, want %d", c.err, code, c.code)
		}
	}
}

// Status shows a run in the hands of another machine, however long that has been silent: it cannot know that it is dead.
func TestStatusOfOtherMachines(t *testing.T) {
	store, err := openFake(t, faultStudy, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	other := lease{Host: "node07", Machine: "another boot", PID: 1, Device: "cuda:0"}
	l, _, err := store.take(mustRuns(t, store)[0], other, &silence{})
	if err != nil || l == nil {
		t.Fatal(err)
	}
	l.rest() // it is not heard of any more
	for _, c := range []struct {
		silent time.Duration
		says   []string
	}{
		{-time.Hour, []string{"host node07: 1 running, last heartbeat 0 s ago", "process 1 on node07, attempt 1, epoch 0 of"}}, // its clock is ahead
		{30 * time.Minute, []string{"last heartbeat 30m0s ago\nrunning", "epoch 0 of 3, last heartbeat 30m0s ago"}},
	} {
		at := time.Now().Add(-c.silent)
		if err := os.Chtimes(l.path(), at, at); err != nil {
			t.Fatal(err)
		}
		s, err := Status(store.Dir)
		if err != nil || s.Running != 1 || len(s.Hosts) != 1 {
			t.Fatalf("%+v %v", s, err)
		}
		var text strings.Builder
		if err := s.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.says {
			if !strings.Contains(text.String(), want) {
				t.Errorf("silent for %v:\n%s\nwant %q", c.silent, text.String(), want)
			}
		}
	}
}

// A journal that another machine published, since it took its process for dead, does not swallow what comes after.
func TestJournalTakenAway(t *testing.T) {
	store, err := openFake(t, faultStudy, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	me := identity()
	r := store.record("events", me)
	for i, text := range []string{"one", "two"} {
		if err := r.append(happened(me, "test", "%s", text)); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := store.publishJournal(r.name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	events, err := results.ReadTable[Event](store.Dir, "events")
	if err != nil || len(events) != 2 {
		t.Errorf("%d events, want 2 (%v)", len(events), err)
	}
}

// A link whose reply was lost is made twice: the second time our own file is in the way.
func TestLinkWithLostReply(t *testing.T) {
	dir := t.TempDir()
	ours, theirs, name := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs"), filepath.Join(dir, "name")
	for _, path := range []string{ours, theirs} {
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := link(ours, name); err != nil {
			t.Errorf("our own link is in the way: %v", err)
		}
	}
	if err := link(theirs, name); !errors.Is(err, os.ErrExist) {
		t.Errorf("another's link: %v", err)
	}
}

// Machines that joined write logs of their own: they cannot append to one file of a network file system.
func TestLogsOfJoinedMachines(t *testing.T) {
	paths := map[string]bool{}
	for _, me := range []lease{{Host: "a", PID: 1}, {Host: "b", PID: 1}, {Host: "a", PID: 2}} {
		for index := range 2 {
			paths[(&coordinator{RunOptions: RunOptions{Dir: "d", Join: true}, me: me}).logPath(&slot{index: index})] = true
		}
	}
	paths[(&coordinator{RunOptions: RunOptions{Dir: "d"}, me: lease{Host: "a", PID: 1}}).logPath(&slot{})] = true // of `study run`
	if len(paths) != 7 {
		t.Errorf("seven workers share logs: %v", paths)
	}
}
