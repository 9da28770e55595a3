package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
	"anynetx/random"
)

// Config is everything a run's bits depend on beside its data, the device model and the library.
type Config struct {
	Network *anynetx.Network
	Recipe  Recipe
	Epochs  int // the run ends behind epoch Epochs-1
	// StartEpoch is the epoch a continued run starts with (ContinueFrom); 0 for all others.
	StartEpoch int
	// ScheduleEpochs is the length of the learning rate's schedule; 0: Epochs.
	ScheduleEpochs int
	DType          string // of activations and their gradients: "fp32", "fp16" or "bf16"
	Seed           uint64
	Task           string // names the streams: two tasks share no random number, so that their noise is independent
	Replicate      int
}

// Position is how far a run is: Step steps of Epoch are done.
type Position struct{ Epoch, Step, StepsPerEpoch, Epochs int }

const stepsBetweenChecks = 100

// Trainer is one run on a device. Like its context it is used by one goroutine at a time.
type Trainer struct {
	ctx         *bindings.Context
	config      Config
	data        *Data
	layout      *layout // of its state on the device
	saved       *layout // of its checkpoints: without room for a wider head
	memory      Memory
	group       *Group // whose memory it lies in, or nil
	place       int    // in the group
	state       *bindings.Buffer
	arena       *bindings.Buffer
	samples     *bindings.Buffer
	lowered     []*program           // by mode
	programs    [3]*bindings.Program // by mode
	test        source
	sampleBytes int64
	slots       [slots]float64

	ready       bool // the state has been initialized or read
	epoch, step int
	steps       int // of an epoch

	table       []int32 // kept for its memory
	tableStream string  // which table lies in the sample buffer; "" for none
	tableEpoch  int

	native               time.Duration
	launches, inLaunches float64 // of steps; runs that were in them
}

// validate checks what needs no data.
func (c *Config) validate(ctx *bindings.Context) error {
	if c.Network == nil {
		return errors.New("a trainer needs a network: build one with anynetx.Build")
	}
	if err := c.Recipe.Validate(); err != nil {
		return err
	}
	if err := c.Recipe.Augmentation.Validate(c.Network.Setting.Resolution); err != nil {
		return err
	}
	if err := CheckDType(ctx, c.DType); err != nil {
		return err
	}
	if c.StartEpoch < 0 || c.Epochs <= c.StartEpoch {
		return anynetx.Inputf("epochs is %d and the run starts with epoch %d; give more epochs than that", c.Epochs, c.StartEpoch)
	}
	if c.ScheduleEpochs != 0 && c.ScheduleEpochs < c.Epochs {
		return anynetx.Inputf("the schedule has %d epochs and the run goes to epoch %d; give a schedule at least as long", c.ScheduleEpochs, c.Epochs)
	}
	if v := max(1, ctx.Info().VectorImages); c.Recipe.Batch%v != 0 {
		return anynetx.Inputf("batch is %d; on %s it must be a multiple of %d", c.Recipe.Batch, ctx.Info().Name, v)
	}
	return nil
}

// NewTrainer makes the programs and memory of a run. Then Initialize, InitializeFrom, ContinueFrom or ReadCheckpoint. Close it when done.
func NewTrainer(ctx *bindings.Context, c Config, data *Data) (*Trainer, error) {
	return newTrainer(ctx, c, data, planOptions{})
}

func newTrainer(ctx *bindings.Context, c Config, data *Data, options planOptions) (*Trainer, error) {
	t, err := planTrainer(ctx, c, data, options)
	if err != nil {
		return nil, err
	}
	for _, b := range []struct {
		buffer **bindings.Buffer
		name   string
		bytes  int64
	}{{&t.state, "state", t.memory.StateBytes}, {&t.arena, "arena", t.memory.ArenaBytes}} {
		if *b.buffer, err = roomFor(ctx, b.name, b.bytes); err != nil {
			t.Close()
			return nil, err
		}
	}
	if err := t.bind(); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func roomFor(ctx *bindings.Context, name string, bytes int64) (*bindings.Buffer, error) {
	b, err := ctx.NewBuffer(bytes)
	if err != nil {
		return nil, fmt.Errorf("room for the %s, %d bytes: %w", name, bytes, err)
	}
	return b, nil
}

// planTrainer is a trainer that takes no memory yet.
func planTrainer(ctx *bindings.Context, c Config, data *Data, options planOptions) (*Trainer, error) {
	if err := c.validate(ctx); err != nil {
		return nil, err
	}
	images := len(data.set.Train.Labels)
	if images < c.Recipe.Batch {
		return nil, anynetx.Inputf("data set %s has %d training images, fewer than a batch of %d; give a smaller batch", data.set.Name, images, c.Recipe.Batch)
	}
	if classes := c.Network.Setting.Classes; classes != len(data.set.Classes) {
		return nil, anynetx.Inputf("data set %s has %d classes and the network %d; set the task's classes to the set's", data.set.Name, len(data.set.Classes), classes)
	}
	t := &Trainer{ctx: ctx, config: c, data: data, epoch: c.StartEpoch, steps: images / c.Recipe.Batch, test: data.test}
	return t, t.plan(data.train, options)
}

// plan lowers the run's programs and places all that they touch.
func (t *Trainer) plan(train source, options planOptions) error {
	c := t.config
	t.saved = newLayout(c.Network, c.DType, 0)
	t.layout = t.saved
	if options.classes > t.saved.classes {
		t.layout = newLayout(c.Network, c.DType, options.classes)
	}
	t.sampleBytes = placeSamples(&train, &t.test, c.Recipe.Batch)
	programs, arena, err := lowerAll(t.ctx, c, t.layout, train, t.test, options)
	if err != nil {
		return err
	}
	t.lowered = programs
	t.memory, err = memoryOf(t.ctx, t.layout, arena, programs)
	return err
}

// bind makes the sample tables and the programs of a trainer whose state and arena are there.
func (t *Trainer) bind() (err error) {
	if t.samples, err = roomFor(t.ctx, "sample tables", t.sampleBytes); err != nil {
		return err
	}
	for _, p := range t.lowered {
		d := p.desc()
		for i := range d.Tensors {
			d.Tensors[i].Offset += uint64(t.at(d.Tensors[i].Buffer))
		}
		if t.programs[p.mode], err = t.ctx.NewProgram(d, []*bindings.Buffer{t.state, t.arena, t.data.buffer, t.samples}); err != nil {
			return fmt.Errorf("the %s program: %w", p.mode, err)
		}
	}
	return t.writeTestTable()
}

// at is where the trainer's part of one of its buffers begins.
func (t *Trainer) at(buffer int32) int64 {
	switch buffer {
	case stateBuffer:
		return int64(t.place) * t.memory.StateBytes
	case arenaBuffer:
		return int64(t.place) * t.memory.ArenaBytes
	}
	return 0
}

// writeTestTable fills the last batch up with the first row; xent does not count those.
func (t *Trainer) writeTestTable() error {
	table := datasets.TestTable(t.data.set, t.config.Recipe.Augmentation, t.config.Network.Setting.Resolution)
	for len(table) < t.test.samples.Elements() {
		table = append(table, table[:bindings.SampleColumns]...)
	}
	return t.samples.Write(int64(t.test.samples.Offset), bindings.Bytes(table))
}

// Close frees what the run holds on the device. Closing twice does nothing; what lies in a group's memory is freed with the group.
func (t *Trainer) Close() {
	for _, p := range t.programs {
		if p != nil {
			p.Close()
		}
	}
	own := []*bindings.Buffer{t.samples}
	if t.group == nil {
		own = append(own, t.state, t.arena)
	}
	for _, b := range own {
		if b != nil {
			b.Close()
		}
	}
}

// Memory is what the run takes by itself, or as one of its group.
func (t *Trainer) Memory() Memory { return t.memory }

// Kernels says how many ops of a training step each kernel is run for; nil where the back end has no names for them.
func (t *Trainer) Kernels() (map[string]int, error) {
	names, err := t.programs[trainMode].Kernels()
	if err != nil || names == nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, list := range names {
		for name := range strings.SplitSeq(list, " + ") {
			counts[name]++
		}
	}
	delete(counts, "") // of ops that others do along
	return counts, nil
}

// Position is how far the run is.
func (t *Trainer) Position() Position {
	return Position{Epoch: t.epoch, Step: t.step, StepsPerEpoch: t.steps, Epochs: t.config.Epochs}
}

// NativeTime is the time spent in native code since the trainer was made.
func (t *Trainer) NativeTime() time.Duration { return t.native }

// RunsPerLaunch is how many runs were in the launches of this one's steps, itself included: the mean, 0 before the first.
func (t *Trainer) RunsPerLaunch() float64 { return t.inLaunches / max(1, t.launches) }

// launched counts a pass in whose launches so many runs were, and the run's part of the time.
func (t *Trainer) launched(m mode, runs int, took time.Duration) {
	t.native += took / time.Duration(runs)
	if m == trainMode {
		t.launches++
		t.inLaunches += float64(runs)
	}
}

// LearningRate is that of the epoch in turn.
func (t *Trainer) LearningRate() float64 {
	epochs := t.config.ScheduleEpochs
	if epochs == 0 {
		epochs = t.config.Epochs
	}
	return t.config.Recipe.Rate(t.epoch, epochs)
}

// stream names a sequence of random numbers of this run.
func (t *Trainer) stream(name string) random.Stream {
	return random.New(t.config.Seed, name, t.config.Task, t.config.Network.Architecture.ID(), t.config.Replicate)
}

// run is one pass through a program: the only native call of a step.
func (t *Trainer) run(m mode) error {
	start := time.Now()
	err := t.programs[m].Run(t.slots[:])
	t.launched(m, 1, time.Since(start))
	if err != nil {
		return fmt.Errorf("%s program, epoch %d, step %d: %w", m, t.epoch, t.step, err)
	}
	return nil
}

// useTable puts the sample table of an epoch into the sample buffer, unless it lies there.
func (t *Trainer) useTable(stream string) error {
	if t.tableStream == stream && t.tableEpoch == t.epoch {
		return nil
	}
	t.tableStream = ""
	t.table = datasets.AppendTrainTable(t.table[:0], t.data.set, t.config.Recipe.Augmentation, t.config.Network.Setting.Resolution, t.stream(stream), t.epoch)
	start := time.Now()
	err := t.samples.Write(0, bindings.Bytes(t.table))
	t.native += time.Since(start)
	if err != nil {
		return fmt.Errorf("sample table of epoch %d: %w", t.epoch, err)
	}
	t.tableStream, t.tableEpoch = stream, t.epoch
	return nil
}

// The streams that draw order and augmentation of an epoch.
const (
	trainingStream = "train"
	preciseStream  = "precise batch norm"
)

// Step trains on the next batch. Every batch is full: what is left of an epoch's order behind the last full one is not used.
func (t *Trainer) Step() error {
	if err := t.prepare(); err != nil {
		return err
	}
	if err := t.run(trainMode); err != nil {
		return err
	}
	return t.stepped()
}

// prepare puts what the next step reads in its place.
func (t *Trainer) prepare() error {
	switch {
	case !t.ready:
		return errors.New("the trainer has no weights yet: call Initialize or ReadCheckpoint first")
	case t.epoch >= t.config.Epochs:
		return fmt.Errorf("all %d epochs are done: there is no step left", t.config.Epochs)
	case t.step >= t.steps:
		return fmt.Errorf("all %d steps of epoch %d are done: call EndEpoch", t.steps, t.epoch)
	}
	if err := t.useTable(trainingStream); err != nil {
		return err
	}
	r := &t.config.Recipe
	t.slots[slotFirstRow] = float64(t.step * r.Batch)
	t.slots[slotBNMomentum] = r.BNMomentum
	t.slots[slotValid] = float64(r.Batch)
	t.slots[slotRate] = t.LearningRate()
	return nil
}

// stepped counts a step that is done.
func (t *Trainer) stepped() error {
	t.step++
	if t.step%stepsBetweenChecks == 0 && t.step < t.steps {
		_, err := t.readCounters(t.layout.training)
		return err
	}
	return nil
}

// read and write move bytes of the state.
func (t *Trainer) read(offset int64, data []byte) error {
	start := time.Now()
	err := t.state.Read(t.at(stateBuffer)+offset, data)
	t.native += time.Since(start)
	if err != nil {
		return fmt.Errorf("read the state, epoch %d, step %d: %w", t.epoch, t.step, err)
	}
	return nil
}

func (t *Trainer) write(offset int64, data []byte) error {
	start := time.Now()
	err := t.state.Write(t.at(stateBuffer)+offset, data)
	t.native += time.Since(start)
	if err != nil {
		return fmt.Errorf("write the state, epoch %d, step %d: %w", t.epoch, t.step, err)
	}
	return nil
}

// configSHA256 names what a checkpoint's bits depend on.
func (t *Trainer) configSHA256() (string, error) {
	c := t.config
	text, err := json.Marshal(struct {
		Form                               int
		Architecture                       string
		Setting                            anynetx.Setting
		Recipe                             Recipe
		Epochs, StartEpoch, ScheduleEpochs int
		DType                              string
		Seed                               uint64
		Task                               string
		Replicate                          int
		Data                               string
	}{1, c.Network.Architecture.String(), c.Network.Setting, c.Recipe, c.Epochs, c.StartEpoch, c.ScheduleEpochs, c.DType, c.Seed, c.Task, c.Replicate, t.data.digest})
	if err != nil {
		return "", fmt.Errorf("name the configuration: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
