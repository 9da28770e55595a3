package conformance

import (
	"math"

	"anynetx/bindings"
	"anynetx/random"
)

// builder makes one case. Its numbers are functions of the case's name.
type builder struct {
	Case
	stream random.Stream
	drawn  uint64
}

func newBuilder(family, name string) *builder {
	return &builder{Case: Case{Family: family, Name: family + " " + name}, stream: random.New(1, "conformance", family, name)}
}

func (b *builder) add(t Tensor) int32 {
	b.Tensors = append(b.Tensors, t)
	return int32(len(b.Tensors) - 1)
}

// activation is an input of the batch.
func (b *builder) activation(name string, n, h, w, c int, values []float32) int32 {
	return b.add(Tensor{Name: name, Tensor: activationTensor(n, h, w, c), Data: bindings.Bytes(values)})
}

func activationTensor(n, h, w, c int) bindings.Tensor {
	return bindings.Tensor{Layout: bindings.Activation, N: int32(n), H: int32(h), W: int32(w), C: int32(c)}
}

// vector is a plain input of F32 values.
func (b *builder) vector(name string, values []float32) int32 {
	return b.add(Tensor{Name: name, Tensor: plain(bindings.F32, 1, len(values)), Data: bindings.Bytes(values)})
}

func (b *builder) filter(name string, k, r, g int, values []float32) int32 {
	return b.add(Tensor{Name: name, Tensor: bindings.Tensor{N: int32(k), H: int32(r), W: int32(r), C: int32(g)}, Data: bindings.Bytes(values)})
}

func (b *builder) doubles(name string, rows, columns int, values []float64) int32 {
	return b.add(Tensor{Name: name, Tensor: plain(bindings.F64, rows, columns), Data: bindings.Bytes(values)})
}

func (b *builder) integers(name string, rows, columns int, values []int32) int32 {
	return b.add(Tensor{Name: name, Tensor: plain(bindings.I32, rows, columns), Data: bindings.Bytes(values)})
}

func plain(dtype bindings.DType, rows, columns int) bindings.Tensor {
	return bindings.Tensor{DType: dtype, N: int32(rows), H: 1, W: 1, C: int32(columns)}
}

// output is a tensor that the ops write; terms is how many values one element sums up.
func (b *builder) output(name string, t bindings.Tensor, terms int) int32 {
	return b.add(Tensor{Name: name, Tensor: t, Output: true, Terms: terms})
}

// updated makes an input an output too, which the op changes in place.
func (b *builder) updated(id int32, terms int) int32 {
	b.Tensors[id].Output, b.Tensors[id].Terms = true, terms
	return id
}

func (b *builder) slack(id int32, factor float64) int32 {
	b.Tensors[id].Slack = factor
	return id
}

func (b *builder) slot(value float64) int32 {
	b.Slots = append(b.Slots, value)
	return int32(len(b.Slots) - 1)
}

func (b *builder) op(op bindings.Op, in, out []int32) *builder {
	copy(op.In[:], in)
	copy(op.Out[:], out)
	b.Ops = append(b.Ops, op)
	return b
}

func (b *builder) next() uint64 {
	b.drawn++
	return b.drawn - 1
}

func (b *builder) normal(count int, scale float64) []float32 {
	values := make([]float32, count)
	for i := range values {
		values[i] = float32(scale * b.stream.Normal(b.next()))
	}
	return values
}

func (b *builder) uniform(count int, low, high float64) []float32 {
	values := make([]float32, count)
	for i := range values {
		values[i] = float32(low + (high-low)*b.stream.Float64(b.next()))
	}
	return values
}

func (b *builder) below(n int) int { return int(b.stream.Below(b.next(), uint64(n))) }

// grid is count random multiples of 1/per within +-limit.
func (b *builder) grid(count int, per, limit int) []float32 {
	values := make([]float32, count)
	for i := range values {
		values[i] = float32(b.below(2*limit*per+1)-limit*per) / float32(per)
	}
	return values
}

// Inputs of act(X) = ReLU(s X + t) are multiples of 1/64, s of 1/16 and t odd multiples of 1/2048: s X + t is exact in float and at
// least 1/2048 away from 0, so every back end masks the same values.
func (b *builder) maskable(count int) []float32 { return b.grid(count, 64, 2) }

func (b *builder) affine(c int) (s, t []float32) {
	s, t = make([]float32, c), make([]float32, c)
	for i := range s {
		s[i] = float32(8+b.below(17)) / 16 // 0.5..1.5
		if b.below(8) == 0 {
			s[i] = -s[i]
		}
		t[i] = float32(2*b.below(2048)-2047) / 2048
	}
	return s, t
}

// rectified is what a ReLU leaves: half of it zeros.
func (b *builder) rectified(count int) []float32 {
	values := b.normal(count, 1)
	for i, v := range values {
		values[i] = float32(math.Max(float64(v), 0))
	}
	return values
}
