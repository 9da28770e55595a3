package engine

import (
	"fmt"
	"math"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// trainLoss is the mean loss of the first batch in training mode at the weights of state, which it does not change: the rate is 0.
func trainLoss(t testing.TB, trainer *Trainer, state []byte) float64 {
	t.Helper()
	must(t, trainer.state.Write(0, state))
	must(t, trainer.useTable(trainingStream))
	trainer.slots[slotFirstRow], trainer.slots[slotBNMomentum], trainer.slots[slotRate] = 0, 0, 0
	trainer.slots[slotValid] = float64(trainer.config.Recipe.Batch)
	must(t, trainer.run(trainMode))
	c, err := trainer.readCounters(trainer.layout.training)
	must(t, err)
	return c[bindings.LossSum] / c[bindings.Seen]
}

// scatter makes the state of a fresh network less special: gamma and beta away from 1 and 0, a head that matters.
func scatter(trainer *Trainer, state []byte) {
	stream := trainer.stream("scatter")
	n := uint64(0)
	for _, e := range trainer.layout.parameters {
		values := float32s(state[e.offset:][:4*e.Count()])
		for i := range values {
			switch e.Kind {
			case anynetx.BNGamma:
				values[i] = float32(0.5 + stream.Float64(n))
			case anynetx.BNBeta, anynetx.FCBias:
				values[i] = float32(0.3 * stream.Normal(n))
			case anynetx.FCWeight:
				values[i] = float32(0.5 * stream.Normal(n))
			}
			n++
		}
		copy(state[e.offset:], bindings.Bytes(values))
	}
}

// TestGradientsByFiniteDifferences: along the gradient of each parameter the loss of the whole network
// changes as the gradient's norm says. Kinks of ReLU and of the max-pool, and float32 activations, keep the differences from being better
// than 3 %; the golden files are the sharper test, and this one needs no other program.
func TestGradientsByFiniteDifferences(t *testing.T) {
	ctx := open(t, "reference", "")
	for stem, resolutions := range map[anynetx.Stem][]int{anynetx.ResStemIN: {17, 28}, anynetx.SimpleStemIN: {17, 28}, anynetx.ResStemCifar: {9, 14}} {
		for _, resolution := range resolutions {
			t.Run(fmt.Sprint(stem, "-", resolution), func(t *testing.T) {
				set := blobs(resolution, 3, 5, 8, 8)
				c := testConfig(tiny(t, stem, resolution, 5))
				c.Recipe.Batch = 8
				c.Recipe.LabelSmoothing = 0.1
				trainer := newTestTrainer(t, ctx, c, load(t, ctx, set), planOptions{})
				must(t, trainer.Initialize())
				state, err := trainer.readState()
				must(t, err)
				scatter(trainer, state)
				trainLoss(t, trainer, state)
				all := gradients(t, trainer)
				for _, e := range trainer.layout.parameters {
					g := all[e.Name]
					direction := make([]float64, len(g))
					var norm float64
					for i, v := range g {
						norm += float64(v) * float64(v)
						direction[i] = float64(v)
					}
					norm = math.Sqrt(norm)
					step := min(1e-5/norm, 1e-3)
					moved := func(sign float64) float64 {
						s := append([]byte(nil), state...)
						values := float32s(s[e.offset:][:4*e.Count()])
						for i := range values {
							values[i] += float32(sign * step * direction[i] / norm)
						}
						copy(s[e.offset:], bindings.Bytes(values))
						return trainLoss(t, trainer, s)
					}
					if slope := (moved(1) - moved(-1)) / (2 * step); !(math.Abs(slope-norm) <= 0.04*norm) {
						t.Errorf("%s: the loss changes by %.5g along the gradient, whose norm is %.5g", e.Name, slope, norm)
					}
				}
			})
		}
	}
}

// float32s copies bytes of a state.
func float32s(b []byte) []float32 {
	v := make([]float32, len(b)/4)
	copy(bindings.Bytes(v), b)
	return v
}
