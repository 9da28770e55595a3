package engine

import (
	"fmt"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// add appends an op with its tensors; what is not named stays absent.
func (b *lowering) add(op bindings.Op, in, out []int32) {
	copy(op.In[:], in)
	copy(op.Out[:], out)
	op.DType = b.dtype
	b.ops = append(b.ops, op)
}

func (b *lowering) tensor(t tensor) int32 {
	b.tensors = append(b.tensors, t)
	return int32(len(b.tensors) - 1)
}

// activation is an arena tensor of the batch in the back end's layout.
func (b *lowering) activation(name string, h, w, c int32) int32 {
	return b.tensor(tensor{name: name, Tensor: bindings.Tensor{Layout: bindings.Activation, DType: b.dtype, N: b.batch, H: h, W: w, C: c, Buffer: arenaBuffer}})
}

// arena is a plain [n][c] tensor of the arena.
func (b *lowering) arena(name string, dtype bindings.DType, n, c int32) int32 {
	return b.tensor(tensor{name: name, Tensor: bindings.Tensor{DType: dtype, N: n, H: 1, W: 1, C: c, Buffer: arenaBuffer}})
}

func (b *lowering) sums(name string, c int) int32 {
	return b.arena("sums "+name, bindings.F64, 2, int32(c))
}

// given is a tensor that lies where it lies.
func (b *lowering) given(name string, t bindings.Tensor) int32 {
	return b.tensor(tensor{name: name, Tensor: t, fixed: true})
}

// state is a named parameter or running statistic, or its neighbour in the momentum's or gradients' range.
func (b *lowering) state(name string, base int64, n, h, w, c int32) int32 {
	return b.given(name, bindings.Tensor{N: n, H: h, W: w, C: c, Buffer: stateBuffer, Offset: uint64(base + b.layout.byName[name])})
}

func (b *lowering) vector(name string, c int) int32 {
	return b.state(name, 0, 1, 1, 1, int32(c))
}

// gradientOf is the place of a parameter's gradient, in the flat range that sgd reads: hence never transient.
func (b *lowering) gradientOf(name string, n, h, w, c int32) int32 {
	return b.given("d "+name, bindings.Tensor{N: n, H: h, W: w, C: c, Buffer: arenaBuffer, Offset: uint64(b.layout.byName[name])})
}

func (b *lowering) counters(name string, offset int64) int32 {
	return b.given(name, bindings.Tensor{DType: bindings.F64, N: 1, H: 1, W: 1, C: bindings.Counters, Buffer: stateBuffer, Offset: uint64(offset)})
}

func convOp(kind bindings.OpKind, batch int32, c *anynetx.Conv) bindings.Op {
	op := bindings.NewOp(kind)
	op.N, op.H, op.W, op.C = batch, int32(c.H), int32(c.W), int32(c.C)
	op.P, op.Q, op.K = int32(c.P), int32(c.Q), int32(c.K)
	op.R, op.Stride, op.Group = int32(c.R), int32(c.Stride), int32(c.GroupWidth)
	return op
}

func (b *lowering) poolOp(kind bindings.OpKind, p *anynetx.Pool) bindings.Op {
	op := bindings.NewOp(kind)
	op.N, op.H, op.W, op.C, op.P, op.Q, op.K, op.R, op.Stride = b.batch, int32(p.H), int32(p.W), int32(p.C), int32(p.P), int32(p.Q), int32(p.C), 3, 2
	return op
}

// mapOp is an op over the output map of a convolution.
func (b *lowering) mapOp(kind bindings.OpKind, c *anynetx.Conv) bindings.Op {
	op := bindings.NewOp(kind)
	op.N, op.H, op.W, op.C = b.batch, int32(c.P), int32(c.Q), int32(c.K)
	op.P, op.Q, op.K = op.H, op.W, op.C
	return op
}

// convBN is a convolution of x, or of act(x) where a batch norm stands before it, and the coefficients of the batch norm behind.
func (b *lowering) convBN(c *anynetx.Conv, x int32, before *normalised) *normalised {
	k := int32(c.K)
	n := &normalised{conv: c, backwardSums: -1}
	n.y = b.activation(c.Name, int32(c.P), int32(c.Q), k)
	sums := int32(-1)
	if b.mode != evaluateMode {
		sums = b.sums(c.BN, c.K)
	}
	in := []int32{x, -1, -1, b.state(c.Name+".weight", 0, k, int32(c.R), int32(c.R), int32(c.GroupWidth))}
	if before != nil {
		in[1], in[2] = before.s, before.t
	}
	b.add(convOp(bindings.ConvFwd, b.batch, c), in, []int32{n.y, sums})

	n.gamma = b.vector(c.BN+".weight", c.K)
	mean, variance := b.vector(c.BN+".running_mean", c.K), b.vector(c.BN+".running_var", c.K)
	for _, v := range []struct {
		id   *int32
		name string
	}{{&n.mean, "mean "}, {&n.invstd, "invstd "}, {&n.s, "s "}, {&n.t, "t "}} {
		*v.id = b.arena(v.name+c.BN, bindings.F32, 1, k)
	}
	op := b.mapOp(bindings.BNFwdCoef, c)
	op.F[0] = float32(b.recipe.BNEpsilon)
	out := []int32{n.mean, n.invstd, n.s, n.t}
	if b.mode != evaluateMode {
		op.Flags = bindings.Train
		op.Slot[0] = slotBNMomentum
		out = append(out, mean, variance)
	}
	b.add(op, []int32{sums, n.gamma, b.vector(c.BN+".bias", c.K), mean, variance}, out)
	return n
}

// join is ReLU(c + x): x is absent (-1), a map, or the output of a projection p.
func (b *lowering) join(name string, c *normalised, x int32, p *normalised) int32 {
	y := b.activation(name, int32(c.conv.P), int32(c.conv.Q), int32(c.conv.K))
	in := []int32{c.y, c.s, c.t, x, -1, -1}
	if p != nil {
		in[4], in[5] = p.s, p.t
	}
	b.add(b.mapOp(bindings.JoinFwd, c.conv), in, []int32{y})
	return y
}

// gradient is a masked gradient at a batch norm's output with the coefficients that carry it through (-1 where there is no batch norm).
type gradient struct{ g, al, be, de int32 }

// bnBackward makes the gradients of gamma and beta and the coefficients, from the sums that the op behind n has left.
func (b *lowering) bnBackward(n *normalised, g int32) gradient {
	bn, k := n.conv.BN, int32(n.conv.K)
	result := gradient{g: g}
	for _, v := range []struct {
		id   *int32
		name string
	}{{&result.al, "al "}, {&result.be, "be "}, {&result.de, "de "}} {
		*v.id = b.arena(v.name+bn, bindings.F32, 1, k)
	}
	b.add(b.mapOp(bindings.BNBwdCoef, n.conv), []int32{n.backwardSums, n.mean, n.invstd, n.gamma},
		[]int32{b.gradientOf(bn+".weight", 1, 1, 1, k), b.gradientOf(bn+".bias", 1, 1, 1, k), result.al, result.be, result.de})
	return result
}

// convBackward makes the gradients of a convolution's weight (and bias) and, if wanted, of its input x, to which add is added.
// behind is its own batch norm, before the one whose activation it reads; the gradient is then masked and leaves before's sums.
func (b *lowering) convBackward(c *anynetx.Conv, g gradient, behind *normalised, x int32, before *normalised, add int32, wanted bool) int32 {
	k, width := int32(c.K), int32(c.GroupWidth)
	in := []int32{g.g, -1, g.al, g.be, g.de, x, -1, -1, -1, b.state(c.Name+".weight", 0, k, int32(c.R), int32(c.R), width), add}
	out := []int32{-1, b.gradientOf(c.Name+".weight", k, int32(c.R), int32(c.R), width), -1, -1}
	if behind != nil {
		in[1] = behind.y
	}
	if wanted {
		out[0] = b.activation("d input of "+c.Name, int32(c.H), int32(c.W), int32(c.C))
	}
	if c.Bias {
		out[2] = b.gradientOf(c.Name+".bias", 1, 1, 1, k)
	}
	if before != nil {
		in[6], in[7], in[8] = before.s, before.t, before.mean
		before.backwardSums = b.sums("backward "+before.conv.BN, c.C)
		out[3] = before.backwardSums
	}
	b.add(convOp(bindings.ConvBwd, b.batch, c), in, out)
	return out[0]
}

// joinBackward masks dx by y > 0 and leaves the sums of c and of the projection p.
func (b *lowering) joinBackward(name string, dx int32, flags uint32, y int32, c, p *normalised) int32 {
	g := b.activation("g "+name, int32(c.conv.P), int32(c.conv.Q), int32(c.conv.K))
	op := b.mapOp(bindings.JoinBwd, c.conv)
	op.Flags = flags
	c.backwardSums = b.sums("backward "+c.conv.BN, c.conv.K)
	in, out := []int32{dx, y, c.y, c.mean, -1, -1}, []int32{g, c.backwardSums, -1}
	if p != nil {
		p.backwardSums = b.sums("backward "+p.conv.BN, p.conv.K)
		in[4], in[5], out[2] = p.y, p.mean, p.backwardSums
	}
	b.add(op, in, out)
	return g
}

// lossScale is the scale of an fp16 run, which has its place in the state; -1 in other runs.
func (b *lowering) lossScale() int32 {
	if b.layout.lossScale == 0 {
		return -1
	}
	return b.given("loss scale", bindings.Tensor{N: 1, H: 1, W: 1, C: bindings.Scales, Buffer: stateBuffer, Offset: uint64(b.layout.lossScale)})
}

// moveLossScale looks at all gradients of the step.
func (b *lowering) moveLossScale(scale, counters int32) {
	if scale < 0 {
		return
	}
	op := bindings.NewOp(bindings.LossScale)
	op.N, op.H, op.W, op.C = 1, 1, 1, int32(b.layout.values)
	op.F = [2]float32{scaleSteps, largestScale}
	b.add(op, []int32{b.given("all gradients", bindings.Tensor{N: 1, H: 1, W: 1, C: op.C, Buffer: arenaBuffer})}, []int32{scale, counters})
}

// sgd updates the values first to end of the flat range.
func (b *lowering) sgd(first, end int, decay float64, scale, counters int32) {
	op := bindings.NewOp(bindings.SGD)
	op.N, op.H, op.W, op.C = 1, 1, 1, int32(end-first)
	if b.recipe.Nesterov {
		op.Flags = bindings.Nesterov
	}
	op.F = [2]float32{float32(b.recipe.Momentum), float32(decay)}
	op.Slot[0] = slotRate
	flat := func(name string, buffer int32, base int64) int32 {
		return b.given(name, bindings.Tensor{N: 1, H: 1, W: 1, C: op.C, Buffer: buffer, Offset: uint64(base + 4*int64(first))})
	}
	b.add(op, []int32{flat("gradients", arenaBuffer, 0), scale},
		[]int32{flat("weights", stateBuffer, 0), flat("momentum", stateBuffer, b.layout.momentum), counters})
}

// finish works out lifetimes: of every tensor, the first and the last op that touches it. A back end may run as one an input gradient with
// the end of the block before, the end of a block with the convolution behind it, or the input with the stem: what the first of the two
// touches lives until the second. The backward pass of the max-pool may also be made in the stem's, two ops further.
func (b *lowering) finish() *program {
	for i := range b.tensors {
		b.tensors[i].first = -1
	}
	touch := func(op int, id int32) {
		if id < 0 {
			return
		}
		t := &b.tensors[id]
		if t.first < 0 {
			t.first = op
		}
		t.last = max(t.last, op)
	}
	for i := range b.ops {
		last := i
		if i+1 < len(b.ops) {
			switch [2]bindings.OpKind{b.ops[i].Kind, b.ops[i+1].Kind} {
			case [2]bindings.OpKind{bindings.ConvBwd, bindings.JoinBwd}, [2]bindings.OpKind{bindings.JoinFwd, bindings.ConvFwd}, [2]bindings.OpKind{bindings.Input, bindings.ConvFwd}:
				last++
			}
			if b.ops[i].Kind == bindings.PoolBwd {
				last += 2
			}
		}
		for _, id := range b.ops[i].In {
			touch(last, id)
		}
		for _, id := range b.ops[i].Out {
			touch(i, id)
			touch(last, id)
		}
	}
	for i, t := range b.tensors {
		if t.first < 0 {
			panic(fmt.Sprintf("engine: no op of the %s program uses tensor %d, %s", b.mode, i, t.name))
		}
	}
	return &b.program
}
