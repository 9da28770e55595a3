package engine

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// TestTensorByTensor: from one state, every tensor that a step of the CPU back end makes is the reference's, on networks of all sorts.
// All tensors live, so nothing is skipped; the tolerance is the rounding of sums over N P Q adding like a random walk, through all layers.
// Gradients are compared where no ReLU is near its kink (a mask that flips by the last bit changes them by percents, in any two programs);
// masks near kinks are in the golden files and the cases of single ops.
func TestTensorByTensor(t *testing.T) {
	for _, isa := range []string{"avx512", "avx2", "portable"} {
		t.Run(isa, func(t *testing.T) {
			reference, cpu := open(t, "reference", ""), open(t, "cpu", isa)
			compared, worst := 0, 0.0
			for i := range 9 {
				n := randomNetwork(t, i)
				c := testConfig(n)
				set := blobs(n.Setting.Resolution, 1+2*(i%2), n.Setting.Classes, 32, 20)
				a := newTestTrainer(t, reference, c, load(t, reference, set), planOptions{allLive: true})
				b := newTestTrainer(t, cpu, c, load(t, cpu, set), planOptions{allLive: true})
				must(t, a.Initialize())
				state, err := a.readState()
				must(t, err)
				scatter(a, state)
				smooth := append([]byte(nil), state...)
				avoidKinks(a, smooth)
				tolerance := 16 * 0x1p-24 * math.Sqrt(float64(c.Recipe.Batch*n.Stem.P*n.Stem.Q))
				for _, m := range []mode{trainMode, statisticsMode, evaluateMode} {
					tolerance := tolerance
					if m == trainMode {
						// Batch norms subtract means of seven deviations there, and some channels hardly vary: rounding grows on the
						// way. A wrong term would be off by percents.
						tolerance = 3e-3
					}
					p, q := trainerProgram(t, a, m), trainerProgram(t, b, m)
					for _, trainer := range []*Trainer{a, b} {
						if m == trainMode {
							must(t, trainer.setState(smooth, 0, 0))
						} else {
							must(t, trainer.setState(state, 0, 0))
						}
						must(t, trainer.useTable(trainingStream))
						trainer.slots[slotFirstRow], trainer.slots[slotValid], trainer.slots[slotBNMomentum], trainer.slots[slotRate] = 0, 16, 0.1, 0.1
						if m == evaluateMode {
							trainer.slots[slotFirstRow], trainer.slots[slotValid] = 16, 4 // the last, partial batch
						}
						must(t, trainer.run(m))
					}
					for id, x := range p.tensors {
						if x.DType != bindings.F32 || x.Buffer == dataBuffer {
							continue
						}
						want, got := unpack(t, a, x), unpack(t, b, q.tensors[id])
						d := distance(got, want)
						if x.Layout == bindings.Plain && d > tolerance {
							d = farthest(got, want) // small sums of large terms: measured by the largest of them
						}
						compared++
						worst = max(worst, d)
						if !(d <= tolerance) {
							t.Errorf("network %d (%s, %s, %d pixels), %s: %s is off by %.2g, tolerance %.2g", i, n.Architecture, n.Setting.Stem, n.Setting.Resolution, m, x.name, d, tolerance)
						}
					}
				}
				a.Close()
				b.Close()
			}
			if compared < 1000 {
				t.Errorf("only %d tensors were compared", compared)
			}
			t.Logf("%d tensors, worst distance %.2g", compared, worst)
		})
	}
}

// avoidKinks gives every channel a ReLU that is always on or, for every fourth, always off: batch norm's output lies within 6 of beta.
func avoidKinks(trainer *Trainer, state []byte) {
	for _, e := range trainer.layout.parameters {
		if e.Kind != anynetx.BNGamma && e.Kind != anynetx.BNBeta {
			continue
		}
		values := float32s(state[e.offset:][:4*e.Count()])
		for i := range values {
			switch off := i%4 == 3; {
			case e.Kind == anynetx.BNGamma:
				values[i] = min(values[i], 0.9)
			case off && strings.Contains(e.Name, ".f.c_bn"):
				values[i] = -1000 // whatever the shortcut adds
			case off && !strings.HasSuffix(e.Name, "b1.bn.bias"):
				values[i] = -7
			default:
				values[i] = 7
			}
		}
		copy(state[e.offset:], bindings.Bytes(values))
	}
}

// trainerProgram lowers and plans again what a trainer of all live tensors runs.
func trainerProgram(t testing.TB, trainer *Trainer, m mode) *program {
	t.Helper()
	train, test := trainer.data.train, trainer.data.test
	placeSamples(&train, &test, trainer.config.Recipe.Batch)
	programs, bytes, err := lowerAll(trainer.ctx, trainer.config, trainer.layout, train, test, planOptions{allLive: true})
	must(t, err)
	if bytes != trainer.arena.Size() {
		t.Fatalf("the plan takes %d bytes the second time, %d the first", bytes, trainer.arena.Size())
	}
	return programs[m]
}

func unpack(t testing.TB, trainer *Trainer, x tensor) []float32 {
	t.Helper()
	values := make([]float32, x.Elements())
	must(t, trainer.ctx.Unpack(x.Tensor, []*bindings.Buffer{trainer.state, trainer.arena}[x.Buffer], values))
	return values
}

// farthest is the largest difference, by the largest of 1 and the values.
func farthest(got, want []float32) float64 {
	far, size := 0.0, 1.0
	for i, w := range want {
		d := math.Abs(float64(got[i]) - float64(w))
		if math.IsNaN(d) {
			return d
		}
		far, size = max(far, d), max(size, math.Abs(float64(w)))
	}
	return far / size
}

// TestSameBits: threads, and instruction sets of one device model, do not change a bit of a training.
func TestSameBits(t *testing.T) {
	library := open(t, "cpu", "").Library()
	states := map[string][]byte{}
	n := randomNetwork(t, 4)
	set := blobs(n.Setting.Resolution, 3, n.Setting.Classes, 64, 40)
	c := testConfig(n)
	c.Recipe.Batch = 32
	c.Epochs = 2
	runs := 0
	for _, isa := range []string{"avx512", "avx2", "portable"} {
		for _, threads := range []int{1, 2, 3, 16} {
			ctx, err := library.NewContext(bindings.ContextOptions{Threads: threads, ISA: isa})
			if err != nil {
				t.Logf("%s: %v", isa, err)
				break
			}
			state := finalState(t, ctx, c, load(t, ctx, set), planOptions{})
			model := ctx.Info().Model
			if before, ok := states[model]; ok && !bytes.Equal(before, state) {
				t.Errorf("%s with %d threads: the state differs from another of device model %s at byte %d", isa, threads, model, firstDifference(before, state))
			}
			states[model] = state
			runs++
			ctx.Close()
		}
	}
	if runs < 3 {
		t.Errorf("only %d trainings were compared", runs)
	}
	t.Logf("%d trainings on %d device models", runs, len(states))
}
