package engine

import (
	"errors"
	"math"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
)

// TestDiverges: a run whose loss is no number any more says so, at a step that is a function of its inputs.
func TestDiverges(t *testing.T) {
	set := blobs(16, 1, 4, 72, 24)
	backends(t, func(t *testing.T, ctx *bindings.Context) {
		c := testConfig(tiny(t, anynetx.SimpleStemIN, 16, 4))
		c.Recipe.LearningRate = 1e6
		c.Recipe.WeightDecay = 100
		d := load(t, ctx, set)
		var said [2]string
		for i := range said {
			trainer := newTestTrainer(t, ctx, c, d, planOptions{})
			must(t, trainer.Initialize())
			var err error
			for err == nil && trainer.Position().Epoch < c.Epochs {
				if p := trainer.Position(); p.Step == p.StepsPerEpoch {
					_, err = trainer.EndEpoch()
				} else {
					err = trainer.Step()
				}
			}
			var diverged *DivergedError
			if !errors.Is(err, ErrDiverged) || !errors.As(err, &diverged) {
				t.Fatalf("it does not diverge: %v", err)
			}
			said[i] = err.Error()
		}
		if said[0] != said[1] {
			t.Errorf("it says %q, then %q", said[0], said[1])
		}
		t.Log(said[0])
	})
}

// TestDivergenceWithinAnEpoch is found by the check every so many steps.
func TestDivergenceWithinAnEpoch(t *testing.T) {
	ctx := open(t, "reference", "")
	c := testConfig(tiny(t, anynetx.SimpleStemIN, 8, 2))
	c.Recipe.Batch = 2
	trainer := newTestTrainer(t, ctx, c, load(t, ctx, blobs(8, 1, 2, 2*stepsBetweenChecks+20, 4)), planOptions{})
	must(t, trainer.Initialize())
	for range 10 {
		must(t, trainer.Step())
	}
	nan := []float32{float32(math.NaN())}
	must(t, trainer.write(trainer.layout.byName["stem.conv.weight"], bindings.Bytes(nan)))
	var err error
	for err == nil {
		err = trainer.Step()
	}
	var diverged *DivergedError
	if !errors.As(err, &diverged) || diverged.Step != stepsBetweenChecks || diverged.Epoch != 0 {
		t.Errorf("the check at step %d says: %v", stepsBetweenChecks, err)
	}
}

// TestBadInput: each mistake is the user's input and names what to change.
func TestBadInput(t *testing.T) {
	ctx := open(t, "reference", "")
	good, d := resumeCase(t, ctx)
	for text, change := range map[string]func(*Config){
		"batch is 0":                 func(c *Config) { c.Recipe.Batch = 0 },
		"fewer than a batch of 73":   func(c *Config) { c.Recipe.Batch = 73 },
		"learning_rate is NaN":       func(c *Config) { c.Recipe.LearningRate = math.NaN() },
		"momentum is 1.5":            func(c *Config) { c.Recipe.Momentum = 1.5 },
		"bn_weight_decay is -1":      func(c *Config) { v := -1.0; c.Recipe.BNWeightDecay = &v },
		"label_smoothing is 2":       func(c *Config) { c.Recipe.LabelSmoothing = 2 },
		"bn_epsilon is 0":            func(c *Config) { c.Recipe.BNEpsilon = 0 },
		"precise_bn_images is -1":    func(c *Config) { c.Recipe.PreciseBNImages = -1 },
		`schedule is "linear"`:       func(c *Config) { c.Recipe.Schedule = "linear" },
		`dtype is "float"`:           func(c *Config) { c.DType = "float" },
		"epochs is 0":                func(c *Config) { c.Epochs = 0 },
		"epochs is 3 and the run st": func(c *Config) { c.StartEpoch = 3 },
		"the schedule has 2 epochs":  func(c *Config) { c.ScheduleEpochs = 2 },
		"4 classes and the network":  func(c *Config) { c.Network = tiny(t, anynetx.ResStemIN, 16, 5) },
		`crop is "mirror"`:           func(c *Config) { c.Recipe.Augmentation.Crop = "mirror" },
	} {
		c := good
		change(&c)
		if _, err := NewTrainer(ctx, c, d); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: the trainer says %v", text, err)
		}
	}
	for text, change := range map[string]func(*datasets.Set){
		"training image 7 has label 4": func(s *datasets.Set) { s.Train.Labels[7] = 4 },
		"test image 2 has label -1":    func(s *datasets.Set) { s.Test.Labels[2] = -1 },
		"bytes of pixels":              func(s *datasets.Set) { s.Test.Images = s.Test.Images[1:] },
		"there are no training images": func(s *datasets.Set) { s.Train = datasets.Split{} },
		"1 or 3 channels":              func(s *datasets.Set) { s.C = 2 },
		"standard deviation":           func(s *datasets.Set) { s.Std[1] = 0 },
	} {
		set := blobs(16, 1, 4, 72, 24)
		change(set)
		if _, err := LoadData(ctx, set); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: loading says %v", text, err)
		}
	}
	cpu := open(t, "cpu", "")
	good.Recipe.Batch = 15
	if _, err := PlanMemory(cpu, good); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "multiple of") {
		t.Errorf("a batch of 15 on a back end of vectors: %v", err)
	}
}

// TestOrder: calls at the wrong time are errors that say what to call.
func TestOrder(t *testing.T) {
	ctx := open(t, "reference", "")
	c, d := resumeCase(t, ctx)
	trainer := newTestTrainer(t, ctx, c, d, planOptions{})
	expect := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, not %q", err, text)
		}
	}
	expect(trainer.Step(), "call Initialize")
	_, err := trainer.Weights()
	expect(err, "call Initialize")
	must(t, trainer.Initialize())
	_, err = trainer.EndEpoch()
	expect(err, "0 of 4 steps")
	for range 4 {
		must(t, trainer.Step())
	}
	expect(trainer.Step(), "call EndEpoch")
	_, err = trainer.EndEpoch()
	must(t, err)
	advance(t, trainer, 8)
	expect(trainer.Step(), "all 3 epochs are done")
}

// TestSchedule has pycls's figures: the rate of an epoch, linear warm-up by epochs.
func TestSchedule(t *testing.T) {
	r := DefaultRecipe()
	r.LearningRate, r.WarmupEpochs, r.WarmupFactor = 0.8, 4, 0.1
	for epoch, want := range map[int]float64{0: 0.08, 2: 0.8 * 0.5 * (1 + math.Cos(math.Pi/5)) * 0.55, 4: 0.8 * 0.5 * (1 + math.Cos(2*math.Pi/5)), 5: 0.4, 9: 0.8 * 0.5 * (1 + math.Cos(0.9*math.Pi))} {
		if got := r.Rate(epoch, 10); math.Abs(got-want) > 1e-15 {
			t.Errorf("epoch %d: %v, not %v", epoch, got, want)
		}
	}
	r.Schedule, r.WarmupEpochs = Constant, 0
	if got := r.Rate(7, 10); got != 0.8 {
		t.Errorf("constant: %v", got)
	}
}

// TestStepAllocatesNothing, and most of the time is native.
func TestStepAllocatesNothing(t *testing.T) {
	ctx := open(t, "reference", "")
	c := testConfig(tiny(t, anynetx.SimpleStemIN, 8, 2))
	trainer := newTestTrainer(t, ctx, c, load(t, ctx, blobs(8, 1, 2, 16*50, 16)), planOptions{})
	must(t, trainer.Initialize())
	must(t, trainer.Step())
	before := trainer.NativeTime()
	if n := testing.AllocsPerRun(20, func() { must(t, trainer.Step()) }); n != 0 {
		t.Errorf("a step allocates %v times", n)
	}
	if trainer.NativeTime() <= before {
		t.Error("native time stands still")
	}
}
