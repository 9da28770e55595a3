package engine

import (
	"slices"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// roundoff of a stored value, against its size.
var roundoff = map[string]float64{"bf16": 0x1p-9}

// gradientsIn is the gradient of every parameter in one step, whose ReLUs are far from their kinks.
func gradientsIn(t testing.TB, ctx *bindings.Context, dtype string) map[string][]float32 {
	t.Helper()
	c := testConfig(tiny(t, anynetx.SimpleStemIN, 28, 4))
	c.DType = dtype
	trainer := newTestTrainer(t, ctx, c, load(t, ctx, blobs(28, 3, 4, 32, 16)), planOptions{})
	must(t, trainer.Initialize())
	state, err := trainer.readState()
	must(t, err)
	scatter(trainer, state)
	avoidKinks(trainer, state)
	must(t, trainer.setState(state, 0, 0))
	must(t, trainer.Step())
	return gradients(t, trainer)
}

// TestStepIn16Bits: the gradients of a step are fp32's but for the rounding of what is stored. That is up to 60 roundoffs here: away from
// its kinks a ReLU's input has a mean of 7 deviations, which is rounded with it and subtracted by the next batch norm. A wrong term, or a
// sum in 16 bits, would be off by more.
func TestStepIn16Bits(t *testing.T) {
	ctx := open(t, "reference", "")
	want := gradientsIn(t, ctx, "fp32")
	for dtype, roundoff := range roundoff {
		t.Run(dtype, func(t *testing.T) {
			worst := 0.0
			for name, got := range gradientsIn(t, ctx, dtype) {
				exact := want[name]
				if scale, ok := strings.CutSuffix(name, "bn.bias"); ok {
					// Some of these gradients are sums that cancel: beside gamma's.
					beside := want[scale+"bn.weight"]
					got, exact = slices.Concat(got, beside), slices.Concat(exact, beside)
				}
				d := distance(got, exact)
				worst = max(worst, d)
				if !(d <= 100*roundoff) {
					t.Errorf("the gradient of %s is off by %.2g, %.0f roundoffs", name, d, d/roundoff)
				}
			}
			t.Logf("worst: %.2g, %.0f roundoffs", worst, worst/roundoff)
			if worst < roundoff {
				t.Error("nothing was rounded")
			}
		})
	}
}

// TestLearnsIn16Bits: what fp32 learns, 16 bits learn.
func TestLearnsIn16Bits(t *testing.T) {
	ctx := open(t, "reference", "")
	last := func(dtype string) EpochResult {
		c := testConfig(tiny(t, anynetx.SimpleStemIN, 16, 4))
		c.DType, c.Epochs, c.Recipe.LearningRate = dtype, 5, 0.1
		trainer := newTestTrainer(t, ctx, c, load(t, ctx, blobs(16, 3, 4, 320, 64)), planOptions{})
		must(t, trainer.Initialize())
		results := runEpochs(t, trainer, c.Epochs)
		return results[c.Epochs-1]
	}
	for _, dtype := range []string{"fp32", "bf16"} {
		r := last(dtype)
		t.Logf("%s: test loss %.4f, error %.1f %%", dtype, r.TestLoss, r.TestTop1ErrPct)
		if !(r.TestLoss < 0.15 && r.TestTop1ErrPct < 5) { // untrained: 1.39 and 75 %
			t.Errorf("%s has not learnt: test loss %.4f, error %.1f %%", dtype, r.TestLoss, r.TestTop1ErrPct)
		}
	}
}
