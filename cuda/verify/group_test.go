package verify

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/engine"
)

// ending is what became of a run.
type ending struct {
	results []engine.EpochResult
	failure string
	state   []byte
}

// member is run m of a test: data sets, classes, lengths, seeds and rates differ; that of run 1 diverges.
func member(t *testing.T, dtype string, m int) (engine.Config, int) {
	t.Helper()
	a := anynetx.Architecture{
		{Depth: 1, Width: 8, Bottleneck: 1, GroupWidth: 4}, {Depth: 1, Width: 8, Bottleneck: 1, GroupWidth: 8},
		{Depth: 1, Width: 10, Bottleneck: 1, GroupWidth: 5}, {Depth: 1, Width: 16, Bottleneck: 1, GroupWidth: 16},
	}
	n, err := anynetx.Build(a, anynetx.Setting{Stem: anynetx.SimpleStemIN, StemWidth: 8, Strides: [4]int{1, 2, 1, 1}, Resolution: 8, Classes: []int{10, 7, 100}[m%3]})
	if err != nil {
		t.Fatal(err)
	}
	r := engine.DefaultRecipe()
	r.Batch, r.PreciseBNImages, r.LearningRate, r.WarmupEpochs = 8, 8, 0.02*float64(1+m), 0
	epochs := 1
	if m == 1 {
		r.LearningRate, epochs = 1e6, 2
	}
	return engine.Config{Network: n, Recipe: r, Epochs: epochs, DType: dtype, Seed: uint64(7 + m), Task: fmt.Sprint("set ", m)}, 8 + m%2*8
}

// group is runs of a test as a group, with their first weights. Who closes it leaves the context as it was.
func group(t *testing.T, ctx *bindings.Context, dtype string, numbers ...int) (g *engine.Group, closeAll func(), err error) {
	t.Helper()
	var configs []engine.Config
	var sets []*engine.Data
	closeAll = func() {
		if g != nil {
			g.Close()
		}
		for _, d := range sets {
			d.Close()
		}
	}
	for _, m := range numbers {
		c, images := member(t, dtype, m)
		data, err := engine.LoadData(ctx, patterns(c.Network.Setting.Resolution, c.Network.Setting.Classes, images, 8))
		if err != nil {
			return nil, closeAll, err
		}
		configs, sets = append(configs, c), append(sets, data)
	}
	if g, err = engine.NewGroup(ctx, configs, sets); err != nil {
		return nil, closeAll, err
	}
	for _, trainer := range g.Trainers() {
		if err := trainer.Initialize(); err != nil {
			t.Fatal(err)
		}
	}
	return g, closeAll, nil
}

// together trains the first `count` runs as a group, each to the end of its epochs or to its divergence.
func together(t *testing.T, ctx *bindings.Context, dtype string, count int) []ending {
	t.Helper()
	var numbers []int
	for m := range count {
		numbers = append(numbers, m)
	}
	g, closeAll, err := group(t, ctx, dtype, numbers...)
	defer closeAll()
	if err != nil {
		t.Fatal(err)
	}
	endings := make([]ending, count)
	var members []*engine.Trainer
	number := map[*engine.Trainer]int{}
	for m, trainer := range g.Trainers() {
		members = append(members, trainer)
		number[trainer] = m
	}
	for len(members) > 0 {
		if err := errors.Join(g.Step(members)...); err != nil {
			t.Fatal(err)
		}
		var left, ended []*engine.Trainer
		for _, trainer := range members {
			if p := trainer.Position(); p.Step == p.StepsPerEpoch {
				ended = append(ended, trainer)
			} else {
				left = append(left, trainer)
			}
		}
		results, failures := g.EndEpoch(ended)
		for i, trainer := range ended {
			e, err := &endings[number[trainer]], failures[i]
			if err == nil {
				e.results = append(e.results, results[i])
			} else if !errors.Is(err, engine.ErrDiverged) {
				t.Fatal(err)
			}
			if err == nil && trainer.Position().Epoch < trainer.Position().Epochs {
				left = append(left, trainer)
				continue
			}
			var state bytes.Buffer
			if err := trainer.WriteCheckpoint(&state, nil); err != nil {
				t.Fatal(err)
			}
			e.failure, e.state = fmt.Sprint(err), state.Bytes()
			trainer.Close()
		}
		members = left
	}
	return endings
}

// TestGroup: runs that train in common launches end in the bits, results and failures that each has alone, whoever shares the launch and
// however early others leave.
func TestGroup(t *testing.T) {
	for _, dtype := range []string{"fp16", "fp32", "bf16"} {
		t.Run(dtype, func(t *testing.T) {
			t.Parallel()
			ctx := open(t, backend())
			counts := []int{1, 2, 3, 9}
			if backend() == "cuda_host" && dtype != "fp16" { // which has the loss scale
				counts = []int{3}
			}
			var alone []ending
			for m := range slices.Max(counts) {
				c, images := member(t, dtype, m)
				alone = append(alone, single(t, ctx, c, images))
			}
			if alone[1].failure == "<nil>" || alone[0].failure != "<nil>" {
				t.Fatalf("run 1 was to diverge, run 0 not: %s, %s", alone[1].failure, alone[0].failure)
			}
			for _, count := range counts {
				for m, e := range together(t, ctx, dtype, count) {
					if !bytes.Equal(e.state, alone[m].state) || e.failure != alone[m].failure || fmt.Sprint(e.results) != fmt.Sprint(alone[m].results) {
						t.Errorf("run %d of %d: %v, %s; alone %v, %s; the same state: %v", m, count, e.results, e.failure, alone[m].results, alone[m].failure, bytes.Equal(e.state, alone[m].state))
					}
				}
			}
		})
	}
}

// single is a run by itself.
func single(t *testing.T, ctx *bindings.Context, c engine.Config, images int) (e ending) {
	t.Helper()
	data, err := engine.LoadData(ctx, patterns(c.Network.Setting.Resolution, c.Network.Setting.Classes, images, 8))
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	trainer, err := engine.NewTrainer(ctx, c, data)
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Close()
	if err = trainer.Initialize(); err != nil {
		t.Fatal(err)
	}
	for err == nil && trainer.Position().Epoch < c.Epochs {
		if p := trainer.Position(); p.Step < p.StepsPerEpoch {
			err = trainer.Step()
			continue
		}
		var r engine.EpochResult
		if r, err = trainer.EndEpoch(); err == nil {
			e.results = append(e.results, r)
		}
	}
	var state bytes.Buffer
	if err := trainer.WriteCheckpoint(&state, nil); err != nil {
		t.Fatal(err)
	}
	e.failure, e.state = fmt.Sprint(err), state.Bytes()
	return e
}

// step and end are of trainers of a group.
func step(t *testing.T, g *engine.Group, trainers []*engine.Trainer) func() {
	return func() {
		if err := errors.Join(g.Step(trainers)...); err != nil {
			t.Fatal(err)
		}
	}
}

func end(t *testing.T, g *engine.Group, trainers []*engine.Trainer) func() {
	return func() {
		if _, failures := g.EndEpoch(trainers); errors.Join(failures...) != nil {
			t.Fatal(errors.Join(failures...))
		}
	}
}

// lines counts those of a trace.
func lines(t *testing.T, line string, f func()) (count int) {
	t.Helper()
	for _, l := range traced(t, f) {
		if l == line {
			count++
		}
	}
	return count
}

// TestGroupLaunches: beside the launches of one run, whose stem gathers its pixels, a group has a gather for each run, and for each further
// number of classes forward, loss (2) and backward (2) of a head; filter gradients of heads are added up by themselves where there are several.
func TestGroupLaunches(t *testing.T) {
	onHarness(t)
	ctx := open(t, backend())
	launches := func(numbers ...int) (count int) {
		g, closeAll, err := group(t, ctx, "fp16", numbers...)
		defer closeAll()
		if err != nil {
			t.Fatal(err)
		}
		if err := ctx.Trace(bindings.TraceRanges); err != nil {
			t.Fatal(err)
		}
		count = lines(t, "launch", step(t, g, g.Trainers()))
		if err := ctx.Trace(0); err != nil {
			t.Fatal(err)
		}
		return count
	}
	alone := launches(3)
	for _, group := range []struct {
		numbers []int
		classes int
	}{{[]int{3, 9, 15}, 1}, {[]int{3, 7, 5}, 3}, {[]int{3, 9, 7, 13, 5, 11}, 3}} {
		want := alone + len(group.numbers) + 5*(group.classes-1)
		if group.classes > 1 {
			want++
		}
		got := launches(group.numbers...)
		if got != want {
			t.Errorf("runs %v of %d numbers of classes: %d launches, want %d; one run has %d", group.numbers, group.classes, got, want, alone)
		}
		t.Logf("%d runs of %d numbers of classes: %d launches; one by one %d", len(group.numbers), group.classes, got, alone*len(group.numbers))
	}
}

// TestGroupMemory: PlanMemory is what a group takes, to the byte, also when it has fallen into two pieces. With less some of it is one by one.
func TestGroupMemory(t *testing.T) {
	onHarness(t)
	numbers := []int{4, 0, 6, 2, 8} // by place; of one step each
	limited := func(limit int64, then func(*engine.Group), numbers ...int) error {
		t.Setenv("ANX_HOST_MEMORY", strconv.FormatInt(limit, 10))
		ctx := open(t, backend())
		defer ctx.Close()
		g, closeAll, err := group(t, ctx, "fp16", numbers...)
		defer closeAll()
		if err == nil {
			then(g)
		}
		return err
	}
	plan := func(numbers ...int) int64 {
		var configs []engine.Config
		for _, m := range numbers {
			c, _ := member(t, "fp16", m)
			configs = append(configs, c)
		}
		memory, err := engine.PlanMemory(open(t, backend()), configs...)
		if err != nil {
			t.Fatal(err)
		}
		return memory.Total()
	}
	least, little := int64(1)<<24, int64(0) // for one run, found by halving: beside its plan it needs data set and sample tables, as large in every run
	for least-little > 1 {
		if limit := (least + little) / 2; limited(limit, func(*engine.Group) {}, numbers[0]) == nil {
			least = limit
		} else {
			little = limit
		}
	}
	enough := plan(numbers...) + int64(len(numbers))*(least-plan(numbers[0]))
	for _, c := range []struct {
		limit int64
		end   int // graphs of the end of an epoch, whose test needs the last of the memory
	}{{enough, 2}, {enough - 1, 1 + len(numbers)}} {
		err := limited(c.limit, func(g *engine.Group) {
			graphs := []int{lines(t, "graph", step(t, g, g.Trainers())), lines(t, "graph", end(t, g, g.Trainers()))}
			if want := []int{1, c.end}; !slices.Equal(graphs, want) {
				t.Errorf("with %d bytes, %d being enough, a step and the end of the epoch are %v graphs, want %v", c.limit, enough, graphs, want)
			}
		}, numbers...)
		if err != nil {
			t.Errorf("with %d bytes, %d being enough: %v", c.limit, enough, err)
		}
	}
	err := limited(enough, func(g *engine.Group) {
		pieces := slices.Delete(slices.Clone(g.Trainers()), 2, 3) // without the one in the middle
		graphs := []int{lines(t, "graph", step(t, g, pieces)), lines(t, "graph", end(t, g, pieces))}
		if want := []int{2, 4}; !slices.Equal(graphs, want) {
			t.Errorf("with %d bytes, which are enough, a step and the end of the epoch in two pieces are %v graphs, want %v", enough, graphs, want)
		}
	}, numbers...)
	if err != nil {
		t.Error(err)
	}
}
