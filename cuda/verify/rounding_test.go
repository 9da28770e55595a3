package verify

import (
	"maps"
	"math"
	"slices"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/engine"
)

// firstUpdate is what the first step does to weights and running statistics, by name.
func firstUpdate(t *testing.T, ctx *bindings.Context, n *anynetx.Network, dtype string) map[string][]float32 {
	t.Helper()
	data, err := engine.LoadData(ctx, patterns(n.Setting.Resolution, n.Setting.Classes, 16, 8))
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	r := engine.DefaultRecipe()
	r.Batch, r.PreciseBNImages, r.LearningRate, r.WarmupEpochs = 16, 0, 1, 0
	trainer, err := engine.NewTrainer(ctx, engine.Config{Network: n, Recipe: r, Epochs: 1, DType: dtype, Seed: 7, Task: "patterns"}, data)
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Close()
	if err := trainer.Initialize(); err != nil {
		t.Fatal(err)
	}
	values := func() map[string][]float32 {
		w, err := trainer.Weights()
		if err != nil {
			t.Fatal(err)
		}
		all := map[string][]float32{}
		for _, x := range w.Tensors {
			all[x.Name] = append([]float32(nil), x.Values...)
		}
		return all
	}
	before := values()
	if err := trainer.Step(); err != nil {
		t.Fatal(err)
	}
	after := values()
	for name, v := range after {
		for i := range v {
			v[i] -= before[name][i]
		}
	}
	return after
}

// offBy is how far an update is from the exact one, over the tensors named, as a fraction of its size.
func offBy(exact, update map[string][]float32, names ...string) float64 {
	square, difference := 0.0, 0.0
	for _, name := range names {
		for i, v := range exact[name] {
			square += float64(v) * float64(v)
			difference += math.Pow(float64(update[name][i]-v), 2)
		}
	}
	return math.Sqrt(difference / square)
}

// TestRounding: what 16 bits cost the first update, beside the reference in fp32, is about what they cost the reference itself: rounding
// that networks enlarge (masks and maxima flip), and no defect, which would come on top. bf16 behind max-pooling costs the most, 13 %.
func TestRounding(t *testing.T) {
	for _, n := range networks(t) {
		exact := firstUpdate(t, open(t, "reference"), n, "fp32")
		for _, dtype := range []string{"fp16", "bf16"} {
			reference, cuda := firstUpdate(t, open(t, "reference"), n, dtype), firstUpdate(t, open(t, backend()), n, dtype)
			all := slices.Sorted(maps.Keys(exact))
			t.Logf("%s %s: off by %.4f, the reference by %.4f", n.Setting.Stem, dtype, offBy(exact, cuda, all...), offBy(exact, reference, all...))
			if !(offBy(exact, cuda, all...) <= 2.5*offBy(exact, reference, all...)) {
				t.Errorf("%s %s: the first update is off by %.4f, the reference's by %.4f", n.Setting.Stem, dtype, offBy(exact, cuda, all...), offBy(exact, reference, all...))
			}
			for _, name := range all {
				if dtype == "fp16" && !(offBy(exact, cuda, name) <= 3*offBy(exact, reference, name)+0.1) { // in bf16 a single tensor says little
					t.Errorf("%s %s: the first update of %s is off by %.4f, the reference's by %.4f", n.Setting.Stem, dtype, name, offBy(exact, cuda, name), offBy(exact, reference, name))
				}
			}
		}
	}
}
