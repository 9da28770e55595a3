package engine

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// roundoff of a stored value, against its size: half a unit in the last place.
var roundoff = map[string]float64{"fp16": 0x1p-11, "bf16": 0x1p-8}

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
	all := gradients(t, trainer)
	if dtype == "fp16" {
		for _, values := range all {
			for i := range values {
				values[i] /= firstScale
			}
		}
	}
	return all
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
	for _, dtype := range []string{"fp32", "fp16", "bf16"} {
		r := last(dtype)
		t.Logf("%s: test loss %.4f, error %.1f %%", dtype, r.TestLoss, r.TestTop1ErrPct)
		if !(r.TestLoss < 0.3 && r.TestTop1ErrPct < 10) { // untrained: 1.39 and 75 %
			t.Errorf("%s has not learnt: test loss %.4f, error %.1f %%", dtype, r.TestLoss, r.TestTop1ErrPct)
		}
	}
}

// setScale gives the loss scale of a state that is not running.
func setScale(t testing.TB, trainer *Trainer, values ...float32) {
	t.Helper()
	must(t, trainer.write(trainer.layout.lossScale, bindings.Bytes(values)))
}

func scaleOf(t testing.TB, trainer *Trainer) [bindings.Scales]float32 {
	t.Helper()
	var scale [bindings.Scales]float32
	must(t, trainer.read(trainer.layout.lossScale, bindings.Bytes(scale[:])))
	return scale
}

func fp16Trainer(t testing.TB, ctx *bindings.Context) *Trainer {
	t.Helper()
	c, d := resumeCase(t, ctx)
	c.DType = "fp16"
	trainer := newTestTrainer(t, ctx, c, d, planOptions{})
	must(t, trainer.Initialize())
	return trainer
}

// TestOverflowSkipsTheStep: weights and momentum stay, the scale halves until a step fits, and that one is trained on.
func TestOverflowSkipsTheStep(t *testing.T) {
	trainer := fp16Trainer(t, open(t, "reference", ""))
	setScale(t, trainer, 1<<24, 0, 77, 0)
	before, err := trainer.readState()
	must(t, err)
	skipped := 0
	for ; skipped < 20; skipped++ {
		advance(t, trainer, 1)
		after, err := trainer.readState()
		must(t, err)
		// Parameters and momentum are one range at the start of the state.
		end := trainer.layout.momentum + 4*int64(trainer.layout.values)
		moved := !bytes.Equal(before[:end], after[:end])
		scale, now := scaleOf(t, trainer), math.Ldexp(1, 24-skipped)
		if moved {
			if want := [bindings.Scales]float32{float32(now), float32(1 / now), 1, float32(skipped)}; scale != want {
				t.Errorf("behind the first step that fits the scale is %v, want %v", scale, want)
			}
			break
		}
		if want := [bindings.Scales]float32{float32(now / 2), 0, 0, float32(skipped + 1)}; scale != want {
			t.Fatalf("behind skipped step %d the scale is %v, want %v", skipped, scale, want)
		}
		if bytes.Equal(before[end:trainer.layout.training], after[end:trainer.layout.training]) {
			t.Error("the running statistics of a skipped step stayed")
		}
	}
	if skipped == 0 || skipped == 20 {
		t.Fatalf("%d steps were skipped", skipped)
	}
	t.Logf("%d steps were skipped", skipped)
	// Behind 2000 good steps the scale doubles.
	now := scaleOf(t, trainer)[bindings.Scale] / 4
	setScale(t, trainer, now, 0, scaleSteps-1, 0)
	advance(t, trainer, 1)
	if scale := scaleOf(t, trainer); scale != [bindings.Scales]float32{2 * now, 1 / now, 0, 0} {
		t.Errorf("behind the last of %d good steps the scale is %v; it was %v", scaleSteps, scale, now)
	}
}

// TestOverflowAtScaleOneDiverges: gradients beyond fp16 that no scale makes fit are a diverged run.
func TestOverflowAtScaleOneDiverges(t *testing.T) {
	trainer := fp16Trainer(t, open(t, "reference", ""))
	setScale(t, trainer, 1, 1, 0, 0)
	// Small features and large weights: the logits fit fp16, the gradient of the features does not.
	for _, e := range trainer.layout.parameters {
		value := map[string]float32{"head.fc.weight": 3e6, "s4.b1.f.c_bn.weight": 1e-3, "s4.b1.f.c_bn.bias": 1e-3, "s4.b1.bn.weight": 1e-3, "s4.b1.bn.bias": 1e-3}[e.Name]
		if value == 0 {
			continue
		}
		values := make([]float32, e.Count())
		for i := range values {
			values[i] = value
			if e.Kind == anynetx.FCWeight && i%3 == 0 {
				values[i] = -value
			}
		}
		must(t, trainer.write(e.offset, bindings.Bytes(values)))
	}
	must(t, trainer.Step())
	c, err := trainer.readCounters(trainer.layout.training)
	if !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), "gradients were not finite") || math.IsNaN(c[bindings.LossSum]) || math.IsInf(c[bindings.LossSum], 0) {
		t.Errorf("with a loss of %v the error is %v", c[bindings.LossSum], err)
	}
}

// TestFP16Resumes: a run whose scale is in mid-flight goes on from a checkpoint to the bits of an undisturbed one.
func TestFP16Resumes(t *testing.T) {
	ctx := open(t, "reference", "")
	start := func() *Trainer {
		trainer := fp16Trainer(t, ctx)
		setScale(t, trainer, 1<<22, 0, 0, 0)
		return trainer
	}
	undisturbed, stopped := start(), start()
	advance(t, undisturbed, 9)
	advance(t, stopped, 3)
	if scale := scaleOf(t, stopped); scale[bindings.ScaleSkipped] == 0 {
		t.Errorf("at the checkpoint the scale is %v: no step was skipped", scale)
	}
	var checkpoint bytes.Buffer
	must(t, stopped.WriteCheckpoint(&checkpoint, nil))
	resumed := fp16Trainer(t, ctx)
	_, err := resumed.ReadCheckpoint(&checkpoint)
	must(t, err)
	advance(t, resumed, 6)
	want, err := undisturbed.readState()
	must(t, err)
	got, err := resumed.readState()
	must(t, err)
	if !bytes.Equal(want, got) {
		t.Errorf("the state differs at byte %d", firstDifference(want, got))
	}
}
