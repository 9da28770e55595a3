package runner

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"anynetx/results"
)

// A plan's cost is measured before a study begins; once enough runs have finished it is learned from them, and is that of the rest.
func TestForecast(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "study")
	s, err := ParseStudy([]byte(faultStudy), "faults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := NewPlan(s, fakeData)
	if err != nil {
		t.Fatal(err)
	}
	measured := 0
	forecast := func(workers int) (*Forecast, string) {
		t.Helper()
		f, err := ForecastStudy(plan, ForecastOptions{Dir: dir, Workers: workers, Measure: func(string) Measure {
			return func(*Plan, []*PlannedRun) (Speed, error) {
				measured++
				return Speed{MACsPerSecond: 1e6, MemoryBytes: 5e6, Device: "a processor"}, nil
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := f.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		return f, text.String()
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got/want-1) > 1e-9 {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	first, text := forecast(2)
	if measured != 1 || first.Runs != faultRuns || first.Committed != 0 || first.Unit != "core" || first.EnergyKWh != nil || first.MemoryBytes != 5e6 || exists(dir) {
		t.Errorf("%+v, %d measurements", first, measured)
	}
	for _, says := range []string{"core-hours", "measured on a processor", "energy is known once", "first   one ", "<= 2", " UTC; "} {
		if !strings.Contains(text, says) {
			t.Errorf("no %q in\n%s", says, text)
		}
	}
	var macs float64
	for _, task := range first.Tasks {
		macs += 3600e6 * task.DeviceHours
	}
	near("core-hours", first.DeviceHours, macs/3600e6)
	if first.Hours < first.DeviceHours/2 || first.Hours > first.DeviceHours || time.Until(first.Finish) > time.Duration(first.Hours*float64(time.Hour)) {
		t.Errorf("%v hours on 2 workers until %v, %v core-hours", first.Hours, first.Finish, first.DeviceHours)
	}

	// On devices that are named it is what study run would do on them.
	o := ForecastOptions{Dir: dir, Devices: []string{"cuda_host:0", "cuda_host:1", "cuda_host:2"}, Measure: func(device string) Measure {
		return func(*Plan, []*PlannedRun) (Speed, error) {
			return Speed{MACsPerSecond: 1e6, GPUs: 1, Device: device}, nil
		}
	}}
	if f, err := ForecastStudy(plan, o); err != nil || f.Workers != 3 || f.Unit != "GPU" || !strings.Contains(f.Basis, "cuda_host:0") {
		t.Errorf("%+v %v", f, err)
	}

	// Task first is done, by three GPUs of 300 W at 1e9 multiply-adds a second; one of the attempts knows nothing of energy.
	store := newStore(dir, plan)
	if err := store.create(s, nil); err != nil {
		t.Fatal(err)
	}
	var attempts []attemptRow
	left := 0.0
	for i, r := range mustRuns(t, store) {
		a := attemptRow{RunID: r.ID, Attempt: 1, Task: r.Task.Name, Outcome: outcomeCommitted, Started: time.Now(), DeviceName: "H100", DeviceTime: ptr(r.MACs / 1e9),
			EnergyJ: ptr(300 * r.MACs / 1e9), Backend: "cuda", Device: gpus(3)[i%3], Host: "h", Threads: ptr(int64(4))}
		if i == 0 {
			a.EnergyJ = nil
		}
		attempts = append(attempts, a)
		if r.Task.Name != "first" {
			left += r.MACs
			continue
		}
		path, err := results.Path(dir, "runs", r.Task.Dataset, r.ID)
		if err != nil {
			t.Fatal(err)
		}
		row, _ := r.rows(result{status: statusDone, epochs: []EpochResult{{TestTop1ErrPct: float64(i)}}})
		if err := results.Write(path, "runs", []runRow{row}, nil); err != nil {
			t.Fatal(err)
		}
	}
	timeless := attempts[0]
	timeless.Attempt, timeless.DeviceName, timeless.DeviceTime = 2, "a clock that stood", ptr(0.0)
	if err := results.Write(filepath.Join(dir, "attempts", "a.parquet"), "attempts", append(attempts, timeless), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("gone", filepath.Join(dir, "attempts", "b.parquet")); err != nil { // as a file that is compacted between the listing and the reading
		t.Fatal(err)
	}
	f, text := forecast(0)
	if measured != 1 || f.Committed != 6 || f.Runs != faultRuns-6 || f.Unit != "GPU" || f.Workers != 3 || f.Tasks[0].Runs != 0 || f.Tasks[0].DeviceHours != 0 {
		t.Errorf("%+v, %d measurements", f, measured)
	}
	near("kWh", *f.EnergyKWh, 0.3*f.DeviceHours)
	near("kWh of a task", *f.Tasks[1].EnergyKWh, 0.3*f.Tasks[1].DeviceHours)
	for _, task := range f.Tasks[1:3] { // a thousand times faster than measured
		for _, before := range first.Tasks {
			if before.Task == task.Task && before.Runs == task.Runs && before.Known {
				near(task.Task, task.DeviceHours, before.DeviceHours/1000)
			}
		}
	}
	for _, says := range []string{"GPU-hours", "6 are committed", "learned from 10 runs that finished on H100, with 300 W", "with 3 workers"} {
		if !strings.Contains(text, says) {
			t.Errorf("no %q in\n%s", says, text)
		}
	}
}
