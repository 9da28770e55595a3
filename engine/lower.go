package engine

import (
	"anynetx/anynetx"
	"anynetx/bindings"
)

// mode is what a program is for; all three share one state.
type mode int

const (
	trainMode      mode = iota // forward, backward, SGD
	statisticsMode             // forward in training mode as far as the last batch norm: moves running statistics
	evaluateMode               // forward from running statistics, loss and counters
)

var modes = [...]mode{trainMode, statisticsMode, evaluateMode}

func (m mode) String() string { return [...]string{"train", "statistics", "evaluate"}[m] }

// The slots of every program.
const (
	slotFirstRow   = iota // first row of the batch in the sample table
	slotBNMomentum        // share of this batch in the running statistics
	slotValid             // rows of the batch that count
	slotRate              // learning rate
	slots
)

// tensor is a numbered tensor of a program, with what the plan needs.
type tensor struct {
	bindings.Tensor
	name        string
	fixed       bool // its offset is given (state, data, gradients), not planned
	perClass    bool // its channels are the classes
	first, last int  // ops that write it first and touch it last, once lowered
	bytes       int64
}

// program is a lowered network before its arena is planned.
type program struct {
	mode    mode
	tensors []tensor
	ops     []bindings.Op
}

// source is where a program's images come from: tensors of the data and sample buffers.
type source struct{ images, labels, samples, norm bindings.Tensor }

// lowering builds a program. -1 is a tensor that is absent.
type lowering struct {
	program
	layout *layout
	recipe Recipe
	dtype  bindings.DType
	batch  int32
}

// normalised is a convolution's raw output with the coefficients of the batch norm behind it.
type normalised struct {
	conv                         *anynetx.Conv
	y, mean, invstd, s, t, gamma int32
	backwardSums                 int32 // of the gradient behind the batch norm, once an op has made them
}

// lower turns a network into the ops of one step. It is the only lowering: every mode is a part of the training step.
func lower(c Config, l *layout, src source, m mode) *program {
	n, r := c.Network, c.Recipe
	b := &lowering{program: program{mode: m}, layout: l, recipe: r, dtype: dtypes[c.DType], batch: int32(r.Batch)}
	size := int32(n.Setting.Resolution)
	image := b.activation("image", size, size, 3)
	labels := b.arena("labels", bindings.I32, 1, b.batch)
	input := bindings.NewOp(bindings.Input)
	input.N, input.H, input.W, input.C = b.batch, size, size, 3
	input.Slot[0] = slotFirstRow
	b.add(input,
		[]int32{b.given("images", src.images), b.given("set labels", src.labels), b.given("samples", src.samples), b.given("norm", src.norm)},
		[]int32{image, labels})

	stem := b.convBN(&n.Stem, image, nil)
	var x int32
	if n.Pool != nil {
		x = b.activation("stem.pool", int32(n.Pool.P), int32(n.Pool.Q), int32(n.Pool.C))
		b.add(b.poolOp(bindings.PoolFwd, n.Pool), []int32{stem.y, stem.s, stem.t}, []int32{x})
	} else {
		x = b.join("stem.relu", stem, -1, nil)
	}
	stemOutput := x
	type tape struct {
		block *anynetx.Block
		x, y  int32
		a, b  *normalised
		c, p  *normalised
	}
	var blocks []tape
	for i := range n.Blocks {
		k := &n.Blocks[i]
		t := tape{block: k, x: x}
		t.a = b.convBN(&k.A, x, nil)
		t.b = b.convBN(&k.B, t.a.y, t.a)
		t.c = b.convBN(&k.C, t.b.y, t.b)
		if k.Proj != nil {
			t.p = b.convBN(k.Proj, x, nil)
		}
		if m == statisticsMode && i == len(n.Blocks)-1 {
			return b.finish()
		}
		if t.p != nil {
			t.y = b.join(k.Name+".relu", t.c, t.p.y, t.p)
		} else {
			t.y = b.join(k.Name+".relu", t.c, x, nil)
		}
		blocks = append(blocks, t)
		x = t.y
	}

	last := &n.Blocks[len(n.Blocks)-1].C
	width, classes := int32(last.K), int32(n.Head.K)
	pooled := b.activation("pooled", 1, 1, width)
	gap := bindings.NewOp(bindings.GapFwd)
	gap.N, gap.H, gap.W, gap.C, gap.P, gap.Q, gap.K = b.batch, int32(last.P), int32(last.Q), width, 1, 1, width
	b.add(gap, []int32{x}, []int32{pooled})
	scores := func(name string) int32 {
		id := b.activation(name, 1, 1, classes)
		b.tensors[id].perClass = true
		return id
	}
	logits := scores("logits")
	weight := b.state(n.Head.Name+".weight", 0, classes, 1, 1, width)
	b.add(convOp(bindings.ConvFwd, b.batch, &n.Head), []int32{pooled, -1, -1, weight, b.vector(n.Head.Name+".bias", n.Head.K)}, []int32{logits})
	xent := bindings.NewOp(bindings.Xent)
	xent.N, xent.H, xent.W, xent.C = b.batch, 1, 1, classes
	if m == trainMode { // test losses are plain, so that recipes compare
		xent.F[0] = float32(r.LabelSmoothing)
	}
	xent.Slot[0] = slotValid
	if m == evaluateMode {
		b.add(xent, []int32{logits, labels}, []int32{b.counters("test counters", l.testing)})
		return b.finish()
	}
	counters := b.counters("counters", l.training)
	dlogits := scores("d logits")
	scale := b.lossScale()
	b.add(xent, []int32{logits, labels, scale}, []int32{counters, dlogits})

	// Backward. dx is the gradient at the output of the block in turn; behind the last block it is the pooled one, spread over the map.
	dx := b.convBackward(&n.Head, gradient{g: dlogits, al: -1, be: -1, de: -1}, nil, pooled, nil, -1, true)
	flags := bindings.Broadcast
	for i := len(blocks) - 1; i >= 0; i-- {
		t := &blocks[i]
		g := b.joinBackward(t.block.Name, dx, flags, t.y, t.c, t.p)
		flags = 0
		gb := b.convBackward(t.c.conv, b.bnBackward(t.c, g), t.c, t.b.y, t.b, -1, true)
		ga := b.convBackward(t.b.conv, b.bnBackward(t.b, gb), t.b, t.a.y, t.a, -1, true)
		shortcut := g
		if t.p != nil {
			shortcut = b.convBackward(t.p.conv, b.bnBackward(t.p, g), t.p, t.x, nil, -1, true)
		}
		dx = b.convBackward(t.a.conv, b.bnBackward(t.a, ga), t.a, t.x, nil, shortcut, true)
	}
	var g int32
	if n.Pool != nil {
		g = b.activation("g "+n.Stem.Name, int32(n.Stem.P), int32(n.Stem.Q), int32(n.Stem.K))
		stem.backwardSums = b.sums("backward "+n.Stem.BN, n.Stem.K)
		b.add(b.poolOp(bindings.PoolBwd, n.Pool), []int32{dx, stem.y, stem.s, stem.t, stem.mean}, []int32{g, stem.backwardSums})
	} else {
		g = b.joinBackward("stem", dx, 0, stemOutput, stem, nil)
	}
	b.convBackward(&n.Stem, b.bnBackward(stem, g), stem, image, nil, -1, false)

	b.moveLossScale(scale, counters)
	if r.batchNormDecay() == r.WeightDecay {
		b.sgd(0, l.values, r.WeightDecay, scale, counters)
	} else {
		b.sgd(0, l.decayed, r.WeightDecay, scale, counters)
		b.sgd(l.decayed, l.values, r.batchNormDecay(), scale, counters)
	}
	return b.finish()
}
