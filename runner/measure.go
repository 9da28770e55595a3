package runner

import (
	"fmt"
	"os"

	"anynetx/anynetx"
	"anynetx/datasets"
	"anynetx/engine"
)

// Speed is what a worker on a device does.
type Speed struct {
	MACsPerSecond float64 `json:"macs_per_s"`
	GPUs          int     `json:"gpus"`         // 1 if it is one
	MemoryBytes   int64   `json:"memory_bytes"` // of one worker with its largest run, beside its data set; 0: not known
	Device        string  `json:"device"`
}

// Measure trains one run of a plan for a moment; see MeasureSpeed.
type Measure func(p *Plan, runs []*PlannedRun) (Speed, error)

// MeasureSpeed measures a device by training the run of middle cost on noise, for about a second.
func MeasureSpeed(device string, threads int) Measure {
	return func(p *Plan, runs []*PlannedRun) (Speed, error) {
		if len(runs) == 0 {
			return Speed{}, anynetx.Inputf("the plan has no runs to measure")
		}
		if isGPU(device) { // this process sees it alone, as its first, as a worker does
			os.Setenv("CUDA_VISIBLE_DEVICES", device)
		}
		o := WorkerOptions{Device: backEnd(device), Threads: max(threads, 1)}
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
		speed := Speed{MACsPerSecond: macs / seconds, MemoryBytes: largest, Device: e.where.DeviceName}
		if e.where.Backend == "cuda" {
			speed.GPUs = 1
		}
		return speed, nil
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
