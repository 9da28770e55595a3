package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// An array of tasks finishes a study; a warned task writes a checkpoint and is queued again although the cluster does not requeue by exit
// code; a cancelled one is not.
func TestSlurm(t *testing.T) {
	b := newSlurmBox(t, "EXIT_REQUEUES=no")
	dir := filepath.Join(t.TempDir(), "a study") // shells and Slurm see the space
	if out, err := exec.Command(b.program, "study", "submit", b.study, "--out", dir, "--data", b.data, "--slurm", "--tasks", "200").CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "at most 101 tasks (MaxArraySize)") {
		t.Errorf("more tasks than an array holds: %v %s", err, out)
	}
	script := b.run(b.program, "study", "submit", b.study, "--out", dir, "--data", b.data, "--slurm", "--dry-run")
	if !regexp.MustCompile(`(?m)^exec .*/anynetx study join '.*/a study' .* --requeue$`).MatchString(script) {
		t.Errorf("the script of a dry run:\n%s", script)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a dry run made the folder")
	}
	want := b.undisturbed()
	letGo := b.holdOn()
	job := b.submit(dir, "--tasks", "2", "--partition", "work")
	b.until(dir, "both tasks train", func() bool { return b.status(dir).Running == 2 })
	if s := b.status(dir); s.Slurm == nil || len(s.Slurm.Arrays) != 1 || len(s.Slurm.Tasks) == 0 || s.Slurm.Tasks[0].Job != job || len(s.Hosts) != 1 || s.Hosts[0].Running != 2 {
		t.Errorf("status: %+v", s)
	}
	b.run("scancel", "--batch", "--signal=USR1", job+"_0")
	b.begin(dir, job+"_0", 1)
	cancelled := b.submit(dir, "--tasks", "1") // pulls from the same folder
	b.until(dir, "it runs", func() bool { return b.state(cancelled)["JobState"] == "RUNNING" })
	b.run("scancel", cancelled)
	b.finished(dir, cancelled)
	letGo()
	b.finished(dir, job)
	if stopped, resumed := b.check(dir, want); stopped < 1 || resumed < 1 {
		t.Errorf("%d attempts were stopped and %d went on: the warning came too late", stopped, resumed)
	}
	if s := b.state(cancelled); s["JobState"] != "CANCELLED" || s["Restarts"] != "0" {
		t.Errorf("the cancelled task: %v", s)
	}
	if s := b.state(job + "_1"); s["ExitCode"] != "0:0" {
		t.Errorf("the task that was not disturbed: %v\n%s", s, b.seen(dir))
	}
}
