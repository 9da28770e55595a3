package conformance

import (
	"fmt"
	"math"

	"anynetx/bindings"
)

// lossScale is an op over count gradients, of which the first `broken` are not finite; before it the scale has the values given.
func lossScale(count, broken int, steps, largest float64, before [bindings.Scales]float32) Case {
	b := newBuilder("loss_scale", fmt.Sprintf("%d broken %d scale %g after %g of %g steps, largest %g", count, broken, before[bindings.Scale],
		before[bindings.ScaleSteps], steps, largest))
	g := b.normal(count, 1)
	bad := []float32{float32(math.Inf(1)), float32(math.NaN()), float32(math.Inf(-1))}
	for i := range broken {
		g[count-1-i*37] = bad[i%3] // the last, and others far apart
	}
	g[0] = math.MaxFloat32
	op := mapOp(bindings.LossScale, 1, 1, 1, count)
	op.F = [2]float32{float32(steps), float32(largest)}
	in := []int32{b.vector("g", g)}
	out := []int32{
		b.updated(b.vector("scale", before[:]), 1), b.updated(b.doubles("counters", 1, bindings.Counters, []float64{1, 2, 3, 4, 5, 6, 7, 8}), 1),
	}
	return b.op(op, in, out).Case
}

func lossScaleCases() []Case {
	var cases []Case
	for _, count := range []int{2, 64, 4113} {
		cases = append(cases, lossScale(count, 0, 2000, 1<<24, [4]float32{64, 0.5, 7, 3}), lossScale(count, 1, 2000, 1<<24, [4]float32{64, 0.5, 7, 3}))
	}
	return append(cases,
		lossScale(1000, 0, 5, 1<<24, [4]float32{32, 0, 4, 0}),
		lossScale(1000, 0, 5, 32, [4]float32{32, 0, 4, 0}),
		lossScale(1000, 0, 1, 1<<24, [4]float32{1, 0, 0, 9}),
		lossScale(1000, 9, 5, 1<<24, [4]float32{2, 0, 4, 0}),
		lossScale(1000, 9, 5, 1<<24, [4]float32{1, 1, 4, 0}),
		lossScale(40000, 1, 5, 1<<24, [4]float32{256, 1, 4, 0}),
	)
}
