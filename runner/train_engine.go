package runner

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
	"anynetx/engine"
	"anynetx/random"
)

// engineTrainers trains on a back end. It holds one context, and the data of the last tasks.
type engineTrainers struct {
	context *bindings.Context
	where   Provenance
	seed    uint64
	dataDir string
	cache   []*cachedData // most recently used last
	keep    int64         // bytes of it; those in use stay however large they are
	alive   func()        // told while data are loaded; nil: nobody listens
}

type cachedData struct {
	key   string
	data  *engine.Data
	bytes int64
}

// dataCacheBytes bounds the data sets that a worker keeps.
const dataCacheBytes = 1 << 30

// splitDevice reads "cpu", "cuda:1".
func splitDevice(device string) (backend string, index int, err error) {
	backend, number, numbered := strings.Cut(device, ":")
	if numbered {
		if index, err = strconv.Atoi(number); err != nil || index < 0 {
			return "", 0, anynetx.Inputf("device %q: behind the colon stands a number from 0, such as cuda:1", device)
		}
	}
	return backend, index, nil
}

// OpenEngine opens the back end of a worker.
func OpenEngine(o WorkerOptions, p *Plan) (Trainers, error) {
	backend, index, err := splitDevice(o.Device)
	if err != nil {
		return nil, err
	}
	library, err := bindings.Load(backend)
	if err != nil {
		return nil, anynetx.Inputf("device %s: %w", o.Device, err)
	}
	context, err := library.NewContext(bindings.ContextOptions{Device: index, Threads: o.Threads})
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", o.Device, err)
	}
	for i := range p.Tasks {
		if err := engine.CheckDType(context, p.Tasks[i].DType); err != nil {
			context.Close()
			return nil, fmt.Errorf("task %s, device %s: %w", p.Tasks[i].Name, o.Device, err)
		}
	}
	return &engineTrainers{context: context, seed: p.Seed, dataDir: o.DataDir, alive: o.loading, keep: dataCacheBytes, where: Provenance{Backend: backend, Device: fmt.Sprintf("%s:%d", backend, index),
		DeviceName: context.Info().Name, Library: library.SHA256, Threads: o.Threads}}, nil
}

func (e *engineTrainers) Provenance() Provenance { return e.where }

func (e *engineTrainers) Close() {
	for _, c := range e.cache {
		c.data.Close()
	}
	e.context.Close()
}

// Open makes the trainer of a run.
func (e *engineTrainers) Open(r *PlannedRun) (Training, error) {
	config, err := r.config(e.seed)
	if err != nil {
		return nil, err
	}
	sets, err := e.load(r.Task)
	if err != nil {
		return nil, err
	}
	t, err := engine.NewTrainer(e.context, config, sets[0])
	if err != nil {
		return nil, err
	}
	return engineTraining{t}, nil
}

// OpenGroup makes the trainers of runs that share their launches.
func (e *engineTrainers) OpenGroup(runs []*PlannedRun) (TrainingGroup, error) {
	var configs []engine.Config
	var tasks []*Task
	for _, r := range runs {
		c, err := r.config(e.seed)
		if err != nil {
			return nil, err
		}
		configs, tasks = append(configs, c), append(tasks, r.Task)
	}
	sets, err := e.load(tasks...)
	if err != nil {
		return nil, err
	}
	g, err := engine.NewGroup(e.context, configs, sets)
	if err != nil {
		return nil, err
	}
	return engineGroup{g}, nil
}

// Need is the plan of the runs' memory, and their images with a byte a channel.
func (e *engineTrainers) Need(runs ...*PlannedRun) (int64, error) {
	var configs []engine.Config
	images := int64(0)
	for _, r := range runs {
		c, err := r.config(e.seed)
		if err != nil {
			return 0, err
		}
		configs = append(configs, c)
		images += 3 * int64(r.Task.TrainImages+r.Task.TestImages) * int64(r.Task.Resolution) * int64(r.Task.Resolution)
	}
	m, err := engine.PlanMemory(e.context, configs...)
	return m.Total() + images, err
}

// config is a run in the engine's terms.
func (r *PlannedRun) config(seed uint64) (engine.Config, error) {
	network, err := anynetx.Build(r.Member.Architecture(), r.Task.setting())
	if err != nil {
		return engine.Config{}, fmt.Errorf("%s: %w", r, err)
	}
	c := engine.Config{Network: network, Recipe: r.Task.Recipe, Epochs: r.Task.Epochs, DType: r.Task.DType,
		Seed: seed, Task: r.Task.Name, Replicate: r.Replicate}
	if r.Task.Start.Kind == StartContinue {
		c.StartEpoch = r.Source.Task.Epochs
	}
	return c, nil
}

// load puts the tasks' parts of their data sets on the device, unless they are there.
func (e *engineTrainers) load(tasks ...*Task) ([]*engine.Data, error) {
	wanted := map[string]bool{}
	for _, t := range tasks {
		wanted[t.dataKey()] = true
	}
	var sets []*engine.Data
	for _, t := range tasks {
		d, err := e.loadOne(t, wanted)
		if err != nil {
			return nil, err
		}
		sets = append(sets, d)
	}
	return sets, nil
}

func (t *Task) dataKey() string { return fmt.Sprintf("%s %+v", t.Dataset, t.Asked) }

// loadOne makes room at the cost of sets that are not wanted.
func (e *engineTrainers) loadOne(t *Task, wanted map[string]bool) (*engine.Data, error) {
	key := t.dataKey()
	if i := slices.IndexFunc(e.cache, func(c *cachedData) bool { return c.key == key }); i >= 0 {
		c := e.cache[i]
		e.cache = append(slices.Delete(e.cache, i, i+1), c)
		return c.data, nil
	}
	set, err := datasets.OpenTelling(t.Dataset, e.dataDir, e.alive)
	if err != nil {
		return nil, err
	}
	if set, err = set.Subset(t.Asked, subsetStream(e.seed, t.Dataset)); err != nil {
		return nil, err
	}
	if digest := set.Digest(); digest != t.DataSHA256 {
		return nil, anynetx.Inputf("data set %s is not the one that this study began with: SHA-256 of task %s's part is %.12s, was %.12s; bring the old data back, or use another folder",
			t.Dataset, t.Name, digest, t.DataSHA256)
	}
	c := &cachedData{key: key, bytes: int64(len(set.Train.Images) + len(set.Test.Images))}
	total := c.bytes
	for _, old := range e.cache {
		total += old.bytes
	}
	e.cache = slices.DeleteFunc(e.cache, func(old *cachedData) bool { // the oldest first
		if total <= e.keep || wanted[old.key] {
			return false
		}
		total -= old.bytes
		old.data.Close()
		return true
	})
	if c.data, err = engine.LoadData(e.context, set); err != nil {
		return nil, err
	}
	e.cache = append(e.cache, c)
	return c.data, nil
}

// engineTraining is engine.Trainer with files of weights in place of weights.
type engineTraining struct{ *engine.Trainer }

func (t engineTraining) InitializeFrom(r io.Reader) error {
	w, err := engine.ReadSafetensors(r)
	if err != nil {
		return err
	}
	return t.Trainer.InitializeFrom(w, false)
}

// engineGroup is engine.Group in the worker's terms.
type engineGroup struct{ *engine.Group }

func (g engineGroup) Trainings() (list []Training) {
	for _, t := range g.Trainers() {
		list = append(list, engineTraining{t})
	}
	return list
}

func trainersOf(trainings []Training) (list []*engine.Trainer) {
	for _, t := range trainings {
		list = append(list, t.(engineTraining).Trainer)
	}
	return list
}

func (g engineGroup) Step(trainings []Training) []error { return g.Group.Step(trainersOf(trainings)) }

func (g engineGroup) EndEpoch(trainings []Training) ([]EpochResult, []error) {
	return g.Group.EndEpoch(trainersOf(trainings))
}

// DescribeData looks data sets up in a folder. It keeps the last set, since the tasks of a study often share one.
func DescribeData(dir string) Describe {
	var last *datasets.Set
	return func(name string, part datasets.Subset, stream random.Stream) (DataInfo, error) {
		if last == nil || last.Name != name {
			set, err := datasets.Open(name, dir)
			if err != nil {
				return DataInfo{}, err
			}
			last = set
		}
		set, err := last.Subset(part, stream)
		if err != nil {
			return DataInfo{}, err
		}
		return DataInfo{ClassNames: set.Classes, TrainImages: len(set.Train.Labels), TestImages: len(set.Test.Labels), SHA256: set.Digest()}, nil
	}
}

// DescribeWithoutData plans from what is on record of the data sets built in, and from what the study file says of the others; for
// planning where the data are not. Where the data are, they are looked at.
func DescribeWithoutData(s *Study, dir string) Describe {
	look := DescribeData(dir)
	return func(name string, part datasets.Subset, stream random.Stream) (DataInfo, error) {
		info, err := look(name, part, stream)
		if err == nil {
			return info, nil
		}
		e, ok := s.Expect[name]
		if !ok {
			i := slices.IndexFunc(datasets.List(), func(d datasets.Spec) bool { return d.Name == name })
			if i < 0 {
				return DataInfo{}, errors.Join(err, anynetx.Inputf("to plan without the data, say under \"datasets\" of the study file how many classes, train_images and test_images %s has", name))
			}
			d := datasets.List()[i]
			e = Expectation{len(d.Classes), d.TrainImages, d.TestImages}
		}
		classes := e.Classes
		if n := max(part.Classes, len(part.ClassList)); n > 0 {
			if n > classes {
				return DataInfo{}, anynetx.Inputf("%d classes are asked for, data set %s has %d", n, name, classes)
			}
			classes = n
		}
		count := func(all, asked int) int {
			all = all * classes / e.Classes
			if asked > 0 && asked < all {
				return asked
			}
			return all
		}
		return DataInfo{ClassNames: make([]string, classes), TrainImages: count(e.TrainImages, part.TrainImages), TestImages: count(e.TestImages, part.TestImages)}, nil
	}
}
