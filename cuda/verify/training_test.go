package verify

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
	"anynetx/engine"
	"anynetx/random"
)

// patterns is a small set that can be learnt: a pattern per class under noise.
func patterns(side, classes, train, test int) *datasets.Set {
	s := &datasets.Set{Name: "patterns", H: side, W: side, C: 3, Mean: [3]float64{0.5, 0.5, 0.5}, Std: [3]float64{0.25, 0.25, 0.25}}
	for c := range classes {
		s.Classes = append(s.Classes, fmt.Sprint("class ", c))
	}
	split := func(name string, count int) (split datasets.Split) {
		noise := random.New(1, "noise", name)
		for i := range count {
			pattern := random.New(1, "pattern", i%classes)
			split.Labels = append(split.Labels, int32(i%classes))
			for p := range side * side * 3 {
				y, x := p/3/side, p/3%side
				v := 80 + 48*math.Round(pattern.Float64(uint64(y/4*64+x/4))) + 60*(noise.Float64(uint64(i*side*side*3+p))-0.5)
				split.Images = append(split.Images, byte(v))
			}
		}
		return split
	}
	s.Train, s.Test = split("train", train), split("test", test)
	return s
}

// networks have odd group widths, strides, bottlenecks, projections and both stems.
func networks(t *testing.T) []*anynetx.Network {
	a := anynetx.Architecture{
		{Depth: 1, Width: 6, Bottleneck: 1, GroupWidth: 3}, {Depth: 2, Width: 18, Bottleneck: 2, GroupWidth: 9},
		{Depth: 1, Width: 10, Bottleneck: 1, GroupWidth: 5}, {Depth: 1, Width: 8, Bottleneck: 4, GroupWidth: 1},
	}
	var all []*anynetx.Network
	for _, stem := range []anynetx.Stem{anynetx.ResStemIN, anynetx.SimpleStemIN, anynetx.ResStemCifar} {
		resolution := 16
		if stem == anynetx.ResStemCifar { // which keeps it
			resolution = 8
		}
		n, err := anynetx.Build(a, anynetx.Setting{Stem: stem, StemWidth: 6, Strides: [4]int{1, 2, 1, 2}, Resolution: resolution, Classes: 4})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// smallNetwork is one that a few steps teach something.
func smallNetwork(t *testing.T) *anynetx.Network {
	a := anynetx.Architecture{
		{Depth: 1, Width: 8, Bottleneck: 1, GroupWidth: 8}, {Depth: 1, Width: 16, Bottleneck: 1, GroupWidth: 8},
		{Depth: 1, Width: 16, Bottleneck: 1, GroupWidth: 4}, {Depth: 1, Width: 16, Bottleneck: 1, GroupWidth: 16},
	}
	n, err := anynetx.Build(a, anynetx.Setting{Stem: anynetx.SimpleStemIN, StemWidth: 8, Strides: [4]int{1, 2, 1, 2}, Resolution: 8, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// train is some epochs over so many images, 16 a step; the results and the state's bytes.
func train(t *testing.T, ctx *bindings.Context, n *anynetx.Network, dtype string, seed uint64, images, epochs int) ([]engine.EpochResult, []byte) {
	t.Helper()
	data, err := engine.LoadData(ctx, patterns(n.Setting.Resolution, n.Setting.Classes, images, 24))
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	r := engine.DefaultRecipe()
	r.Batch, r.PreciseBNImages, r.LearningRate, r.WarmupEpochs = 16, 32, 0.02, 0
	trainer, err := engine.NewTrainer(ctx, engine.Config{Network: n, Recipe: r, Epochs: epochs, DType: dtype, Seed: seed, Task: "patterns"}, data)
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Close()
	if err := trainer.Initialize(); err != nil {
		t.Fatal(err)
	}
	var results []engine.EpochResult
	for range epochs {
		for p := trainer.Position(); p.Step < p.StepsPerEpoch; p = trainer.Position() {
			if err := trainer.Step(); err != nil {
				t.Fatal(err)
			}
		}
		result, err := trainer.EndEpoch()
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, result)
	}
	var state bytes.Buffer
	if err := trainer.WriteCheckpoint(&state, nil); err != nil {
		t.Fatal(err)
	}
	return results, state.Bytes()
}

// TestTraining: the whole step, graph and all, learns as the reference does, and gives the same bits twice.
func TestTraining(t *testing.T) {
	for i, n := range networks(t) {
		for dtype, tolerance := range map[string]float64{"fp32": 2e-3, "fp16": 1e-2, "bf16": 5e-2} {
			if i > 0 && dtype != "fp32" {
				continue // one network is enough: what differs is in single ops
			}
			t.Run(fmt.Sprint(n.Setting.Stem, " ", dtype), func(t *testing.T) {
				reference, cuda := open(t, "reference"), open(t, backend())
				want, _ := train(t, reference, n, dtype, 7, 64, 2)
				got, state := train(t, cuda, n, dtype, 7, 64, 2)
				for i := range want {
					for _, pair := range [][2]float64{{got[i].TrainLoss, want[i].TrainLoss}, {got[i].TestLoss, want[i].TestLoss}} {
						if !(math.Abs(pair[0]-pair[1]) <= tolerance*math.Abs(pair[1])) {
							t.Errorf("epoch %d: loss %.7g, the reference's is %.7g", i, pair[0], pair[1])
						}
					}
				}
				if _, again := train(t, cuda, n, dtype, 7, 64, 2); !bytes.Equal(state, again) {
					t.Error("the second training ended in other bits")
				}
				t.Logf("train losses %.6f %.6f, reference %.6f %.6f; test losses %.6f %.6f, reference %.6f %.6f", got[0].TrainLoss, got[1].TrainLoss, want[0].TrainLoss, want[1].TrainLoss,
					got[0].TestLoss, got[1].TestLoss, want[0].TestLoss, want[1].TestLoss)
			})
		}
	}
}

// TestLearns: a small network learns in fp16 what it learns in fp32 on the CPU back end: 16 steps on the harness, 56 on a GPU.
func TestLearns(t *testing.T) {
	n := smallNetwork(t)
	cpu, cuda := open(t, "cpu"), open(t, backend())
	epochs, dtypes := 2, []string{"fp16"}
	if backend() == "cuda" {
		epochs, dtypes = 7, []string{"fp32", "fp16", "bf16"}
	}
	want, _ := train(t, cpu, n, "fp32", 7, 128, epochs)
	for _, dtype := range dtypes {
		got, _ := train(t, cuda, n, dtype, 7, 128, epochs)
		for i := range want {
			t.Logf("%s, epoch %d: train loss %.4f, test loss %.4f; in fp32 on the CPU %.4f, %.4f", dtype, i, got[i].TrainLoss, got[i].TestLoss, want[i].TrainLoss, want[i].TestLoss)
			if !(math.Abs(got[i].TrainLoss-want[i].TrainLoss) <= 0.05) {
				t.Errorf("%s, epoch %d: the training loss is %.4f, on the CPU it is %.4f", dtype, i, got[i].TrainLoss, want[i].TrainLoss)
			}
		}
		if !(got[1].TrainLoss < 0.5) { // untrained: 0.69
			t.Errorf("%s: the training loss of the second epoch is %.4f: nothing was learnt", dtype, got[1].TrainLoss)
		}
	}
}

// TestFiftySteps: in fp32 the losses of five trainings of ten steps are those of the CPU back end. Where another order of sums turns a ReLU on or off, the
// two part: by up to 3e-4 after ten steps, in one training of twenty to ten, and by up to 7e-2 after fifty, in a third to over half of them (reference beside
// two versions of the CPU back end, 40 seeds). So most must agree as closely as numbers are stored, and all nearly.
func TestFiftySteps(t *testing.T) {
	n := networks(t)[2]
	cpu, device := open(t, "cpu"), open(t, backend())
	const trainings = 5
	var apart []float64
	for seed := range uint64(trainings) {
		want, _ := train(t, cpu, n, "fp32", 7+seed, 160, 1)
		got, _ := train(t, device, n, "fp32", 7+seed, 160, 1)
		apart = append(apart, max(math.Abs(got[0].TrainLoss-want[0].TrainLoss), math.Abs(got[0].TestLoss-want[0].TestLoss)))
		t.Logf("seed %d: train loss %.7f, test loss %.7f; CPU: %.7f, %.7f", 7+seed, got[0].TrainLoss, got[0].TestLoss, want[0].TrainLoss, want[0].TestLoss)
	}
	near := func(most float64) (count int) {
		for _, v := range apart {
			if v <= most {
				count++
			}
		}
		return count
	}
	if near(1e-5) <= trainings/2 || near(1e-2) < trainings {
		t.Errorf("the losses of %d trainings are apart from the CPU's by %.1e", trainings, apart)
	}
}
