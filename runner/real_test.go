package runner

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"anynetx/bindings"
	"anynetx/datasets"
	"anynetx/random"
	"anynetx/results"
)

// realStudy trains really: three networks of a few thousand weights on pictures of 16 pixels, from scratch, from weights and on.
const realStudy = `name: real
seed: 5
population:
  architectures:
    - {depths: [1, 1, 1, 1], widths: [8, 8, 16, 16], bottlenecks: [1, 1, 2, 1], group_widths: [4, 8, 4, 1]}
    - {depths: [1, 2, 1, 1], widths: [8, 16, 16, 24], bottlenecks: [1, 2, 1, 1], group_widths: [2, 4, 8, 3]}
    - {depths: [1, 1, 1, 1], widths: [16, 16, 16, 32], bottlenecks: [2, 1, 1, 4], group_widths: [8, 16, 2, 8]}
recipes:
  tiny: {batch: 32, precise_bn_images: 64, warmup_epochs: 1, augmentation: {flip: true, crop: padded, padding: 2}}
defaults: {dataset: squares, recipe: tiny, epochs: 6, stem: simple_stem_in, stem_width: 8, resolution: 16}
tasks:
  - {name: four}
  - {name: two, classes: 2, start: {init: four}, architectures: {first: 2}}
  - {name: longer, epochs: 9, start: {continue: four}, architectures: {best: 1, of: four}}
`

const realRuns = 3 + 2 + 1

// needCPU skips loudly without the library, unless ANX_REQUIRE asks for it.
func needCPU(t *testing.T) {
	t.Helper()
	if _, err := bindings.Load("cpu"); err != nil {
		if strings.Contains(os.Getenv("ANX_REQUIRE"), "cpu") {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: no real training without the CPU back end: %v", err)
	}
}

// squares is a data set of four classes: noise with a brighter quarter.
func squares(t *testing.T) string {
	t.Helper()
	source, data := t.TempDir(), t.TempDir()
	noise := random.New(1, "squares")
	n := uint64(0)
	for _, split := range []struct {
		name  string
		count int
	}{{"train", 48}, {"test", 16}} {
		for class := range 4 {
			dir := filepath.Join(source, split.name, fmt.Sprint("quarter", class))
			if err := os.MkdirAll(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			for i := range split.count {
				picture := image.NewRGBA(image.Rect(0, 0, 16, 16))
				for y := range 16 {
					for x := range 16 {
						v := noise.Below(n, 200)
						n++
						if y/8*2+x/8 == class {
							v += 55
						}
						picture.Set(x, y, color.RGBA{uint8(v), uint8(v), uint8(v), 255})
					}
				}
				f, err := os.Create(filepath.Join(dir, fmt.Sprint(i, ".png")))
				if err != nil {
					t.Fatal(err)
				}
				if err := png.Encode(f, picture); err != nil {
					t.Fatal(err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, err := datasets.Prepare(datasets.Preparation{Source: source, Destination: data, Name: "squares", Size: 16}); err != nil {
		t.Fatal(err)
	}
	return data
}

// Real trainings on the CPU back end: the same bytes from 1, 2 and 3 workers, and after SIGKILLs.
func TestRealTrainingKilledAndResumed(t *testing.T) {
	needCPU(t)
	data := "ANX_RUNNER_TEST_DATA=" + squares(t)
	study := writeStudy(t, realStudy)
	dir := t.TempDir()
	begin := time.Now()
	s := runStudy(t, study, dir, 1, data)
	span := time.Since(begin)
	if s.Done != realRuns || s.OutsideNative == nil {
		t.Fatalf("%+v", s)
	}
	want := bytesOf(t, dir)
	if len(want) != 2*realRuns {
		t.Fatalf("%d files of runs and epochs, want %d", len(want), 2*realRuns)
	}
	attempts, err := results.ReadTable[attemptRow](dir, "attempts")
	if err != nil || len(attempts) != realRuns {
		t.Fatalf("%d attempts, want %d (%v)", len(attempts), realRuns, err)
	}
	for _, a := range attempts {
		if a.Outcome != outcomeCommitted || a.DeviceTime == nil || *a.DeviceTime <= 0 || *a.DeviceTime > *a.WallTime || len(a.LibrarySHA) != 64 || a.Backend != "cpu" {
			t.Errorf("%+v", a)
		}
	}
	weights, err := filepath.Glob(filepath.Join(dir, "weights/*.safetensors"))
	if err != nil || len(weights) != realRuns {
		t.Errorf("%d files of weights, want %d (%v)", len(weights), realRuns, err)
	}
	if states, err := filepath.Glob(filepath.Join(dir, "weights/*.state")); err != nil || len(states) != 0 {
		t.Errorf("states that no task waits for are kept: %v %v", states, err)
	}
	for _, workers := range []int{2, 3} {
		dir := t.TempDir()
		runStudy(t, study, dir, workers, data)
		sameBytes(t, want, dir)
		tidy(t, dir, realRuns)
	}
	var lost, resumed int64
	for seed := range uint64(seeds()) {
		dir := t.TempDir()
		killer(t, 2*seed+1, study, dir, 2, span/6, data, "ANX_RUNNER_TEST_EVERY=20ms")
		sameBytes(t, want, dir)
		tidy(t, dir, realRuns)
		l, r := disturbances(t, dir)
		lost, resumed = lost+l, resumed+r
	}
	t.Logf("%d attempts were killed, %d went on from a checkpoint; %.2f %% of a worker's time is outside native code", lost, resumed, *s.OutsideNative)
	if lost < seeds()/4 || resumed < seeds()/5 {
		t.Errorf("only %d attempts were killed and %d resumed: the kills miss the work", lost, resumed)
	}
	// The comparison sees a training that differs by its seed alone.
	other := writeStudy(t, strings.Replace(realStudy, "seed: 5", "seed: 6", 1))
	if len(differences(want, undisturbed(t, other, 2, data))) != 4*realRuns {
		t.Error("another seed gives the same bytes")
	}
}

// Changed data under the same name are refused before they can mix.
func TestChangedData(t *testing.T) {
	needCPU(t)
	data := squares(t)
	study, dir := writeStudy(t, strings.NewReplacer("epochs: 6,", "epochs: 100,", "epochs: 9,", "epochs: 103,").Replace(realStudy)), t.TempDir() // so that much is left behind the first result
	if _, err := os.Stat(filepath.Join(data, "squares"+datasets.PackedSuffix)); err != nil {
		t.Fatal(err)
	}
	c := startStudy(t, study, dir, 1, "ANX_RUNNER_TEST_DATA="+data)
	eventually(t, "a result", func() bool { return found(t, dir, "runs/*/*.parquet") })
	c.Process.Signal(os.Interrupt)
	if err := c.Wait(); err == nil {
		t.Fatal("an interrupted study ended with exit code 0")
	}
	plan, err := os.ReadFile(filepath.Join(dir, "plan.json"))
	if err != nil {
		t.Fatal(err)
	}
	// The digest of the data is in the plan; a plan of other data stands for other data of the same plan.
	i := strings.Index(string(plan), `"data_sha256": "`) + len(`"data_sha256": "`)
	for j := range 8 {
		plan[i+j] = '0'
	}
	if err := os.WriteFile(filepath.Join(dir, "plan.json"), plan, 0o666); err != nil {
		t.Fatal(err)
	}
	c = startStudy(t, study, dir, 1, "ANX_RUNNER_TEST_DATA="+data)
	if err := c.Wait(); err == nil {
		t.Error("a study went on with other data")
	}
	if text := c.err.String(); !strings.Contains(text, "squares is not the one that this study began with") {
		t.Errorf("%s", text)
	}
}

// Speed and memory of a plan are measured on the back end itself.
func TestMeasuredForecast(t *testing.T) {
	needCPU(t)
	s, err := ReadStudy(writeStudy(t, realStudy))
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(s, DescribeData(squares(t)))
	if err != nil {
		t.Fatal(err)
	}
	f, err := ForecastStudy(p, ForecastOptions{Workers: 2, Measure: MeasureSpeed("cpu", 1)})
	if err != nil {
		t.Fatal(err)
	}
	if f.DeviceHours <= 0 || f.DeviceHours > 1 || f.MemoryBytes < 1<<16 || f.Runs != realRuns || f.Images != 32*6*(3*6)+32*3*6*2+32*6*3 {
		t.Errorf("%+v", f)
	}
}
