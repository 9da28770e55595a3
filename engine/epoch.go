package engine

import (
	"errors"
	"fmt"
	"math"

	"anynetx/bindings"
)

// EpochResult is what an epoch brought. Training figures are those of the batches as they were trained on, errors are in percent.
type EpochResult struct {
	Epoch                                        int
	LearningRate                                 float64
	TrainLoss, TrainTop1ErrPct, TrainTop5ErrPct  float64
	TestLoss, TestTop1ErrPct, TestTop5ErrPct     float64
	TrainImages, PreciseBNImages, TestImagesSeen int
}

// ErrDiverged marks a run whose loss or gradients are no longer numbers.
var ErrDiverged = errors.New("training diverged")

// DivergedError says when a run diverged; errors.Is(err, ErrDiverged). It is looked for every 100 steps and at the end of an epoch, so
// Epoch and Step are a function of the run's inputs.
type DivergedError struct {
	Epoch, Step int
	Reason      string
}

func (e *DivergedError) Error() string {
	return fmt.Sprintf("%v: %s by step %d of epoch %d; a lower learning rate or a longer warm-up may help", ErrDiverged, e.Reason, e.Step, e.Epoch)
}

func (e *DivergedError) Is(target error) bool { return target == ErrDiverged }

// EndEpoch finishes an epoch whose steps are done: precise batch-norm statistics if the recipe wants them, then the test pass. The run
// then stands at the start of the next epoch.
func (t *Trainer) EndEpoch() (EpochResult, error) {
	results, failures := endEpochs([]*Trainer{t}, func(m mode, _ []*Trainer) []error { return []error{t.run(m)} })
	return results[0], failures[0]
}

// endEpochs finishes the epochs of trainers, each as if it were alone: run is a pass of some of them through a program, and says what became
// of each.
func endEpochs(trainers []*Trainer, run func(mode, []*Trainer) []error) ([]EpochResult, []error) {
	results, failures := make([]EpochResult, len(trainers)), make([]error, len(trainers))
	for i, t := range trainers {
		failures[i] = t.beginEnd(&results[i])
	}
	// Prepare puts what a pass reads in its place; false: the trainer has no such pass.
	passes := func(m mode, prepare func(t *Trainer, pass int) (bool, error)) {
		for pass := 0; ; pass++ {
			var ready []*Trainer
			var at []int // in trainers
			for i, t := range trainers {
				if failures[i] != nil {
					continue
				}
				wanted := false
				if wanted, failures[i] = prepare(t, pass); wanted {
					ready, at = append(ready, t), append(at, i)
				}
			}
			if len(ready) == 0 {
				return
			}
			for i, err := range run(m, ready) {
				failures[at[i]] = err
			}
		}
	}
	passes(statisticsMode, (*Trainer).prepareStatistics)
	passes(evaluateMode, (*Trainer).prepareTest)
	for i, t := range trainers {
		if failures[i] == nil {
			failures[i] = t.finishEnd(&results[i])
		}
		if failures[i] != nil {
			results[i] = EpochResult{}
		}
	}
	return results, failures
}

// beginEnd takes down what the steps of the epoch brought.
func (t *Trainer) beginEnd(r *EpochResult) error {
	if !t.ready || t.step < t.steps {
		return fmt.Errorf("%d of %d steps of epoch %d are done: call Step until all are", t.step, t.steps, t.epoch)
	}
	training, err := t.readCounters(t.layout.training)
	if err != nil {
		return err
	}
	r.Epoch, r.LearningRate, r.PreciseBNImages = t.epoch, t.LearningRate(), t.statisticsPasses()*t.config.Recipe.Batch
	r.TrainLoss, r.TrainTop1ErrPct, r.TrainTop5ErrPct, r.TrainImages = training.figures()
	return nil
}

func (t *Trainer) statisticsPasses() int {
	r := &t.config.Recipe
	if r.PreciseBNImages == 0 {
		return 0
	}
	return min(max(1, r.PreciseBNImages/r.Batch), t.steps)
}

// prepareStatistics is for a pass that makes the running statistics the mean over batches of freshly drawn training images so far, under
// fixed weights.
func (t *Trainer) prepareStatistics(pass int) (bool, error) {
	if pass >= t.statisticsPasses() {
		return false, nil
	}
	if err := t.useTable(preciseStream); err != nil {
		return false, err
	}
	t.slots[slotFirstRow] = float64(pass * t.config.Recipe.Batch)
	t.slots[slotBNMomentum] = 1 / float64(pass+1)
	return true, nil
}

// prepareTest is for a batch of the test images.
func (t *Trainer) prepareTest(pass int) (bool, error) {
	if pass == 0 {
		if err := t.write(t.layout.testing, make([]byte, 8*bindings.Counters)); err != nil {
			return false, err
		}
	}
	batch, count := t.config.Recipe.Batch, len(t.data.set.Test.Labels)
	first := pass * batch
	if first >= count {
		return false, nil
	}
	t.slots[slotFirstRow] = float64(first)
	t.slots[slotValid] = float64(min(batch, count-first))
	return true, nil
}

// finishEnd takes down what the test brought, and goes on to the next epoch.
func (t *Trainer) finishEnd(r *EpochResult) error {
	testing, err := t.readCounters(t.layout.testing)
	if err != nil {
		return err
	}
	r.TestLoss, r.TestTop1ErrPct, r.TestTop5ErrPct, r.TestImagesSeen = testing.figures()
	if err := t.write(t.layout.training, make([]byte, 8*bindings.Counters)); err != nil {
		return err
	}
	t.epoch++
	t.step = 0
	return nil
}

// counters are those of an epoch or a test pass, by the places named in package bindings.
type counters [bindings.Counters]float64

func (c counters) figures() (loss, top1, top5 float64, images int) {
	seen := c[bindings.Seen]
	return c[bindings.LossSum] / seen, 100 * (seen - c[bindings.Top1Right]) / seen, 100 * (seen - c[bindings.Top5Right]) / seen, int(seen)
}

// readCounters reads counters and looks for divergence.
func (t *Trainer) readCounters(offset int64) (counters, error) {
	var c counters
	if err := t.read(offset, bindings.Bytes(c[:])); err != nil {
		return c, err
	}
	reason := ""
	switch loss := c[bindings.LossSum]; {
	case c[bindings.NonFinite] != 0:
		reason = fmt.Sprintf("%.0f values of gradients were not finite", c[bindings.NonFinite])
	case math.IsNaN(loss) || math.IsInf(loss, 0):
		reason = fmt.Sprintf("the loss was %v", loss)
		if offset == t.layout.testing {
			reason = fmt.Sprintf("the test loss was %v", loss)
		}
	default:
		return c, nil
	}
	return c, &DivergedError{Epoch: t.epoch, Step: t.step, Reason: reason}
}
