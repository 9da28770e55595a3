package conformance

import (
	"fmt"

	"anynetx/bindings"
)

// network is a program of every op but input and sgd: a stem with or without pooling, one residual block with or without a projection,
// head and loss, forward and backward.
type network struct {
	*builder
	transient bool
	n         int
}

// stage is a convolution with the batch norm behind it.
type stage struct {
	shape              convShape
	w, y, gamma, beta  int32
	mean, invstd, s, t int32
	sums               int32 // of the gradient behind the batch norm
	x                  int32
	before             *stage // whose activation it reads
	names              string
}

// between is a tensor that only ops write and read; in a live program it is compared too.
func (b *network) between(name string, t bindings.Tensor) int32 {
	if b.transient {
		t.Flags = bindings.Transient
		return b.add(Tensor{Name: name, Tensor: t, Private: true})
	}
	return b.result(name, t)
}

// result is a tensor that is compared. Every op before it adds its rounding, and a batch norm cancels: as if it summed thousands.
func (b *network) result(name string, t bindings.Tensor) int32 { return b.output(name, t, 4096) }

func (b *network) conv(name string, shape convShape, x int32, before *stage) *stage {
	l := &stage{shape: shape, x: x, before: before, names: name}
	l.w = b.convW(shape)
	b.Tensors[l.w].Name = name + ".weight"
	l.y = b.between(name, activationTensor(shape.n, shape.p(), shape.q(), shape.k))
	sums := b.between(name+" sums", plain(bindings.F64, 2, shape.k))
	in := []int32{x, -1, -1, l.w}
	if before != nil {
		in[1], in[2] = before.s, before.t
	}
	b.op(shape.op(bindings.ConvFwd), in, []int32{l.y, sums})

	l.gamma, l.beta = b.vector(name+".gamma", b.uniform(shape.k, 0.5, 1.5)), b.vector(name+".beta", b.normal(shape.k, 0.3))
	running := []int32{b.updated(b.vector(name+" running mean", make([]float32, shape.k)), 4096), b.updated(b.vector(name+" running variance", b.uniform(shape.k, 1, 1)), 4096)}
	for _, v := range []struct {
		id   *int32
		name string
	}{{&l.mean, " mean"}, {&l.invstd, " invstd"}, {&l.s, " s"}, {&l.t, " t"}} {
		*v.id = b.between(name+v.name, plain(bindings.F32, 1, shape.k))
	}
	op := mapOp(bindings.BNFwdCoef, shape.n, shape.p(), shape.q(), shape.k)
	op.Flags, op.F[0], op.Slot[0] = bindings.Train, 1e-5, 0
	b.op(op, []int32{sums, l.gamma, l.beta, running[0], running[1]}, []int32{l.mean, l.invstd, l.s, l.t, running[0], running[1]})
	return l
}

// back is the backward of a stage from the masked gradient g; it returns the gradient at its input, or -1 if not wanted.
func (b *network) back(l *stage, g, add int32, wanted bool) int32 {
	s := l.shape
	vector := plain(bindings.F32, 1, s.k)
	coefficients := []int32{b.result("d "+l.names+".gamma", vector), b.result("d "+l.names+".beta", vector), b.between(l.names+" al", vector), b.between(l.names+" be", vector), b.between(l.names+" de", vector)}
	b.op(mapOp(bindings.BNBwdCoef, s.n, s.p(), s.q(), s.k), []int32{l.sums, l.mean, l.invstd, l.gamma}, coefficients)
	in := []int32{g, l.y, coefficients[2], coefficients[3], coefficients[4], l.x, -1, -1, -1, l.w, add}
	out := []int32{-1, b.result("d "+l.names+".weight", b.Tensors[l.w].Tensor), -1, -1}
	if wanted {
		out[0] = b.between("d input of "+l.names, activationTensor(s.n, s.h, s.w, s.c))
	}
	if l.before != nil {
		in[6], in[7], in[8] = l.before.s, l.before.t, l.before.mean
		l.before.sums = b.between(l.before.names+" backward sums", plain(bindings.F64, 2, s.c))
		out[3] = l.before.sums
	}
	b.op(s.op(bindings.ConvBwd), in, out)
	return out[0]
}

func (b *network) join(c *stage, x int32, p *stage) int32 {
	s := c.shape
	y := b.between(c.names+" joined", activationTensor(s.n, s.p(), s.q(), s.k))
	in := []int32{c.y, c.s, c.t, x, -1, -1}
	if p != nil {
		in[3], in[4], in[5] = p.y, p.s, p.t
	}
	b.op(mapOp(bindings.JoinFwd, s.n, s.p(), s.q(), s.k), in, []int32{y})
	return y
}

func (b *network) joinBack(dx int32, flags uint32, y int32, c, p *stage) int32 {
	s := c.shape
	sums := plain(bindings.F64, 2, s.k)
	g := b.between("g "+c.names, activationTensor(s.n, s.p(), s.q(), s.k))
	c.sums = b.between(c.names+" backward sums", sums)
	in, out := []int32{dx, y, c.y, c.mean, -1, -1}, []int32{g, c.sums, -1}
	if p != nil {
		p.sums = b.between(p.names+" backward sums", sums)
		in[4], in[5], out[2] = p.y, p.mean, p.sums
	}
	op := mapOp(bindings.JoinBwd, s.n, s.p(), s.q(), s.k)
	op.Flags = flags
	b.op(op, in, out)
	return g
}

type networkOptions struct {
	n, side, g, stride     int
	pool, projection, live bool
}

func networkCase(o networkOptions) Case {
	name := fmt.Sprintf("batch %d %dx%d g=%d stride %d", o.n, o.side, o.side, o.g, o.stride)
	if o.pool {
		name += " pool"
	}
	if o.projection {
		name += " projection"
	}
	// A live program and a transient one have the same contents: the suffix comes after the stream is named.
	b := &network{builder: newBuilder("program", name), n: o.n, transient: !o.live}
	if o.live {
		b.Name += " all live"
	}
	b.Slots = []float64{0.1, float64(o.n)}
	width := 2 * o.g
	output := width
	if o.projection {
		output = width + 3
	}
	image := b.activation("image", o.n, o.side, o.side, 3, b.normal(o.n*o.side*o.side*3, 1))
	stem := b.conv("stem", convShape{o.n, o.side, o.side, 3, width, 3, 1, 3}, image, nil)
	side, x := o.side, int32(0)
	if o.pool {
		side = pooled(o.side)
		x = b.between("pooled stem", activationTensor(o.n, side, side, width))
		b.op(poolOp(bindings.PoolFwd, o.n, o.side, o.side, width), []int32{stem.y, stem.s, stem.t}, []int32{x})
	} else {
		x = b.join(stem, -1, nil)
	}
	first := x
	conv1 := b.conv("a", convShape{o.n, side, side, width, width, 1, 1, width}, x, nil)
	conv2 := b.conv("b", convShape{o.n, side, side, width, width, 3, o.stride, o.g}, conv1.y, conv1)
	small := conv2.shape.p()
	conv3 := b.conv("c", convShape{o.n, small, small, width, output, 1, 1, width}, conv2.y, conv2)
	var projection *stage
	if o.projection {
		projection = b.conv("p", convShape{o.n, side, side, width, output, 1, o.stride, width}, x, nil)
	}
	y := b.join(conv3, x, projection)

	const classes = 7
	mean := b.between("pooled", activationTensor(o.n, 1, 1, output))
	b.op(mapOp(bindings.GapFwd, o.n, small, small, output), []int32{y}, []int32{mean})
	head := convShape{o.n, 1, 1, output, classes, 1, 1, output}
	weight, bias := b.convW(head), b.vector("head.bias", b.normal(classes, 0.3))
	b.Tensors[weight].Name = "head.weight"
	logits := b.result("logits", activationTensor(o.n, 1, 1, classes))
	b.op(head.op(bindings.ConvFwd), []int32{mean, -1, -1, weight, bias}, []int32{logits})
	labels := make([]int32, o.n)
	for i := range labels {
		labels[i] = int32(b.below(classes))
	}
	counters := b.updated(b.doubles("counters", 1, bindings.Counters, make([]float64, bindings.Counters)), 4096)
	dlogits := b.between("d logits", activationTensor(o.n, 1, 1, classes))
	loss := mapOp(bindings.Xent, o.n, 1, 1, classes)
	loss.F[0], loss.Slot[0] = 0.1, 1
	b.op(loss, []int32{logits, b.integers("labels", 1, o.n, labels)}, []int32{counters, dlogits})

	dmean := b.between("d pooled", activationTensor(o.n, 1, 1, output))
	b.op(head.op(bindings.ConvBwd), []int32{dlogits, -1, -1, -1, -1, mean, -1, -1, -1, weight, -1},
		[]int32{dmean, b.result("d head.weight", b.Tensors[weight].Tensor), b.result("d head.bias", plain(bindings.F32, 1, classes)), -1})
	g := b.joinBack(dmean, bindings.Broadcast, y, conv3, projection)
	dx := b.back(conv2, b.back(conv3, g, -1, true), -1, true)
	shortcut := g
	if projection != nil {
		shortcut = b.back(projection, g, -1, true)
	}
	dx = b.back(conv1, dx, shortcut, true)
	if o.pool {
		g = b.between("g stem", activationTensor(o.n, o.side, o.side, width))
		stem.sums = b.between("stem backward sums", plain(bindings.F64, 2, width))
		b.op(poolOp(bindings.PoolBwd, o.n, o.side, o.side, width), []int32{dx, stem.y, stem.s, stem.t, stem.mean}, []int32{g, stem.sums})
	} else {
		g = b.joinBack(dx, 0, first, stem, nil)
	}
	b.back(stem, g, -1, false)
	return b.Case
}

func programCases() []Case {
	var cases []Case
	for _, o := range []networkOptions{
		{n: 16, side: 8, g: 3, stride: 2, pool: true, projection: true},
		{n: 16, side: 7, g: 5, stride: 2, projection: true},
		{n: 32, side: 5, g: 1, stride: 1, pool: true},
		{n: 16, side: 6, g: 8, stride: 1},
	} {
		cases = append(cases, networkCase(o))
		o.live = true
		cases = append(cases, networkCase(o))
	}
	return cases
}
