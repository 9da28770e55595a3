package conformance

import (
	"fmt"
	"math"

	"anynetx/bindings"
)

type xentOptions struct {
	smoothing float64
	valid     int
	scale     float64
	gradient  bool
	logits    string // "", "ties", "large", "NaN", "infinite"
}

func xent(n, classes int, o xentOptions) Case {
	name := fmt.Sprintf("%dx%d valid %d smoothing %g scale %g", n, classes, o.valid, o.smoothing, o.scale)
	if !o.gradient {
		name += " no gradient"
	}
	b := newBuilder("xent", name+" "+o.logits)
	logits := b.normal(n*classes, 2)
	labels := make([]int32, n)
	for i := range labels {
		labels[i] = int32(b.below(classes))
	}
	for i := o.valid; i < n; i++ {
		labels[i] = -7 // rows that do not count need no label
	}
	switch o.logits {
	case "ties": // few different values, and whole rows of one
		logits = b.grid(n*classes, 1, 1)
		for i := range 3 * classes {
			logits[i] = 0.25
		}
	case "large":
		for i := range logits {
			logits[i] *= 40
		}
	case "NaN": // at the label, elsewhere, and in a row that does not count
		logits[classes+int(labels[1])] = float32(math.NaN())
		logits[2*classes+(int(labels[2])+1)%classes] = float32(math.NaN())
		logits[n*classes-1] = float32(math.NaN())
	case "infinite":
		logits[(int(labels[0])+1)%classes] = float32(math.Inf(-1))
	}
	in := []int32{b.activation("logits", n, 1, 1, classes, logits), b.integers("y", 1, n, labels)}
	before := []float64{1.5, 3, 4, 100, 0, 9, 8, 7}
	out := []int32{b.slack(b.updated(b.doubles("counters", 1, bindings.Counters, before), n+classes), 2)}
	op := mapOp(bindings.Xent, n, 1, 1, classes)
	op.F[0] = float32(o.smoothing)
	op.Slot[0] = b.slot(float64(o.valid))
	if o.gradient {
		out = append(out, b.slack(b.output("dlogits", activationTensor(n, 1, 1, classes), classes), 2))
		if o.scale != 1 {
			in = append(in, b.vector("scale", []float32{float32(o.scale), 0, 3, 2}))
		}
	}
	if o.logits == "large" { // exp and log of numbers near 100
		b.slack(out[0], 8)
		if o.gradient {
			b.slack(out[1], 64)
		}
	}
	if o.logits == "NaN" {
		for _, id := range out {
			b.Tensors[id].NaNs = true
		}
	}
	return b.op(op, in, out).Case
}

func xentCases() []Case {
	var cases []Case
	for i, classes := range []int{2, 3, 5, 6, 10, 17, 100, 1000} {
		n := 16 * (1 + i%3)
		cases = append(cases,
			xent(n, classes, xentOptions{valid: n, scale: 1, gradient: true}),
			xent(n, classes, xentOptions{valid: n - 5, scale: 1024, gradient: true, smoothing: 0.1}),
			xent(n, classes, xentOptions{valid: n - 3}),
			xent(n, classes, xentOptions{valid: n, scale: 1, gradient: true, logits: "ties"}),
		)
	}
	return append(cases,
		xent(16, 1, xentOptions{valid: 16, scale: 1, gradient: true}),
		xent(1, 10, xentOptions{valid: 1, scale: 1, gradient: true, smoothing: 0.1}),
		xent(16, 10, xentOptions{valid: 0, scale: 1, gradient: true}),
		xent(16, 10, xentOptions{valid: 1, scale: 1, gradient: true}),
		xent(16, 10, xentOptions{valid: 16, scale: 1, gradient: true, logits: "large"}),
		xent(16, 10, xentOptions{valid: 12, scale: 1, gradient: true, logits: "NaN"}),
		xent(16, 4, xentOptions{valid: 12, scale: 1, gradient: true, logits: "NaN"}),
		xent(16, 4, xentOptions{valid: 12, scale: 1, gradient: true, logits: "infinite"}),
	)
}
