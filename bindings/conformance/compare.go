package conformance

import (
	"bytes"
	"fmt"
	"math"

	"anynetx/bindings"
	"anynetx/random"
)

// epsilon is the unit roundoff of the arithmetic in which a back end may compute activations of a dtype.
func epsilon(dtype bindings.DType) float64 {
	switch dtype {
	case bindings.F16:
		return 0x1p-11
	case bindings.BF16:
		return 0x1p-8
	}
	return 0x1p-24
}

// A sum of L terms that wander around 0, added in float one after the other, is off by about e sqrt(L/2) of its own rms (every partial
// sum rounds, in random directions); an element that is off by 6 such deviations is one in a billion. To that comes the rounding of
// what was summed and of the result, once or twice an element. Blocked and double sums are closer.
const (
	elementFactor = 8.0 // of one element, against e sqrt(L) rms
	elementFloor  = 8.0 // against e times the element itself or the rms, whichever is larger
	normFactor    = 2.0 // of the error's rms, against e sqrt(L) rms
	normFloor     = 2.0
)

// Compare judges got against the reference's want: first where NaNs and infinities stand, then each element's error, then the error's
// norm. The guards have been checked by Collect.
func Compare(c *Case, want, got []Output) error {
	if len(want) != len(got) {
		return fmt.Errorf("case %s: %d outputs, want %d", c.Name, len(got), len(want))
	}
	for i := range want {
		if err := compareOutput(&want[i], &got[i], epsilon(c.Ops[0].DType)); err != nil {
			return fmt.Errorf("case %s: %s: %w", c.Name, want[i].Tensor.Name, err)
		}
	}
	return nil
}

func compareOutput(want, got *Output, e float64) error {
	t := want.Tensor
	if len(want.Values) != len(got.Values) {
		return fmt.Errorf("%d values, want %d", len(got.Values), len(want.Values))
	}
	squares, count := 0.0, 0
	for i, w := range want.Values {
		g := got.Values[i]
		switch {
		case math.IsNaN(w) && math.IsNaN(g) && t.NaNs:
			continue
		case math.IsNaN(w) || math.IsNaN(g):
			return fmt.Errorf("%s is %g, want %g: a NaN has no place here", place(t, i), g, w)
		case math.IsInf(w, 0) || math.IsInf(g, 0):
			if w != g {
				return fmt.Errorf("%s is %g, want %g", place(t, i), g, w)
			}
			continue
		}
		squares += w * w
		count++
	}
	if t.DType == bindings.I32 || t.DType == bindings.U8 {
		for i, w := range want.Values {
			if got.Values[i] != w {
				return fmt.Errorf("%s is %g, want %g", place(t, i), got.Values[i], w)
			}
		}
		return nil
	}
	rms := math.Max(math.Sqrt(squares/math.Max(float64(count), 1)), want.Size)
	slack := math.Max(t.Slack, 1)
	terms := math.Sqrt(float64(max(t.Terms, 1)))
	errors := 0.0
	for i, w := range want.Values {
		g := got.Values[i]
		if math.IsNaN(w) || math.IsInf(w, 0) {
			continue
		}
		allowed := slack * e * (elementFactor*terms*rms + elementFloor*math.Max(rms, math.Abs(w)))
		if d := math.Abs(g - w); d > allowed {
			return fmt.Errorf("%s is %.9g, want %.9g: off by %.3g, allowed are %.3g (rms %.3g, %d terms)", place(t, i), g, w, d, allowed, rms, t.Terms)
		}
		errors += (g - w) * (g - w)
	}
	off := math.Sqrt(errors / math.Max(float64(count), 1))
	if allowed := slack * e * (normFactor*terms + normFloor) * rms; off > allowed {
		return fmt.Errorf("the error's rms is %.3g, allowed are %.3g (rms %.3g, %d terms)", off, allowed, rms, t.Terms)
	}
	return nil
}

// few is how many values tell the rms that an output's sums have without cancelling.
const few = 64

// Sizes sets the Size of outputs of a few values: sums that happen to cancel are as wrong as others of their terms. Their rms is that of more sums of
// the same terms, otherwise paired and of other signs: the case runs again with the values of each input shuffled.
func Sizes(ctx *bindings.Context, c *Case, outputs []Output) error {
	runs := 0
	for i := range outputs {
		if n := len(outputs[i].Values); n < few {
			runs = max(runs, min(8, few/max(n, 1)))
		}
	}
	squares, counts := make([]float64, len(outputs)), make([]float64, len(outputs))
	for run := range runs {
		again, err := RunCase(ctx, shuffled(c, run))
		if err != nil {
			return err
		}
		for i := range again {
			for _, v := range again[i].Values {
				if !math.IsNaN(v) && !math.IsInf(v, 0) {
					squares[i] += v * v
					counts[i]++
				}
			}
		}
	}
	for i := range outputs {
		if len(outputs[i].Values) < few && counts[i] > 0 {
			outputs[i].Size = math.Sqrt(squares[i] / counts[i])
		}
	}
	return nil
}

// shuffled is the case with the float values of every input in another order and, where an input has both signs, with signs drawn anew: a sum of all
// of its values would be the same in any order.
func shuffled(c *Case, number int) *Case {
	other := *c
	other.Tensors = append([]Tensor(nil), c.Tensors...)
	for i := range other.Tensors {
		t := &other.Tensors[i]
		if t.Data == nil || t.DType != bindings.F32 {
			continue
		}
		t.Data = append([]byte(nil), t.Data...)
		stream := random.New(uint64(number), "conformance", "shuffled", t.Name)
		for last := len(t.Data)/4 - 1; last > 0; last-- {
			a, b := t.Data[4*last:][:4], t.Data[4*int(stream.Below(uint64(last), uint64(last+1))):][:4]
			x := [4]byte(a)
			copy(a, b)
			copy(b, x[:])
		}
		if negative, positive := signs(t.Data); !negative || !positive {
			continue
		}
		for j := 3; j < len(t.Data); j += 4 {
			t.Data[j] ^= byte(stream.Below(uint64(len(t.Data)+j), 2)) << 7
		}
	}
	return &other
}

// signs says which signs float32 values have.
func signs(data []byte) (negative, positive bool) {
	for i := 3; i < len(data); i += 4 {
		negative = negative || data[i] >= 0x80
		positive = positive || data[i] < 0x80
	}
	return negative, positive
}

// SameBits is nil if two runs gave the same bits.
func SameBits(c *Case, a, b []Output) error {
	for i := range a {
		if !bytes.Equal(a[i].Bytes, b[i].Bytes) {
			different := 0
			first := -1
			for j := range a[i].Values {
				if math.Float64bits(a[i].Values[j]) != math.Float64bits(b[i].Values[j]) {
					if different++; first < 0 {
						first = j
					}
				}
			}
			return fmt.Errorf("case %s: %d of %d values of %s have other bits, first %s: %v and %v", c.Name, different, len(a[i].Values), a[i].Tensor.Name,
				place(a[i].Tensor, max(first, 0)), a[i].Values[max(first, 0)], b[i].Values[max(first, 0)])
		}
	}
	return nil
}

// place names element i by its position.
func place(t *Tensor, i int) string {
	c := i % int(t.C)
	w := i / int(t.C) % int(t.W)
	h := i / int(t.C) / int(t.W) % int(t.H)
	return fmt.Sprintf("element [%d %d %d %d] of %dx%dx%dx%d", i/int(t.C)/int(t.W)/int(t.H), h, w, c, t.N, t.H, t.W, t.C)
}
