package runner

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/results"
	"anynetx/telemetry/nvmltest"
)

// coordinatorUsage is what a coordinator process took, written to the file that usageVariable names.
type coordinatorUsage struct {
	Seconds   float64 // of processors
	Workers   float64 // the same of its workers together
	PeakBytes int64
}

const usageVariable = "ANX_RUNNER_TEST_USAGE"

func writeUsage(path string) {
	var u coordinatorUsage
	u.Seconds, _, _ = usage(os.Getpid())
	var children syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children); err != nil {
		panic(err)
	}
	u.Workers = time.Duration(children.Utime.Nano() + children.Stime.Nano()).Seconds()
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			u.PeakBytes = kib << 10
		}
	}
	text, err := json.Marshal(u)
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(path, text, 0o666); err != nil {
		panic(err)
	}
}

// What scheduling costs: trainings that only wait for half a second, on 8 GPUs that a fake driver shows, everything else real: leases,
// checkpoints' folders, Parquet with fsync. ANX_SCHEDULER_RUNS=2000 (make bench-scheduler) is the whole of it, for a machine that does nothing
// else; elsewhere only what it takes of the processor is judged, beside what the workers take of it for the same runs: that depends neither on what
// others do nor on how fast the machine is. Two runs do not fit on a GPU, so that a slot is a GPU.
func TestSchedulerOverhead(t *testing.T) {
	const gpus, step = 8, 50 * time.Millisecond
	runs := 160
	if text := os.Getenv("ANX_SCHEDULER_RUNS"); text != "" {
		var err error
		if runs, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	whole := runs >= 2000
	population, _, _ := strings.Cut(faultStudy, "tasks:\n")
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "usage")
	driver := nvmltest.New(t)
	run := func(dir string, runs int) coordinatorUsage {
		t.Helper()
		study := writeStudy(t, fmt.Sprintf("%stasks:\n  - {name: only, dataset: one, classes: 6, epochs: 1, replicates: %d}\n", population, runs/4))
		environment := append(driver.Environment(), devicesVariable+"=cuda", behaviour(fakeBehaviour{Step: step, Need: 20 << 30}), "ANX_RUNNER_TEST_EVERY=1m", usageVariable+"="+file)
		if s := runStudy(t, study, dir, gpus, environment...); s.Done != runs {
			t.Fatalf("%+v", s)
		}
		var u coordinatorUsage
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &u)
		}
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	few := run(t.TempDir(), gpus) // what starting and ending takes
	u := run(dir, runs)
	attempts, err := results.ReadTable[attemptRow](dir, "attempts")
	if err != nil || len(attempts) != runs {
		t.Fatalf("%d attempts, %v", len(attempts), err)
	}
	first, last, trained := attempts[0].Started, attempts[0].Ended, 0.0
	for _, a := range attempts {
		trained += *a.DeviceTime
		if a.Started.Before(first) {
			first = a.Started
		}
		if a.Ended.After(last) {
			last = a.Ended
		}
	}
	occupancy := trained / (gpus * last.Sub(first).Seconds())
	perRun := 1000 * (u.Seconds - few.Seconds) / float64(runs-gpus)
	share := (u.Seconds - few.Seconds) / (u.Workers - few.Workers)
	t.Logf("%d runs of %.3f s on %d GPUs: %.1f %% of the slots' time in training, %.2f ms of the coordinator's processor a run (%.2f s to start, for the first 8 and to end), %.2f of the workers', peak %d MB",
		runs, trained/float64(runs), gpus, 100*occupancy, perRun, few.Seconds, share, u.PeakBytes/1e6)
	if whole && perRun > 1 {
		t.Errorf("the coordinator takes %.2f ms of processor a run, may take 1 ms", perRun)
	}
	if share > 0.125 {
		t.Errorf("the coordinator takes %.2f of what the workers take of the processor, may take 0.125", share)
	}
	if u.PeakBytes > 200e6 {
		t.Errorf("the coordinator takes %d MB, may take 200", u.PeakBytes/1e6)
	}
	if whole && occupancy < 0.95 {
		t.Errorf("%.1f %% of the slots' time is in training, should be 95 %%", 100*occupancy)
	}
}
