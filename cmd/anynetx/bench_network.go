package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
	"anynetx/engine"
	"anynetx/random"
)

type benchJSON struct {
	anynetx.Summary
	Stem            anynetx.Stem       `json:"stem"`
	Resolution      int                `json:"resolution"`
	Classes         int                `json:"classes"`
	Batch           int                `json:"batch"`
	DType           string             `json:"dtype"`
	Processes       int                `json:"processes"`
	Models          int                `json:"models"`  // of each process, in common launches
	Threads         int                `json:"threads"` // of each
	Device          string             `json:"device"`
	ISA             string             `json:"isa"`
	Library         string             `json:"library_sha256"`
	Steps           int                `json:"steps"`       // of all
	StepMS          float64            `json:"step_ms"`     // median
	StepMinMS       float64            `json:"step_min_ms"` // fastest
	ImagesPerSecond float64            `json:"images_per_second"`
	TrainingFLOPs   int64              `json:"training_flops"` // of an image: 2 per multiply-add of forward pass and both gradients
	GFLOPs          float64            `json:"gflops"`         // per second
	FMAPeakGFLOPs   *float64           `json:"fma_peak_gflops"`
	FractionOfPeak  *float64           `json:"fraction_of_peak"`
	Ceilings        *bindings.Ceilings `json:"ceilings"`
	StateBytes      int64              `json:"state_bytes"` // of each
	ArenaBytes      int64              `json:"arena_bytes"`
	WorkspaceBytes  int64              `json:"workspace_bytes"`
	Kernels         map[string]int     `json:"kernels,omitempty"` // ops of a training step that each is run for
	Kinds           []kindTime         `json:"kinds,omitempty"`   // with --ops, of the first of them
	Slowest         []recordTime       `json:"slowest,omitempty"`
}

const (
	warmUpSteps     = 2
	leastSteps      = 3
	ceilingsSeconds = 0.2
)

func benchNetwork(c *cli.Context) error {
	n, err := networkOf(c)
	if err != nil {
		return err
	}
	seconds, err := secondsFlag(c)
	if err != nil {
		return err
	}
	models := c.Int("models")
	if models < 1 || models > 64 {
		return anynetx.Inputf("--models is %d, must be 1 to 64", models)
	}
	contexts, err := benchContexts(c, c.Int("processes"), c.Int("threads"))
	if err != nil {
		return err
	}
	defer closeAll(contexts)
	if c.IsSet("profile") && len(contexts) > 1 {
		return anynetx.Inputf("--profile is for one model; leave --processes away")
	}
	profile, err := profilerOf(c, contexts[0])
	if err != nil {
		return err
	}
	before, err := ceilingsOf(contexts, ceilingsSeconds)
	if err != nil {
		return err
	}
	recipe := engine.DefaultRecipe()
	recipe.Batch = c.Int("batch")
	recipe.LearningRate, recipe.PreciseBNImages = 1e-4, 0 // small: random labels must not make it diverge
	config := engine.Config{Network: n, Recipe: recipe, Epochs: 1 << 30, DType: c.String("dtype"), Task: "random"}
	set := randomSet(n.Setting, max(1, recipe.Batch))
	var start sync.WaitGroup
	start.Add(len(contexts))
	runs := make([]stepTimes, len(contexts))
	err = together(contexts, func(i int, ctx *bindings.Context) error {
		ready := sync.OnceFunc(start.Done)
		defer ready() // who fails does not keep the others waiting
		var err error
		runs[i], err = timeSteps(c.Context, ctx, config, models, set, seconds, c.Bool("ops"), profile, func() { ready(); start.Wait() })
		return err
	})
	if err != nil {
		return err
	}
	after, err := ceilingsOf(contexts, ceilingsSeconds)
	if err != nil {
		return err
	}
	r := networkReport(n, config, models, contexts, runs, higher(before, after))
	if c.Int("threads") == 0 {
		r.Threads = contexts[0].Info().Units
	} else {
		r.Threads = c.Int("threads")
	}
	r.Kinds, r.Slowest = profileReport(runs[0].profile, &r)
	if c.Bool("json") {
		return writeJSON(c.App.Writer, r)
	}
	return printNetwork(c.App.Writer, &r)
}

// stepTimes is what one group of models measured.
type stepTimes struct {
	steps   []time.Duration // of all models of the group
	memory  engine.Memory   // of one
	kernels map[string]int
	profile [][]bindings.OpTime // of each step, if asked for
}

// timeSteps trains models that share their launches for so many seconds; begin returns when all that are measured at once have warmed up.
func timeSteps(ctx context.Context, device *bindings.Context, config engine.Config, models int, set *datasets.Set, seconds float64, ops bool, profile *profiler, begin func()) (stepTimes, error) {
	var r stepTimes
	data, err := engine.LoadData(device, set)
	if err != nil {
		return r, err
	}
	defer data.Close()
	configs := make([]engine.Config, models)
	for i := range configs {
		configs[i] = config
		configs[i].Seed = uint64(i)
	}
	g, err := engine.NewGroup(device, configs, slices.Repeat([]*engine.Data{data}, models))
	if err != nil {
		return r, err
	}
	defer g.Close()
	for _, t := range g.Trainers() {
		if err := t.Initialize(); err != nil {
			return r, err
		}
	}
	t := g.Trainers()[0]
	r.memory = t.Memory()
	if r.kernels, err = t.Kernels(); err != nil {
		return r, err
	}
	step := func() (time.Duration, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if p := t.Position(); p.Step == p.StepsPerEpoch {
			if _, failures := g.EndEpoch(g.Trainers()); errors.Join(failures...) != nil {
				return 0, errors.Join(failures...)
			}
			if ops { // the test's times are dropped
				if _, err := device.Profile(); err != nil {
					return 0, err
				}
			}
		}
		if err := profile.step(); err != nil {
			return 0, err
		}
		start := time.Now()
		if err := errors.Join(g.Step(g.Trainers())...); err != nil {
			return 0, err
		}
		if err := device.Synchronize(); err != nil {
			return 0, err
		}
		return time.Since(start), nil
	}
	for range warmUpSteps {
		if _, err := step(); err != nil {
			return r, err
		}
	}
	if ops {
		if _, err := device.Profile(); err != nil {
			return r, err
		}
	}
	begin()
	for start := time.Now(); len(r.steps) < leastSteps || time.Since(start).Seconds() < seconds; {
		d, err := step()
		if err != nil {
			return r, err
		}
		r.steps = append(r.steps, d)
		if ops {
			times, err := device.Profile()
			if err != nil {
				return r, err
			}
			r.profile = append(r.profile, times)
		}
	}
	return r, profile.end()
}

func networkReport(n *anynetx.Network, config engine.Config, models int, contexts []*bindings.Context, runs []stepTimes, peak *bindings.Ceilings) benchJSON {
	info, s := contexts[0].Info(), n.Setting
	r := benchJSON{
		Summary: anynetx.Summarize(n.Architecture, n.Complexity()),
		Stem:    s.Stem, Resolution: s.Resolution, Classes: s.Classes, Batch: config.Recipe.Batch, DType: config.DType,
		Processes: len(contexts), Models: models, Device: info.Name, ISA: info.ISA, Library: contexts[0].Library().SHA256,
		TrainingFLOPs: 2 * trainingMACs(n), Ceilings: peak,
		StateBytes: runs[0].memory.StateBytes, ArenaBytes: runs[0].memory.ArenaBytes, WorkspaceBytes: runs[0].memory.WorkspaceBytes, Kernels: runs[0].kernels,
	}
	var all []time.Duration
	for _, run := range runs {
		total := time.Duration(0)
		for _, d := range run.steps {
			total += d
		}
		r.ImagesPerSecond += float64(config.Recipe.Batch*models*len(run.steps)) / total.Seconds()
		all = append(all, run.steps...)
	}
	slices.Sort(all)
	r.Steps = len(all)
	r.StepMinMS = all[0].Seconds() * 1e3
	r.StepMS = (all[(len(all)-1)/2] + all[len(all)/2]).Seconds() * 1e3 / 2
	r.GFLOPs = float64(r.TrainingFLOPs) * r.ImagesPerSecond / 1e9
	if peak != nil {
		fraction := r.GFLOPs / peakOf(peak, config.DType != "fp32")
		r.FMAPeakGFLOPs, r.FractionOfPeak = &peak.FMAF32GFLOPs, &fraction
	}
	return r
}

// peakOf is the peak of convolutions whose activations are of 16 bits or fp32: where there is no dot product of bf16 (fp16 has the same
// rate), they multiply as fp32 does.
func peakOf(peak *bindings.Ceilings, half bool) float64 {
	if half && peak.DotBF16GFLOPs > 0 {
		return peak.DotBF16GFLOPs
	}
	return peak.FMAF32GFLOPs
}

// trainingMACs are the multiply-adds of a training step per image: forward, weight gradient, and input gradient of all but the stem.
func trainingMACs(n *anynetx.Network) int64 {
	stem := n.Layers()[0].Complexity().FLOPs
	return 3*n.Complexity().FLOPs - stem
}

// randomSet is noise: some batches of it, so that tests between epochs are rare, and few enough to be made quickly.
func randomSet(s anynetx.Setting, batch int) *datasets.Set {
	const room = 32 << 20
	pixels := s.Resolution * s.Resolution * 3
	images := batch * min(max(room/pixels/batch, 4), 50)
	set := &datasets.Set{Name: "random", H: s.Resolution, W: s.Resolution, C: 3,
		Mean: [3]float64{0.5, 0.5, 0.5}, Std: [3]float64{0.29, 0.29, 0.29}}
	for i := range s.Classes {
		set.Classes = append(set.Classes, fmt.Sprint(i))
	}
	stream := random.New(1, "bench images")
	split := func(count int) datasets.Split {
		noise := make([]byte, (count*pixels+7)/8*8)
		for i := 0; i < len(noise); i += 8 {
			binary.LittleEndian.PutUint64(noise[i:], stream.Uint64(uint64(i)))
		}
		p := datasets.Split{Images: noise[:count*pixels], Labels: make([]int32, count)}
		for i := range p.Labels {
			p.Labels[i] = int32(i % s.Classes)
		}
		return p
	}
	set.Train, set.Test = split(images), split(1)
	return set
}

func printNetwork(w io.Writer, r *benchJSON) error {
	peak := "not measured by this back end"
	if r.FractionOfPeak != nil {
		peak = peakText(r.GFLOPs, r.GFLOPs / *r.FractionOfPeak)
	}
	models := counted(r.Threads, "thread")
	if r.Processes > 1 {
		models = fmt.Sprintf("%d models at once with %s each", r.Processes, models)
	}
	if r.Models > 1 {
		models = fmt.Sprintf("a group of %d models, %s", r.Models, models)
	}
	err := pairs(w,
		[2]string{"architecture", r.ID},
		[2]string{"device", fmt.Sprintf("%s, %s, %s", r.Device, r.ISA, models)},
		[2]string{"batch", fmt.Sprintf("%d images of %d x %d pixels, %s", r.Batch, r.Resolution, r.Resolution, r.DType)},
		[2]string{"speed", fmt.Sprintf("%.1f images/s", r.ImagesPerSecond)},
		[2]string{"step", fmt.Sprintf("%.2f ms (median of %s; the fastest %.2f ms)", r.StepMS, thousands(r.Steps), r.StepMinMS)},
		[2]string{"arithmetic", fmt.Sprintf("%.1f GFLOP/s, 2 per multiply-add", r.GFLOPs)},
		[2]string{"of the peak", peak},
		[2]string{"memory", fmt.Sprintf("%s state, %s arena, %s workspace", bytesText(r.StateBytes), bytesText(r.ArenaBytes), bytesText(r.WorkspaceBytes))})
	if err != nil || len(r.Kinds) == 0 {
		return err
	}
	return printProfile(w, r)
}
