package runner

import (
	"fmt"
	"io"
	"strings"

	"anynetx/anynetx"
	"anynetx/datasets"
	"anynetx/engine"
)

// Speed is what a worker on a device does.
type Speed struct {
	MACsPerSecond float64 `json:"macs_per_s"`
	Workers       int     `json:"workers"`
	MemoryBytes   int64   `json:"memory_bytes"` // of one worker with its largest run, beside its data set; 0: not known
	Device        string  `json:"device"`
}

// Measure trains one run of a plan for a moment; see MeasureSpeed.
type Measure func(p *Plan, runs []*PlannedRun) (Speed, error)

// Forecast is what a plan will cost.
type Forecast struct {
	Study         string         `json:"study"`
	Architectures int            `json:"architectures"`
	Sampled       *Sampled       `json:"sampled,omitempty"`
	Tasks         []TaskForecast `json:"tasks"`
	Runs          int            `json:"runs"`
	Images        int64          `json:"images"`
	Hours         float64        `json:"hours"` // of all workers together working side by side
	DiskBytes     int64          `json:"disk_bytes"`
	Speed         Speed          `json:"speed"`
}

// TaskForecast is the part of a task.
type TaskForecast struct {
	Task   string  `json:"task"`
	Runs   int     `json:"runs"` // at most, where a rank range is not known yet
	Known  bool    `json:"known"`
	Images int64   `json:"images"`
	Hours  float64 `json:"hours"` // of one worker
}

// Cost of what is not training, measured on the quick study: Parquet files of a run with a block each, and a run's journal.
const bytesPerRun = 24 << 10

// ForecastStudy says what a study will cost, before anything starts.
func ForecastStudy(p *Plan, measure Measure) (*Forecast, error) {
	q := queue{store: newStore("", p)}
	runs, err := p.Runs(nil)
	if err != nil {
		return nil, err
	}
	q.runs = longestFirst(runs, CostModel{})
	speed, err := measure(p, q.runs)
	if err != nil {
		return nil, err
	}
	speed.Workers = max(speed.Workers, 1)
	f := &Forecast{Study: p.Name, Architectures: len(p.Architectures), Sampled: p.Sampled, Speed: speed}
	var total, longest float64
	for i := range p.Tasks {
		t := &p.Tasks[i]
		tf := TaskForecast{Task: t.Name, Known: true}
		var macs, parameters float64
		for _, r := range runs {
			if r.Task != t {
				continue
			}
			tf.Runs++
			tf.Images += r.Images
			macs += r.MACs
			longest = max(longest, r.MACs)
			parameters += float64(r.Member.Params)
		}
		if tf.Runs == 0 {
			mean, err := p.meanRun(t)
			if err != nil {
				return nil, err
			}
			tf.Runs, tf.Known = p.planned(t), false
			n := float64(tf.Runs)
			tf.Images, macs, parameters = int64(n)*mean.Images, n*mean.MACs, n*float64(mean.Member.Params)
		}
		tf.Hours = macs / speed.MACsPerSecond / 3600
		total += macs
		f.Tasks = append(f.Tasks, tf)
		f.Runs += tf.Runs
		f.Images += tf.Images
		f.DiskBytes += int64(tf.Runs) * bytesPerRun
		if p.KeepWeights == KeepAll || p.needs(t, StartInit) {
			f.DiskBytes += int64(4 * parameters)
		}
		if p.needs(t, StartContinue) {
			f.DiskBytes += int64(8 * parameters)
		}
	}
	f.Hours = max(total/float64(speed.Workers), longest) / speed.MACsPerSecond / 3600
	return f, nil
}

// meanRun stands for the runs of a task whose architectures are not known: those of the middle of the population.
func (p *Plan) meanRun(t *Task) (*PlannedRun, error) {
	middle := *t
	middle.Architectures, middle.Start = Selection{IDs: []string{p.Architectures[len(p.Architectures)/2].ID}}, Start{Kind: StartScratch}
	runs, err := p.taskRuns(&middle, nil, nil, map[costKey]anynetx.Complexity{})
	if err != nil {
		return nil, err
	}
	r := runs[0]
	if t.Start.Kind == StartContinue {
		share := 1 - float64(p.Task(t.Start.Task).Epochs)/float64(t.Epochs)
		r.MACs *= share
		r.Values *= share
		r.Images = int64(float64(r.Images) * share)
	}
	return r, nil
}

// MeasureSpeed measures a device by training the run of middle cost on noise, for about a second.
func MeasureSpeed(device string, workers, threads int) Measure {
	return func(p *Plan, runs []*PlannedRun) (Speed, error) {
		if len(runs) == 0 {
			return Speed{}, anynetx.Inputf("the plan has no runs to measure")
		}
		o := WorkerOptions{Device: device, Threads: max(threads, 1)}
		opened, err := OpenEngine(o, p)
		if err != nil {
			return Speed{}, err
		}
		defer opened.Close()
		e := opened.(*engineTrainers)
		r := runs[len(runs)/2]
		config, err := r.config(p.Seed)
		if err != nil {
			return Speed{}, err
		}
		config.Recipe.PreciseBNImages, config.Recipe.Augmentation = 0, datasets.Augmentation{}
		config.Recipe.Batch = e.trialBatch(config)
		macs, seconds, err := e.trial(config)
		if err != nil {
			return Speed{}, fmt.Errorf("speed of %s: %w", device, err)
		}
		largest := int64(0)
		for _, r := range []*PlannedRun{runs[0], r, runs[len(runs)-1]} { // memory follows cost closely enough
			memory, err := e.memory(r, p.Seed)
			if err != nil {
				return Speed{}, err
			}
			largest = max(largest, memory)
		}
		return Speed{MACsPerSecond: macs / seconds, Workers: workers, MemoryBytes: largest, Device: e.where.DeviceName}, nil
	}
}

func (e *engineTrainers) memory(r *PlannedRun, seed uint64) (int64, error) {
	config, err := r.config(seed)
	if err != nil {
		return 0, err
	}
	m, err := engine.PlanMemory(e.context, config)
	return m.Total(), err
}

const trialSeconds = 1.0

// trialBatch is the recipe's batch, or less where a step would take many seconds: the speed hardly depends on it.
func (e *engineTrainers) trialBatch(config engine.Config) int {
	const enough = 1e9 // multiply-adds of a step
	unit := max(1, e.context.Info().VectorImages)
	images := int(enough/float64(3*config.Network.Complexity().FLOPs)) / unit * unit
	return min(config.Recipe.Batch, max(unit, images, 2))
}

// trial trains on noise for a moment.
func (e *engineTrainers) trial(config engine.Config) (macs, seconds float64, err error) {
	setting := config.Network.Setting
	set := &datasets.Set{Name: "noise", H: setting.Resolution, W: setting.Resolution, C: 3, Classes: make([]string, setting.Classes), Std: [3]float64{1, 1, 1}}
	batch := config.Recipe.Batch
	pixels := make([]byte, batch*set.H*set.W*set.C)
	labels := make([]int32, batch)
	state := config.Seed
	for i := range pixels {
		state = state*6364136223846793005 + 1442695040888963407
		pixels[i] = byte(state >> 56)
	}
	set.Train, set.Test = datasets.Split{Images: pixels, Labels: labels}, datasets.Split{Images: pixels[:len(pixels)/batch], Labels: labels[:1]}
	data, err := engine.LoadData(e.context, set)
	if err != nil {
		return 0, 0, err
	}
	defer data.Close()
	config.Epochs, config.StartEpoch, config.ScheduleEpochs = 1<<20, 0, 0
	config.Recipe.LearningRate = 0
	t, err := engine.NewTrainer(e.context, config, data)
	if err != nil {
		return 0, 0, err
	}
	defer t.Close()
	if err := t.Initialize(); err != nil {
		return 0, 0, err
	}
	flops := float64(config.Network.Complexity().FLOPs)
	for step := 0; seconds < trialSeconds; step++ {
		before := t.NativeTime()
		if err := t.Step(); err != nil {
			return 0, 0, err
		}
		if step > 0 { // the first one warms caches up
			macs += 3 * flops * float64(batch)
			seconds += (t.NativeTime() - before).Seconds()
		}
		if step > 0 && seconds >= trialSeconds {
			break
		}
		if _, err := t.EndEpoch(); err != nil {
			return 0, 0, err
		}
	}
	return macs, seconds, nil
}

// WriteText prints a forecast for people.
func (f *Forecast) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "study %s: %d architectures", f.Study, f.Architectures)
	if f.Sampled != nil {
		fmt.Fprintf(&b, " (%d candidates drawn, %.3g %% of them in the band)", f.Sampled.Drawn, 100*f.Sampled.AcceptanceRate)
	}
	fmt.Fprintf(&b, ", %d tasks, %d runs\n\n", len(f.Tasks), f.Runs)
	width := 4
	for _, t := range f.Tasks {
		width = max(width, len(t.Task))
	}
	fmt.Fprintf(&b, "%-*s  %8s  %14s  %14s\n", width, "task", "runs", "images", "worker-time")
	for _, t := range f.Tasks {
		runs := fmt.Sprint(t.Runs)
		if !t.Known {
			runs = "<= " + runs
		}
		fmt.Fprintf(&b, "%-*s  %8s  %14d  %14s\n", width, t.Task, runs, t.Images, DurationText(3600*t.Hours))
	}
	fmt.Fprintf(&b, "\n%d training images; about %s with %d workers on %s (%.3g multiply-adds a second each, measured); %s on disk",
		f.Images, DurationText(3600*f.Hours), f.Speed.Workers, f.Speed.Device, f.Speed.MACsPerSecond, bytesText(f.DiskBytes))
	if f.Speed.MemoryBytes > 0 {
		fmt.Fprintf(&b, "; %s of memory a worker beside its data set", bytesText(f.Speed.MemoryBytes))
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func bytesText(n int64) string {
	switch v := float64(n); {
	case v >= 1e12:
		return fmt.Sprintf("%.1f TB", v/1e12)
	case v >= 1e9:
		return fmt.Sprintf("%.1f GB", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.0f MB", v/1e6)
	}
	return fmt.Sprintf("%.0f kB", float64(n)/1e3)
}
