package conformance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"anynetx/bindings"
)

// guard is how many bytes stand between tensors at least; poison is what they and unwritten outputs hold: NaNs in every float type.
const (
	guard  = bindings.Alignment
	poison = 0xFF
)

// Bound is a case on a device.
type Bound struct {
	Case    *Case
	context *bindings.Context
	buffer  *bindings.Buffer
	program *bindings.Program
	spans   []span
	before  []byte // the whole buffer before the first run
}

type span struct{ offset, bytes int64 }

// Bind gives every tensor its place, writes what it holds and creates the program.
func Bind(ctx *bindings.Context, c *Case) (*Bound, error) {
	if why := c.Unfit(ctx.Info()); why != "" {
		return nil, &bindings.Error{Status: bindings.Unsupported, Text: why}
	}
	b := &Bound{Case: c, context: ctx, spans: make([]span, len(c.Tensors))}
	end := int64(guard)
	for i, t := range c.Tensors {
		bytes, err := ctx.TensorBytes(t.Tensor)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		b.spans[i] = span{end, bytes}
		end += (bytes+bindings.Alignment-1)/bindings.Alignment*bindings.Alignment + guard
	}
	buffer, err := ctx.NewBuffer(end)
	if err != nil {
		return nil, err
	}
	b.buffer = buffer
	fill := make([]byte, end)
	for i := range fill {
		fill[i] = poison
	}
	if err := buffer.Write(0, fill); err != nil {
		return nil, errors.Join(err, b.close())
	}
	for i := range c.Tensors {
		if data := c.Tensors[i].Data; data != nil {
			if err := b.write(i, data); err != nil {
				return nil, errors.Join(err, b.close())
			}
		}
	}
	b.before = fill
	if err := buffer.Read(0, b.before); err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.program, err = ctx.NewProgram(b.desc(), []*bindings.Buffer{buffer})
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *Bound) desc() bindings.ProgramDesc {
	tensors := make([]bindings.Tensor, len(b.Case.Tensors))
	for i := range tensors {
		tensors[i] = b.tensor(i)
	}
	return bindings.ProgramDesc{Tensors: tensors, Ops: b.Case.Ops, Slots: len(b.Case.Slots)}
}

// tensor is the tensor as the back end sees it.
func (b *Bound) tensor(i int) bindings.Tensor {
	t := b.Case.Tensors[i].Tensor
	t.Buffer, t.Offset = 0, uint64(b.spans[i].offset)
	return t
}

func (b *Bound) write(i int, data []byte) error {
	t := b.tensor(i)
	if t.Layout == bindings.Activation {
		return b.context.Pack(t, b.buffer, float32s(data))
	}
	if want := t.Elements() * t.DType.Bytes(); want != len(data) {
		return fmt.Errorf("case %s: %s has %d bytes of data, but its shape %d", b.Case.Name, b.Case.Tensors[i].Name, len(data), want)
	}
	return b.buffer.Write(b.spans[i].offset, data)
}

// Run runs the program once.
func (b *Bound) Run() error { return b.program.Run(b.Case.Slots) }

// Kernels names what the program launches, op by op.
func (b *Bound) Kernels() ([]string, error) { return b.program.Kernels() }

// Reset writes back what every tensor held before the first run.
func (b *Bound) Reset() error { return b.buffer.Write(0, b.before) }

// Close frees the device's memory.
func (b *Bound) Close() { _ = b.close() }

func (b *Bound) close() error {
	b.buffer.Close() // closes the program too
	return nil
}

// Output is one tensor after a run.
type Output struct {
	Tensor *Tensor
	Bytes  []byte // in plain order, whatever the layout: what "same bits" compares
	Values []float64
	Size   float64 // rms to judge errors by where that of Values, which are few, may be less; see Sizes
}

// Collect reads the outputs, once no guard byte and no input has changed.
func (b *Bound) Collect() ([]Output, error) {
	after := make([]byte, len(b.before))
	if err := b.buffer.Read(0, after); err != nil {
		return nil, err
	}
	last := "the start of the buffer"
	at := int64(0)
	for i := range b.Case.Tensors {
		t, s := &b.Case.Tensors[i], b.spans[i]
		if err := b.unchanged(after, at, s.offset, fmt.Sprintf("guard bytes between %s and %s", last, t.Name)); err != nil {
			return nil, err
		}
		if !t.Output && !t.Private {
			if err := b.unchanged(after, s.offset, s.offset+s.bytes, "input "+t.Name); err != nil {
				return nil, err
			}
		}
		last, at = t.Name, s.offset+s.bytes
	}
	if err := b.unchanged(after, at, int64(len(after)), "guard bytes behind "+last); err != nil {
		return nil, err
	}

	var outputs []Output
	for i := range b.Case.Tensors {
		t, s := &b.Case.Tensors[i], b.spans[i]
		if !t.Output {
			continue
		}
		o := Output{Tensor: t}
		if t.Layout == bindings.Activation {
			values := make([]float32, t.Elements())
			if err := b.context.Unpack(b.tensor(i), b.buffer, values); err != nil {
				return nil, err
			}
			o.Bytes, o.Values = bindings.Bytes(values), decode(bindings.Bytes(values), bindings.F32)
		} else {
			o.Bytes = after[s.offset : s.offset+s.bytes]
			o.Values = decode(o.Bytes, t.DType)
		}
		outputs = append(outputs, o)
	}
	return outputs, nil
}

func (b *Bound) unchanged(after []byte, from, to int64, what string) error {
	for i := from; i < to; i++ {
		if after[i] != b.before[i] {
			return fmt.Errorf("case %s: byte %d of the %s was overwritten", b.Case.Name, i-from, what)
		}
	}
	return nil
}

// RunCase binds, runs once and collects.
func RunCase(ctx *bindings.Context, c *Case) ([]Output, error) {
	b, err := Bind(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("case %s: %w", c.Name, err)
	}
	defer b.Close()
	if err := b.Run(); err != nil {
		return nil, fmt.Errorf("case %s: %w", c.Name, err)
	}
	return b.Collect()
}

func float32s(data []byte) []float32 {
	values := make([]float32, len(data)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.NativeEndian.Uint32(data[4*i:]))
	}
	return values
}

func decode(data []byte, dtype bindings.DType) []float64 {
	values := make([]float64, len(data)/dtype.Bytes())
	for i := range values {
		switch dtype {
		case bindings.F32:
			values[i] = float64(math.Float32frombits(binary.NativeEndian.Uint32(data[4*i:])))
		case bindings.F64:
			values[i] = math.Float64frombits(binary.NativeEndian.Uint64(data[8*i:]))
		case bindings.I32:
			values[i] = float64(int32(binary.NativeEndian.Uint32(data[4*i:])))
		case bindings.U8:
			values[i] = float64(data[i])
		default:
			panic(fmt.Sprintf("conformance: no case has outputs of %s", dtype))
		}
	}
	return values
}
