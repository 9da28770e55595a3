package engine

import (
	"bytes"
	"fmt"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/random"
)

// randomNetwork is a legal network of a few thousand to a million parameters.
func randomNetwork(t testing.TB, i int) *anynetx.Network {
	t.Helper()
	s := random.New(5, "network", i)
	var a anynetx.Architecture
	draw := func(k, n int) int { return int(s.Below(uint64(k), uint64(n))) }
	for j := range a {
		group := 1 + draw(10*j, 7)
		b := 1 << draw(10*j+1, 3)
		a[j] = anynetx.Stage{Depth: 1 + draw(10*j+2, 3), Width: group * (1 + draw(10*j+3, 4)) * b, Bottleneck: b, GroupWidth: group}
	}
	stems := []anynetx.Stem{anynetx.ResStemIN, anynetx.SimpleStemIN, anynetx.ResStemCifar}
	n, err := anynetx.Build(a, anynetx.Setting{Stem: stems[i%3], StemWidth: 4 + draw(50, 9), Strides: [4]int{1, 1 + draw(51, 2), 2, 1 + draw(52, 2)},
		Resolution: 8 + draw(53, 12), Classes: 2 + draw(54, 8)})
	must(t, err)
	return n
}

// overlap finds two tensors of a program that share memory while both live.
func overlap(p *program) error {
	for i := range p.tensors {
		a := &p.tensors[i]
		if a.fixed {
			continue
		}
		if a.bytes <= 0 || a.Offset%bindings.Alignment != 0 || a.Buffer != arenaBuffer {
			return fmt.Errorf("%s: %d bytes at %d of buffer %d", a.name, a.bytes, a.Offset, a.Buffer)
		}
		for j := range i {
			b := &p.tensors[j]
			if b.fixed || a.last < b.first || b.last < a.first {
				continue
			}
			if int64(a.Offset) < int64(b.Offset)+b.bytes && int64(b.Offset) < int64(a.Offset)+a.bytes {
				return fmt.Errorf("%s (ops %d to %d) and %s (%d to %d) share memory", a.name, a.first, a.last, b.name, b.first, b.last)
			}
		}
	}
	return nil
}

// lowered plans the three programs of a network.
func lowered(t testing.TB, ctx *bindings.Context, n *anynetx.Network, r Recipe, options planOptions) ([]*program, *layout, int64) {
	t.Helper()
	l := newLayout(n, "fp32", 0)
	train, test, _ := placeData(n.Setting.Resolution, n.Setting.Resolution, 3, 2*r.Batch, r.Batch)
	placeSamples(&train, &test, r.Batch)
	programs, bytes, err := lowerAll(ctx, Config{Network: n, Recipe: r, DType: "fp32"}, l, train, test, options)
	must(t, err)
	return programs, l, bytes
}

// TestPlanKeepsLivesApart on many networks, with the gradients' range untouched, nothing beyond the end, and a control.
func TestPlanKeepsLivesApart(t *testing.T) {
	ctx := open(t, "reference", "")
	for i := range 30 {
		n := randomNetwork(t, i)
		programs, l, bytes := lowered(t, ctx, n, testConfig(n).Recipe, planOptions{})
		for _, p := range programs {
			if err := overlap(p); err != nil {
				t.Fatalf("network %d, %s: %v", i, p.mode, err)
			}
			for _, v := range p.tensors {
				if !v.fixed && (int64(v.Offset) < 4*int64(l.values) || int64(v.Offset)+v.bytes > bytes) {
					t.Fatalf("network %d, %s: %s lies at %d to %d; gradients end at %d, the arena at %d", i, p.mode, v.name, v.Offset, int64(v.Offset)+v.bytes, 4*l.values, bytes)
				}
			}
		}
		// The control: stretch a life, and the overlap must be found.
		p := programs[trainMode]
		for j := range p.tensors {
			p.tensors[j].first, p.tensors[j].last = 0, len(p.ops)
		}
		if overlap(p) == nil {
			t.Fatalf("network %d: no memory is used twice, so this test shows nothing", i)
		}
	}
}

// TestPairsCanBeFused: what the first op of a pair that a back end may run as one touches is not overwritten by the second.
func TestPairsCanBeFused(t *testing.T) {
	ctx, pairs := open(t, "reference", ""), map[string]int{}
	for i := range 10 {
		programs, _, _ := lowered(t, ctx, randomNetwork(t, i), testConfig(randomNetwork(t, i)).Recipe, planOptions{})
		for _, p := range programs {
			for j := 0; j+1 < len(p.ops); j++ {
				first, behind := &p.ops[j], 1
				switch [2]bindings.OpKind{first.Kind, p.ops[j+1].Kind} {
				default:
					continue
				case [2]bindings.OpKind{bindings.PoolBwd, bindings.BNBwdCoef}: // the stem's backward stands behind both
					behind = 2
				case [2]bindings.OpKind{bindings.ConvBwd, bindings.JoinBwd}, [2]bindings.OpKind{bindings.JoinFwd, bindings.ConvFwd}, [2]bindings.OpKind{bindings.Input, bindings.ConvFwd}:
				}
				pairs[first.Kind.String()]++
				for _, second := range p.ops[j+1 : j+1+behind] {
					for _, id := range append(first.In[:], first.Out[:]...) {
						for _, to := range second.Out {
							if id < 0 || to < 0 || p.tensors[id].fixed || p.tensors[to].fixed {
								continue
							}
							if x, g := p.tensors[id], p.tensors[to]; g.Offset < x.Offset+uint64(x.bytes) && x.Offset < g.Offset+uint64(g.bytes) {
								t.Fatalf("network %d, %s: %s lies on %s", i, p.mode, g.name, x.name)
							}
						}
					}
				}
			}
		}
	}
	if len(pairs) < 4 || pairs[bindings.ConvBwd.String()] < 10 || pairs[bindings.Input.String()] != 30 {
		t.Errorf("only these pairs: %v", pairs)
	}
}

// TestProgramsAreWhole: every tensor an op reads was written before in the step (or is given), the training program writes each gradient
// once, and the statistics program ends with the last batch norm.
func TestProgramsAreWhole(t *testing.T) {
	ctx := open(t, "reference", "")
	for i := range 30 {
		n := randomNetwork(t, i)
		r := testConfig(n).Recipe
		if i%2 == 1 {
			r.BNWeightDecay = new(float64)
		}
		programs, l, _ := lowered(t, ctx, n, r, planOptions{})
		for _, p := range programs {
			written := map[int32]int{}
			for j, op := range p.ops {
				for _, id := range op.In {
					if id >= 0 && !p.tensors[id].fixed && written[id] == 0 {
						t.Fatalf("network %d, %s, op %d (%s) reads %s before it is written", i, p.mode, j, op.Kind, p.tensors[id].name)
					}
				}
				for _, id := range op.Out {
					if id >= 0 {
						written[id]++
					}
				}
			}
			gradients := map[string]int{}
			for id, times := range written {
				if v := p.tensors[id]; v.fixed && v.Buffer == arenaBuffer {
					gradients[v.name] += times
				}
			}
			switch p.mode {
			case trainMode:
				for _, e := range l.parameters {
					if gradients["d "+e.Name] != 1 {
						t.Fatalf("network %d: the gradient of %s is written %d times", i, e.Name, gradients["d "+e.Name])
					}
				}
				want := 1 + i%2
				if got := len(p.ops); p.ops[got-1].Kind != bindings.SGD || (p.ops[got-2].Kind == bindings.SGD) != (want == 2) {
					t.Fatalf("network %d: the training program should end with %d sgd", i, want)
				}
			case statisticsMode:
				if len(gradients) != 0 || p.ops[len(p.ops)-1].Kind != bindings.BNFwdCoef {
					t.Fatalf("network %d: the statistics program ends with %s and writes %d gradients", i, p.ops[len(p.ops)-1].Kind, len(gradients))
				}
			case evaluateMode:
				if len(gradients) != 0 || p.ops[len(p.ops)-1].Kind != bindings.Xent {
					t.Fatalf("network %d: the evaluation program ends with %s and writes %d gradients", i, p.ops[len(p.ops)-1].Kind, len(gradients))
				}
			}
		}
	}
}

// finalState is the state after training for some epochs.
func finalState(t testing.TB, ctx *bindings.Context, c Config, d *Data, options planOptions) []byte {
	t.Helper()
	trainer := newTestTrainer(t, ctx, c, d, options)
	must(t, trainer.Initialize())
	runEpochs(t, trainer, c.Epochs)
	state, err := trainer.readState()
	must(t, err)
	trainer.Close()
	return state
}

// TestPlannedIsAllLive: sharing memory and transient tensors change no bit. (Where the cpu back end runs two ops as one, which it does from 40 channels on,
// sums are added in another order; these networks have fewer.)
func TestPlannedIsAllLive(t *testing.T) {
	backends(t, func(t *testing.T, ctx *bindings.Context) {
		for i := range 4 {
			n := randomNetwork(t, i)
			set := blobs(n.Setting.Resolution, 1+2*(i%2), n.Setting.Classes, 40, 20)
			d := load(t, ctx, set)
			c := testConfig(n)
			c.Epochs = 2
			planned, live := finalState(t, ctx, c, d, planOptions{}), finalState(t, ctx, c, d, planOptions{allLive: true})
			if !bytes.Equal(planned, live) {
				t.Errorf("network %d (%s): planned and all-live states differ, first at byte %d", i, n.Architecture, firstDifference(planned, live))
			}
			c.Seed++
			if bytes.Equal(planned, finalState(t, ctx, c, d, planOptions{})) {
				t.Errorf("network %d: another seed gives the same state, so this test shows nothing", i)
			}
			d.Close()
		}
	})
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// TestPlanMemory is what a trainer takes, and far less than all-live.
func TestPlanMemory(t *testing.T) {
	ctx := open(t, "reference", "")
	c := testConfig(tiny(t, anynetx.ResStemIN, 24, 4))
	told, err := PlanMemory(ctx, c)
	must(t, err)
	d := load(t, ctx, blobs(24, 3, 4, 64, 50))
	trainer := newTestTrainer(t, ctx, c, d, planOptions{})
	if got := trainer.Memory(); got != told || got.StateBytes != trainer.state.Size() || got.ArenaBytes != trainer.arena.Size() {
		t.Errorf("PlanMemory says %+v, the trainer %+v, its buffers have %d and %d bytes", told, got, trainer.state.Size(), trainer.arena.Size())
	}

	// The network of the RegNetX-400MF at 224 pixels: planning is quick, and memory is shared.
	big, err := anynetx.Build(anynetx.Architecture{
		{Depth: 1, Width: 32, Bottleneck: 1, GroupWidth: 16}, {Depth: 2, Width: 64, Bottleneck: 1, GroupWidth: 16},
		{Depth: 7, Width: 160, Bottleneck: 1, GroupWidth: 16}, {Depth: 12, Width: 384, Bottleneck: 1, GroupWidth: 16}},
		anynetx.Setting{Stem: anynetx.SimpleStemIN, StemWidth: 32, Strides: [4]int{2, 2, 2, 2}, Resolution: 224, Classes: 1000})
	must(t, err)
	r := DefaultRecipe()
	programs, _, planned := lowered(t, ctx, big, r, planOptions{})
	_, _, live := lowered(t, ctx, big, r, planOptions{allLive: true})
	for _, p := range programs {
		must(t, overlap(p))
	}
	// No plan can be smaller than what lives at one op.
	bound := int64(0)
	p := programs[trainMode]
	for op := range p.ops {
		sum := int64(0)
		for _, v := range p.tensors {
			if !v.fixed && v.first <= op && op <= v.last {
				sum += v.bytes
			}
		}
		bound = max(bound, sum)
	}
	t.Logf("RegNetX-400MF, batch 128: planned %.1f MB, lower bound %.1f MB, all live %.1f MB", float64(planned)/1e6, float64(bound)/1e6, float64(live)/1e6)
	if planned > bound+bound/10 || planned > live {
		t.Errorf("the plan takes %d bytes; %d live at once, %d all live", planned, bound, live)
	}
}
