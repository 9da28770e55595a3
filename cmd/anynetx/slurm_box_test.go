package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/results"
	"anynetx/runner"
)

// slurmBox is a Slurm of this test's own, by scripts/slurmbox.sh, and a study with really trained networks for it.
type slurmBox struct {
	*testing.T
	dir     string // of the box
	program string // anynetx
	data    string
	study   string // file
	hold    string // while this file is there, trainings hardly get on
}

// holdVariable names a file. While it is there a step takes a second in which nothing happens, so that work is under way for as long as a test
// wants, however fast the machine is, and stops as fast as ever. Without the file it is as always.
const holdVariable = "ANX_SLURM_TEST_HOLD"

type heldTrainers struct {
	runner.Trainers
	file string
}

type heldTraining struct {
	runner.Training
	file string
}

func (h heldTrainers) Open(r *runner.PlannedRun) (runner.Training, error) {
	t, err := h.Trainers.Open(r)
	return heldTraining{t, h.file}, err
}

func (h heldTraining) Step() error {
	for begin := time.Now(); time.Since(begin) < time.Second; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(h.file); err != nil {
			break
		}
	}
	return h.Training.Step()
}

// heldProgram is the program, whose workers hold on.
func heldProgram() {
	file := os.Getenv(holdVariable)
	if file == "" || len(os.Args) < 2 || os.Args[1] != "worker" {
		main()
		return
	}
	os.Exit(runner.WorkerMain(os.Args[2:], os.Stdin, os.Stdout, os.Stderr, runner.WorkerOptions{
		Trainers: func(o runner.WorkerOptions, p *runner.Plan) (runner.Trainers, error) {
			t, err := runner.OpenEngine(o, p)
			return heldTrainers{t, file}, err
		}}))
}

// holdOn has trainings hold on from now, and returns what lets them go.
func (b *slurmBox) holdOn() (letGo func()) {
	b.Helper()
	if err := os.WriteFile(b.hold, nil, 0o666); err != nil {
		b.Fatal(err)
	}
	letGo = func() { os.Remove(b.hold) }
	b.Cleanup(letGo)
	return letGo
}

// newSlurmBox starts it; where that cannot be, the test is skipped and says why, unless ANX_REQUIRE asks for slurm.
func newSlurmBox(t *testing.T, environment ...string) *slurmBox {
	t.Helper()
	missing := func(format string, args ...any) {
		t.Helper()
		if strings.Contains(os.Getenv("ANX_REQUIRE"), "slurm") {
			t.Fatalf(format, args...)
		}
		t.Skipf("SKIPPED: no test with a real Slurm: "+format, args...)
	}
	if os.Getuid() != 0 {
		missing("it takes root to start one")
	}
	for _, name := range []string{"slurmctld", "slurmd", "sbatch", "munged", "setpriv"} {
		if _, err := exec.LookPath(name); err != nil {
			missing("%s is not installed (scripts/install.sh slurm)", name)
		}
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	libraries := filepath.Join(root, "build", "lib")
	if built, err := filepath.Glob(filepath.Join(libraries, "libanx_cpu.*")); err != nil || len(built) == 0 {
		missing("the CPU back end is not built (make build)")
	}
	b := &slurmBox{T: t, dir: shortTemporary(t), program: filepath.Join(t.TempDir(), "anynetx"), data: t.TempDir()}
	copyTestProgram(t, b.program)
	t.Setenv("ANX_LIBRARY_DIR", libraries)
	t.Setenv("SLURM_CONF", filepath.Join(b.dir, "slurm.conf"))
	b.hold = filepath.Join(b.dir, "hold")
	t.Setenv(holdVariable, b.hold)
	box := exec.Command(filepath.Join(root, "scripts", "slurmbox.sh"), b.dir, strconv.Itoa(slurmNodes), "sh", "-c", "echo up; cat >/dev/null")
	box.Env = append(append(os.Environ(), "SLURMBOX_PORT="+strconv.Itoa(freePorts(t, slurmNodes+1))), environment...)
	box.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	up, err := os.Create(filepath.Join(b.dir, "up"))
	if err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	box.Stdout, box.Stderr = up, &complaint
	life, err := box.StdinPipe() // it ends when we do, however we end
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- box.Wait() }()
	t.Cleanup(func() {
		life.Close()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			syscall.Kill(-box.Process.Pid, syscall.SIGKILL)
			t.Error("the Slurm of this test did not end")
		}
		up.Close()
	})
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if info, err := os.Stat(up.Name()); err == nil && info.Size() > 0 {
			break
		}
		select {
		case err := <-ended:
			ended <- err
			missing("Slurm does not run here: %v %s", err, complaint.String())
		default:
		}
		if time.Now().After(deadline) {
			missing("Slurm is not up after two minutes")
		}
	}
	b.prepare()
	return b
}

// shortTemporary is a folder for sockets, whose paths are short, that munge's user may enter.
func shortTemporary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyTestProgram makes this test program the program: it looks at its own name.
func copyTestProgram(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if os.Link(self, to) == nil {
		return
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, program, 0o777); err != nil {
		t.Fatal(err)
	}
}

// freePorts is the first of n ports in a row that nobody listens at, below those that the kernel hands out to others.
func freePorts(t *testing.T, n int) int {
	t.Helper()
next:
	for range 50 {
		port := 20_000 + rand.IntN(10_000)
		for i := range n {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+i))
			if err != nil {
				continue next
			}
			l.Close()
		}
		return port
	}
	t.Fatal("no free ports")
	return 0
}

const slurmStudy = `name: box
seed: 5
population:
  architectures:
    - {depths: [1, 1, 1, 1], widths: [8, 8, 16, 16], bottlenecks: [1, 1, 2, 1], group_widths: [4, 8, 4, 1]}
    - {depths: [1, 2, 1, 1], widths: [8, 16, 16, 24], bottlenecks: [1, 2, 1, 1], group_widths: [2, 4, 8, 3]}
recipes:
  tiny: {batch: 16, precise_bn_images: 32}
defaults: {dataset: photos, recipe: tiny, epochs: 200, stem: simple_stem_in, stem_width: 8, resolution: 16}
tasks:
  - {name: three}
  - {name: two, classes: 2, start: {init: three}}
`

const (
	slurmNodes = 2
	slurmRuns  = 4
)

// prepare makes the data and the study file.
func (b *slurmBox) prepare() {
	b.Helper()
	source := b.TempDir()
	for class, colour := range []string{"red", "green", "blue"} {
		for split, count := range map[string]int{"train": 32, "test": 8} {
			dir := filepath.Join(source, split, colour)
			if err := os.MkdirAll(dir, 0o777); err != nil {
				b.Fatal(err)
			}
			for i := range count {
				if err := writePNG(filepath.Join(dir, fmt.Sprintf("%d.png", i)), 16, class, i); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.study = filepath.Join(b.TempDir(), "study.yaml")
	if err := os.WriteFile(b.study, []byte(slurmStudy), 0o666); err != nil {
		b.Fatal(err)
	}
	b.run(b.program, "data", "prepare", source, "--name", "photos", "--size", "16", "--data", b.data)
}

// run runs a command, which must succeed, and returns its standard output.
func (b *slurmBox) run(command ...string) string {
	b.Helper()
	c := exec.Command(command[0], command[1:]...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		b.Fatalf("%s: %v\n%s%s", strings.Join(command, " "), err, out, stderr.String())
	}
	return string(out)
}

// submit submits the study, and returns the job's number.
func (b *slurmBox) submit(dir string, flags ...string) string {
	b.Helper()
	text := b.run(append([]string{b.program, "study", "submit", b.study, "--out", dir, "--data", b.data, "--slurm", "--json"}, flags...)...)
	var array runner.SlurmArray
	if err := json.Unmarshal([]byte(text), &array); err != nil {
		b.Fatalf("%v: %s", err, text)
	}
	return array.Job
}

func (b *slurmBox) status(dir string) *runner.StudyStatus {
	b.Helper()
	s := &runner.StudyStatus{}
	if err := json.Unmarshal([]byte(b.run(b.program, "study", "status", dir, "--json")), s); err != nil {
		b.Fatal(err)
	}
	return s
}

// until waits for something, and shows what there is if it does not come.
func (b *slurmBox) until(dir, what string, holds func() bool) {
	b.Helper()
	for waited, last := time.Duration(0), time.Now(); !holds(); {
		time.Sleep(100 * time.Millisecond)
		waited += min(time.Since(last), 10*time.Second) // a machine that is stopped for a minute has waited for a moment
		if last = time.Now(); waited > 3*time.Minute {
			b.Fatalf("%s: not within 3 minutes\n%s", what, b.seen(dir))
		}
	}
}

// seen is what Slurm, the study and all logs say now.
func (b *slurmBox) seen(dir string) string {
	var text strings.Builder
	for _, command := range [][]string{{"squeue", "--all", "-t", "all"}, {"sinfo", "-N", "-l"}, {"scontrol", "-o", "show", "job"}, {b.program, "study", "status", dir}} {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		fmt.Fprintf(&text, "== %s (%v)\n%s", strings.Join(command, " "), err, out)
	}
	daemons, _ := filepath.Glob(filepath.Join(b.dir, "log", "slurm*"))
	for _, path := range daemons {
		data, _ := os.ReadFile(path)
		fmt.Fprintf(&text, "== the end of %s\n%s", filepath.Base(path), data[max(0, len(data)-3000):])
	}
	return text.String() + b.logs(dir)
}

func (b *slurmBox) logs(dir string) string {
	var text strings.Builder
	paths, _ := filepath.Glob(filepath.Join(dir, "work", "slurm", "*.log"))
	for _, path := range paths {
		data, _ := os.ReadFile(path)
		fmt.Fprintf(&text, "== %s\n%s", filepath.Base(path), data)
	}
	return text.String()
}

// state is what scontrol says of a task: its fields by name.
func (b *slurmBox) state(task string) map[string]string {
	text, _ := exec.Command("scontrol", "-o", "show", "job", task).Output()
	fields := map[string]string{}
	for _, word := range strings.Fields(string(text)) {
		if name, value, ok := strings.Cut(word, "="); ok {
			fields[name] = value
		}
	}
	return fields
}

// begin waits until a task has been queued again so often, and has it start now, not after Slurm's two minutes, and with all the time it wants.
func (b *slurmBox) begin(dir, task string, restarts int) {
	b.Helper()
	b.until(dir, fmt.Sprintf("task %s is queued again (%d)", task, restarts), func() bool {
		s := b.state(task)
		n, _ := strconv.Atoi(s["Restarts"])
		return n >= restarts && (s["JobState"] == "PENDING" || s["JobState"] == "RUNNING")
	})
	time.Sleep(2 * time.Second) // slurmd counts in seconds: a task that begins in the one it was ended in is "already killed", and fails
	b.until(dir, fmt.Sprintf("task %s begins again (%d)", task, restarts), func() bool {
		exec.Command("scontrol", "update", "JobId="+task, "TimeLimit=UNLIMITED").Run()
		exec.Command("scontrol", "update", "JobId="+task, "StartTime=now").Run() // if it is still pending
		return b.state(task)["JobState"] == "RUNNING"
	})
}

// finished waits until no task is left in the queue.
func (b *slurmBox) finished(dir string, jobs ...string) {
	b.Helper()
	b.until(dir, "the tasks have ended", func() bool {
		out, err := exec.Command("squeue", "-h", "-o", "%F").Output()
		left := strings.Fields(string(out))
		for _, job := range jobs {
			for _, l := range left {
				if l == job {
					return false
				}
			}
		}
		return err == nil
	})
}

// tables reads what must be the same bytes.
func (b *slurmBox) tables(dir string) map[string]string {
	b.Helper()
	files := map[string]string{}
	for _, table := range []string{"runs", "epochs"} {
		err := filepath.WalkDir(filepath.Join(dir, table), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			name, _ := filepath.Rel(dir, path)
			files[name] = string(data)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return files
}

// undisturbed trains the study on this machine, in peace.
func (b *slurmBox) undisturbed() map[string]string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "peace")
	b.run(b.program, "study", "run", b.study, "--out", dir, "--data", b.data, "--progress", "none")
	return b.tables(dir)
}

type attempt struct {
	RunID       string `col:"run_id"`
	Outcome     string `col:"outcome"`
	ResumedFrom *int64 `col:"resumed_from_step"`
}

// check compares a finished study with an undisturbed one, and sees that each run was committed once. It counts the attempts that were
// stopped, and those that went on from a checkpoint.
func (b *slurmBox) check(dir string, want map[string]string) (stopped, resumed int) {
	b.Helper()
	if s := b.status(dir); s.Done != slurmRuns || !s.Complete || s.Running != 0 {
		b.Fatalf("%+v\n%s", s, b.seen(dir))
	}
	got := b.tables(dir)
	if len(got) != 2*slurmRuns || len(want) != 2*slurmRuns {
		b.Errorf("%d files, undisturbed %d, want %d", len(got), len(want), 2*slurmRuns)
	}
	for name := range want {
		if got[name] != want[name] {
			b.Errorf("%s differs from the undisturbed study's", name)
		}
	}
	attempts, err := results.ReadTable[attempt](dir, "attempts")
	if err != nil {
		b.Fatal(err)
	}
	committed := map[string]int{}
	for _, a := range attempts {
		switch a.Outcome {
		case "committed":
			committed[a.RunID]++
		case "stopped":
			stopped++
		}
		if a.ResumedFrom != nil {
			resumed++
		}
	}
	for id, n := range committed {
		if n != 1 {
			b.Errorf("run %s was committed %d times", id, n)
		}
	}
	if len(committed) != slurmRuns {
		b.Errorf("%d runs were committed, want %d", len(committed), slurmRuns)
	}
	return stopped, resumed
}
