package engine

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// memberOf is run m: of its own data set, length, seed and rate.
func memberOf(t *testing.T, ctx *bindings.Context, n *anynetx.Network, m int) (Config, *Data) {
	c := testConfig(n)
	c.Epochs, c.Seed, c.Task, c.Recipe.LearningRate = 1+m%2, uint64(m), fmt.Sprint("set ", m), 0.02*float64(1+m)
	return c, load(t, ctx, blobs(10+2*m, 1+2*(m%2), n.Setting.Classes, 32+16*m, 20))
}

// TestGroup: runs in common launches, and in turn where the back end runs one model a launch, end in the bits that each has alone, also
// where one was read from a checkpoint and one leaves in mid-epoch.
func TestGroup(t *testing.T) {
	for _, backend := range []string{"reference", "cpu"} {
		t.Run(backend, func(t *testing.T) {
			ctx := open(t, backend, "")
			n := tiny(t, anynetx.ResStemCifar, 8, 4)
			const count, steps = 4, 5
			var configs []Config
			var sets []*Data
			var want [][]byte
			var begun bytes.Buffer // run 3 after a step
			for m := range count {
				c, d := memberOf(t, ctx, n, m)
				configs, sets = append(configs, c), append(sets, d)
				trainer := newTestTrainer(t, ctx, c, d, planOptions{})
				must(t, trainer.Initialize())
				for s := range steps {
					if p := trainer.Position(); p.Epoch < p.Epochs {
						must(t, trainer.Step())
					}
					if m == 3 && s == 0 {
						must(t, trainer.WriteCheckpoint(&begun, nil))
					}
					if p := trainer.Position(); p.Step == p.StepsPerEpoch {
						_, err := trainer.EndEpoch()
						must(t, err)
					}
				}
				want = append(want, whole(t, trainer))
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
			for s := range steps {
				var members []*Trainer
				for m, trainer := range g.Trainers() {
					if p := trainer.Position(); p.Epoch < p.Epochs && !(m == 3 && s == steps-1) {
						members = append(members, trainer)
					}
				}
				must(t, errors.Join(g.Step(members)...))
				for _, trainer := range members {
					if p := trainer.Position(); p.Step == p.StepsPerEpoch {
						_, err := trainer.EndEpoch()
						must(t, err)
					}
				}
			}
			if together := len(g.programs) > 0; together != (backend == "reference") {
				t.Errorf("common programs on %s: %v", backend, together)
			}
			for m, trainer := range g.Trainers() {
				if !bytes.Equal(whole(t, trainer), want[m]) {
					t.Errorf("run %d ends in other bits than alone", m)
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

// TestGroupRefuses: runs whose records differ.
func TestGroupRefuses(t *testing.T) {
	ctx := open(t, "reference", "")
	first, set := memberOf(t, ctx, tiny(t, anynetx.ResStemCifar, 8, 4), 0)
	for what, change := range map[string]func(c *Config){
		"":          func(c *Config) { c.Seed, c.Recipe.LearningRate, c.Epochs = 99, 0.5, 7 },
		"batch":     func(c *Config) { c.Recipe.Batch = 32 },
		"decay":     func(c *Config) { c.Recipe.WeightDecay *= 2 },
		"smoothing": func(c *Config) { c.Recipe.LabelSmoothing = 0.2 },
		"dtype":     func(c *Config) { c.DType = "fp16" },
		"stem":      func(c *Config) { c.Network = tiny(t, anynetx.SimpleStemIN, 8, 4) },
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
