package conformance

import (
	"fmt"
	"math"

	"anynetx/bindings"
)

type joinKind int

const (
	joinNothing joinKind = iota
	joinIdentity
	joinProjection
)

func (k joinKind) String() string { return [...]string{"nothing", "identity", "projection"}[k] }

func joinFwd(n, h, w, c int, kind joinKind, nans bool) Case {
	name := fmt.Sprintf("%dx%dx%dx%d %s", n, h, w, c, kind)
	if nans {
		name += ", with NaNs"
	}
	b := newBuilder("join_fwd", name)
	count := n * h * w * c
	values := b.maskable(count)
	if nans {
		for i := 0; i < count; i += 7 {
			values[i] = float32(math.NaN())
		}
		values[1], values[2] = float32(math.Inf(1)), float32(math.Inf(-1))
	}
	s, t := b.affine(c)
	in := []int32{b.activation("C", n, h, w, c, values), b.vector("s", s), b.vector("t", t), -1, -1, -1}
	if kind != joinNothing {
		in[3] = b.activation("X or P", n, h, w, c, b.grid(count, 64, 1))
	}
	if kind == joinProjection {
		sp, tp := b.affine(c)
		in[4], in[5] = b.vector("sp", sp), b.vector("tp", tp)
	}
	y := b.output("Y", activationTensor(n, h, w, c), 4)
	b.Tensors[y].NaNs = nans
	return b.op(mapOp(bindings.JoinFwd, n, h, w, c), in, []int32{y}).Case
}

func joinBwd(n, h, w, c int, projection, broadcast bool) Case {
	name := fmt.Sprintf("%dx%dx%dx%d", n, h, w, c)
	op := mapOp(bindings.JoinBwd, n, h, w, c)
	if projection {
		name += " projection"
	}
	dh, dw := h, w
	if broadcast {
		name += " broadcast"
		op.Flags = bindings.Broadcast
		dh, dw = 1, 1
	}
	b := newBuilder("join_bwd", name)
	count := n * h * w * c
	in := []int32{
		b.activation("dX", n, dh, dw, c, b.normal(n*dh*dw*c, 1)), b.activation("Y", n, h, w, c, b.rectified(count)),
		b.activation("C", n, h, w, c, b.normal(count, 1)), b.vector("mean", b.normal(c, 0.5)), -1, -1,
	}
	out := []int32{b.output("G", activationTensor(n, h, w, c), 1), b.output("sums", plain(bindings.F64, 2, c), n*h*w), -1}
	if projection {
		in[4], in[5] = b.activation("P", n, h, w, c, b.normal(count, 1)), b.vector("mean of P", b.normal(c, 0.5))
		out[2] = b.output("sums of P", plain(bindings.F64, 2, c), n*h*w)
	}
	return b.op(op, in, out).Case
}

func joinCases() []Case {
	var cases []Case
	for _, s := range [][4]int{{16, 4, 4, 8}, {16, 7, 7, 17}, {32, 1, 1, 33}, {48, 2, 2, 5}, {16, 5, 3, 1}, {16, 16, 16, 9}, {1, 3, 4, 7}} {
		for kind := joinNothing; kind <= joinProjection; kind++ {
			cases = append(cases, joinFwd(s[0], s[1], s[2], s[3], kind, false))
		}
		for bits := range 4 {
			cases = append(cases, joinBwd(s[0], s[1], s[2], s[3], bits&1 != 0, bits&2 != 0))
		}
	}
	return append(cases, joinFwd(16, 2, 3, 4, joinNothing, true), joinFwd(16, 2, 3, 4, joinIdentity, true))
}
