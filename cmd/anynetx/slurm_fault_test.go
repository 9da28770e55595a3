package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/results"
)

// Faults of a cluster, with a real Slurm and really trained networks; make test-faults.
func TestSlurmFaults(t *testing.T) {
	if os.Getenv("ANX_FAULTS") == "" {
		t.Skip("SKIPPED: takes minutes; make test-faults runs it")
	}
	b := newSlurmBox(t)
	want := b.undisturbed()
	begin := time.Now()
	for _, f := range []struct {
		name string
		test func(*slurmBox, map[string]string)
	}{
		{"cancelled", (*slurmBox).cancelled},
		{"time limit and pre-emption", (*slurmBox).timeLimitAndPreemption},
		{"slurmd killed", (*slurmBox).slurmdKilled},
		{"slurmctld killed", (*slurmBox).slurmctldKilled},
	} {
		passed := t.Run(f.name, func(t *testing.T) {
			own := *b
			own.T = t
			f.test(&own, want)
			t.Logf("%.0f s since the beginning", time.Since(begin).Seconds())
		})
		if !passed {
			break // its tasks may still be there
		}
	}
}

// A task that is cancelled ends with a checkpoint and the exit code that RequeueExit names, but stays away.
func (b *slurmBox) cancelled(map[string]string) {
	dir := filepath.Join(b.TempDir(), "study")
	b.holdOn()
	job := b.submit(dir, "--tasks", "1")
	b.until(dir, "the task trains", func() bool { return b.status(dir).Running == 1 })
	b.run("scancel", job)
	b.finished(dir, job)
	if s := b.state(job + "_0"); s["JobState"] != "CANCELLED" || s["Restarts"] != "0" {
		b.Errorf("the task: %v", s)
	}
	if s := b.status(dir); s.Running != 0 || s.Complete {
		b.Errorf("the study: %+v", s)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "work", "*", "*", "checkpoint-*")); err != nil || len(found) == 0 {
		b.Errorf("no checkpoint was written (%v)\n%s", err, b.logs(dir))
	}
}

// The warning ahead of the time limit, and a more urgent job: a checkpoint, exit code 75, queued again, the same bytes.
func (b *slurmBox) timeLimitAndPreemption(want map[string]string) {
	dir := filepath.Join(b.TempDir(), "study")
	letGo := b.holdOn()
	job := b.submit(dir, "--tasks", "2", "--time", "60", "--sbatch=--signal=B:USR1@600")
	tasks := []string{job + "_0", job + "_1"}
	b.until(dir, "both tasks train", func() bool { return b.status(dir).Running == 2 })
	for _, task := range tasks { // the warning is due when they have been there for half a minute: Slurm looks that often
		b.run("scontrol", "update", "JobId="+task, "TimeLimit=11")
	}
	for _, task := range tasks {
		b.begin(dir, task, 1)
	}
	b.until(dir, "both tasks train again", func() bool { return b.status(dir).Running == 2 })
	b.run("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
	for _, task := range tasks {
		b.begin(dir, task, 2)
	}
	letGo()
	b.finished(dir, job)
	if stopped, resumed := b.check(dir, want); stopped != 4 || resumed < 4 {
		b.Errorf("%d attempts were stopped and %d went on, want 4: two tasks, two stops\n%s", stopped, resumed, b.seen(dir))
	}
	said := map[string]int{}
	for _, e := range b.events(dir) {
		if e.Kind == "signal" {
			said[e.Text]++
		}
	}
	for _, signal := range []os.Signal{syscall.SIGUSR1, syscall.SIGTERM} {
		if n := said["asked to stop by the signal "+signal.String()]; n < 2 {
			b.Errorf("%d tasks were stopped by %v, want 2: %v", n, signal, said)
		}
	}
}

type event struct {
	Kind string `col:"kind"`
	Text string `col:"text"`
}

func (b *slurmBox) events(dir string) []event {
	b.Helper()
	list, err := results.ReadTable[event](dir, "events")
	if err != nil {
		b.Fatal(err)
	}
	return list
}

// daemon is the process of a daemon of the box, such as slurmctld or slurmd-n1.
func (b *slurmBox) daemon(name string) int {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, "run", name+".pid"))
	if err != nil {
		b.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		b.Fatal(err)
	}
	return pid
}

// revive starts a daemon again that was killed.
func (b *slurmBox) revive(command ...string) {
	b.Helper()
	daemon := exec.Command(command[0], append(command[1:], "-D", "-f", filepath.Join(b.dir, "slurm.conf"))...)
	if err := daemon.Start(); err != nil {
		b.Fatal(err)
	}
	go daemon.Wait() // the box ends it
	b.until("", command[0]+" is back", func() bool {
		out, err := exec.Command("sinfo", "-h", "-N", "-p", "work", "-o", "%N %T").Output()
		return err == nil && strings.Count(string(out), "idle")+strings.Count(string(out), "mixed")+strings.Count(string(out), "allocated") == 2
	})
}

// A node's daemon dies, its task lives on: after SlurmdTimeout Slurm takes the node for dead and starts a second copy of the task on the other
// one. Both work, and each run counts once.
func (b *slurmBox) slurmdKilled(want map[string]string) {
	dir := filepath.Join(b.TempDir(), "study")
	letGo := b.holdOn()
	job := b.submit(dir, "--tasks", "1")
	b.until(dir, "the task trains", func() bool { return b.status(dir).Running == 1 })
	first, node := b.status(dir).Active[0].PID, b.state(job + "_0")["BatchHost"]
	syscall.Kill(b.daemon("slurmd-"+node), syscall.SIGKILL)
	b.begin(dir, job+"_0", 1)
	b.until(dir, "two copies train", func() bool { return b.status(dir).Running == 2 })
	if syscall.Kill(first, 0) != nil {
		b.Errorf("the first copy is gone: this test tests nothing\n%s", b.seen(dir))
	}
	letGo()
	b.finished(dir, job)
	b.until(dir, "the first copy has ended too", func() bool { return b.status(dir).Complete && syscall.Kill(first, 0) != nil })
	b.check(dir, want)
	b.revive("slurmd", "-N", node)
}

// The controller is killed right after the submission and may forget the job: its tasks work on, and status shows them.
func (b *slurmBox) slurmctldKilled(want map[string]string) {
	dir := filepath.Join(b.TempDir(), "study")
	letGo := b.holdOn()
	b.submit(dir, "--tasks", "2")
	b.until(dir, "a task trains", func() bool { return b.status(dir).Running > 0 })
	syscall.Kill(b.daemon("slurmctld"), syscall.SIGKILL)
	for range 3 {
		if s := b.status(dir); s.Running == 0 {
			b.Errorf("what Slurm does not know of is taken for dead: %+v\n%s", s, b.seen(dir))
		}
	}
	letGo()
	b.until(dir, "the study is complete", func() bool { return b.status(dir).Complete })
	b.until(dir, "nobody works any more", func() bool { return b.status(dir).Running == 0 })
	b.check(dir, want)
	b.revive("slurmctld")
}
