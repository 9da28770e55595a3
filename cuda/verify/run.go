package verify

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"anynetx/bindings"
	"anynetx/bindings/conformance"
)

const guard = bindings.Alignment // bytes between tensors, which nobody may write

// runCase runs a case whose activations may be of 16 bits.
func runCase(ctx *bindings.Context, c *conformance.Case) ([]conformance.Output, error) {
	outputs, err := runModels(ctx, []conformance.Case{*c})
	if err != nil {
		return nil, err
	}
	return outputs[0], nil
}

// runModels runs equal programs over different values as the models of one program: every byte that is no input's is 0xFF before (a NaN
// in every type), guards and inputs must not change, and activations come back through Unpack.
func runModels(ctx *bindings.Context, models []conformance.Case) ([][]conformance.Output, error) {
	c := &models[0]
	fail := func(err error) ([][]conformance.Output, error) {
		return nil, fmt.Errorf("case %s, %d models: %w", c.Name, len(models), err)
	}
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
	place := func(i, model int) bindings.Tensor {
		t := tensors[i]
		t.Offset += uint64(int64(model) * end)
		return t
	}
	buffer, err := ctx.NewBuffer(end * int64(len(models)))
	if err != nil {
		return fail(err)
	}
	defer buffer.Close()
	before := bytes.Repeat([]byte{0xFF}, int(buffer.Size()))
	if err := buffer.Write(0, before); err != nil {
		return fail(err)
	}
	for m := range models {
		for i, t := range models[m].Tensors {
			if t.Data == nil {
				continue
			}
			if t.Layout == bindings.Activation {
				err = ctx.Pack(place(i, m), buffer, floats(t.Data))
			} else {
				err = buffer.Write(int64(place(i, m).Offset), t.Data)
			}
			if err != nil {
				return fail(err)
			}
		}
	}
	if err := buffer.Read(0, before); err != nil {
		return fail(err)
	}
	desc, slots := joined(tensors, end, models)
	program, err := ctx.NewProgram(desc, []*bindings.Buffer{buffer})
	if err != nil {
		return fail(err)
	}
	defer program.Close()
	if err := program.Run(slots); err != nil {
		return fail(err)
	}
	after := make([]byte, buffer.Size())
	if err := buffer.Read(0, after); err != nil {
		return fail(err)
	}
	written := make([]bool, len(after))
	for m := range models {
		for i, t := range c.Tensors {
			for b := range sizes[i] {
				written[int64(place(i, m).Offset)+b] = t.Output || t.Private
			}
		}
	}
	for i := range after {
		if !written[i] && after[i] != before[i] {
			return fail(fmt.Errorf("byte %d, of a guard or an input, was written", i))
		}
	}
	outputs := make([][]conformance.Output, len(models))
	for m := range models {
		for i := range c.Tensors {
			t := &c.Tensors[i]
			if !t.Output {
				continue
			}
			o := conformance.Output{Tensor: t, Bytes: after[place(i, m).Offset:][:sizes[i]]}
			if err := values(ctx, place(i, m), buffer, &o); err != nil {
				return fail(err)
			}
			outputs[m] = append(outputs[m], o)
		}
	}
	return outputs, nil
}

// joined is a case's program for all models: tensors a stride apart, slots of the models behind one another.
func joined(tensors []bindings.Tensor, stride int64, models []conformance.Case) (bindings.ProgramDesc, []float64) {
	count := int32(len(models))
	d := bindings.ProgramDesc{Tensors: tensors, Ops: append([]bindings.Op(nil), models[0].Ops...), Slots: len(models[0].Slots) * len(models)}
	for i := range tensors {
		tensors[i].Stride = uint64(stride)
	}
	for i := range d.Ops {
		d.Ops[i].Models = count
		for k, s := range d.Ops[i].Slot {
			if s >= 0 {
				d.Ops[i].Slot[k] = s * count
			}
		}
	}
	var slots []float64
	for s := range models[0].Slots {
		for m := range models {
			slots = append(slots, models[m].Slots[s])
		}
	}
	return d, slots
}

// values reads an output.
func values(ctx *bindings.Context, t bindings.Tensor, buffer *bindings.Buffer, o *conformance.Output) error {
	switch {
	case t.Layout == bindings.Activation:
		values := make([]float32, t.Elements())
		if err := ctx.Unpack(t, buffer, values); err != nil {
			return err
		}
		for _, v := range values {
			o.Values = append(o.Values, float64(v))
		}
		if at := paddingFault(o.Bytes, t); at >= 0 && ctx.Library().Name != "reference" {
			return fmt.Errorf("%s: byte %d of the padding channels is not 0", o.Tensor.Name, at)
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
	return nil
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
