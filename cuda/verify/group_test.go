package verify

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
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

// together trains the first `count` runs as a group, each to the end of its epochs or to its divergence.
func together(t *testing.T, ctx *bindings.Context, dtype string, count int) []ending {
	t.Helper()
	var configs []engine.Config
	var sets []*engine.Data
	for m := range count {
		c, images := member(t, dtype, m)
		data, err := engine.LoadData(ctx, patterns(c.Network.Setting.Resolution, c.Network.Setting.Classes, images, 8))
		if err != nil {
			t.Fatal(err)
		}
		defer data.Close()
		configs, sets = append(configs, c), append(sets, data)
	}
	g, err := engine.NewGroup(ctx, configs, sets)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	endings := make([]ending, count)
	var members []*engine.Trainer
	number := map[*engine.Trainer]int{}
	for m, trainer := range g.Trainers() {
		if err := trainer.Initialize(); err != nil {
			t.Fatal(err)
		}
		members = append(members, trainer)
		number[trainer] = m
	}
	for len(members) > 0 {
		failures := g.Step(members)
		var left []*engine.Trainer
		for i, trainer := range members {
			e, err := &endings[number[trainer]], failures[i]
			if p := trainer.Position(); err == nil && p.Step == p.StepsPerEpoch {
				var r engine.EpochResult
				if r, err = trainer.EndEpoch(); err == nil {
					e.results = append(e.results, r)
				}
			}
			if err != nil && !errors.Is(err, engine.ErrDiverged) {
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
