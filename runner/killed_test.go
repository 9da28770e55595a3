package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"anynetx/random"
	"anynetx/results"
)

// killer disturbs a study: one to three SIGKILLs of the coordinator or a worker, of the kinds and at the moments that the seed names; then it is
// run to its end. One seed of four kills at any moment, the start included. The others wait for work to destroy, and have it held up meanwhile, so
// that it is there to be destroyed on fast machines and on slow ones: every second of them until it has a checkpoint. Of the held ones those with
// an even seed go on before the kill comes.
func killer(t *testing.T, seed uint64, study, dir string, workers int, environment ...string) {
	t.Helper()
	const span = 600 * time.Millisecond // that an undisturbed study hardly takes
	draw := random.New(seed, "kill")
	kills := 1 + int(draw.Below(0, 3))
	number := uint64(1)
	held := filepath.Join(t.TempDir(), "hold")
	environment = append(environment, holdVariable+"="+held)
	letGo := func() { os.Remove(held) }
	for {
		if kills > 0 && seed%4 != 0 {
			if err := os.WriteFile(held, nil, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		c := startStudy(t, study, dir, workers, environment...)
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		over := func() bool { return len(ended) > 0 }
		for kills > 0 && !over() {
			pause, what, which := time.Duration(draw.Below(number, uint64(span))), draw.Below(number+1, 3), draw.Below(number+2, 1<<32)
			number += 3
			var victims []int
			if seed%4 == 0 {
				time.Sleep(pause)
				victims = workersOf(c.Process.Pid)
			} else {
				victims = atWork(dir, seed%4 == 1, over)
			}
			if seed%4 == 2 {
				letGo()
				time.Sleep(pause / 10)
			}
			kills--
			if what == 0 || len(victims) == 0 {
				syscall.Kill(c.Process.Pid, syscall.SIGKILL)
				break
			}
			victim := victims[which%uint64(len(victims))]
			syscall.Kill(victim, syscall.SIGKILL)
			eventually(t, "the end of what was killed", func() bool { _, alive := processStart(victim); return !alive }) // or it is the next victim too
		}
		letGo()
		err := <-ended
		if err == nil {
			return
		}
		if c.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("seed %d: %v\n%s", seed, err, c.err.String())
		}
	}
}

// atWork waits until processes have runs in hand, with a checkpoint if so wanted, and lists them: none if the study is over before.
func atWork(dir string, checkpointed bool, over func() bool) (list []int) {
	for ; len(list) == 0 && !over(); time.Sleep(time.Millisecond) {
		s, err := Status(dir)
		if err != nil {
			continue // it is only being made
		}
		for _, a := range s.Active {
			folder := (&lease{dir: filepath.Join(dir, "work", a.RunID), Attempt: a.Attempt}).folder()
			if !checkpointed || len(checkpoints(folder)) > 0 {
				list = append(list, a.PID)
			}
		}
	}
	return list
}

func TestKilledAndResumed(t *testing.T) {
	study := writeStudy(t, faultStudy)
	want := undisturbed(t, study, 2, behaviour(fast))
	var lost, resumed atomic.Int64
	t.Run("seeds", func(t *testing.T) {
		for seed := range uint64(seeds()) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				killer(t, seed, study, dir, 3, behaviour(fast))
				sameBytes(t, want, dir)
				tidy(t, dir, faultRuns)
				l, r := disturbances(t, dir)
				lost.Add(l)
				resumed.Add(r)
			})
		}
	})
	t.Logf("%d attempts were killed, %d went on from a checkpoint", lost.Load(), resumed.Load())
	if lost.Load() < seeds()/2 || resumed.Load() < seeds()/4 {
		t.Errorf("only %d attempts were killed and %d resumed: the kills miss the work", lost.Load(), resumed.Load())
	}
}

// disturbances counts the attempts that were lost, and those that went on from a checkpoint.
func disturbances(t *testing.T, dir string) (lost, resumed int64) {
	t.Helper()
	attempts, err := results.ReadTable[attemptRow](dir, "attempts")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attempts {
		if a.Outcome == outcomeLost {
			lost++
		}
		if a.ResumedFrom != nil {
			resumed++
		}
	}
	return lost, resumed
}

// A comparison that cannot fail proves nothing: with a resume that forgets something the bytes must differ.
func TestKilledAndResumedNegativeControl(t *testing.T) {
	study := writeStudy(t, faultStudy)
	want := undisturbed(t, study, 2, behaviour(fast))
	for _, forgotten := range []string{"momentum", "random"} {
		broken := fast
		broken.Sabotage = forgotten
		dir := t.TempDir()
		interrupt(t, study, dir, broken)
		runStudy(t, study, dir, 2, behaviour(broken))
		if len(differences(want, bytesOf(t, dir))) == 0 {
			t.Errorf("a resume that forgets the %s gives the same bytes: the comparison is blind", forgotten)
		}
		// The same disturbance without the sabotage.
		dir = t.TempDir()
		interrupt(t, study, dir, fast)
		runStudy(t, study, dir, 2, behaviour(fast))
		sameBytes(t, want, dir)
	}
}

// interrupt stops a study, as Ctrl-C does, when at least one run is between two epochs.
func interrupt(t *testing.T, study, dir string, b fakeBehaviour) {
	t.Helper()
	b.Hold, _ = hold(t)
	c := startStudy(t, study, dir, 2, behaviour(b))
	eventually(t, "a checkpoint", func() bool { return found(t, dir, "work/*/*/checkpoint-*") })
	c.Process.Signal(os.Interrupt)
	if err := c.Wait(); err == nil {
		t.Fatal("an interrupted study ended with exit code 0")
	}
	if s := c.summary(t); s.Complete {
		t.Fatalf("the study was complete when it was interrupted: %+v", s)
	}
	ends, err := filepath.Glob(filepath.Join(dir, "work/*/end-*"))
	if err != nil || len(ends) == 0 {
		t.Fatalf("no run was stopped on its way (%v)\n%s", err, c.err.String())
	}
	for _, path := range ends {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), outcomeStopped) {
			t.Errorf("%s: %s %v", path, text, err)
		}
	}
}

// Every step of the commit sequence and of a checkpoint is a place to be killed at.
func TestKilledAtEachStep(t *testing.T) {
	study := writeStudy(t, faultStudy)
	want := undisturbed(t, study, 2, behaviour(fast))
	t.Run("at", func(t *testing.T) {
		for _, point := range []string{
			"checkpoint-000001-00000000 written", "checkpoint-000001-00000000 synced", "checkpoint-000001-00000000 renamed",
			"safetensors written", "safetensors synced", "safetensors renamed", "state written", "state renamed",
			"epochs committed", "runs committed", "attempts published", "work cleared",
		} {
			t.Run(strings.ReplaceAll(point, " ", "_"), func(t *testing.T) {
				t.Parallel()
				dir, once := t.TempDir(), filepath.Join(t.TempDir(), "once")
				runStudy(t, study, dir, 2, behaviour(fast), exitVariable+"="+point, onceVariable+"="+once)
				if !exists(once) {
					t.Fatal("nothing was killed")
				}
				sameBytes(t, want, dir)
				tidy(t, dir, faultRuns)
			})
		}
	})
}
