package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/datasets"
	"anynetx/engine"
	"anynetx/random"
)

func trainCommand() *cli.Command {
	flags := append(append(networkFlags(true), recipeFlags()...), profileFlags()...)
	return &cli.Command{
		Name:  "train",
		Usage: "train one network",
		Description: "Example, a small network on clothes:\n\n" +
			"anynetx train --depths 1,1,2,1 --widths 16,32,48,64 --group-widths 8,8,8,8 --stem res_stem_cifar --stem-width 16 --dataset fashion-mnist --train-images 10000 --epochs 2\n\n" +
			"--classes and --resolution are the data set's unless they are given. Several networks belong into a study: `anynetx study run --help`.",
		Flags: append(flags, dataFlag(),
			&cli.StringFlag{Name: "dataset", Usage: "`NAME` of the data set; `anynetx data list` shows them"},
			&cli.IntFlag{Name: "train-images", Usage: "only so many training `IMAGES`", DefaultText: "all"},
			&cli.IntFlag{Name: "test-images", Usage: "only so many test `IMAGES`", DefaultText: "all"},
			&cli.IntFlag{Name: "epochs", Value: 5, Usage: "`NUMBER` of passes over the training images"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "root `SEED` of weights, order and augmentation"},
			&cli.IntFlag{Name: "replicate", Usage: "`NUMBER` of the repetition: the same with other random numbers"},
			&cli.StringFlag{Name: "dtype", Value: "fp32", Usage: "`TYPE` of activations and their gradients: fp32, fp16 or bf16, where the device has it"},
			&cli.StringFlag{Name: "device", Value: "cpu:0", Usage: "`ID` of a device; `anynetx devices` shows them"},
			&cli.IntFlag{Name: "threads", Usage: "`NUMBER` of threads on a processor; the result does not depend on it", DefaultText: "all cores"},
			&cli.StringFlag{Name: "out", Usage: "new `FOLDER` for weights.safetensors and result.json", TakesFile: true},
			&cli.BoolFlag{Name: "json", Usage: "one object on standard output; the lines of the epochs go to standard error"}),
		Action: train,
	}
}

type trainingJSON struct {
	anynetx.Summary
	Dataset    string      `json:"dataset"`
	Classes    int         `json:"classes"`
	Resolution int         `json:"resolution"`
	Seed       uint64      `json:"seed"`
	Replicate  int         `json:"replicate"`
	Device     string      `json:"device"`
	Library    string      `json:"library_sha256"`
	Images     int         `json:"train_images"`
	TestImages int         `json:"test_images"`
	Top1       float64     `json:"test_top1_err_pct"`
	Top5       *float64    `json:"test_top5_err_pct"`
	TrainTop1  float64     `json:"train_top1_err_pct"`
	Seconds    float64     `json:"wall_time_s"`
	Epochs     []epochJSON `json:"epochs"`
}

type epochJSON struct {
	Epoch     int      `json:"epoch"` // from 1
	Rate      float64  `json:"lr"`
	TrainLoss float64  `json:"train_loss"`
	TrainTop1 float64  `json:"train_top1_err_pct"`
	TestLoss  float64  `json:"test_loss"`
	TestTop1  float64  `json:"test_top1_err_pct"`
	TestTop5  *float64 `json:"test_top5_err_pct"` // null with five classes or fewer
	Seconds   float64  `json:"wall_time_s"`
}

func train(c *cli.Context) error {
	name := c.String("dataset")
	if name == "" {
		return anynetx.Inputf("--dataset is missing; `anynetx data list` shows the data sets")
	}
	out := c.String("out")
	if _, err := os.Stat(out); out != "" && err == nil {
		return anynetx.Inputf("--out %s exists already; give a new folder", out)
	}
	// What the flags alone can get wrong comes before anything is opened.
	if _, err := networkOf(c); err != nil {
		return err
	}
	set, err := datasets.Open(name, c.String("data"))
	if err != nil {
		return err
	}
	want := datasets.Subset{TrainImages: c.Int("train-images"), TestImages: c.Int("test-images")}
	if c.IsSet("classes") {
		want.Classes = c.Int("classes")
	}
	if set, err = set.Subset(want, random.New(c.Uint64("seed"), "subset", name)); err != nil {
		return err
	}
	setting, err := settingOf(c)
	if err != nil {
		return err
	}
	setting.Classes = len(set.Classes)
	if !c.IsSet("resolution") {
		setting.Resolution = max(set.H, set.W)
	}
	recipe, err := recipeOf(c, setting.Resolution)
	if err != nil {
		return err
	}
	architecture, err := architectureOf(c)
	if err != nil {
		return err
	}
	network, err := anynetx.Build(architecture, setting)
	if err != nil {
		return anynetx.Inputf("this network cannot be built: %w", err)
	}
	ctx, err := openDevice(c.String("device"), c.Int("threads"))
	if err != nil {
		return err
	}
	defer ctx.Close()
	profile, err := profilerOf(c, ctx)
	if err != nil {
		return err
	}
	data, err := engine.LoadData(ctx, set)
	if err != nil {
		return err
	}
	defer data.Close()
	t, err := engine.NewTrainer(ctx, engine.Config{Network: network, Recipe: recipe, Epochs: c.Int("epochs"), DType: c.String("dtype"),
		Seed: c.Uint64("seed"), Task: name, Replicate: c.Int("replicate")}, data)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.Initialize(); err != nil {
		return err
	}
	if out != "" { // before the time is spent
		if err := os.MkdirAll(out, 0o777); err != nil {
			return fmt.Errorf("--out: %w; give a folder that can be made", err)
		}
		defer os.Remove(out) // of no effect once something is in it
	}
	result := trainingJSON{Summary: anynetx.Summarize(architecture, network.Complexity()), Dataset: name, Classes: setting.Classes,
		Resolution: setting.Resolution, Seed: c.Uint64("seed"), Replicate: c.Int("replicate"), Device: ctx.Info().Name,
		Library: ctx.Library().SHA256, Images: len(set.Train.Labels), TestImages: len(set.Test.Labels)}
	lines := c.App.Writer
	if c.Bool("json") {
		lines = c.App.ErrWriter
	}
	fmt.Fprintf(c.App.ErrWriter, "architecture %s: %s\n", result.ID, architecture)
	fmt.Fprintf(c.App.ErrWriter, "%s FLOPs, %s parameters, %s of memory; %s training and %s test images of %d classes at %d pixels; %s\n",
		si(float64(result.FLOPs)), si(float64(result.Params)), bytesText(t.Memory().Total()), thousands(result.Images), thousands(result.TestImages),
		result.Classes, result.Resolution, ctx.Info().Name)
	if err := write(lines, "%5s  %9s  %10s  %9s  %10s  %9s  %9s  %9s\n", "epoch", "rate", "train loss", "train err", "test loss", "test err", "images/s", "time"); err != nil {
		return err
	}
	start := time.Now()
	for t.Position().Epoch < t.Position().Epochs {
		e, err := trainEpoch(c.Context, t, profile, setting.Classes)
		if err != nil {
			return err
		}
		images := float64(t.Position().StepsPerEpoch * recipe.Batch)
		if err := write(lines, "%5d  %9.5f  %10.4f  %7.2f %%  %10.4f  %7.2f %%  %9.0f  %9s\n", e.Epoch, e.Rate, e.TrainLoss, e.TrainTop1, e.TestLoss, e.TestTop1,
			images/e.Seconds, durationText(time.Duration(e.Seconds*float64(time.Second)))); err != nil {
			return err
		}
		result.Epochs = append(result.Epochs, e)
	}
	if err := profile.end(); err != nil {
		return err
	}
	result.Seconds = time.Since(start).Seconds()
	last := result.Epochs[len(result.Epochs)-1]
	result.Top1, result.Top5, result.TrainTop1 = last.TestTop1, last.TestTop5, last.TrainTop1
	if out != "" {
		if err := writeTraining(out, t, result); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		fmt.Fprintf(c.App.ErrWriter, "written to %s\n", out)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, result)
	}
	return nil
}

// trainEpoch is one epoch; between its steps it looks whether it is to stop.
func trainEpoch(ctx context.Context, t *engine.Trainer, profile *profiler, classes int) (epochJSON, error) {
	start := time.Now()
	for p := t.Position(); p.Step < p.StepsPerEpoch; p = t.Position() {
		if err := ctx.Err(); err != nil {
			return epochJSON{}, err
		}
		if err := profile.step(); err != nil {
			return epochJSON{}, err
		}
		if err := t.Step(); err != nil {
			return epochJSON{}, err
		}
	}
	r, err := t.EndEpoch()
	if err != nil {
		return epochJSON{}, err
	}
	e := epochJSON{Epoch: r.Epoch + 1, Rate: r.LearningRate, TrainLoss: r.TrainLoss, TrainTop1: r.TrainTop1ErrPct,
		TestLoss: r.TestLoss, TestTop1: r.TestTop1ErrPct, Seconds: time.Since(start).Seconds()}
	if classes > 5 {
		e.TestTop5 = &r.TestTop5ErrPct
	}
	return e, nil
}

// writeTraining fills the folder of one training.
func writeTraining(out string, t *engine.Trainer, result trainingJSON) error {
	weights, err := t.Weights()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "result.json"), append(text, '\n'), 0o666); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(out, "weights.safetensors"))
	if err != nil {
		return err
	}
	return errors.Join(weights.WriteSafetensors(f), f.Sync(), f.Close())
}
