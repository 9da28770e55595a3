package conformance

import (
	"fmt"

	"anynetx/bindings"
)

// statistics is sums of count values per channel around mean with variance: sum and sum of squares.
func statistics(count int, mean, variance []float32) []float64 {
	c := len(mean)
	sums := make([]float64, 2*c)
	for i := range mean {
		m, v := float64(mean[i]), float64(variance[i])
		sums[i], sums[c+i] = float64(count)*m, float64(count)*(v+m*m)
	}
	return sums
}

func mapOp(kind bindings.OpKind, n, h, w, c int) bindings.Op {
	op := bindings.NewOp(kind)
	op.N, op.H, op.W, op.C = int32(n), int32(h), int32(w), int32(c)
	return op
}

type bnMode int

const (
	bnInference bnMode = iota
	bnTraining
	bnTrainingStill // training without running statistics
	bnMoments       // precise batch norm: momentum 1 takes the batch's statistics
)

func bnFwd(n, h, w, c int, mode bnMode, flat bool) Case {
	names := []string{"inference", "training", "training, statistics stay", "training, momentum 1"}
	name := fmt.Sprintf("%dx%dx%dx%d %s", n, h, w, c, names[mode])
	if flat {
		name += ", one constant channel"
	}
	b := newBuilder("bn_fwd_coef", name)
	mean, variance := b.normal(c, 0.5), b.uniform(c, 0.25, 2)
	if flat {
		mean[0], variance[0] = 0.5, 0
	}
	op := mapOp(bindings.BNFwdCoef, n, h, w, c)
	op.F[0] = 1e-5
	sums := int32(-1)
	if mode != bnInference {
		op.Flags = bindings.Train
		sums = b.doubles("sums", 2, c, statistics(n*h*w, mean, variance))
	}
	in := []int32{sums, b.vector("gamma", b.normal(c, 1)), b.vector("beta", b.normal(c, 1)), b.vector("running mean", b.normal(c, 0.5)), b.vector("running variance", b.uniform(c, 0.25, 2))}
	var out []int32
	for _, name := range []string{"mean", "invstd", "s", "t"} {
		out = append(out, b.output(name, plain(bindings.F32, 1, c), 2))
	}
	if mode == bnTraining || mode == bnMoments {
		momentum := 0.1
		if mode == bnMoments {
			momentum = 1
		}
		op.Slot[0] = b.slot(momentum)
		out = append(out, b.updated(in[3], 2), b.updated(in[4], 2))
	}
	return b.op(op, in, out).Case
}

func bnBwd(n, h, w, c int) Case {
	b := newBuilder("bn_bwd_coef", fmt.Sprintf("%dx%dx%dx%d", n, h, w, c))
	sums := make([]float64, 2*c)
	for i := range sums {
		sums[i] = float64(n*h*w) * 0.1 * b.stream.Normal(b.next())
	}
	in := []int32{b.doubles("sums", 2, c, sums), b.vector("mean", b.normal(c, 0.5)), b.vector("invstd", b.uniform(c, 0.5, 2)), b.vector("gamma", b.normal(c, 1))}
	var out []int32
	for _, name := range []string{"dgamma", "dbeta", "al", "be", "de"} {
		out = append(out, b.slack(b.output(name, plain(bindings.F32, 1, c), 4), 2))
	}
	return b.op(mapOp(bindings.BNBwdCoef, n, h, w, c), in, out).Case
}

func batchNormCases() []Case {
	var cases []Case
	for i, c := range []int{1, 3, 8, 17, 33, 64, 301} {
		h, w, n := 1+i, 7-i, 16*(1+i%3)
		for mode := bnInference; mode <= bnMoments; mode++ {
			cases = append(cases, bnFwd(n, h, w, c, mode, false))
		}
		cases = append(cases, bnBwd(n, h, w, c))
	}
	return append(cases, bnFwd(16, 1, 1, 5, bnTraining, true), bnFwd(1, 3, 3, 5, bnTraining, false), bnBwd(16, 1, 1, 7))
}
