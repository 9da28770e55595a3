package runner

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"anynetx/anynetx"
	"anynetx/datasets"
	"anynetx/engine"
	"anynetx/random"
)

// fakeTrainers train a state of a few numbers. What the real trainer promises they keep: the state after n steps is a function of the
// run's inputs and n, through weights, momentum and named random numbers.
type fakeTrainers struct {
	seed     uint64
	need     int64
	device   string // "": fake:0
	step     time.Duration
	sabotage string // "momentum", "random": what a resume forgets
	fail     func(r *PlannedRun, p engine.Position) error
	groups   func(runs int) error   // whether there may be one of so many
	launch   func([]Training) error // what becomes of all that share one
}

type fakeState struct {
	Weights, Momentum uint64
	Epoch, Step       int
}

type fakeTraining struct {
	fakeTrainers
	r       *PlannedRun
	state   fakeState
	stream  random.Stream
	resumed int // steps since the process began, for the sabotage of the random numbers
	native  time.Duration

	launches, inLaunches float64
}

func (f fakeTrainers) Open(r *PlannedRun) (Training, error) {
	t := &fakeTraining{fakeTrainers: f, r: r, stream: random.New(f.seed, "fake", r.Task.Dataset, r.Member.ID, r.Replicate)}
	if r.Task.Start.Kind == StartContinue {
		t.state.Epoch = r.Source.Task.Epochs
	}
	return t, nil
}

// OpenGroup makes a group whose steps are those of its trainings, one after another.
func (f fakeTrainers) OpenGroup(runs []*PlannedRun) (TrainingGroup, error) {
	if f.groups != nil {
		if err := f.groups(len(runs)); err != nil {
			return nil, err
		}
	}
	g := &fakeGroup{launch: f.launch}
	for _, r := range runs {
		t, err := f.Open(r)
		if err != nil {
			return nil, err
		}
		g.list = append(g.list, t)
	}
	return g, nil
}

type fakeGroup struct {
	list   []Training
	launch func([]Training) error
}

// fails is the failure of a launch that all of a list share, for each of them.
func (g *fakeGroup) fails(list []Training) (failures []error) {
	if g.launch == nil || len(list) < 2 {
		return nil
	}
	if err := g.launch(list); err != nil {
		for range list {
			failures = append(failures, err)
		}
	}
	return failures
}

func (g *fakeGroup) Trainings() []Training { return g.list }

func (g *fakeGroup) Step(list []Training) (failures []error) {
	if failures = g.fails(list); failures != nil {
		return failures
	}
	for _, t := range list {
		err := t.Step()
		t.(*fakeTraining).inLaunches += float64(len(list) - 1)
		failures = append(failures, err)
	}
	return failures
}

func (g *fakeGroup) EndEpoch(list []Training) (results []EpochResult, failures []error) {
	if failures = g.fails(list); failures != nil {
		return make([]EpochResult, len(list)), failures
	}
	for _, t := range list {
		r, err := t.EndEpoch()
		results, failures = append(results, r), append(failures, err)
	}
	return results, failures
}

func (g *fakeGroup) Close() {}

func (f fakeTrainers) Provenance() Provenance {
	device := f.device
	if device == "" {
		device = "fake:0"
	}
	return Provenance{Backend: "fake", Device: device, DeviceName: "none", Library: fmt.Sprintf("%064d", 1), Threads: 1}
}

func (f fakeTrainers) Need(runs ...*PlannedRun) (int64, error) { return int64(len(runs)) * f.need, nil }

func (f fakeTrainers) Close() {}

func (t *fakeTraining) steps() int { return t.r.Task.TrainImages / t.r.Task.Recipe.Batch }

func (t *fakeTraining) Initialize() error {
	t.state.Weights = t.stream.Uint64(0)
	return nil
}

func (t *fakeTraining) InitializeFrom(r io.Reader) error {
	_, err := fmt.Fscanf(r, "fake weights %d", &t.state.Weights)
	return err
}

func (t *fakeTraining) ContinueFrom(r io.Reader) error {
	_, err := t.ReadCheckpoint(r)
	return err
}

func (t *fakeTraining) Position() engine.Position {
	return engine.Position{Epoch: t.state.Epoch, Step: t.state.Step, StepsPerEpoch: t.steps(), Epochs: t.r.Task.Epochs}
}

func (t *fakeTraining) Step() error {
	if t.fail != nil {
		if err := t.fail(t.r, t.Position()); err != nil {
			return err
		}
	}
	time.Sleep(t.step)
	t.native += t.step
	t.launches, t.inLaunches = t.launches+1, t.inLaunches+1
	t.resumed++
	n := uint64(t.state.Epoch*t.steps() + t.state.Step)
	if t.sabotage == "random" {
		n = uint64(t.resumed)
	}
	t.state.Momentum = t.state.Momentum*9/10 + t.stream.Uint64(n+1)
	t.state.Weights = t.state.Weights*6364136223846793005 + t.state.Momentum
	t.state.Step++
	return nil
}

func (t *fakeTraining) EndEpoch() (EpochResult, error) {
	share := func(i uint64) float64 { return 100 * random.New(t.state.Weights, "figure").Float64(i) }
	e := EpochResult{Epoch: t.state.Epoch, LearningRate: 0.1, TrainLoss: share(0) / 40, TrainTop1ErrPct: share(1), TrainTop5ErrPct: share(2),
		TestLoss: share(3) / 40, TestTop1ErrPct: share(4), TestTop5ErrPct: share(5)}
	t.state.Epoch++
	t.state.Step = 0
	return e, nil
}

func (t *fakeTraining) WriteCheckpoint(w io.Writer, extra []byte) error {
	text, err := json.Marshal(struct {
		State fakeState
		Extra []byte
		Fill  []byte
	}{t.state, extra, make([]byte, 1000)})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	for _, part := range [][]byte{text, sum[:]} { // in two, so that a kill can come between
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func (t *fakeTraining) ReadCheckpoint(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if len(data) < 32 {
		return nil, errors.New("the checkpoint is too short")
	}
	text := data[:len(data)-32]
	if sum := sha256.Sum256(text); !bytes.Equal(sum[:], data[len(text):]) {
		return nil, errors.New("the checkpoint's checksum is wrong")
	}
	var c struct {
		State fakeState
		Extra []byte
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, err
	}
	t.state = c.State
	if t.sabotage == "momentum" {
		t.state.Momentum = 0
	}
	return c.Extra, nil
}

func (t *fakeTraining) WriteWeights(w io.Writer) error {
	_, err := fmt.Fprintf(w, "fake weights %d", t.state.Weights)
	return err
}

func (t *fakeTraining) RunsPerLaunch() float64    { return t.inLaunches / max(1, t.launches) }
func (t *fakeTraining) NativeTime() time.Duration { return t.native }
func (t *fakeTraining) Memory() engine.Memory     { return engine.Memory{StateBytes: 24} }
func (t *fakeTraining) Close()                    {}

// fakeData describes any data set.
func fakeData(name string, part datasets.Subset, stream random.Stream) (DataInfo, error) {
	if name == "missing" {
		return DataInfo{}, anynetx.Inputf("data set missing is not there")
	}
	info := DataInfo{TrainImages: 160, TestImages: 16, SHA256: "of " + name}
	for i := range max(part.Classes, len(part.ClassList), 2) {
		info.ClassNames = append(info.ClassNames, fmt.Sprint("class ", i))
	}
	if part.TrainImages > 0 {
		info.TrainImages = part.TrainImages
	}
	return info, nil
}
