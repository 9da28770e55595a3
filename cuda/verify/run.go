package verify

import (
	"encoding/binary"
	"fmt"
	"math"

	"anynetx/bindings"
	"anynetx/bindings/conformance"
)

const guard = bindings.Alignment // bytes between tensors, which nobody may write

// runCase runs a case whose activations may be of 16 bits: every byte that is no input's is 0xFF before (a NaN in every type), guards and
// inputs must not change, and activations come back through Unpack.
func runCase(ctx *bindings.Context, c *conformance.Case) ([]conformance.Output, error) {
	fail := func(err error) ([]conformance.Output, error) { return nil, fmt.Errorf("case %s: %w", c.Name, err) }
	tensors := make([]bindings.Tensor, len(c.Tensors))
	sizes := make([]int64, len(c.Tensors))
	end := int64(guard)
	for i, t := range c.Tensors {
		bytes, err := ctx.TensorBytes(t.Tensor)
		if err != nil {
			return fail(err)
		}
		tensors[i], sizes[i] = t.Tensor, bytes
		tensors[i].Buffer, tensors[i].Offset = 0, uint64(end)
		end += (bytes+guard-1)/guard*guard + guard
	}
	buffer, err := ctx.NewBuffer(end)
	if err != nil {
		return fail(err)
	}
	defer buffer.Close()
	before := make([]byte, end)
	for i := range before {
		before[i] = 0xFF
	}
	if err := buffer.Write(0, before); err != nil {
		return fail(err)
	}
	for i, t := range c.Tensors {
		if t.Data == nil {
			continue
		}
		if t.Layout == bindings.Activation {
			err = ctx.Pack(tensors[i], buffer, floats(t.Data))
		} else {
			err = buffer.Write(int64(tensors[i].Offset), t.Data)
		}
		if err != nil {
			return fail(err)
		}
	}
	if err := buffer.Read(0, before); err != nil {
		return fail(err)
	}
	program, err := ctx.NewProgram(bindings.ProgramDesc{Tensors: tensors, Ops: c.Ops, Slots: len(c.Slots)}, []*bindings.Buffer{buffer})
	if err != nil {
		return fail(err)
	}
	defer program.Close()
	if err := program.Run(c.Slots); err != nil {
		return fail(err)
	}
	after := make([]byte, end)
	if err := buffer.Read(0, after); err != nil {
		return fail(err)
	}
	written := make([]bool, end)
	for i, t := range c.Tensors {
		for b := range sizes[i] {
			written[int64(tensors[i].Offset)+b] = t.Output || t.Private
		}
	}
	for i := range after {
		if !written[i] && after[i] != before[i] {
			return fail(fmt.Errorf("byte %d, of a guard or an input, was written", i))
		}
	}
	var outputs []conformance.Output
	for i := range c.Tensors {
		t := &c.Tensors[i]
		if !t.Output {
			continue
		}
		o := conformance.Output{Tensor: t, Bytes: after[tensors[i].Offset:][:sizes[i]]}
		switch {
		case t.Layout == bindings.Activation:
			values := make([]float32, t.Elements())
			if err := ctx.Unpack(tensors[i], buffer, values); err != nil {
				return fail(err)
			}
			for _, v := range values {
				o.Values = append(o.Values, float64(v))
			}
			if at := paddingFault(o.Bytes, t.Tensor); at >= 0 {
				return fail(fmt.Errorf("%s: byte %d of the padding channels is not 0", t.Name, at))
			}
		case t.DType == bindings.F64:
			for b := o.Bytes; len(b) > 0; b = b[8:] {
				o.Values = append(o.Values, math.Float64frombits(binary.NativeEndian.Uint64(b)))
			}
		case t.DType == bindings.I32:
			for b := o.Bytes; len(b) > 0; b = b[4:] {
				o.Values = append(o.Values, float64(int32(binary.NativeEndian.Uint32(b))))
			}
		default:
			for _, v := range floats(o.Bytes) {
				o.Values = append(o.Values, float64(v))
			}
		}
		outputs = append(outputs, o)
	}
	return outputs, nil
}

// paddingFault is the first byte of a channel beyond C that is not 0, or -1: kernels read whole vectors of 8 channels.
func paddingFault(data []byte, t bindings.Tensor) int {
	size := t.DType.Bytes()
	stride := (int(t.C) + 7) / 8 * 8 * size
	for i, b := range data {
		if i%stride >= int(t.C)*size && b != 0 {
			return i
		}
	}
	return -1
}

func floats(data []byte) []float32 {
	values := make([]float32, len(data)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.NativeEndian.Uint32(data[4*i:]))
	}
	return values
}
