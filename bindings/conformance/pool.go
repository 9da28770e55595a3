package conformance

import (
	"fmt"

	"anynetx/bindings"
)

// ties says how often values of a window are equal.
type ties int

const (
	tiesRare  ties = iota
	tiesOften      // multiples of 1/2
	tiesAll        // every value of a map is the same, positive in even channels and masked in odd ones
)

func (t ties) String() string { return [...]string{"", " ties often", " ties everywhere"}[t] }

func pooled(side int) int { return (side-1)/2 + 1 }

func (b *builder) poolInput(n, h, w, c int, t ties) (s, scale, shift int32) {
	count := n * h * w * c
	vs, vt := b.affine(c)
	values := b.maskable(count)
	switch t {
	case tiesOften:
		values = b.grid(count, 2, 1)
	case tiesAll:
		for i := range values {
			values[i] = 0.5
		}
		for i := range vs {
			vs[i] = 1 - 2*float32(i%2)
			vt[i] = 1.0 / 2048
		}
	}
	return b.activation("S", n, h, w, c, values), b.vector("s", vs), b.vector("t", vt)
}

func poolOp(kind bindings.OpKind, n, h, w, c int) bindings.Op {
	op := mapOp(kind, n, h, w, c)
	op.P, op.Q, op.K, op.R, op.Stride = int32(pooled(h)), int32(pooled(w)), int32(c), 3, 2
	return op
}

func poolFwd(n, h, w, c int, t ties) Case {
	b := newBuilder("pool_fwd", fmt.Sprintf("%dx%dx%dx%d%s", n, h, w, c, t))
	s, scale, shift := b.poolInput(n, h, w, c, t)
	return b.op(poolOp(bindings.PoolFwd, n, h, w, c), []int32{s, scale, shift}, []int32{b.output("X0", activationTensor(n, pooled(h), pooled(w), c), 2)}).Case
}

func poolBwd(n, h, w, c int, t ties) Case {
	b := newBuilder("pool_bwd", fmt.Sprintf("%dx%dx%dx%d%s", n, h, w, c, t))
	dx0 := b.activation("dX0", n, pooled(h), pooled(w), c, b.normal(n*pooled(h)*pooled(w)*c, 1))
	s, scale, shift := b.poolInput(n, h, w, c, t)
	in := []int32{dx0, s, scale, shift, b.vector("mean", b.normal(c, 0.5))}
	out := []int32{b.output("G", activationTensor(n, h, w, c), 4), b.output("sums", plain(bindings.F64, 2, c), n*h*w)}
	return b.op(poolOp(bindings.PoolBwd, n, h, w, c), in, out).Case
}

func poolCases() []Case {
	var cases []Case
	for _, s := range [][4]int{{16, 16, 16, 8}, {16, 7, 7, 17}, {32, 1, 1, 3}, {48, 2, 2, 5}, {16, 4, 5, 1}, {16, 3, 8, 33}, {1, 5, 6, 7}} {
		for t := tiesRare; t <= tiesAll; t++ {
			cases = append(cases, poolFwd(s[0], s[1], s[2], s[3], t), poolBwd(s[0], s[1], s[2], s[3], t))
		}
	}
	return cases
}

func gapFwd(n, h, w, c int) Case {
	b := newBuilder("gap_fwd", fmt.Sprintf("%dx%dx%dx%d", n, h, w, c))
	y := b.activation("Y", n, h, w, c, b.rectified(n*h*w*c))
	return b.op(mapOp(bindings.GapFwd, n, h, w, c), []int32{y}, []int32{b.output("V", activationTensor(n, 1, 1, c), h*w)}).Case
}

func gapCases() []Case {
	var cases []Case
	for _, s := range [][4]int{{16, 4, 4, 8}, {16, 7, 7, 17}, {32, 1, 1, 33}, {48, 2, 2, 5}, {16, 5, 3, 1}, {16, 14, 14, 64}, {1, 3, 4, 7}} {
		cases = append(cases, gapFwd(s[0], s[1], s[2], s[3]))
	}
	return cases
}
