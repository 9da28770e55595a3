package conformance

import (
	"errors"
	"math"
	"testing"

	"anynetx/bindings"
)

// expect runs a hand-made case on the reference and compares an output with values worked out on paper.
func expect(t *testing.T, b *builder, output int32, want ...float64) {
	t.Helper()
	outputs, err := RunCase(reference(t), &b.Case)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, o := range outputs {
		if o.Tensor != &b.Tensors[output] {
			continue
		}
		found = true
		if len(o.Values) != len(want) {
			t.Fatalf("%s has %d values, want %d", o.Tensor.Name, len(o.Values), len(want))
		}
		for i, w := range want {
			if math.Abs(o.Values[i]-w) > 1e-6*(1+math.Abs(w)) || math.IsNaN(o.Values[i]) {
				t.Errorf("%s[%d] is %.9g, want %.9g", o.Tensor.Name, i, o.Values[i], w)
			}
		}
	}
	if !found {
		t.Fatalf("%s is not an output", b.Tensors[output].Name)
	}
}

// What is packed is rounded to nearest even; ties, subnormals, overflow and NaN among the values.
func TestRoundingOfStorage(t *testing.T) {
	ctx := reference(t)
	for dtype, want := range map[bindings.DType]map[float32]float32{
		bindings.F16: {1 + 0x1p-11: 1, 1 + 0x3p-11: 1 + 0x1p-9, 1 + 0x1p-11 + 0x1p-20: 1 + 0x1p-10, 65519: 65504, 65520: float32(math.Inf(1)), 0x1p-25: 0,
			0x1.8p-24: 0x1p-23, 0x1.7p-24: 0x1p-24, -0x1.ff8p-15: -0x1.ff8p-15, -0x1.ffcp-15: -0x1p-14, 0x1.fffp-15: 0x1p-14, float32(math.Inf(-1)): float32(math.Inf(-1))},
		bindings.BF16: {1 + 0x1p-8: 1, 1 + 0x3p-8: 1 + 0x1p-6, 1 + 0x1p-8 + 0x1p-20: 1 + 0x1p-7, 0x1.fep127: 0x1.fep127, 0x1.ffp127: float32(math.Inf(1)),
			-0x1p-134: 0, 0x1.8p-133: 0x1p-132, 65519: 65536, 0x1p-126: 0x1p-126},
	} {
		for v, w := range want {
			x := activationTensor(1, 1, 1, 2)
			x.DType = dtype
			buffer, err := ctx.NewBuffer(64)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float32, 2)
			if err := errors.Join(ctx.Pack(x, buffer, []float32{v, float32(math.NaN())}), ctx.Unpack(x, buffer, got)); err != nil {
				t.Fatal(err)
			}
			if got[0] != w || got[1] == got[1] {
				t.Errorf("%s: %v and NaN come back as %v and %v, want %v and NaN", dtype, v, got[0], got[1], w)
			}
			if r := float32s(rounded(bindings.Bytes([]float32{v}), dtype))[0]; r != w {
				t.Errorf("%s: the cases round %v to %v, want %v", dtype, v, r, w)
			}
			buffer.Close()
		}
	}
}

func TestConvOnPaper(t *testing.T) {
	// One channel, 3x3 map 1..9, filter 1..9: the centre is the sum of squares; stride 2 keeps the corners.
	corners := []float64{1*5 + 2*6 + 4*8 + 5*9, 2*4 + 3*5 + 5*7 + 6*8, 4*2 + 5*3 + 7*5 + 8*6, 5*1 + 6*2 + 8*4 + 9*5}
	s := convShape{1, 3, 3, 1, 1, 3, 2, 1}
	b := newBuilder("conv_fwd", "paper")
	nine := []float32{1, 2, 3, 4, 5, 6, 7, 8, 9}
	in := []int32{b.activation("X", 1, 3, 3, 1, nine), -1, -1, b.filter("W", 1, 3, 1, nine), b.vector("bias", []float32{0.5})}
	out := []int32{b.output("Y", activationTensor(1, 2, 2, 1), 9), b.output("sums", plain(bindings.F64, 2, 1), 9)}
	b.op(s.op(bindings.ConvFwd), in, out)
	sum, squares := 0.0, 0.0
	for i := range corners {
		corners[i] += 0.5
		sum += corners[i]
		squares += corners[i] * corners[i]
	}
	expect(t, b, out[0], corners...)
	expect(t, b, out[1], sum, squares)
}

func TestGroupedConvKeepsGroupsApart(t *testing.T) {
	// Two groups of two channels in and one out: Y = (1 X0 + 2 X1, 3 X2 + 4 X3), of act(X) = ReLU(2 X - 1).
	s := convShape{1, 1, 2, 4, 2, 1, 1, 2}
	b := newBuilder("conv_fwd", "groups")
	in := []int32{
		b.activation("X", 1, 1, 2, 4, []float32{1, 2, 3, 4, 0, 1, 0, 5}),
		b.vector("s", []float32{2, 2, 2, 2}), b.vector("t", []float32{-1, -1, -1, -1}), b.filter("W", 2, 1, 2, []float32{1, 2, 3, 4}),
	}
	out := []int32{b.output("Y", activationTensor(1, 1, 2, 2), 2)}
	expect(t, b.op(s.op(bindings.ConvFwd), in, out), out[0], 1*1+2*3, 3*5+4*7, 2*1, 4*9)
}

func TestBatchNormOnPaper(t *testing.T) {
	// Values 1, 3 of one channel: mean 2, biased variance 1, unbiased 2. gamma 3, beta 4, momentum 0.1, running 0 and 1.
	b := newBuilder("bn_fwd_coef", "paper")
	op := mapOp(bindings.BNFwdCoef, 2, 1, 1, 1)
	op.Flags, op.Slot[0] = bindings.Train, b.slot(0.1)
	in := []int32{b.doubles("sums", 2, 1, []float64{4, 10}), b.vector("gamma", []float32{3}), b.vector("beta", []float32{4}), b.vector("rm", []float32{0}), b.vector("rv", []float32{1})}
	out := []int32{0, 0, 0, 0, b.updated(in[3], 1), b.updated(in[4], 1)}
	for i, name := range []string{"mean", "invstd", "s", "t"} {
		out[i] = b.output(name, plain(bindings.F32, 1, 1), 1)
	}
	b.op(op, in, out)
	for i, want := range []float64{2, 1, 3, 4 - 2*3, 0.1 * 2, 0.9*1 + 0.1*2} {
		expect(t, b, out[i], want)
	}
}

func TestBatchNormBackwardOnPaper(t *testing.T) {
	// M = 4, sums (8, 6), mean 0.5, invstd 2, gamma 3: dbeta 8, dgamma 12, al 6, be -6 2 12 / 4 = -36, de -6 8 / 4 + 36 0.5 = 6.
	b := newBuilder("bn_bwd_coef", "paper")
	in := []int32{b.doubles("sums", 2, 1, []float64{8, 6}), b.vector("mean", []float32{0.5}), b.vector("invstd", []float32{2}), b.vector("gamma", []float32{3})}
	var out []int32
	for _, name := range []string{"dgamma", "dbeta", "al", "be", "de"} {
		out = append(out, b.output(name, plain(bindings.F32, 1, 1), 1))
	}
	b.op(mapOp(bindings.BNBwdCoef, 4, 1, 1, 1), in, out)
	for i, want := range []float64{12, 8, 6, -36, 6} {
		expect(t, b, out[i], want)
	}
}

func TestPoolTiesGoToTheFirst(t *testing.T) {
	// A constant positive 3x3 map: each of the four windows gives its gradient to its first pixel in raster order.
	b := newBuilder("pool_bwd", "paper")
	one := b.vector("s", []float32{1})
	in := []int32{
		b.activation("dX0", 1, 2, 2, 1, []float32{1, 2, 3, 4}), b.activation("S", 1, 3, 3, 1, []float32{5, 5, 5, 5, 5, 5, 5, 5, 5}), one,
		b.vector("t", []float32{0}), b.vector("mean", []float32{1}),
	}
	out := []int32{b.output("G", activationTensor(1, 3, 3, 1), 1), b.output("sums", plain(bindings.F64, 2, 1), 9)}
	b.op(poolOp(bindings.PoolBwd, 1, 3, 3, 1), in, out)
	expect(t, b, out[0], 1, 2, 0, 3, 4, 0, 0, 0, 0)
	expect(t, b, out[1], 10, 40)
}

func TestJoinBackwardBroadcasts(t *testing.T) {
	b := newBuilder("join_bwd", "paper")
	op := mapOp(bindings.JoinBwd, 1, 1, 2, 1)
	op.Flags = bindings.Broadcast
	in := []int32{
		b.activation("dX", 1, 1, 1, 1, []float32{6}), b.activation("Y", 1, 1, 2, 1, []float32{0, 2}), b.activation("C", 1, 1, 2, 1, []float32{7, 9}),
		b.vector("mean", []float32{4}),
	}
	out := []int32{b.output("G", activationTensor(1, 1, 2, 1), 1), b.output("sums", plain(bindings.F64, 2, 1), 2)}
	b.op(op, in, out)
	expect(t, b, out[0], 0, 3)
	expect(t, b, out[1], 3, 15)
}

func lossCase(classes int, smoothing, valid float64, logits []float32, labels []int32) (*builder, []int32) {
	b := newBuilder("xent", "paper")
	op := mapOp(bindings.Xent, len(labels), 1, 1, classes)
	op.F[0] = float32(smoothing)
	op.Slot[0] = b.slot(valid)
	in := []int32{b.activation("logits", len(labels), 1, 1, classes, logits), b.integers("y", 1, len(labels), labels), b.vector("scale", []float32{2, 0, 0, 0})}
	out := []int32{b.updated(b.doubles("counters", 1, bindings.Counters, make([]float64, bindings.Counters)), 1), b.output("dlogits", activationTensor(len(labels), 1, 1, classes), 1)}
	b.op(op, in, out)
	return b, out
}

func TestCrossEntropyOnPaper(t *testing.T) {
	// Equal logits: the loss is log C whatever the smoothing; scale 2 over 1 valid row of 2.
	b, out := lossCase(4, 0.2, 1, []float32{3, 3, 3, 3, 9, 9, 9, 9}, []int32{2, -1})
	// All tie: the label 2 has two before it, so it is not the first, and among five.
	expect(t, b, out[0], math.Log(4), 0, 1, 1, 0, 0, 0, 0)
	expect(t, b, out[1], 2*(0.25-0.05), 2*(0.25-0.05), 2*(0.25-0.85), 2*(0.25-0.05), 0, 0, 0, 0)
	// Two logits, log 3 apart: probabilities 3/4 and 1/4.
	b, out = lossCase(2, 0, 2, []float32{float32(math.Log(3)), 0, 0, float32(math.Log(3))}, []int32{0, 0})
	expect(t, b, out[0], math.Log(4.0/3)+math.Log(4), 1, 2, 2, 0, 0, 0, 0)
	expect(t, b, out[1], -0.25, 0.25, -0.75, 0.75)
}

func TestTopFiveCountsWhoIsBefore(t *testing.T) {
	// Six classes. Rows: label is fifth (right), sixth (wrong), ties with all at index 5 (five before it: wrong), at index 4 (right).
	logits := []float32{9, 8, 7, 6, 5, 0, 9, 8, 7, 6, 5, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
	b, out := lossCase(6, 0, 4, logits, []int32{4, 5, 5, 4})
	outputs, err := RunCase(reference(t), &b.Case)
	if err != nil {
		t.Fatal(err)
	}
	if got := outputs[0].Values; got[bindings.Top1Right] != 0 || got[bindings.Top5Right] != 2 || got[bindings.Seen] != 4 || outputs[0].Tensor != &b.Tensors[out[0]] {
		t.Errorf("counters %v: want 0 right, 2 among five, 4 seen", got)
	}
}

func TestSGDOnPaper(t *testing.T) {
	// d = 4 0.5 + 0.1 10 = 3; m = 0.9 2 + 3 = 4.8; w = 10 - 0.1 4.8 = 9.52, or with Nesterov 10 - 0.1 (3 + 0.9 4.8) = 9.268.
	for flags, want := range map[uint32]float64{0: 9.52, bindings.Nesterov: 9.268} {
		b := newBuilder("sgd", "paper")
		op := mapOp(bindings.SGD, 1, 1, 1, 1)
		op.Flags, op.F, op.Slot[0] = flags, [2]float32{0.9, 0.1}, b.slot(0.1)
		in := []int32{b.vector("g", []float32{4}), b.vector("scale", []float32{8, 0.5, 0, 0})}
		out := []int32{b.updated(b.vector("w", []float32{10}), 1), b.updated(b.vector("m", []float32{2}), 1), b.updated(b.doubles("counters", 1, bindings.Counters, make([]float64, bindings.Counters)), 1)}
		b.op(op, in, out)
		expect(t, b, out[0], want)
		expect(t, b, out[1], 4.8)
		expect(t, b, out[2], 0, 0, 0, 0, 0, 0, 0, 0)
	}
}

func TestInputOnPaper(t *testing.T) {
	// A grey 2x2 image 0, 51, 102, 255 with mean 0.2 and 1/std 10: pixels are -2, 0, 2, 8.
	pixels := []byte{0, 51, 102, 255}
	rows := []int32{
		0, 0, 0, 2, 2, 0, 0, 0, // as it is
		0, 0, 0, 2, 2, 1, 0, 0, // flipped
		0, 1, -1, 2, 2, 0, 0, 0, // one down, one to the left: outside is 0
		0, 1, 0, 1, 2, 0, 0, 0, // the lower row, doubled in height
	}
	b := newBuilder("input", "paper")
	in := []int32{
		b.add(Tensor{Name: "images", Tensor: bindings.Tensor{DType: bindings.U8, N: 1, H: 2, W: 2, C: 1}, Data: pixels}), b.integers("labels", 1, 1, []int32{42}),
		b.integers("samples", 4, 8, rows), b.vector("norm", []float32{0.2, 0.2, 0.2, 10, 10, 10}),
	}
	op := mapOp(bindings.Input, 4, 2, 2, 3)
	op.Slot[0] = b.slot(0)
	out := []int32{b.output("X", activationTensor(4, 2, 2, 3), 1), b.output("y", plain(bindings.I32, 1, 4), 1)}
	b.op(op, in, out)
	var want []float64
	for _, v := range []float64{-2, 0, 2, 8, 0, -2, 8, 2, 0, 2, 0, 0, 2, 8, 2, 8} {
		want = append(want, v, v, v)
	}
	expect(t, b, out[0], want...)
	expect(t, b, out[1], 42, 42, 42, 42)
	// One pixel across: half way between both, in both directions: the mean of all four is 2.
	rows[3], rows[4] = 2, 2
	op.N, op.H, op.W = 1, 1, 1
	small := newBuilder("input", "paper, small")
	small.Tensors, small.Slots = b.Tensors[:4:4], b.Slots
	x := small.output("X", activationTensor(1, 1, 1, 3), 1)
	expect(t, small.op(op, in, []int32{x, small.output("y", plain(bindings.I32, 1, 1), 1)}), x, 2, 2, 2)
}

func TestGradientsThatAreNotFiniteAreCounted(t *testing.T) {
	b := newBuilder("sgd", "not finite")
	op := mapOp(bindings.SGD, 1, 1, 1, 4)
	op.Slot[0] = b.slot(0)
	in := []int32{b.vector("g", []float32{1, float32(math.NaN()), float32(math.Inf(-1)), math.MaxFloat32})}
	out := []int32{b.updated(b.vector("w", make([]float32, 4)), 1), b.updated(b.vector("m", make([]float32, 4)), 1), b.updated(b.doubles("counters", 1, bindings.Counters, make([]float64, bindings.Counters)), 1)}
	expect(t, b.op(op, in, out), out[2], 0, 0, 0, 0, 2, 0, 0, 0)
}

func TestRowWithANaNIsWrong(t *testing.T) {
	// Three classes: all are among the first five, but in the row whose NaN is not even at the label.
	nan := float32(math.NaN())
	b, _ := lossCase(3, 0, 2, []float32{9, 1, nan, 9, 1, 2}, []int32{0, 0})
	outputs, err := RunCase(reference(t), &b.Case)
	if err != nil {
		t.Fatal(err)
	}
	if got := outputs[0].Values; !math.IsNaN(got[bindings.LossSum]) || got[bindings.Top1Right] != 1 || got[bindings.Top5Right] != 1 || got[bindings.Seen] != 2 {
		t.Errorf("counters %v: want a loss of NaN, 1, 1, 2", got)
	}
}

func TestColourImageIsFlipped(t *testing.T) {
	// One row of three colour pixels, flipped; mean 0 and 1/std 255 leave the bytes as they are.
	b := newBuilder("input", "colour")
	in := []int32{
		b.add(Tensor{Name: "images", Tensor: bindings.Tensor{DType: bindings.U8, N: 1, H: 1, W: 3, C: 3}, Data: []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}}), b.integers("labels", 1, 1, []int32{0}),
		b.integers("samples", 1, 8, []int32{0, 0, 0, 1, 3, 1, 0, 0}), b.vector("norm", []float32{0, 0, 0, 255, 255, 255}),
	}
	op := mapOp(bindings.Input, 1, 1, 3, 3)
	op.Slot[0] = b.slot(0)
	out := []int32{b.output("X", activationTensor(1, 1, 3, 3), 1), b.output("y", plain(bindings.I32, 1, 1), 1)}
	expect(t, b.op(op, in, out), out[0], 7, 8, 9, 4, 5, 6, 1, 2, 3)
}

func TestLossScaleOnPaper(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, step := range []struct {
		what          string
		g             []float32
		before, after [bindings.Scales]float64
		nonfinite     float64
	}{
		{"a good step", []float32{1, -2}, [4]float64{64, 0, 0, 5}, [4]float64{64, 1.0 / 64, 1, 5}, 0},
		{"the third in a row", []float32{1, -2}, [4]float64{64, 0, 2, 5}, [4]float64{128, 1.0 / 64, 0, 5}, 0},
		{"at the largest", []float32{1, -2}, [4]float64{256, 0, 2, 5}, [4]float64{256, 1.0 / 256, 0, 5}, 0},
		{"overflow", []float32{inf, 1}, [4]float64{64, 1, 2, 5}, [4]float64{32, 0, 0, 6}, 0},
		{"overflow at scale 1", []float32{inf, inf - inf}, [4]float64{1, 1, 2, 5}, [4]float64{1, 0, 0, 6}, 2},
	} {
		b := newBuilder("loss_scale", "paper "+step.what)
		op := mapOp(bindings.LossScale, 1, 1, 1, 2)
		op.F = [2]float32{3, 256}
		before := make([]float32, bindings.Scales)
		for i, v := range step.before {
			before[i] = float32(v)
		}
		out := []int32{b.updated(b.vector("scale", before), 1), b.updated(b.doubles("counters", 1, bindings.Counters, make([]float64, bindings.Counters)), 1)}
		b.op(op, []int32{b.vector("g", step.g)}, out)
		expect(t, b, out[0], step.after[:]...)
		expect(t, b, out[1], 0, 0, 0, 0, step.nonfinite, 0, 0, 0)
	}
}
