package conformance

import (
	"fmt"
	"math"
	"strings"

	"anynetx/bindings"
)

// convShape is a convolution: n x h x w x c to k channels by filters of r x r, g input channels a group.
type convShape struct{ n, h, w, c, k, r, stride, g int }

func (s convShape) p() int { return (s.h-1)/s.stride + 1 }
func (s convShape) q() int { return (s.w-1)/s.stride + 1 }

func (s convShape) String() string {
	return fmt.Sprintf("%dx%dx%dx%d->%d %dx%d/%d g=%d", s.n, s.h, s.w, s.c, s.k, s.r, s.r, s.stride, s.g)
}

func (s convShape) op(kind bindings.OpKind) bindings.Op {
	op := bindings.NewOp(kind)
	op.N, op.H, op.W, op.C = int32(s.n), int32(s.h), int32(s.w), int32(s.c)
	op.P, op.Q, op.K = int32(s.p()), int32(s.q()), int32(s.k)
	op.R, op.Stride, op.Group = int32(s.r), int32(s.stride), int32(s.g)
	return op
}

func grouped(n, h, w, groups, g, stride int) convShape {
	return convShape{n, h, w, groups * g, groups * g, 3, stride, g}
}

// convOptions are the optional tensors. sums and noDX of a backward pass: sums of dX and whether dX is left out.
type convOptions struct{ affine, sums, bias, bn, add, noDX bool }

func (o convOptions) String() string {
	var words []string
	for _, w := range []struct {
		on   bool
		name string
	}{{o.affine, "affine"}, {o.sums, "sums"}, {o.bias, "bias"}, {o.bn, "bn"}, {o.add, "add"}, {o.noDX, "no dX"}} {
		if w.on {
			words = append(words, w.name)
		}
	}
	if words == nil {
		return "bare"
	}
	return strings.Join(words, "+")
}

// convX adds X, s and t (-1 without an affine).
func (b *builder) convX(s convShape, affine bool) (x, scale, shift int32) {
	count := s.n * s.h * s.w * s.c
	if !affine {
		return b.activation("X", s.n, s.h, s.w, s.c, b.normal(count, 1)), -1, -1
	}
	x = b.activation("X", s.n, s.h, s.w, s.c, b.maskable(count))
	vs, vt := b.affine(s.c)
	return x, b.vector("s", vs), b.vector("t", vt)
}

func (b *builder) convW(s convShape) int32 {
	return b.filter("W", s.k, s.r, s.g, b.normal(s.k*s.r*s.r*s.g, 1/math.Sqrt(float64(s.r*s.r*s.g))))
}

func convFwd(s convShape, o convOptions) Case {
	b := newBuilder("conv_fwd", s.String()+" "+o.String())
	x, scale, shift := b.convX(s, o.affine)
	in := []int32{x, scale, shift, b.convW(s)}
	if o.bias {
		in = append(in, b.vector("bias", b.normal(s.k, 1)))
	}
	terms := s.r * s.r * s.g
	out := []int32{b.output("Y", activationTensor(s.n, s.p(), s.q(), s.k), terms)}
	if o.sums {
		out = append(out, b.output("sums", plain(bindings.F64, 2, s.k), terms+s.n*s.p()*s.q()))
	}
	return b.op(s.op(bindings.ConvFwd), in, out).Case
}

func convBwd(s convShape, o convOptions) Case {
	b := newBuilder("conv_bwd", s.String()+" "+o.String())
	outputs := s.n * s.p() * s.q()
	in := []int32{b.activation("G", s.n, s.p(), s.q(), s.k, b.normal(outputs*s.k, 1)), -1, -1, -1, -1, -1, -1, -1, -1, -1, -1}
	if o.bn {
		in[1] = b.activation("Y", s.n, s.p(), s.q(), s.k, b.normal(outputs*s.k, 1))
		in[2], in[3], in[4] = b.vector("al", b.uniform(s.k, 0.5, 1.5)), b.vector("be", b.normal(s.k, 0.1)), b.vector("de", b.normal(s.k, 0.1))
	}
	in[5], in[6], in[7] = b.convX(s, o.affine)
	if o.affine {
		in[8] = b.vector("mean", b.normal(s.c, 0.5))
	}
	in[9] = b.convW(s)
	if o.add {
		in[10] = b.activation("add", s.n, s.h, s.w, s.c, b.normal(s.n*s.h*s.w*s.c, 1))
	}
	out := []int32{-1, -1, -1, -1}
	terms := s.r*s.r*s.k/(s.c/s.g) + 4
	if !o.noDX {
		out[0] = b.output("dX", activationTensor(s.n, s.h, s.w, s.c), terms)
	}
	out[1] = b.output("dW", bindings.Tensor{N: int32(s.k), H: int32(s.r), W: int32(s.r), C: int32(s.g)}, outputs+4)
	if o.bias {
		out[2] = b.output("dbias", plain(bindings.F32, 1, s.k), outputs+4)
	}
	if o.sums {
		out[3] = b.output("sums", plain(bindings.F64, 2, s.c), terms+s.n*s.h*s.w)
	}
	return b.op(s.op(bindings.ConvBwd), in, out).Case
}

func convCases() []Case {
	var cases []Case
	between := convOptions{affine: true, sums: true}        // what a convolution inside a block does
	back := convOptions{affine: true, sums: true, bn: true} // and its backward
	first := convOptions{sums: true}                        // first of a block, or a projection
	firstBack := convOptions{bn: true, add: true}
	both := func(s convShape, forward, backward convOptions) {
		cases = append(cases, convFwd(s, forward), convBwd(s, backward))
	}

	// Every group width, at stride 1 and, on odd sizes, at stride 2. The number of groups and the map vary along.
	for g := 1; g <= 32; g++ {
		groups := 2 + g%2
		if g <= 8 {
			groups++
		}
		both(grouped(16, 4+g%3, 5-g%2, groups, g, 1), between, back)
		both(grouped(16, 5+2*(g%2), 7-2*(g%3), groups, g, 2), between, back)
	}
	// Maps of 1 to 16 pixels a side; batches of 1, 16, 32 and 48.
	for _, g := range []int{1, 3, 8, 16} {
		for i, side := range []int{1, 2, 3, 4, 7, 16} {
			groups := 2 + 24/(g*side)
			both(grouped(16*(1+i%3/2), side, side, groups, g, 1+i%2), between, back)
			both(grouped(16, side, side, groups, g, 2-i%2), between, back)
		}
		both(grouped(48, 4, 4, 2, g, 1), between, back)
		both(grouped(1, 7, 6, 3, g, 2), between, back)
	}
	// Groups whose numbers of input and output channels differ.
	both(convShape{16, 5, 5, 6, 9, 3, 1, 2}, between, back)
	both(convShape{16, 7, 5, 12, 4, 3, 2, 3}, between, back)
	both(convShape{16, 6, 6, 10, 20, 1, 1, 5}, between, back)
	// Strided filters of other sizes, with the input's gradient, and a stride of 3.
	for _, s := range []convShape{{16, 9, 6, 12, 12, 5, 2, 4}, {16, 8, 9, 10, 20, 7, 2, 5}, {16, 7, 8, 16, 16, 3, 3, 8}} {
		both(s, between, back)
	}
	// Dense 3x3: the group is the whole input.
	for _, s := range []convShape{{16, 5, 6, 1, 1, 3, 1, 1}, {16, 5, 5, 13, 7, 3, 1, 13}, {32, 4, 4, 24, 33, 3, 1, 24}, {16, 7, 7, 20, 16, 3, 2, 20}, {16, 9, 8, 40, 8, 3, 2, 40}} {
		both(s, between, back)
		both(s, first, firstBack)
	}
	// 1x1: into and out of the bottleneck, strided projections, one channel, long sums.
	for _, s := range []convShape{
		{16, 8, 8, 20, 33, 1, 1, 20}, {16, 7, 7, 24, 48, 1, 2, 24}, {16, 1, 1, 17, 5, 1, 1, 17}, {32, 2, 2, 64, 40, 1, 1, 64}, {16, 4, 4, 33, 64, 1, 2, 33},
		{16, 5, 3, 1, 9, 1, 1, 1}, {16, 5, 3, 9, 1, 1, 2, 9}, {48, 3, 3, 8, 8, 1, 1, 8}, {1, 7, 7, 12, 10, 1, 1, 12}, {16, 1, 1, 512, 300, 1, 1, 512},
		{16, 16, 16, 16, 24, 1, 1, 16}, {16, 7, 7, 100, 130, 1, 1, 100}, {16, 4, 4, 80, 24, 1, 1, 80},
	} {
		both(s, between, back)
		both(s, first, firstBack)
	}
	// Stems: no gradient of the image. The last is a head: bias, no sums.
	for _, s := range []convShape{
		{16, 17, 17, 3, 32, 7, 2, 3}, {16, 32, 32, 3, 8, 7, 2, 3}, {16, 3, 2, 3, 5, 7, 2, 3}, {16, 15, 14, 3, 24, 3, 2, 3}, {16, 8, 9, 3, 33, 3, 1, 3}, {1, 13, 13, 3, 8, 7, 2, 3},
		{16, 7, 7, 4, 6, 5, 1, 2},
	} {
		both(s, first, convOptions{bn: true, noDX: true})
	}
	for _, s := range []convShape{{16, 1, 1, 24, 10, 1, 1, 24}, {32, 1, 1, 384, 2, 1, 1, 384}, {16, 1, 1, 40, 101, 1, 1, 40}, {1, 1, 1, 9, 7, 1, 1, 9}} {
		both(s, convOptions{bias: true}, convOptions{bias: true})
	}
	// Every choice of the optional tensors, on one grouped and one 1x1 shape.
	for _, s := range []convShape{grouped(16, 5, 4, 3, 3, 1), grouped(16, 5, 5, 2, 8, 2), {16, 4, 3, 10, 12, 1, 1, 10}, {16, 5, 4, 10, 12, 1, 2, 10}} {
		for bits := range 8 {
			cases = append(cases, convFwd(s, convOptions{affine: bits&1 != 0, sums: bits&2 != 0, bias: bits&4 != 0}))
		}
		for bits := range 64 {
			o := convOptions{affine: bits&1 != 0, sums: bits&2 != 0, bias: bits&4 != 0, bn: bits&8 != 0, add: bits&16 != 0, noDX: bits&32 != 0}
			if o.sums && !o.affine || o.noDX && (o.sums || o.add) {
				continue
			}
			cases = append(cases, convBwd(s, o))
		}
	}
	return unique(cases)
}

// unique drops cases whose name came before: generated shapes may meet.
func unique(cases []Case) []Case {
	seen := map[string]bool{}
	var kept []Case
	for _, c := range cases {
		if !seen[c.Name] {
			seen[c.Name] = true
			kept = append(kept, c)
		}
	}
	return kept
}
