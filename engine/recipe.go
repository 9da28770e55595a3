// Package engine trains one network: it lowers a network to op programs, plans where every tensor lies, and steps a back end through
// epochs, with checkpoints and weights in and out. It knows nothing of studies and of where files lie.
package engine

import (
	"math"

	"anynetx/anynetx"
	"anynetx/datasets"
)

// Schedules of the learning rate, by epoch, as pycls has them: the rate changes between epochs, never within one.
const (
	Cosine   = "cosine"   // rate (1 + cos(pi epoch / epochs)) / 2
	Constant = "constant" // rate
)

// Recipe is how a task trains. The paper is silent on most of these values; DefaultRecipe's are anynetx's own.
type Recipe struct {
	Batch             int                   `yaml:"batch"` // images of a step
	LearningRate      float64               `yaml:"learning_rate"`
	Momentum          float64               `yaml:"momentum"`
	Nesterov          bool                  `yaml:"nesterov"`
	WeightDecay       float64               `yaml:"weight_decay"`
	BNWeightDecay     *float64              `yaml:"bn_weight_decay"` // of batch norm's gamma and beta; absent: WeightDecay
	LabelSmoothing    float64               `yaml:"label_smoothing"`
	BNEpsilon         float64               `yaml:"bn_epsilon"`
	BNMomentum        float64               `yaml:"bn_momentum"` // share of the newest batch in the running statistics
	ZeroInitLastGamma bool                  `yaml:"zero_init_last_gamma"`
	Schedule          string                `yaml:"schedule"`      // cosine or constant
	WarmupEpochs      float64               `yaml:"warmup_epochs"` // epoch e < WarmupEpochs has its rate times f + (1-f) e / WarmupEpochs
	WarmupFactor      float64               `yaml:"warmup_factor"` // f
	PreciseBNImages   int                   `yaml:"precise_bn_images"`
	Augmentation      datasets.Augmentation `yaml:"augmentation"`
}

// DefaultRecipe is SGD with Nesterov momentum, cosine schedule and precise BN; augmentation is for the data set's owner to choose.
func DefaultRecipe() Recipe {
	return Recipe{
		Batch: 128, LearningRate: 0.1, Momentum: 0.9, Nesterov: true, WeightDecay: 5e-5,
		BNEpsilon: 1e-5, BNMomentum: 0.1, Schedule: Cosine, WarmupFactor: 0.1, PreciseBNImages: 8192,
	}
}

// Validate says which value is impossible; the error is the user's input.
func (r Recipe) Validate() error {
	finite := func(name string, v, low, high float64) error {
		if !(v >= low && v <= high) { // false for NaN
			return anynetx.Inputf("%s is %v; give a number from %v to %v", name, v, low, high)
		}
		return nil
	}
	bnDecay := 0.0
	if r.BNWeightDecay != nil {
		bnDecay = *r.BNWeightDecay
	}
	for _, err := range []error{
		finite("batch", float64(r.Batch), 2, 1<<20),
		finite("learning_rate", r.LearningRate, 0, 1e6),
		finite("momentum", r.Momentum, 0, 1),
		finite("weight_decay", r.WeightDecay, 0, 1e3),
		finite("bn_weight_decay", bnDecay, 0, 1e3),
		finite("label_smoothing", r.LabelSmoothing, 0, 1),
		finite("bn_epsilon", r.BNEpsilon, 1e-12, 1),
		finite("bn_momentum", r.BNMomentum, 0, 1),
		finite("warmup_epochs", r.WarmupEpochs, 0, 1e6),
		finite("warmup_factor", r.WarmupFactor, 0, 1),
		finite("precise_bn_images", float64(r.PreciseBNImages), 0, 1<<40),
	} {
		if err != nil {
			return err
		}
	}
	if r.Schedule != Cosine && r.Schedule != Constant {
		return anynetx.Inputf("schedule is %q; give %s or %s", r.Schedule, Cosine, Constant)
	}
	return nil
}

// Rate is the learning rate of an epoch (from 0) under a schedule of that many epochs.
func (r Recipe) Rate(epoch, epochs int) float64 {
	rate := r.LearningRate
	if r.Schedule == Cosine {
		rate *= (1 + math.Cos(math.Pi*float64(epoch)/float64(epochs))) / 2
	}
	if e := float64(epoch); e < r.WarmupEpochs {
		share := e / r.WarmupEpochs
		rate *= r.WarmupFactor*(1-share) + share
	}
	return rate
}

// batchNormDecay is the weight decay of gamma and beta.
func (r Recipe) batchNormDecay() float64 {
	if r.BNWeightDecay != nil {
		return *r.BNWeightDecay
	}
	return r.WeightDecay
}
