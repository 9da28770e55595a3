package runner

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"anynetx/results"
)

// A watcher sees a study from before it begins until after it has ended: every result once, events and telemetry once whether they come
// from a journal or from what it has become.
func TestWatcher(t *testing.T) {
	dir := t.TempDir()
	w := NewWatcher(dir)
	if _, err := w.Look(); err == nil {
		t.Fatal("a folder without a study is looked at without an error")
	}
	file, letGo := hold(t)
	top5 := strings.Replace(faultStudy, "{name: tuned, dataset: two,", "{name: tuned, dataset: two, classes: 6, metric: top5,", 1)
	c := startStudy(t, writeStudy(t, top5), dir, 2, behaviour(fakeBehaviour{Step: 5 * time.Millisecond, Hold: file}))
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	partial, journal := 0, false
	for running := true; running; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v\n%s", err, c.err.String())
			}
			running = false
		case <-time.After(20 * time.Millisecond):
		}
		v, err := w.Look()
		if err != nil {
			if w.store == nil {
				continue // not planned yet
			}
			t.Fatal(err)
		}
		if len(v.Results) < partial {
			t.Fatalf("%d results, there were %d before", len(v.Results), partial)
		}
		partial = len(v.Results)
		if running && len(v.Events) > 0 {
			journal = true
			letGo()
		}
	}
	if !journal {
		t.Error("no event was seen while the study ran")
	}
	v, err := w.Look()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := NewWatcher(dir).Look()
	if err != nil {
		t.Fatal(err)
	}
	rows, err := results.ReadTable[runRow](dir, "runs")
	if err != nil {
		t.Fatal(err)
	}
	want := map[RunResult]bool{}
	for _, r := range rows {
		if r.Replicate == 0 {
			value := *r.TestTop1
			if r.Task == "tuned" {
				value = *r.TestTop5
			}
			want[RunResult{r.Task, r.ArchID, value}] = true
		}
	}
	events, err := results.ReadTable[Event](dir, "events")
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]*View{"followed": v, "new": fresh} {
		got := map[RunResult]bool{}
		for _, r := range v.Results {
			got[r] = true
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || len(v.Results) != len(want) {
			t.Errorf("%s: results %v, want %v", name, v.Results, want)
		}
		if best := v.Status.Tasks[1].Best; best == nil || best.Top1 != nil || !want[RunResult{"tuned", best.ArchID, *best.Top5}] {
			t.Errorf("%s: the best of tuned, whose metric is top5, is %+v", name, best)
		}
		if len(v.Events) != len(events) {
			t.Errorf("%s: %d events, the table has %d", name, len(v.Events), len(events))
		}
		if !v.Status.Complete || v.Remaining != nil {
			t.Errorf("%s: %+v, remaining %v", name, v.Status, v.Remaining)
		}
	}
}

// Telemetry is shown of the last hour only, and a device that is silent does not count in the rate.
func TestWatchedTelemetry(t *testing.T) {
	dir := t.TempDir()
	store, err := openFake(t, faultStudy, dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	record := store.record("telemetry", identity())
	add := func(device string, ago time.Duration, rate float64) {
		if err := record.append(telemetryRow{Time: now.Add(-ago), Host: "h", Device: device, Interval: 10, ImagesPerSec: &rate}); err != nil {
			t.Fatal(err)
		}
	}
	add("GPU-b", 2*time.Hour, 1)
	add("GPU-b", 20*time.Second, 100)
	add("GPU-a", 5*time.Minute, 40)
	w := NewWatcher(dir)
	check := func(when string, samples ...int) {
		t.Helper()
		v, err := w.Look()
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Devices) != 2 || v.Devices[0].Device != "GPU-a" || len(v.Devices[0].Samples) != samples[0] || len(v.Devices[1].Samples) != samples[1] {
			t.Errorf("%s: %+v", when, v.Devices)
		}
		if v.ImagesPerSecond != 100 {
			t.Errorf("%s: %v images/s, want 100", when, v.ImagesPerSecond)
		}
	}
	check("journal", 1, 1)
	add("GPU-a", 3*time.Minute, 50)
	check("grown journal", 2, 1)
	add("GPU-a", 2*time.Minute, 60)
	if err := record.Close(); err != nil {
		t.Fatal(err)
	}
	check("Parquet with a row more", 3, 1)
	if _, err := results.Compact(dir); err != nil {
		t.Fatal(err)
	}
	check("compacted", 3, 1)
}
