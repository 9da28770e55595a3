package runner

import (
	"math"
	"strings"
	"testing"
	"time"

	"anynetx/results"
)

// The longest run goes first, a run never before its source, and no slot idles while a run can start.
func TestPlacement(t *testing.T) {
	source := &PlannedRun{ID: "source", MACs: 2}
	runs := []*PlannedRun{{ID: "tuned", MACs: 9, Source: source}, {ID: "small", MACs: 1}, source, {ID: "large", MACs: 4}, {ID: "after", MACs: 1, Source: &PlannedRun{ID: "committed"}}}
	p := &Placement{Slots: make([]SlotPlacement, 2)}
	p.schedule(runs, CostModel{PerMAC: 3600})
	// Slot 0: large 0-4, then nothing is left; slot 1: source 0-2, tuned 2-11. The two small ones go behind large.
	if p.Hours != 11 || strings.Join(p.Slots[0].First, " ") != "large after small" || strings.Join(p.Slots[1].First, " ") != "source tuned" || p.Slots[0].Hours != 6 {
		t.Errorf("%+v", p)
	}
	p = &Placement{Slots: make([]SlotPlacement, 2)}
	p.schedule([]*PlannedRun{source, {ID: "tuned", MACs: 9, Source: source}}, CostModel{PerMAC: 3600})
	if p.Hours != 11 { // the second slot waits for the source and takes what follows, or the first does
		t.Errorf("%+v", p)
	}
}

// A dry run writes nothing, measures only while too little has finished, and learns from what has.
func TestDryRun(t *testing.T) {
	file, dir := writeStudy(t, faultStudy), t.TempDir()
	measured := 0
	measure := func(device string) Measure {
		return func(*Plan, []*PlannedRun) (Speed, error) {
			measured++
			return Speed{MACsPerSecond: 1e6, Device: device}, nil
		}
	}
	place := func() *Placement {
		t.Helper()
		p, err := Place(RunOptions{StudyFile: file, Dir: dir, Workers: 2}, measure)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	study := strings.NewReplacer("dataset: one", "dataset: fashion-mnist", "dataset: two", "dataset: fashion-mnist", "classes: 6", "classes: 10").Replace(faultStudy)
	file = writeStudy(t, study)
	p := place()
	if measured != 1 || p.Committed != 0 || p.Runs != faultRuns || p.Unknown != 4 || p.Slots[0].Runs+p.Slots[1].Runs != faultRuns-4 || p.Hours <= 0 || p.EnergyKWh != nil {
		t.Errorf("%+v, %d measurements", p, measured)
	}
	if exists(dir + "/plan.json") {
		t.Error("a dry run made a study of the folder")
	}
	s, err := ReadStudy(file)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := NewPlan(s, DescribeWithoutData(s, ""))
	if err != nil {
		t.Fatal(err)
	}
	store := newStore(dir, plan)
	if err := store.create(s, nil); err != nil {
		t.Fatal(err)
	}
	var attempts []attemptRow
	for _, r := range mustRuns(t, store) {
		attempts = append(attempts, attemptRow{RunID: r.ID, Attempt: 1, Task: r.Task.Name, Outcome: outcomeCommitted, Started: time.Now(), DeviceName: "H100", DeviceTime: ptr(r.MACs / 1e9), Backend: "cuda", Device: "GPU-1", Host: "h"})
	}
	if err := results.Write(dir+"/attempts/a.parquet", "attempts", attempts, nil); err != nil {
		t.Fatal(err)
	}
	watts := []telemetryRow{{Time: time.Now(), Host: "h", Device: "GPU-1", Interval: 10, PowerW: ptr(400.0)}}
	if err := results.Write(dir+"/telemetry/t.parquet", "telemetry", watts, nil); err != nil {
		t.Fatal(err)
	}
	learned := place()
	if measured != 1 || !strings.Contains(learned.Basis, "H100") {
		t.Errorf("%d measurements, %s", measured, learned.Basis)
	}
	if ratio := p.Hours / learned.Hours; ratio < 900 || ratio > 1100 { // a thousand times faster than measured
		t.Errorf("%v hours learned, %v measured", learned.Hours, p.Hours)
	}
	busy := learned.Slots[0].Hours + learned.Slots[1].Hours
	if learned.EnergyKWh == nil || math.Abs(*learned.EnergyKWh-0.4*busy) > 1e-9 {
		t.Errorf("energy %v, want %v", learned.EnergyKWh, 0.4*busy)
	}
	var text strings.Builder
	if err := learned.WriteText(&text); err != nil || !strings.Contains(text.String(), "kWh") || !strings.Contains(text.String(), "UTC") {
		t.Errorf("%s %v", text.String(), err)
	}
}
