package runner

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"anynetx/results"
)

// faultStudy has every kind of start and of selection.
const faultStudy = `name: faults
seed: 7
population:
  architectures:
    - {depths: [1, 1, 1, 1], widths: [8, 8, 8, 8], bottlenecks: [1, 1, 1, 1], group_widths: [4, 4, 4, 4]}
    - {depths: [1, 1, 1, 1], widths: [8, 8, 8, 16], bottlenecks: [1, 1, 1, 1], group_widths: [4, 4, 4, 4]}
    - {depths: [1, 1, 1, 1], widths: [8, 8, 16, 16], bottlenecks: [1, 1, 1, 1], group_widths: [4, 4, 4, 4]}
    - {depths: [1, 1, 1, 1], widths: [8, 16, 16, 16], bottlenecks: [1, 1, 1, 1], group_widths: [4, 4, 4, 4]}
recipes:
  tiny: {batch: 16}
defaults: {recipe: tiny, epochs: 3, stem: simple_stem_in, stem_width: 8, resolution: 16}
tasks:
  - {name: first, dataset: one, classes: 6, replicates: [{count: 2, architectures: {first: 2}}]}
  - {name: tuned, dataset: two, start: {init: first}}
  - {name: longer, dataset: one, classes: 6, epochs: 5, start: {continue: first}, architectures: {best: 1, worst: 1, of: first}}
  - {name: best, dataset: two, architectures: {best: 2, of: tuned}}
`

const faultRuns = 4 + 2 + 4 + 2 + 2

func writeStudy(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "study.yaml")
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func behaviour(b fakeBehaviour) string {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err)
	}
	return fakeVariable + "=" + string(text)
}

// seeds is how many disturbances are tried: 20, or 100 in the long form that make test-faults asks for.
func seeds() int64 {
	if os.Getenv("ANX_FAULTS") != "" {
		return 100
	}
	return 20
}

var fast = fakeBehaviour{Step: 2 * time.Millisecond}

// coordinatorProcess is a `study run` that a test can kill.
type coordinatorProcess struct {
	*exec.Cmd
	out, err bytes.Buffer
}

func startStudy(t *testing.T, study, dir string, workers int, environment ...string) *coordinatorProcess {
	t.Helper()
	c := &coordinatorProcess{Cmd: exec.Command(os.Args[0], study, dir, strconv.Itoa(workers))}
	c.Stdout, c.Stderr = &c.out, &c.err
	c.Env = append(append(os.Environ(), roleVariable+"=coordinator"), environment...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// runStudy runs a study to its end.
func runStudy(t *testing.T, study, dir string, workers int, environment ...string) *Summary {
	t.Helper()
	c := startStudy(t, study, dir, workers, environment...)
	if err := c.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, c.err.String())
	}
	return c.summary(t)
}

func (c *coordinatorProcess) summary(t *testing.T) *Summary {
	t.Helper()
	s := &Summary{}
	if err := json.Unmarshal(c.out.Bytes(), s); err != nil {
		t.Fatalf("%v: %s\n%s", err, c.out.String(), c.err.String())
	}
	return s
}

// workersOf lists the living children of a coordinator.
func workersOf(pid int) []int {
	var list []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f, ok := processStat(child); ok && f[1] == strconv.Itoa(pid) && f[0] != "Z" {
			list = append(list, child)
		}
	}
	slices.Sort(list)
	return list
}

// bytesOf reads what must be byte-equal: tables runs and epochs.
func bytesOf(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, table := range []string{"runs", "epochs"} {
		err := filepath.WalkDir(filepath.Join(dir, table), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			files[name], err = os.ReadFile(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// differences names the files that differ.
func differences(a, b map[string][]byte) []string {
	var list []string
	names := maps.Clone(a)
	maps.Copy(names, b)
	for name := range names {
		if !bytes.Equal(a[name], b[name]) {
			list = append(list, fmt.Sprintf("%s (%d and %d bytes)", name, len(a[name]), len(b[name])))
		}
	}
	slices.Sort(list)
	return list
}

func sameBytes(t *testing.T, want map[string][]byte, dir string) {
	t.Helper()
	if d := differences(want, bytesOf(t, dir)); len(d) > 0 {
		t.Errorf("tables differ from the undisturbed study's: %s", strings.Join(d, ", "))
	}
}

// tidy checks what every complete study folder promises.
func tidy(t *testing.T, dir string, runs int) {
	t.Helper()
	rows, err := results.ReadTable[runRow](dir, "runs")
	if err != nil || len(rows) != runs {
		t.Errorf("%d runs are committed, want %d (%v)", len(rows), runs, err)
	}
	attempts, err := results.ReadTable[attemptRow](dir, "attempts")
	if err != nil {
		t.Error(err)
	}
	ended := map[string]bool{}
	for _, a := range attempts {
		ended[a.RunID] = true
	}
	for _, r := range rows {
		if !ended[r.RunID] {
			t.Errorf("run %s has no row of attempts", r.RunID)
		}
	}
	if _, err := results.ReadTable[Event](dir, "events"); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "work"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if isRunID(e.Name()) {
			t.Errorf("work/%s is left behind", e.Name())
		}
	}
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.Contains(e.Name(), ".tmp-") && !strings.HasPrefix(e.Name(), ".library-") { // that one is swept when it is an hour old
			t.Errorf("%s is left behind", path)
		}
		return err
	})
}

// undisturbed runs a study in peace, once.
func undisturbed(t *testing.T, study string, workers int, environment ...string) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	runStudy(t, study, dir, workers, environment...)
	return bytesOf(t, dir)
}

func TestNumberOfWorkersDoesNotShow(t *testing.T) {
	study := writeStudy(t, faultStudy)
	want := undisturbed(t, study, 1, behaviour(fast))
	if len(want) != 2*faultRuns {
		t.Fatalf("the study has %d files of runs and epochs, want %d", len(want), 2*faultRuns)
	}
	for _, workers := range []int{2, 3} {
		dir := t.TempDir()
		s := runStudy(t, study, dir, workers, behaviour(fast))
		if s.Done != faultRuns || !s.Complete {
			t.Errorf("%d workers: %+v", workers, s)
		}
		sameBytes(t, want, dir)
		tidy(t, dir, faultRuns)
	}
}

func TestTwoCoordinators(t *testing.T) {
	study, dir := writeStudy(t, faultStudy), t.TempDir()
	file, letGo := hold(t)
	first := startStudy(t, study, dir, 1, behaviour(fakeBehaviour{Hold: file}))
	eventually(t, "a plan", func() bool { return exists(filepath.Join(dir, "plan.json")) })
	second := startStudy(t, study, dir, 1, behaviour(fast))
	if err := second.Wait(); err == nil {
		t.Error("a second coordinator was let in")
	}
	if want := fmt.Sprintf("process %d on", first.Process.Pid); !strings.Contains(second.err.String(), want) {
		t.Errorf("the message does not name %q: %s", want, second.err.String())
	}
	letGo()
	if err := first.Wait(); err != nil {
		t.Errorf("%v\n%s", err, first.err.String())
	}
}

func TestFailedRuns(t *testing.T) {
	study := writeStudy(t, faultStudy+"failures: {starts: 1000}\n") // here every run fails, which speaks against none of the devices
	for _, c := range []struct {
		behaviour fakeBehaviour
		class     string
		attempts  int
	}{
		{fakeBehaviour{Step: time.Millisecond, Diverge: "first"}, classDiverged, 1},
		{fakeBehaviour{Step: time.Millisecond, Break: "first"}, classMemory, DefaultPolicy().Attempts + 1},
		{fakeBehaviour{Step: time.Millisecond, Crash: "first"}, classCrash, DefaultPolicy().Attempts + 1},
	} {
		t.Run(c.class, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			// A checkpoint right before the fault would make the next attempt fail before its first step, which is the device's fault.
			p := startStudy(t, study, dir, 2, behaviour(c.behaviour), "ANX_RUNNER_TEST_EVERY=1h")
			if err := p.Wait(); err == nil {
				t.Error("a study with failed runs ended with exit code 0")
			}
			s := p.summary(t)
			// The architectures ranked by a task that failed are none, so `longer` and `best` have no runs.
			if !s.Complete || s.Failed != 6+4 || s.FailureClasses[c.class] != 6 || s.FailureClasses[classSource] != 4 {
				t.Fatalf("%+v\n%s", s, p.err.String())
			}
			rows, err := results.ReadTable[runRow](dir, "runs")
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				if r.Status != statusFailed || r.TestTop1 != nil || r.Task == "first" && r.FailureClass != c.class {
					t.Errorf("%+v", r)
				}
				if want := int64(1); c.class == classDiverged && r.Task == "first" && r.Epochs != want {
					t.Errorf("run %s has %d epochs, want the %d before it diverged", r.RunID, r.Epochs, want)
				}
			}
			attempts, err := results.ReadTable[attemptRow](dir, "attempts")
			if err != nil {
				t.Fatal(err)
			}
			perRun := map[string]int{}
			for _, a := range attempts {
				if a.Task == "first" {
					perRun[a.RunID]++
				}
			}
			for id, n := range perRun {
				if n != c.attempts {
					t.Errorf("run %s had %d attempts, want %d", id, n, c.attempts)
					for _, a := range attempts {
						if a.RunID == id {
							t.Logf("attempt %d by process %d: %s %s%s", a.Attempt, *a.PID, a.Outcome, a.FailureClass, with(a.FailureText))
						}
					}
				}
			}
		})
	}
}

func TestWorkersThatDieAtOnce(t *testing.T) {
	for _, when := range []string{"start", "idle"} {
		c := startStudy(t, writeStudy(t, faultStudy), t.TempDir(), 2, behaviour(fakeBehaviour{Dead: when}))
		if err := c.Wait(); err == nil {
			t.Error("a study without a working worker ended with exit code 0")
		}
		if text := c.err.String(); !strings.Contains(text, "3 starts in a row died") || !strings.Contains(text, "no such device") {
			t.Errorf("%s: the reason is missing: %s", when, text)
		}
	}
}

// What counts against a run: a process that ends by its own fault, not one that was killed or asked to stop.
func TestCrashed(t *testing.T) {
	for end, want := range map[string]bool{"exit 2": true, "exit 75": false, "kill -KILL $$": false, "kill -TERM $$": false,
		"kill -SEGV $$": true, "kill -BUS $$": true, "kill -ABRT $$": true} {
		c := exec.Command("sh", "-c", "ulimit -c 0; "+end)
		c.Run()
		if got := crashed(c.ProcessState); got != want {
			t.Errorf("%s (%v): %v, want %v", end, c.ProcessState, got, want)
		}
	}
}
