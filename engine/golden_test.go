package engine

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
)

// goldenCase is what scripts/golden_step.py says of a case.
type goldenCase struct {
	Depths       []int              `json:"depths"`
	Widths       []int              `json:"widths"`
	Bottlenecks  []int              `json:"bottlenecks"`
	GroupWidths  []int              `json:"group_widths"`
	Strides      [4]int             `json:"strides"`
	Stem         anynetx.Stem       `json:"stem"`
	StemWidth    int                `json:"stem_width"`
	Classes      int                `json:"classes"`
	Resolution   int                `json:"resolution"`
	Channels     int                `json:"channels"`
	Smoothing    float64            `json:"label_smoothing"`
	Nesterov     bool               `json:"nesterov"`
	Decay        float64            `json:"weight_decay"`
	BNDecay      *float64           `json:"bn_weight_decay"`
	Batch        int                `json:"batch"`
	LearningRate float64            `json:"learning_rate"`
	Momentum     float64            `json:"momentum"`
	Epsilon      float64            `json:"bn_epsilon"`
	BNMomentum   float64            `json:"bn_momentum"`
	Mean         float64            `json:"mean"`
	Std          float64            `json:"std"`
	Float32      map[string]float64 `json:"float32"` // what PyTorch's float32, or changed last bits, are off by
}

type golden struct {
	goldenCase
	tensors map[string]WeightTensor
	config  Config
	set     *datasets.Set
}

func readGolden(t testing.TB, path string) *golden {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	w, err := ReadSafetensors(f)
	must(t, err)
	g := &golden{tensors: map[string]WeightTensor{}}
	must(t, json.Unmarshal([]byte(w.Metadata["case"]), &g.goldenCase))
	for _, v := range w.Tensors {
		g.tensors[v.Name] = v
	}
	var a anynetx.Architecture
	for i := range a {
		a[i] = anynetx.Stage{Depth: g.Depths[i], Width: g.Widths[i], Bottleneck: g.Bottlenecks[i], GroupWidth: g.GroupWidths[i]}
	}
	n, err := anynetx.Build(a, anynetx.Setting{Stem: g.Stem, StemWidth: g.StemWidth, Strides: g.Strides, Resolution: g.Resolution, Classes: g.Classes})
	must(t, err)
	g.config = Config{Network: n, Epochs: 3, DType: "fp32", Task: "golden", Recipe: Recipe{
		Batch: g.Batch, LearningRate: g.LearningRate, Momentum: g.Momentum, Nesterov: g.Nesterov, WeightDecay: g.Decay, BNWeightDecay: g.BNDecay,
		LabelSmoothing: g.Smoothing, BNEpsilon: g.Epsilon, BNMomentum: g.BNMomentum, Schedule: Constant,
	}}
	g.set = &datasets.Set{Name: "golden", Classes: make([]string, g.Classes), H: g.Resolution, W: g.Resolution, C: g.Channels,
		Mean: [3]float64{g.Mean, g.Mean, g.Mean}, Std: [3]float64{g.Std, g.Std, g.Std}}
	for _, v := range g.tensors["images"].Values {
		g.set.Train.Images = append(g.set.Train.Images, byte(v))
	}
	for _, v := range g.tensors["labels"].Values {
		g.set.Train.Labels = append(g.set.Train.Labels, int32(v))
	}
	g.set.Test = g.set.Train
	return g
}

// with gives the weights of the file that begin with prefix, without it.
func (g *golden) with(prefix string) *Weights {
	w := &Weights{}
	for name, v := range g.tensors {
		if short, ok := strings.CutPrefix(name, prefix); ok {
			w.Tensors = append(w.Tensors, WeightTensor{short, v.Shape, v.Values})
		}
	}
	return w
}

// tolerance of a kind of figure: eight times what PyTorch's own float32 is off by (the script says how), or what the rounding of the longest sum (over N P Q)
// comes to if its errors add like a random walk, whichever is more.
func (g *golden) tolerance(kind string) float64 {
	stem := g.config.Network.Stem
	return 8 * max(g.Float32[kind], 0x1p-24*math.Sqrt(float64(g.Batch*stem.P*stem.Q)))
}

// distance is the norm of got - want over that of want; NaN where either has one.
func distance(got, want []float32) float64 {
	var up, down float64
	for i, w := range want {
		d := float64(got[i]) - float64(w)
		up += d * d
		down += float64(w) * float64(w)
	}
	if down == 0 {
		return math.Sqrt(up)
	}
	return math.Sqrt(up / down)
}

// gradients reads the flat gradients of the last step.
func gradients(t testing.TB, trainer *Trainer) map[string][]float32 {
	t.Helper()
	flat := make([]float32, trainer.layout.values)
	must(t, trainer.arena.Read(0, bindings.Bytes(flat)))
	all := map[string][]float32{}
	for _, e := range trainer.layout.parameters {
		all[e.Name] = flat[e.offset/4:][:e.Count()]
	}
	return all
}

// TestGoldenPyTorch: steps from identical weights and images give PyTorch's losses, gradients, running statistics and weights.
func TestGoldenPyTorch(t *testing.T) {
	paths, err := filepath.Glob("testdata/golden-*.safetensors")
	must(t, err)
	if len(paths) < 4 {
		t.Fatalf("%d golden files in testdata, there should be 4: run scripts/golden_step.py", len(paths))
	}
	for _, path := range paths {
		g := readGolden(t, path)
		t.Run(strings.TrimSuffix(filepath.Base(path), ".safetensors"), func(t *testing.T) {
			backends(t, func(t *testing.T, ctx *bindings.Context) { g.compare(t, ctx) })
		})
	}
}

func (g *golden) compare(t *testing.T, ctx *bindings.Context) {
	trainer := newTestTrainer(t, ctx, g.config, load(t, ctx, g.set), planOptions{})
	must(t, trainer.InitializeFrom(g.with("initial."), true))
	losses := g.tensors["losses"].Values
	compared, worst := 0, map[string]float64{}
	check := func(kind, name string, got, want []float32) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%s: %d values, not %d", name, len(got), len(want))
		}
		d := distance(got, want)
		worst[kind] = max(worst[kind], d)
		compared++
		if !(d <= g.tolerance(kind)) {
			t.Errorf("%s is off by %.2g of its norm, tolerance %.2g", name, d, g.tolerance(kind))
		}
	}
	for step := 1; step <= 3; step++ {
		must(t, trainer.Step())
		if step == 1 {
			all := gradients(t, trainer)
			for _, want := range g.with("gradient.").Tensors {
				check("gradient", "gradient of "+want.Name, all[want.Name], want.Values)
			}
		}
		result, err := trainer.EndEpoch()
		must(t, err)
		check("losses", "training loss", []float32{float32(result.TrainLoss)}, losses[step-1:step])
		check("losses", "test loss", []float32{float32(result.TestLoss)}, losses[step+2:step+3])
		if step == 2 {
			continue
		}
		w, err := trainer.Weights()
		must(t, err)
		after := map[int]string{1: "step1", 3: "step3"}[step]
		for _, got := range w.Tensors {
			check(after, got.Name+" after "+after, got.Values, g.tensors[after+"."+got.Name].Values)
		}
	}
	n := len(trainer.layout.parameters)
	if want := n + 6 + 2*(n+len(trainer.layout.running)); compared != want {
		t.Errorf("%d tensors were compared, not %d", compared, want)
	}
	t.Logf("worst distances: %v", worst)
}
