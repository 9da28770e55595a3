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

// memberOf is run m: of its own data set, classes, length, seed and rate; run 1 diverges. Runs 0, 2 and 4 end an epoch together, with tests
// of other lengths.
func memberOf(t *testing.T, ctx *bindings.Context, m int) (Config, *Data) {
	n := tiny(t, anynetx.ResStemCifar, 8, []int{10, 7, 100, 10, 100}[m])
	c := testConfig(n)
	c.Epochs, c.Seed, c.Task, c.Recipe.LearningRate = 1+m%2, uint64(m), fmt.Sprint("set ", m), 0.02*float64(1+m)
	if m == 1 {
		c.Recipe.LearningRate = 1e6
	}
	return c, load(t, ctx, blobs(10+2*m, 1+2*(m%2), n.Setting.Classes, []int{64, 48, 64, 80, 64}[m], 20+8*m))
}

// members are runs 0 to 4.
func members(t *testing.T, ctx *bindings.Context) (configs []Config, sets []*Data) {
	for m := range 5 {
		c, d := memberOf(t, ctx, m)
		configs, sets = append(configs, c), append(sets, d)
	}
	return configs, sets
}

// outcome is what became of a run.
type outcome struct {
	results []EpochResult
	failure string
	state   []byte
}

// train takes each trainer to its end or its divergence: step is the next one of those that are left, end is of those that have come to it.
func train(t *testing.T, trainers []*Trainer, step func([]*Trainer) []error, end func([]*Trainer) ([]EpochResult, []error)) []outcome {
	outcomes := make([]outcome, len(trainers))
	for left := slices.Clone(trainers); len(left) > 0; {
		must(t, errors.Join(step(left)...))
		ended := slices.DeleteFunc(slices.Clone(left), func(trainer *Trainer) bool { return trainer.Position().Step < trainer.Position().StepsPerEpoch })
		results, failures := end(ended)
		for i, trainer := range ended {
			o, p := &outcomes[slices.Index(trainers, trainer)], trainer.Position()
			switch err := failures[i]; {
			case err != nil && !errors.Is(err, ErrDiverged):
				t.Fatal(err)
			case err == nil:
				o.results = append(o.results, results[i])
			}
			if failures[i] != nil || p.Epoch == p.Epochs {
				o.failure, o.state = fmt.Sprint(failures[i]), whole(t, trainer)
				left = slices.DeleteFunc(slices.Clone(left), func(other *Trainer) bool { return other == trainer })
			}
		}
	}
	return outcomes
}

// TestGroup: runs in common launches, and in turn where the back end runs one model a launch, end in the bits that each has alone: on data
// sets of different classes, where one was read from a checkpoint, and where runs end, diverge and are tested at different times.
func TestGroup(t *testing.T) {
	for _, backend := range []string{"reference", "cpu"} {
		t.Run(backend, func(t *testing.T) {
			ctx := open(t, backend, "")
			configs, sets := members(t, ctx)
			var want []outcome
			var begun bytes.Buffer // run 3 after a step
			for m := range configs {
				trainer := newTestTrainer(t, ctx, configs[m], sets[m], planOptions{})
				must(t, trainer.Initialize())
				if m == 3 {
					must(t, trainer.Step())
					must(t, trainer.WriteCheckpoint(&begun, nil))
				}
				want = append(want, train(t, []*Trainer{trainer}, func(one []*Trainer) []error { return []error{one[0].Step()} },
					func(one []*Trainer) (results []EpochResult, failures []error) {
						for _, trainer := range one {
							r, err := trainer.EndEpoch()
							results, failures = append(results, r), append(failures, err)
						}
						return
					})...)
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
			together := map[mode]bool{}
			note := func() {
				for s := range g.programs {
					together[s.mode] = true
					for o := range g.programs {
						if s != o && s.mode == o.mode && s.first < o.end && o.first < s.end {
							t.Errorf("programs %v and %v have one place, for which there is memory once", s, o)
						}
					}
				}
			}
			got := train(t, g.Trainers(), g.Step, func(ended []*Trainer) ([]EpochResult, []error) {
				defer note()
				return g.EndEpoch(ended)
			})
			if want := map[string]int{"reference": len(modes), "cpu": 0}[backend]; len(together) != want {
				t.Errorf("common programs on %s: %v, want %d", backend, together, want)
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
	configs, sets := members(t, ctx)
	g, err := NewGroup(ctx, configs, sets)
	must(t, err)
	defer g.Close()
	order, err := places(g.Trainers())
	must(t, err)
	models := map[string][]int32{} // of the launches of an op
	for _, op := range joined(order, trainMode).Ops {
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
		case "head conv_fwd", "head conv_bwd", "xent": // 10, 7, 10, twice 100 classes: the run of most steps first
			want = []int32{1, 1, 1, 2}
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
	workspace := int64(0)
	for _, m := range modes {
		common, err := ctx.Workspace(joined(order, m))
		must(t, err)
		workspace += common
	}
	for _, trainer := range order {
		workspace += trainer.Memory().WorkspaceBytes
	}
	if want := (Memory{g.state.Size(), g.arena.Size(), workspace}); told != want {
		t.Errorf("PlanMemory says %+v, the group takes %+v", told, want)
	}
}

// TestGroupFailure: what a back end says of a launch is said of those that shared it, and what is wrong with a run of that run.
func TestGroupFailure(t *testing.T) {
	ctx := open(t, "reference", "")
	configs, sets := members(t, ctx)
	must(t, sets[3].buffer.Write(int64(sets[3].train.labels.Offset), bytes.Repeat([]byte{99}, 4*sets[3].train.labels.Elements())))
	g, err := NewGroup(ctx, configs, sets)
	must(t, err)
	defer g.Close()
	all := g.Trainers() // by place: 3, 1, 0, 2, 4
	for m, trainer := range all {
		if m != 2 {
			must(t, trainer.Initialize())
		}
	}
	for _, c := range []struct {
		trainers []*Trainer
		fails    []bool
	}{
		{[]*Trainer{all[4], all[2], all[0], all[3]}, []bool{false, true, false, true}},
		{[]*Trainer{all[4], all[2], all[1], all[3]}, []bool{false, true, true, true}}, // 3 and 1 in a launch
	} {
		before := c.trainers[0].Position().Step
		for i, err := range g.Step(c.trainers) {
			if (err != nil) != c.fails[i] || c.trainers[i].Position().Step != before+1 && err == nil {
				t.Errorf("trainer in place %d: %v, at %+v", c.trainers[i].place, err, c.trainers[i].Position())
			}
		}
	}
}

// TestGroupRefuses: runs whose records differ.
func TestGroupRefuses(t *testing.T) {
	ctx := open(t, "reference", "")
	first, set := memberOf(t, ctx, 0)
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
