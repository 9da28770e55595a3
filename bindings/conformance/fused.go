package conformance

// Pairs of ops that a back end may run as one where the tensor between them is transient; each is also there all live.

import (
	"fmt"

	"anynetx/bindings"
)

// blockEnd is the input gradient of a block's first convolution and the end of the block before, whose output is the convolution's input.
func blockEnd(s convShape, add, projection, live bool) Case {
	name := s.String()
	if add {
		name += " add"
	}
	if projection {
		name += " projection"
	}
	b := newBuilder("conv_bwd+join_bwd", name)
	dx := Tensor{Name: "dX", Tensor: activationTensor(s.n, s.h, s.w, s.c), Private: true}
	dx.Flags = bindings.Transient
	if live {
		b.Name += " all live"
		dx = Tensor{Name: "dX", Tensor: activationTensor(s.n, s.h, s.w, s.c), Output: true, Terms: s.k + 4}
	}
	b.MasksGiven = true
	outputs, inputs := s.n*s.p()*s.q(), s.n*s.h*s.w
	x := b.activation("X", s.n, s.h, s.w, s.c, b.rectified(inputs*s.c))
	in := []int32{
		b.activation("G", s.n, s.p(), s.q(), s.k, b.normal(outputs*s.k, 1)), b.activation("Y", s.n, s.p(), s.q(), s.k, b.normal(outputs*s.k, 1)),
		b.vector("al", b.uniform(s.k, 0.5, 1.5)), b.vector("be", b.normal(s.k, 0.1)), b.vector("de", b.normal(s.k, 0.1)), x, -1, -1, -1, b.convW(s), -1,
	}
	if add {
		in[10] = b.activation("add", s.n, s.h, s.w, s.c, b.normal(inputs*s.c, 1))
	}
	gradient := b.add(dx)
	b.op(s.op(bindings.ConvBwd), in, []int32{gradient, b.output("dW", bindings.Tensor{N: int32(s.k), H: int32(s.r), W: int32(s.r), C: int32(s.g)}, outputs+4)})

	in = []int32{gradient, x, b.activation("C", s.n, s.h, s.w, s.c, b.normal(inputs*s.c, 1)), b.vector("mean", b.normal(s.c, 0.5)), -1, -1}
	out := []int32{b.output("G of the block before", activationTensor(s.n, s.h, s.w, s.c), s.k+5), b.output("sums", plain(bindings.F64, 2, s.c), s.k+4+inputs), -1}
	if projection {
		in[4], in[5] = b.activation("P", s.n, s.h, s.w, s.c, b.normal(inputs*s.c, 1)), b.vector("mean of P", b.normal(s.c, 0.5))
		out[2] = b.output("sums of P", plain(bindings.F64, 2, s.c), s.k+4+inputs)
	}
	return b.op(mapOp(bindings.JoinBwd, s.n, s.h, s.w, s.c), in, out).Case
}

// blockStart is the end of a block and the first convolution of the one behind it.
func blockStart(s convShape, kind joinKind, live bool) Case {
	b := newBuilder("join_fwd+conv_fwd", s.String()+" "+kind.String())
	count := s.n * s.h * s.w * s.c
	vs, vt := b.affine(s.c)
	in := []int32{b.activation("C", s.n, s.h, s.w, s.c, b.maskable(count)), b.vector("s", vs), b.vector("t", vt), -1, -1, -1}
	if kind != joinNothing {
		in[3] = b.activation("X or P", s.n, s.h, s.w, s.c, b.grid(count, 64, 1))
	}
	if kind == joinProjection {
		sp, tp := b.affine(s.c)
		in[4], in[5] = b.vector("sp", sp), b.vector("tp", tp)
	}
	y := Tensor{Name: "Y", Tensor: activationTensor(s.n, s.h, s.w, s.c), Private: true}
	y.Flags = bindings.Transient
	if live {
		b.Name += " all live"
		y = Tensor{Name: "Y", Tensor: activationTensor(s.n, s.h, s.w, s.c), Output: true, Terms: 4}
	}
	b.MasksGiven = true
	joined := b.add(y)
	b.op(mapOp(bindings.JoinFwd, s.n, s.h, s.w, s.c), in, []int32{joined})
	a := b.output("A", activationTensor(s.n, s.p(), s.q(), s.k), s.c+4)
	sums := b.output("sums", plain(bindings.F64, 2, s.k), s.c+4+s.n*s.p()*s.q())
	return b.op(s.op(bindings.ConvFwd), []int32{joined, -1, -1, b.convW(s)}, []int32{a, sums}).Case
}

// stemStart is the input and the convolutions that read it: the stem, and with backward its filter gradient.
func stemStart(s convShape, ih, iw, channels int, backward, live bool, source rectangles) Case {
	b := newBuilder("input+conv_fwd", fmt.Sprintf("%s from %dx%dx%d", s, ih, iw, channels))
	x := Tensor{Name: "X", Tensor: activationTensor(s.n, s.h, s.w, s.c), Private: true}
	x.Flags = bindings.Transient
	if backward {
		b.Name += " and conv_bwd"
	}
	if live {
		b.Name += " all live"
		x = Tensor{Name: "X", Tensor: activationTensor(s.n, s.h, s.w, s.c), Output: true, Terms: 4, Slack: 16}
	}
	b.MasksGiven = true
	image, _ := b.input(x, ih, iw, channels, source)
	outputs, terms := s.n*s.p()*s.q(), s.r*s.r*s.g+4
	w := b.convW(s)
	y := b.output("Y", activationTensor(s.n, s.p(), s.q(), s.k), terms)
	b.op(s.op(bindings.ConvFwd), []int32{image, -1, -1, w}, []int32{y, b.output("sums", plain(bindings.F64, 2, s.k), terms+outputs)})
	if backward {
		in := []int32{b.activation("G", s.n, s.p(), s.q(), s.k, b.normal(outputs*s.k, 1)), y, b.vector("al", b.uniform(s.k, 0.5, 1.5)), b.vector("be", b.normal(s.k, 0.1)), b.vector("de", b.normal(s.k, 0.1)),
			image, -1, -1, -1, w, -1}
		b.op(s.op(bindings.ConvBwd), in, []int32{-1, b.output("dW", bindings.Tensor{N: int32(s.k), H: int32(s.r), W: int32(s.r), C: int32(s.g)}, outputs+terms)})
	}
	return b.Case
}

// stemEnd is the backward pass of the max-pool and the stem's filter gradient.
func stemEnd(s convShape, often ties, live bool) Case {
	b := newBuilder("pool_bwd+conv_bwd", fmt.Sprintf("%s%s", s, often))
	n, h, w, c := s.n, s.p(), s.q(), s.k
	g := Tensor{Name: "G", Tensor: activationTensor(n, h, w, c), Private: true}
	g.Flags = bindings.Transient
	if live {
		b.Name += " all live"
		g = Tensor{Name: "G", Tensor: activationTensor(n, h, w, c), Output: true, Terms: 4}
	}
	b.MasksGiven = true
	dx0 := b.activation("dX0", n, pooled(h), pooled(w), c, b.normal(n*pooled(h)*pooled(w)*c, 1))
	y, scale, shift := b.poolInput(n, h, w, c, often)
	gradient := b.add(g)
	b.op(poolOp(bindings.PoolBwd, n, h, w, c), []int32{dx0, y, scale, shift, b.vector("mean", b.normal(c, 0.5))}, []int32{gradient, b.output("sums", plain(bindings.F64, 2, c), n*h*w)})
	in := []int32{gradient, y, b.vector("al", b.uniform(c, 0.5, 1.5)), b.vector("be", b.normal(c, 0.1)), b.vector("de", b.normal(c, 0.1)),
		b.activation("X", n, s.h, s.w, s.c, b.normal(n*s.h*s.w*s.c, 1)), -1, -1, -1, b.convW(s), -1}
	return b.op(s.op(bindings.ConvBwd), in, []int32{-1, b.output("dW", bindings.Tensor{N: int32(c), H: int32(s.r), W: int32(s.r), C: int32(s.g)}, n*h*w+4)}).Case
}

func fusedCases() []Case {
	var cases []Case
	for _, live := range []bool{false, true} {
		cases = append(cases,
			stemStart(convShape{16, 29, 35, 3, 24, 7, 2, 3}, 29, 35, 3, true, live, func(b *builder, i int) (int, int, int, int, int) {
				return b.below(9) - 4, b.below(9) - 4, 29, 35, i % 2
			}),
			stemStart(convShape{16, 9, 17, 3, 33, 3, 1, 3}, 12, 21, 3, true, live, func(b *builder, i int) (int, int, int, int, int) {
				return b.below(5) - 1, b.below(6) - 1, 9, 17, b.below(2)
			}),
			stemStart(convShape{16, 14, 13, 3, 8, 3, 2, 3}, 21, 17, 1, true, live, func(b *builder, i int) (int, int, int, int, int) {
				height, width := 1+b.below(21), 1+b.below(17)
				return b.below(22-height) - 1, b.below(18-width) - 1, height, width, b.below(2)
			}),
			stemStart(convShape{48, 2, 3, 3, 70, 7, 2, 3}, 5, 5, 3, false, live, func(b *builder, i int) (int, int, int, int, int) { return i % 4, 40 * (i % 3), 2, 3, i % 2 }),
		)
	}
	for i, s := range []convShape{{16, 29, 39, 3, 24, 7, 2, 3}, {16, 13, 35, 3, 70, 3, 1, 3}, {16, 5, 3, 3, 9, 7, 2, 3}, {1, 64, 33, 1, 33, 5, 2, 1}, {16, 17, 19, 4, 8, 3, 2, 4}} {
		for _, live := range []bool{false, true} {
			cases = append(cases, stemEnd(s, ties(i%3), live))
		}
	}
	for i, s := range []convShape{{16, 5, 5, 24, 33, 1, 1, 24}, {16, 3, 7, 40, 100, 1, 1, 40}, {16, 2, 2, 72, 130, 1, 1, 72}, {48, 5, 6, 16, 8, 1, 2, 16}, {16, 7, 3, 9, 20, 1, 1, 9}} {
		for _, live := range []bool{false, true} {
			cases = append(cases, blockStart(s, joinKind(2-i%3), live))
		}
	}
	for i, s := range []convShape{
		{16, 5, 5, 24, 33, 1, 1, 24}, {16, 7, 7, 104, 70, 1, 1, 104}, {16, 2, 2, 200, 130, 1, 1, 200}, {48, 9, 9, 9, 8, 1, 1, 9}, {16, 5, 6, 24, 10, 1, 2, 24}, {16, 4, 4, 12, 12, 3, 1, 3},
	} {
		for _, live := range []bool{false, true} {
			cases = append(cases, blockEnd(s, i%3 != 2, i%2 == 0, live))
		}
	}
	return cases
}
