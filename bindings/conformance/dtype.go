package conformance

import (
	"encoding/binary"
	"math"

	"anynetx/bindings"
)

// InDType is the case with activations stored in another dtype, and the case of F32 that it must agree with to the rounding of what is
// stored: their inputs are the same, rounded.
func (c Case) InDType(dtype bindings.DType) (stored, exact Case) {
	stored, exact = c, c
	stored.Ops = append([]bindings.Op(nil), c.Ops...)
	stored.Tensors = append([]Tensor(nil), c.Tensors...)
	exact.Tensors = append([]Tensor(nil), c.Tensors...)
	for i := range stored.Ops {
		stored.Ops[i].DType = dtype
	}
	for i := range stored.Tensors {
		t := &stored.Tensors[i]
		if t.Layout != bindings.Activation {
			continue
		}
		t.DType = dtype
		if t.Data != nil {
			t.Data = rounded(t.Data, dtype)
			exact.Tensors[i].Data = t.Data
		}
	}
	return stored, exact
}

// rounded is F32 data with every value rounded to a storage type, to nearest even.
func rounded(data []byte, dtype bindings.DType) []byte {
	drop := map[bindings.DType]uint{bindings.F16: 13, bindings.BF16: 16}[dtype]
	if drop == 0 {
		return data
	}
	out := make([]byte, len(data))
	for i := 0; i < len(data); i += 4 {
		bits := binary.NativeEndian.Uint32(data[i:])
		v := math.Float32frombits(bits)
		switch {
		case v != v || math.IsInf(float64(v), 0):
		case dtype == bindings.F16 && math.Abs(float64(v)) < 0x1p-14: // subnormal halves are multiples of 2^-24
			bits = math.Float32bits(float32(math.RoundToEven(float64(v)*0x1p24) * 0x1p-24))
		default:
			bits = (bits + 1<<(drop-1) - 1 + bits>>drop&1) >> drop << drop
			if f := math.Float32frombits(bits); dtype == bindings.F16 && math.Abs(float64(f)) > 65504 {
				bits = math.Float32bits(float32(math.Inf(int(math.Copysign(1, float64(v))))))
			}
		}
		binary.NativeEndian.PutUint32(out[i:], bits)
	}
	return out
}
