package conformance

import (
	"fmt"
	"math"

	"anynetx/bindings"
)

// sgd is an update by gradients of a loss times scale: 1 is no scale, 0 that of a step to be skipped.
func sgd(count int, momentum, decay, rate, scale float64, nesterov, broken bool) Case {
	name := fmt.Sprintf("%d momentum %g decay %g rate %g scale %g", count, momentum, decay, rate, scale)
	op := mapOp(bindings.SGD, 1, 1, 1, count)
	if nesterov {
		name += " nesterov"
		op.Flags = bindings.Nesterov
	}
	if broken {
		name += " with gradients that are not finite"
	}
	b := newBuilder("sgd", name)
	g := b.normal(count, max(scale, 1))
	if broken {
		g[0], g[count/2], g[count-1] = float32(math.Inf(1)), float32(math.NaN()), float32(math.Inf(-1))
	}
	op.F = [2]float32{float32(momentum), float32(decay)}
	op.Slot = [2]int32{b.slot(rate), -1}
	in := []int32{b.vector("g", g)}
	if scale != 1 {
		unscale := float32(0)
		if scale != 0 {
			unscale = float32(1 / scale)
		}
		in = append(in, b.vector("scale", []float32{512, unscale, 3, 2}))
	}
	out := []int32{
		b.slack(b.updated(b.vector("w", b.normal(count, 0.1)), 3), 2), b.slack(b.updated(b.vector("m", b.normal(count, 1)), 3), 2),
		b.updated(b.doubles("counters", 1, bindings.Counters, []float64{1, 2, 3, 4, 5, 6, 7, 8}), 1),
	}
	if broken && scale != 0 {
		b.Tensors[out[0]].NaNs, b.Tensors[out[1]].NaNs = true, true
	}
	return b.op(op, in, out).Case
}

func sgdCases() []Case {
	var cases []Case
	for i, count := range []int{1, 15, 16, 64, 1000, 4113} {
		cases = append(cases,
			sgd(count, 0.9, 5e-5, 0.1, 1, true, false),
			sgd(count, 0.9, 0, 0.01, 1024, false, false),
			sgd(count, 0, 1e-4, 0.5, 1, i%2 == 0, count >= 3),
		)
	}
	return append(cases, sgd(40, 0.9, 5e-5, 0, 1, true, false), sgd(1000, 0.9, 5e-5, 0.1, 0, true, true))
}
