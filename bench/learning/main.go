// Learning trains the networks of setup.json with anynetx and compares their errors with those of pytorch_learning.py.
//
//	go run ./bench/learning train -data FOLDER -out anynetx.jsonl
//	go run ./bench/learning compare -out bench/results/learning.md pytorch.jsonl anynetx.jsonl
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
	"anynetx/engine"
)

// setup is setup.json.
type setup struct {
	TrainImages int `json:"train_images"`
	Epochs      int `json:"epochs"`
	Seeds       int `json:"seeds"`
	Recipe      struct {
		Batch           int     `json:"batch"`
		LearningRate    float64 `json:"learning_rate"`
		Momentum        float64 `json:"momentum"`
		WeightDecay     float64 `json:"weight_decay"`
		BNEpsilon       float64 `json:"bn_epsilon"`
		BNMomentum      float64 `json:"bn_momentum"`
		WarmupEpochs    float64 `json:"warmup_epochs"`
		WarmupFactor    float64 `json:"warmup_factor"`
		PreciseBNImages int     `json:"precise_bn_images"`
		Padding         int     `json:"padding"`
	} `json:"recipe"`
	Resolution int          `json:"resolution"`
	Stem       anynetx.Stem `json:"stem"`
	Strides    [4]int       `json:"strides"`
	Networks   []struct {
		Name        string `json:"name"`
		Depths      [4]int `json:"depths"`
		Widths      [4]int `json:"widths"`
		Bottlenecks [4]int `json:"bottlenecks"`
		GroupWidths [4]int `json:"group_widths"`
		StemWidth   int    `json:"stem_width"`
	} `json:"networks"`
}

// training is one line of a result file.
type training struct {
	Side          string  `json:"side"`
	Network       string  `json:"network"`
	Seed          int     `json:"seed"`
	Seconds       float64 `json:"seconds"`
	NativeSeconds float64 `json:"native_seconds,omitempty"`
	Epochs        []epoch `json:"epochs"`
}

type epoch struct {
	TrainLoss float64 `json:"train_loss"`
	TestLoss  float64 `json:"test_loss"`
	TestError float64 `json:"test_top1_err_pct"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "learning:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("say train or compare")
	}
	flags := flag.NewFlagSet(arguments[0], flag.ContinueOnError)
	out := flags.String("out", "", "file to write")
	switch arguments[0] {
	case "train":
		data := flags.String("data", "", "folder of the data sets; empty: the usual places")
		from := flags.String("setup", "bench/learning/setup.json", "what to train")
		backend := flags.String("backend", "cpu", "back end")
		dtype := flags.String("dtype", "fp32", "type of activations")
		workers := flags.Int("workers", 2, "trainings at a time, one thread each")
		if err := flags.Parse(arguments[1:]); err != nil {
			return err
		}
		return trainAll(*from, *data, *backend, *dtype, *out, *workers)
	case "compare":
		if err := flags.Parse(arguments[1:]); err != nil {
			return err
		}
		if flags.NArg() != 2 {
			return errors.New("compare needs two files, such as PyTorch's and anynetx's")
		}
		return compare(*out, flags.Arg(0), flags.Arg(1))
	}
	return fmt.Errorf("%q is neither train nor compare", arguments[0])
}

func trainAll(from, folder, backend, dtype, out string, workers int) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var s setup
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	whole, err := datasets.Open("fashion-mnist", folder)
	if err != nil {
		return err
	}
	set := *whole // mean and deviation stay the whole set's, as on the other side
	set.Train.Images = set.Train.Images[:s.TrainImages*set.H*set.W*set.C]
	set.Train.Labels = set.Train.Labels[:s.TrainImages]
	library, err := bindings.Load(backend)
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()

	type job struct{ network, seed int }
	jobs := make(chan job, s.Seeds*len(s.Networks))
	for seed := range s.Seeds {
		for n := range s.Networks {
			jobs <- job{n, seed}
		}
	}
	close(jobs)
	var (
		group    sync.WaitGroup
		lock     sync.Mutex // of the file and failures
		failures error
	)
	for range workers {
		group.Go(func() {
			for j := range jobs {
				result, err := train(library, dtype, s, j.network, j.seed, &set)
				lock.Lock()
				if err == nil {
					err = json.NewEncoder(f).Encode(result)
					fmt.Printf("%s, seed %d: %.2f %% in %.0f s, %.2f %% of it outside native code\n", result.Network, result.Seed,
						result.Epochs[len(result.Epochs)-1].TestError, result.Seconds, 100*(1-result.NativeSeconds/result.Seconds))
				}
				failures = errors.Join(failures, err)
				lock.Unlock()
			}
		})
	}
	group.Wait()
	return errors.Join(failures, f.Close())
}

func train(library *bindings.Library, dtype string, s setup, network, seed int, set *datasets.Set) (training, error) {
	n := s.Networks[network]
	result := training{Side: "anynetx, " + library.Name + ", " + dtype, Network: n.Name, Seed: seed}
	var a anynetx.Architecture
	for i := range a {
		a[i] = anynetx.Stage{Depth: n.Depths[i], Width: n.Widths[i], Bottleneck: n.Bottlenecks[i], GroupWidth: n.GroupWidths[i]}
	}
	net, err := anynetx.Build(a, anynetx.Setting{Stem: s.Stem, StemWidth: n.StemWidth, Strides: s.Strides, Resolution: s.Resolution, Classes: len(set.Classes)})
	if err != nil {
		return result, err
	}
	ctx, err := library.NewContext(bindings.ContextOptions{Threads: 1})
	if err != nil {
		return result, err
	}
	defer ctx.Close()
	data, err := engine.LoadData(ctx, set)
	if err != nil {
		return result, err
	}
	r := s.Recipe
	recipe := engine.DefaultRecipe()
	recipe.Batch, recipe.LearningRate, recipe.Momentum, recipe.Nesterov, recipe.WeightDecay = r.Batch, r.LearningRate, r.Momentum, true, r.WeightDecay
	recipe.BNEpsilon, recipe.BNMomentum, recipe.PreciseBNImages = r.BNEpsilon, r.BNMomentum, r.PreciseBNImages
	recipe.WarmupEpochs, recipe.WarmupFactor = r.WarmupEpochs, r.WarmupFactor
	recipe.Augmentation = datasets.Augmentation{Flip: true, Crop: datasets.CropPadded, Padding: r.Padding}
	start := time.Now()
	t, err := engine.NewTrainer(ctx, engine.Config{Network: net, Recipe: recipe, Epochs: s.Epochs, DType: dtype, Seed: uint64(seed), Task: set.Name}, data)
	if err != nil {
		return result, err
	}
	if err := t.Initialize(); err != nil {
		return result, err
	}
	for range s.Epochs {
		for p := t.Position(); p.Step < p.StepsPerEpoch; p = t.Position() {
			if err := t.Step(); err != nil {
				return result, err
			}
		}
		e, err := t.EndEpoch()
		if err != nil {
			return result, err
		}
		result.Epochs = append(result.Epochs, epoch{e.TrainLoss, e.TestLoss, e.TestTop1ErrPct})
	}
	result.Seconds, result.NativeSeconds = time.Since(start).Seconds(), t.NativeTime().Seconds()
	return result, nil
}
