package engine

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// memberOf is run m: of its own data set, classes, length, seed and rate; run 1 diverges.
func memberOf(t *testing.T, ctx *bindings.Context, stem anynetx.Stem, m int) (Config, *Data) {
	n := tiny(t, stem, 8, []int{10, 7, 100, 10, 100}[m])
	c := testConfig(n)
	c.Epochs, c.Seed, c.Task, c.Recipe.LearningRate = 1+m%2, uint64(m), fmt.Sprint("set ", m), 0.02*float64(1+m)
	if m == 1 {
		c.Recipe.LearningRate = 1e6
	}
	return c, load(t, ctx, blobs(10+2*m, 1+2*(m%2), n.Setting.Classes, 32+16*m, 20))
}

// outcome is what became of a run.
type outcome struct {
	results []EpochResult
	failure string
	state   []byte
}

// train takes each trainer to its end or its divergence: step is the next one of those that are left.
func train(t *testing.T, trainers []*Trainer, step func([]*Trainer) []error) []outcome {
	outcomes := make([]outcome, len(trainers))
	for left := slices.Clone(trainers); len(left) > 0; {
		failures := step(left)
		var next []*Trainer
		for i, trainer := range left {
			o, err := &outcomes[slices.Index(trainers, trainer)], failures[i]
			if p := trainer.Position(); err == nil && p.Step == p.StepsPerEpoch {
				var r EpochResult
				if r, err = trainer.EndEpoch(); err == nil {
					o.results = append(o.results, r)
				}
			}
			if err != nil && !errors.Is(err, ErrDiverged) {
				t.Fatal(err)
			}
			if p := trainer.Position(); err == nil && p.Epoch < p.Epochs {
				next = append(next, trainer)
				continue
			}
			o.failure, o.state = fmt.Sprint(err), whole(t, trainer)
		}
		left = next
	}
	return outcomes
}

// TestGroup: runs in common launches, and in turn where the back end runs one model a launch, end in the bits that each has alone: on data
// sets of different classes, where one was read from a checkpoint, and where runs end, diverge and are tested at different times.
func TestGroup(t *testing.T) {
	for _, backend := range []string{"reference", "cpu"} {
		t.Run(backend, func(t *testing.T) {
			ctx := open(t, backend, "")
			var configs []Config
			var sets []*Data
			var want []outcome
			var begun bytes.Buffer // run 3 after a step
			for m := range 5 {
				c, d := memberOf(t, ctx, anynetx.ResStemCifar, m)
				configs, sets = append(configs, c), append(sets, d)
				trainer := newTestTrainer(t, ctx, c, d, planOptions{})
				must(t, trainer.Initialize())
				if m == 3 {
					must(t, trainer.Step())
					must(t, trainer.WriteCheckpoint(&begun, nil))
				}
				want = append(want, train(t, []*Trainer{trainer}, func(one []*Trainer) []error { return []error{one[0].Step()} })...)
			}
			if want[0].failure != "<nil>" || want[1].failure == "<nil>" {
				t.Fatalf("run 1 was to diverge, run 0 not: %s, %s", want[1].failure, want[0].failure)
			}

			g, err := NewGroup(ctx, configs, sets)
			must(t, err)
			defer g.Close()
			for m, trainer := range g.Trainers() {
				if m == 3 {
					_, err := trainer.ReadCheckpoint(&begun)
					must(t, err)
				} else {
					must(t, trainer.Initialize())
				}
			}
			got := train(t, g.Trainers(), g.Step)
			if together := len(g.programs) > 0; together != (backend == "reference") {
				t.Errorf("common programs on %s: %v", backend, together)
			}
			for m := range got {
				if !bytes.Equal(got[m].state, want[m].state) || got[m].failure != want[m].failure || fmt.Sprint(got[m].results) != fmt.Sprint(want[m].results) {
					t.Errorf("run %d ends otherwise than alone: %v, %s instead of %v, %s; the same state: %v", m, got[m].results, got[m].failure, want[m].results, want[m].failure,
						bytes.Equal(got[m].state, want[m].state))
				}
			}
			for m, err := range g.Step(g.Trainers()[:1]) {
				if err == nil {
					t.Errorf("run %d made a step behind its last", m)
				}
			}
		})
	}
}

// whole is a checkpoint of the run as it stands.
func whole(t *testing.T, trainer *Trainer) []byte {
	var b bytes.Buffer
	must(t, trainer.WriteCheckpoint(&b, nil))
	return b.Bytes()
}

// TestGroupLaunches: all but the inputs is one launch for all runs, and what goes by the number of classes one for the neighbours of as many.
func TestGroupLaunches(t *testing.T) {
	ctx := open(t, "reference", "")
	var configs []Config
	var sets []*Data
	for m := range 5 {
		c, d := memberOf(t, ctx, anynetx.ResStemCifar, m)
		configs, sets = append(configs, c), append(sets, d)
	}
	g, err := NewGroup(ctx, configs, sets)
	must(t, err)
	defer g.Close()
	order, err := places(g.Trainers())
	must(t, err)
	models := map[string][]int32{} // of the launches of an op
	for _, op := range joined(order).Ops {
		name := op.Kind.String()
		if op.R > 0 && op.H == 1 {
			name = "head " + name
		}
		models[name] = append(models[name], op.Models)
	}
	for name, of := range models {
		want := slices.Repeat([]int32{5}, len(of))
		switch name {
		case "input":
			want = []int32{1, 1, 1, 1, 1}
		case "head conv_fwd", "head conv_bwd", "xent": // 10, 7, twice 100, 10 classes: the run of most steps first
			want = []int32{1, 1, 2, 1}
		}
		if !slices.Equal(of, want) {
			t.Errorf("%s has launches of %v models, want %v", name, of, want)
		}
	}
	if len(models) != 12 {
		t.Errorf("the program has ops of %d kinds: %v", len(models), models)
	}

	// What it takes is known before.
	told, err := PlanMemory(ctx, configs...)
	must(t, err)
	workspace, err := ctx.Workspace(joined(order))
	must(t, err)
	for _, trainer := range order {
		workspace += trainer.Memory().WorkspaceBytes
	}
	if want := (Memory{g.state.Size(), g.arena.Size(), workspace}); told != want {
		t.Errorf("PlanMemory says %+v, the group takes %+v", told, want)
	}
}

// TestGroupRefuses: runs whose records differ.
func TestGroupRefuses(t *testing.T) {
	ctx := open(t, "reference", "")
	first, set := memberOf(t, ctx, anynetx.ResStemCifar, 0)
	for what, change := range map[string]func(c *Config){
		"":          func(c *Config) { c.Seed, c.Recipe.LearningRate, c.Epochs = 99, 0.5, 7 },
		"batch":     func(c *Config) { c.Recipe.Batch = 32 },
		"decay":     func(c *Config) { c.Recipe.WeightDecay *= 2 },
		"smoothing": func(c *Config) { c.Recipe.LabelSmoothing = 0.2 },
		"dtype":     func(c *Config) { c.DType = "fp16" },
		"stem":      func(c *Config) { c.Network = tiny(t, anynetx.SimpleStemIN, 8, 10) },
	} {
		other := first
		change(&other)
		g, err := NewGroup(ctx, []Config{first, other}, []*Data{set, set})
		if (err == nil) != (what == "") || err != nil && !errors.Is(err, anynetx.ErrInput) {
			t.Errorf("another %s: %v", what, err)
		}
		if g != nil {
			g.Close()
		}
	}
	if _, err := NewGroup(ctx, nil, nil); err == nil {
		t.Error("a group of nobody was made")
	}
}
