package runner

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"anynetx/telemetry/nvmltest"
)

// Several runs on a GPU, from the driver's word to the worker's lanes: the whole program on a fake driver. How much the GPU does at a time
// is a law of the trainings, and how much memory they take they tell the driver.

// crowd is what the trainings of a process share.
type crowd struct {
	now  atomic.Int64
	file string        // where each training writes a line as it begins: how many there are
	step time.Duration // of one alone ...
	law  float64       // ... and of n together, n to this power as long

	mib    int64 // that each takes by the word of the driver; 0: it says nothing
	mu     sync.Mutex
	driver nvmltest.Driver
}

// takes tells the driver what the trainings take.
func (c *crowd) takes() {
	if c.mib > 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.driver.Set(0, fmt.Sprint("proc:", os.Getpid()), c.mib*c.now.Load())
	}
}

type crowdedTrainers struct {
	Trainers
	crowd *crowd
}

type crowdedTraining struct {
	Training
	crowd *crowd
}

func (c crowdedTrainers) Open(r *PlannedRun) (Training, error) {
	f, err := os.OpenFile(c.crowd.file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fmt.Fprintln(f, c.crowd.now.Add(1))
	c.crowd.takes()
	t, err := c.Trainers.Open(r)
	return crowdedTraining{t, c.crowd}, err
}

func (c crowdedTraining) Step() error {
	time.Sleep(time.Duration(float64(c.crowd.step) * math.Pow(float64(c.crowd.now.Load()), c.crowd.law)))
	return c.Training.Step()
}

func (c crowdedTraining) Close() {
	c.crowd.now.Add(-1)
	c.crowd.takes()
	c.Training.Close()
}

func TestPacking(t *testing.T) {
	t.Parallel() // it mostly waits
	tasks, _, _ := strings.Cut(faultStudy, "tasks:\n")
	// Runs that last longer than the test.
	study := writeStudy(t, tasks+"tasks:\n  - {name: only, dataset: one, classes: 6, epochs: 1, train_images: 1600000, replicates: 2}\n")
	start := func(law float64, mib int64) *packedStudy {
		p := &packedStudy{t: t, dir: t.TempDir(), file: filepath.Join(t.TempDir(), "crowd"), driver: nvmltest.New(t)}
		p.driver.Set(0, "power_w", 200)
		b := fakeBehaviour{Need: 6 << 30, Crowd: p.file, Law: law, Takes: mib, Step: 50 * time.Millisecond}
		p.coordinatorProcess = startStudy(t, study, p.dir, 0, append(onDriver(p.driver, nvmltest.UUID(0), b), timingVariable+"=2s,500ms", "ANX_RUNNER_TEST_EVERY=1h")...)
		t.Cleanup(func() { p.Process.Kill() })
		return p
	}
	pays, planned, slows := start(-2, 10<<10), start(-2, 0), start(3, 0) // side by side

	// 6 GiB are planned for a run, 10 are seen, 31.4 are to be had: a fourth is wanted and does not fit.
	pays.until("4 lanes at a time are tried")
	time.Sleep(time.Second)
	if list := pays.began(); len(list) != 3 {
		t.Errorf("trainings began as number %v, want 3", list)
	}
	// The control: by the plan it does.
	planned.until("4 lanes at a time are tried")
	eventually(t, "the fourth", func() bool { return len(planned.began()) >= 4 })
	if text := fmt.Sprint(pays.decisions(), planned.decisions()); strings.Contains(text, "2 lanes at a time do 0.") {
		t.Errorf("what pays is undone: %s", text)
	}

	// Where there were two that slow each other down, one stays.
	slows.until("2 lanes at a time do 0.")
	status, err := Status(slows.dir)
	if err != nil || len(status.Active) != 2 {
		t.Fatalf("%+v %v", status, err)
	}
	if err := CancelRun(t.Context(), slows.dir, status.Active[0].RunID); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if list := slows.began(); len(list) != 2 {
		t.Errorf("trainings began as number %v, want 2 and none after them", list)
	}
	for _, p := range []*packedStudy{pays, planned, slows} {
		p.Process.Signal(os.Interrupt)
		p.Wait()
		p.energy(200)
	}
}

// A group on a GPU: as many runs as its memory holds, in one lane, with the device's energy between them.
func TestGroupOnAGPU(t *testing.T) {
	t.Parallel() // it mostly waits
	tasks, _, _ := strings.Cut(faultStudy, "tasks:\n")
	study := writeStudy(t, tasks+"tasks:\n  - {name: only, dataset: one, classes: 6, epochs: 1, train_images: 1600000, replicates: 7}\n")
	p := &packedStudy{t: t, dir: t.TempDir(), driver: nvmltest.New(t)}
	p.driver.Set(0, "power_w", 200)
	p.coordinatorProcess = startStudy(t, study, p.dir, 0, append(onDriver(p.driver, nvmltest.UUID(0), fakeBehaviour{Need: 6 << 30, Step: 10 * time.Millisecond}),
		timingVariable+"=1s,500ms", "ANX_RUNNER_TEST_EVERY=1h", groupVariable+"=0")...)
	t.Cleanup(func() { p.Process.Kill() })
	// 31.75 GiB are to be had, 6 are planned for a run: there is no room for a second lane, which is tried nevertheless.
	p.until("2 lanes at a time are tried")
	time.Sleep(time.Second)
	status, err := Status(p.dir)
	if err != nil || len(status.Active) != 5 {
		t.Errorf("%d runs are in training, want 5 (%v)", len(status.Active), err)
	}
	p.Process.Signal(os.Interrupt)
	p.Wait()
	p.energy(200)
	if largest, groups := groupsOf(t, p.dir); largest != 5 || groups != 1 {
		t.Errorf("%d groups, of %d runs at most", groups, largest)
	}
	for _, a := range readAll[attemptRow](t, p.dir, "attempts") {
		if a.RunsPerLaunch == nil || *a.RunsPerLaunch != 5 {
			t.Errorf("%+v", a)
		}
	}
}

// packedStudy is one on one GPU of a driver.
type packedStudy struct {
	*coordinatorProcess
	t         *testing.T
	dir, file string
	driver    *nvmltest.Driver
}

// began lists the trainings that began: how many there were then.
func (p *packedStudy) began() (list []int64) {
	data, _ := os.ReadFile(p.file)
	for line := range strings.Lines(string(data)) {
		n, _ := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		list = append(list, n)
	}
	return list
}

// until waits for a decision.
func (p *packedStudy) until(says string) {
	p.t.Helper()
	eventually(p.t, says, func() bool {
		time.Sleep(50 * time.Millisecond)
		return strings.Contains(fmt.Sprint(p.decisions()), says)
	})
}

// decisions are those of packing so far.
func (p *packedStudy) decisions() (list []string) {
	for _, e := range eventsSoFar(p.t, p.dir) {
		if e.Kind == "packing" {
			list = append(list, e.Text)
		}
	}
	return list
}

// energy checks that the attempts have the energy of the device between them, and no more.
func (p *packedStudy) energy(watts float64) {
	p.t.Helper()
	attempts := readAll[attemptRow](p.t, p.dir, "attempts")
	begin, end, joules := attempts[0].Started, attempts[0].Ended, 0.0
	for _, a := range attempts {
		if a.DeviceTime == nil {
			continue // leased when the end came
		}
		if a.EnergyJ == nil {
			p.t.Fatalf("an attempt without energy: %+v", a)
		}
		joules += *a.EnergyJ
		if a.Started.Before(begin) {
			begin = a.Started
		}
		if a.Ended.After(end) {
			end = a.Ended
		}
	}
	if used := joules / end.Sub(begin).Seconds(); used < 0.5*watts || used > 1.5*watts {
		p.t.Errorf("%d attempts used %.0f W between them, on a device of %.0f W", len(attempts), used, watts)
	}
}
