package verify

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"anynetx/engine"
)

// independent are trainings of one process, each with a context, thus a stream and graphs, of its own; types, seeds and lengths differ.
func independent(t *testing.T) []*engine.Trainer {
	t.Helper()
	n := smallNetwork(t)
	var all []*engine.Trainer
	for m, dtype := range []string{"fp16", "fp32", "fp16"} {
		ctx := open(t, backend())
		data, err := engine.LoadData(ctx, patterns(n.Setting.Resolution, n.Setting.Classes, 16+8*(m%2), 8))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(data.Close)
		r := engine.DefaultRecipe()
		r.Batch, r.PreciseBNImages, r.LearningRate, r.WarmupEpochs = 8, 8, 0.02, 0
		trainer, err := engine.NewTrainer(ctx, engine.Config{Network: n, Recipe: r, Epochs: 1, DType: dtype, Seed: uint64(7 + m), Task: fmt.Sprint("stream ", m)}, data)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(trainer.Close)
		all = append(all, trainer)
	}
	return all
}

// advance makes a step of a training, or ends its epoch; false: it was at its end.
func advance(trainer *engine.Trainer) (bool, error) {
	p := trainer.Position()
	switch {
	case p.Epoch == p.Epochs:
		return false, nil
	case p.Step < p.StepsPerEpoch:
		return true, trainer.Step()
	}
	_, err := trainer.EndEpoch()
	return true, err
}

func toEnd(trainer *engine.Trainer) error {
	if err := trainer.Initialize(); err != nil {
		return err
	}
	for {
		if more, err := advance(trainer); !more || err != nil {
			return err
		}
	}
}

// TestStreams: several models on one GPU, each a context with a stream and graphs of its own, have the bits that each of them has alone:
// replayed in any order by one thread, and by a thread each.
func TestStreams(t *testing.T) {
	ways := map[string]func([]*engine.Trainer) error{
		"in random order": func(all []*engine.Trainer) error {
			order := rand.New(rand.NewPCG(1, 2))
			for _, trainer := range all {
				if err := trainer.Initialize(); err != nil {
					return err
				}
			}
			for left := append([]*engine.Trainer(nil), all...); len(left) > 0; {
				i := order.IntN(len(left))
				more, err := advance(left[i])
				if err != nil {
					return err
				}
				if !more {
					left = append(left[:i], left[i+1:]...)
				}
			}
			return nil
		},
		"by a thread each": func(all []*engine.Trainer) error {
			failures := make([]error, len(all))
			var wait sync.WaitGroup
			for i, trainer := range all {
				wait.Go(func() { failures[i] = toEnd(trainer) })
			}
			wait.Wait()
			for _, err := range failures {
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	var alone [][]byte
	for _, trainer := range independent(t) {
		if err := toEnd(trainer); err != nil {
			t.Fatal(err)
		}
		alone = append(alone, state(t, trainer))
	}
	for name, run := range ways {
		t.Run(name, func(t *testing.T) {
			all := independent(t)
			if err := run(all); err != nil {
				t.Fatal(err)
			}
			for i, trainer := range all {
				if !bytes.Equal(state(t, trainer), alone[i]) {
					t.Errorf("training %d ended in other bits than alone", i)
				}
			}
		})
	}
}

func state(t *testing.T, trainer *engine.Trainer) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := trainer.WriteCheckpoint(&b, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
