package engine

import (
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
