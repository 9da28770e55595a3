package engine

import (
	"math"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// TestLearns: a small network learns a task it can learn. Chance is 75 % wrong.
func TestLearns(t *testing.T) {
	set := blobs(16, 1, 4, 256, 72)
	backends(t, func(t *testing.T, ctx *bindings.Context) {
		c := testConfig(tiny(t, anynetx.SimpleStemIN, 16, 4))
		c.Epochs = 4
		c.Recipe.Augmentation.Flip = false
		trainer := newTestTrainer(t, ctx, c, load(t, ctx, set), planOptions{})
		must(t, trainer.Initialize())
		results := runEpochs(t, trainer, c.Epochs)
		for _, r := range results {
			t.Logf("%+v", r)
		}
		first, last := results[0], results[len(results)-1]
		if last.TestTop1ErrPct > 20 || last.TrainLoss > first.TrainLoss/2 {
			t.Errorf("after %d epochs the test error is %.1f %%, training loss %.3f, from %.3f", c.Epochs, last.TestTop1ErrPct, last.TrainLoss, first.TrainLoss)
		}
		if last.TestImagesSeen != 72 || last.TrainImages != 256 {
			t.Errorf("%d test and %d training images were counted, not 72 and 256", last.TestImagesSeen, last.TrainImages)
		}
	})
}

// TestPreciseStatisticsAreMeans: running means over three batches are those over the same images as one batch, whatever training left. The
// learning rate is 0, so that both have the same weights; the stem's means are of the images alone.
func TestPreciseStatisticsAreMeans(t *testing.T) {
	set := blobs(16, 1, 4, 96, 16)
	backends(t, func(t *testing.T, ctx *bindings.Context) {
		means := func(batch, images int) []float32 {
			c := testConfig(tiny(t, anynetx.SimpleStemIN, 16, 4))
			c.Recipe.Batch, c.Recipe.PreciseBNImages, c.Recipe.LearningRate = batch, images, 0
			trainer := newTestTrainer(t, ctx, c, load(t, ctx, set), planOptions{})
			must(t, trainer.Initialize())
			if r := runEpochs(t, trainer, 1)[0]; r.PreciseBNImages != min(images, 96) {
				t.Errorf("%d images were seen of the %d asked for", r.PreciseBNImages, images)
			}
			weights, err := trainer.Weights()
			must(t, err)
			for _, w := range weights.Tensors {
				if w.Name == "stem.bn.running_mean" {
					return w.Values
				}
			}
			t.Fatal("the stem has no running mean")
			return nil
		}
		means(16, 1000) // there are 96
		three, one := means(16, 48), means(48, 48)
		for i := range one {
			if math.Abs(float64(three[i]-one[i])) > 1e-5*max(1, math.Abs(float64(one[i]))) {
				t.Errorf("channel %d: %v over three batches, %v over one", i, three[i], one[i])
			}
		}
	})
}
