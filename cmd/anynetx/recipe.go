package main

import (
	"github.com/urfave/cli/v2"

	"anynetx/datasets"
	"anynetx/engine"
)

// recipeFlags are the values of a recipe; what is not given is engine.DefaultRecipe's.
func recipeFlags() []cli.Flag {
	const category = "Recipe"
	d := engine.DefaultRecipe()
	return []cli.Flag{
		&cli.IntFlag{Name: "batch", Category: category, Value: d.Batch, Usage: "`IMAGES` of a training step"},
		&cli.Float64Flag{Name: "learning-rate", Category: category, Value: d.LearningRate, Usage: "peak learning `RATE`"},
		&cli.StringFlag{Name: "schedule", Category: category, Value: d.Schedule, Usage: "of the learning rate: `cosine` or constant"},
		&cli.Float64Flag{Name: "warmup-epochs", Category: category, Value: d.WarmupEpochs, Usage: "`EPOCHS` in which the learning rate rises to its peak"},
		&cli.Float64Flag{Name: "momentum", Category: category, Value: d.Momentum, Usage: "of SGD"},
		&cli.BoolFlag{Name: "nesterov", Category: category, Value: d.Nesterov, Usage: "Nesterov's momentum (--nesterov=false: the plain one)"},
		&cli.Float64Flag{Name: "weight-decay", Category: category, Value: d.WeightDecay, Usage: "of all weights"},
		&cli.Float64Flag{Name: "label-smoothing", Category: category, Value: d.LabelSmoothing, Usage: "part of the target spread over all classes"},
		&cli.BoolFlag{Name: "zero-init-last-gamma", Category: category, Value: d.ZeroInitLastGamma, Usage: "let each block begin as the identity"},
		&cli.IntFlag{Name: "precise-bn-images", Category: category, Value: d.PreciseBNImages, Usage: "training `IMAGES` for batch-norm statistics before each test; 0: running means"},
		&cli.BoolFlag{Name: "flip", Category: category, Usage: "flip every second training image, on average, left to right"},
		&cli.StringFlag{Name: "crop", Category: category, Value: datasets.CropNone, Usage: "training crop: `none`, padded or resized"},
		&cli.IntFlag{Name: "padding", Category: category, Value: 4, Usage: "`PIXELS` around the image, for --crop padded"},
	}
}

func recipeOf(c *cli.Context, resolution int) (engine.Recipe, error) {
	r := engine.DefaultRecipe()
	r.Batch = c.Int("batch")
	r.LearningRate = c.Float64("learning-rate")
	r.Schedule = c.String("schedule")
	r.WarmupEpochs = c.Float64("warmup-epochs")
	r.Momentum = c.Float64("momentum")
	r.Nesterov = c.Bool("nesterov")
	r.WeightDecay = c.Float64("weight-decay")
	r.LabelSmoothing = c.Float64("label-smoothing")
	r.ZeroInitLastGamma = c.Bool("zero-init-last-gamma")
	r.PreciseBNImages = c.Int("precise-bn-images")
	r.Augmentation = datasets.Augmentation{Flip: c.Bool("flip"), Crop: c.String("crop")}
	if r.Augmentation.Crop == datasets.CropPadded {
		r.Augmentation.Padding = c.Int("padding")
	}
	if err := r.Validate(); err != nil {
		return r, err
	}
	return r, r.Augmentation.Validate(resolution)
}
