package runner

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
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

func needCPU(t *testing.T) { t.Helper(); need(t, "cpu") }

// need skips loudly without a back end's library, unless ANX_REQUIRE asks for it.
func need(t *testing.T, backend string) {
	t.Helper()
	if _, err := bindings.Load(backend); err != nil {
		if slices.Contains(strings.FieldsFunc(os.Getenv("ANX_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' }), backend) {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: no real training without the %s back end: %v", backend, err)
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
	s := runStudy(t, study, dir, 1, data)
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
		killer(t, 2*seed+1, study, dir, 2, data, "ANX_RUNNER_TEST_EVERY=20ms")
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

// A worker that loads a data set says so, and not more than twice a second.
func TestLoadingIsHeard(t *testing.T) {
	needCPU(t)
	study, err := ParseStudy([]byte(realStudy), "real.yaml")
	if err != nil {
		t.Fatal(err)
	}
	data := squares(t)
	plan, err := NewPlan(study, DescribeData(data))
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	w := &worker{WorkerOptions: WorkerOptions{Device: "cpu", DataDir: data, Stdout: &said}, store: newStore("", plan)}
	trainers, err := w.openTrainers()
	if err != nil {
		t.Fatal(err)
	}
	defer trainers.Close()
	runs, err := plan.Runs(nil)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	training, err := trainers.Open(runs[0])
	if err != nil {
		t.Fatal(err)
	}
	training.Close()
	n := strings.Count(said.String(), `"kind":"loading"`)
	if most := 1 + int(time.Since(begin)/(500*time.Millisecond)); n < 1 || n > most {
		t.Errorf("said %d times, want 1 to %d: %s", n, most, said.String())
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
	f, err := ForecastStudy(p, ForecastOptions{Workers: 2, Measure: func(device string) Measure { return MeasureSpeed(device, 1) }})
	if err != nil {
		t.Fatal(err)
	}
	if f.DeviceHours <= 0 || f.DeviceHours > 1 || f.MemoryBytes < 1<<16 || f.Runs != realRuns || f.Images != 32*6*(3*6)+32*3*6*2+32*6*3 {
		t.Errorf("%+v", f)
	}
}

// launchStudy trains a network on parts of a set, at rates of which one is too high.
const launchStudy = `name: launches
seed: 5
population:
  architectures: [{depths: [1, 1, 1, 1], widths: [8, 8, 8, 16], bottlenecks: [1, 1, 1, 1], group_widths: [4, 8, 2, 1]}]
recipes:
  tiny: {batch: 16, precise_bn_images: 16}
  gentle: {batch: 16, precise_bn_images: 16, learning_rate: 0.02, augmentation: {flip: true}}
  wild: {batch: 16, precise_bn_images: 16, learning_rate: 1.0e+6, schedule: constant}
defaults: {dataset: squares, recipe: tiny, train_images: 32, stem: simple_stem_in, stem_width: 8, resolution: 8, test_images: 16}
tasks:
  - {name: large, epochs: 2}
  - {name: small, classes: 2, train_images: 16, recipe: gentle, epochs: 3}
  - {name: wild, recipe: wild, epochs: 2}
  - {name: longer, epochs: 3, start: {continue: large}}
  - {name: tuned, classes: 2, epochs: 1, start: {init: large}}
`

// On a processor a group steps in turn, to the same bytes: here with data sets that do not stay on the device when they are not in use.
func TestRealGroupsInTurn(t *testing.T) {
	needCPU(t)
	data, dir := squares(t), t.TempDir()
	single := startStudy(t, writeStudy(t, launchStudy), dir, 1, "ANX_RUNNER_TEST_DATA="+data)
	if err := single.Wait(); err == nil || !strings.Contains(single.err.String(), "1 of 5 runs failed (1 diverged)") {
		t.Fatalf("%v\n%s", err, single.err.String())
	}
	want, dir := bytesOf(t, dir), t.TempDir()
	study, err := ReadStudy(writeStudy(t, launchStudy))
	if err != nil {
		t.Fatal(err)
	}
	_, release, err := openStudy(study, &folderLocks{dir: dir}, DescribeData(data))
	if err != nil {
		t.Fatal(err)
	}
	release()
	stdin, hold := io.Pipe()
	defer hold.Close()
	go fmt.Fprintln(hold, `{"models":1,"group":16,"memory_bytes":1073741824}`)
	err = Work(t.Context(), WorkerOptions{StudyDir: dir, DataDir: data, Stdin: stdin, Ordered: true, Trainers: func(o WorkerOptions, p *Plan) (Trainers, error) {
		t, err := OpenEngine(o, p)
		if err == nil {
			t.(*engineTrainers).keep = 1
		}
		return t, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, want, dir)
	if largest, groups := groupsOf(t, dir); largest != 3 || groups != 2 {
		t.Errorf("%d groups, of %d runs at most", groups, largest)
	}
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		if *a.RunsPerLaunch != 1 || a.ArenaBytes == nil || *a.DeviceTime <= 0 {
			t.Errorf("%+v", a)
		}
	}
}

// A study on the CUDA back end, with kernels that run on the processor: with groups it commits the bytes that it has without, though it is killed in
// the middle of one.
func TestRealGroups(t *testing.T) {
	need(t, "cuda_host")
	const runs = 5
	study, environment := writeStudy(t, launchStudy), []string{"ANX_RUNNER_TEST_DATA=" + squares(t), devicesVariable + "=cuda_host"}
	train := func(dir, group string, more ...string) {
		t.Helper()
		c := startStudy(t, study, dir, 1, append(append(slices.Clone(environment), groupVariable+"="+group), more...)...)
		if err := c.Wait(); err == nil || !strings.Contains(c.err.String(), "1 of 5 runs failed (1 diverged)") {
			t.Fatalf("%v\n%s", err, c.err.String())
		}
	}
	single, grouped := t.TempDir(), t.TempDir()
	train(single, "1")
	train(grouped, "0", exitVariable+"=checkpoint-000001-00000000 renamed", onceVariable+"="+filepath.Join(t.TempDir(), "once"))
	sameBytes(t, bytesOf(t, single), grouped)
	tidy(t, grouped, runs)
	if lost, resumed := disturbances(t, grouped); lost != 3 || resumed < 1 {
		t.Errorf("%d attempts were killed and %d resumed", lost, resumed)
	}
	for dir, most := range map[string]float64{single: 1, grouped: 3} {
		largest := 0.0
		for _, a := range readAll[attemptRow](t, dir, "attempts") {
			if a.RunsPerLaunch != nil {
				largest = max(largest, *a.RunsPerLaunch)
			}
		}
		if largest != most {
			t.Errorf("%v runs were in a launch at most, want %v", largest, most)
		}
	}
}
