package anynetx

import (
	"math"
	"strings"
	"testing"

	"anynetx/random"
)

func TestParametersAreTheScripts(t *testing.T) {
	var file struct {
		Stages      goldenStages
		Setting     Setting
		State       [][2]any
		InitialSeed uint64 `json:"initial_seed"`
		Initial     map[string][]float64
	}
	golden(t, "parameters.json", &file)
	n := build(t, file.Stages.architecture(), file.Setting)
	want := map[string][4]int{}
	var order []string
	for _, entry := range file.State {
		var shape [4]int
		for i, v := range entry[1].([]any) {
			shape[i] = int(v.(float64))
		}
		name := entry[0].(string)
		want[name], order = shape, append(order, name)
	}
	var trained []string
	for _, name := range order {
		if !strings.Contains(name, ".running_") {
			trained = append(trained, name)
		}
	}
	parameters := n.Parameters()
	if len(parameters) != len(trained) || len(trained) == 0 {
		t.Fatalf("%d parameters, the script has %d", len(parameters), len(trained))
	}
	for i, p := range parameters {
		if p.Name != trained[i] || p.Shape != want[p.Name] {
			t.Errorf("parameter %d is %s %v, the script has %s %v", i, p.Name, p.Shape, trained[i], want[trained[i]])
		}
	}
	statistics := n.RunningStatistics()
	if len(statistics)+len(trained) != len(order) {
		t.Errorf("%d running statistics, the script has %d", len(statistics), len(order)-len(trained))
	}
	for _, p := range statistics {
		if shape, known := want[p.Name]; !known || p.Shape != shape {
			t.Errorf("running statistic %s %v, the script has %v", p.Name, p.Shape, shape)
		}
	}
	for _, p := range parameters {
		for i, v := range file.Initial[p.Name] {
			dst := make([]float32, p.Count())
			p.Fill(dst, random.New(file.InitialSeed, "init"), false)
			if math.Abs(float64(dst[i])-v) > 1e-6*math.Abs(v) {
				t.Errorf("%s starts with %g at %d, the script has %g", p.Name, dst[i], i, v)
			}
			delete(want, p.Name)
		}
	}
	if len(order)-len(want) != len(file.Initial) || len(file.Initial) < 3 {
		t.Errorf("%d of %d initial values were compared", len(order)-len(want), len(file.Initial))
	}
}

func TestInitialLaws(t *testing.T) {
	n := build(t, Architecture{{1, 64, 1, 8}, {2, 128, 2, 16}, {1, 256, 4, 64}, {1, 512, 1, 32}}, DefaultSetting())
	stream := random.New(1, "init test")
	blocks, zero := 0, 0
	for _, p := range append(n.Parameters(), n.RunningStatistics()...) {
		if decays := p.Kind == ConvWeight || p.Kind == FCWeight || p.Kind == FCBias; p.Decay != decays {
			t.Errorf("%s, %v: decay %v", p.Name, p.Kind, p.Decay)
		}
		dst := make([]float32, p.Count())
		p.Fill(dst, stream, true)
		mean, square := 0.0, 0.0
		for _, v := range dst {
			mean += float64(v) / float64(len(dst))
			square += float64(v) * float64(v) / float64(len(dst))
		}
		constant := func(want float32) {
			for i, v := range dst {
				if v != want {
					t.Fatalf("%s, %v: value %d is %g, want %g", p.Name, p.Kind, i, v, want)
				}
			}
		}
		var deviation float64
		switch p.Kind {
		case ConvWeight: // He: sqrt(2 / fan-out)
			deviation = math.Sqrt(2 / float64(p.Shape[0]*p.Shape[1]*p.Shape[2]))
		case FCWeight:
			deviation = 0.01
		case BNGamma:
			last := strings.HasSuffix(p.Name, ".f.c_bn.weight")
			if last != p.LastGamma {
				t.Errorf("%s: last gamma %v", p.Name, p.LastGamma)
			}
			if last {
				blocks++
				constant(0)
				p.Fill(dst, stream, false)
			}
			constant(1)
		case RunningVariance:
			constant(1)
		default:
			zero++
			constant(0)
		}
		count := float64(len(dst))
		if deviation > 0 && (math.Abs(mean) > 5*deviation/math.Sqrt(count) || math.Abs(square/deviation/deviation-1) > 5*math.Sqrt(2/count)) {
			t.Errorf("%s: mean %g, deviation %g of %d values, want 0, %g", p.Name, mean, math.Sqrt(square), len(dst), deviation)
		}
	}
	if blocks != 5 || zero == 0 {
		t.Errorf("%d last gammas in 5 blocks, %d zero vectors", blocks, zero)
	}
}

func TestParametersDifferByNameAndStream(t *testing.T) {
	p := Parameter{Name: "s1.b1.f.a.weight", Shape: [4]int{8, 1, 1, 8}, Kind: ConvWeight}
	q := p
	q.Name = "s1.b2.f.a.weight"
	a, b, c, again := make([]float32, 64), make([]float32, 64), make([]float32, 64), make([]float32, 64)
	p.Fill(a, random.New(1, "x"), false)
	q.Fill(b, random.New(1, "x"), false)
	p.Fill(c, random.New(2, "x"), false)
	p.Fill(again, random.New(1, "x"), true)
	for i := range a {
		if a[i] == b[i] || a[i] == c[i] || a[i] != again[i] {
			t.Fatalf("value %d: %g, under another name %g, of another stream %g, again %g", i, a[i], b[i], c[i], again[i])
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a slice of the wrong length is filled")
		}
	}()
	p.Fill(a[:63], random.New(1, "x"), false)
}
