package main

import (
	"fmt"
	"math"

	"anynetx/bindings"
)

// opCase is one op to be timed, as a convolution of a network or a pass over a map.
type opCase struct {
	name      string // of the shape, without the pass
	family    string
	batch     int
	size      int // input map
	c, k      int
	r, stride int
	group     int
	act       bool // a batch norm and ReLU stand in front of it
	stem      bool // no input gradient
	pass      bindings.OpKind
}

func (o *opCase) out() int { return (o.size-1)/o.stride + 1 }

// insideShare is the part of the filter's taps that meet the map, of all taps of all outputs.
func (o *opCase) insideShare() float64 {
	hits := 0
	for p := range o.out() {
		for r := range o.r {
			if y := p*o.stride + r - o.r/2; y >= 0 && y < o.size {
				hits++
			}
		}
	}
	share := float64(hits) / float64(o.out()*o.r)
	return share * share
}

// mapSizes are the maps of the networks' stages with the batch of each: 224 px trains with 16 images, 32 px with 128.
var mapSizes = [...]struct{ size, batch, channels int }{
	{56, 16, 64}, {28, 16, 128}, {14, 16, 256}, {7, 16, 512},
	{8, 128, 64}, {4, 128, 128}, {2, 128, 256}, {1, 128, 512},
}

// opCases are all shapes that `bench ops` times: every group width on every map, 1x1 convolutions narrow and wide, stems, heads, and
// what is not convolution.
func opCases() []opCase {
	var list []opCase
	conv := func(o opCase) {
		o.name = fmt.Sprintf("%s %dpx b%d %d->%d g%d", o.family, o.size, o.batch, o.c, o.k, o.group)
		if o.stride > 1 {
			o.name += fmt.Sprintf(" stride %d", o.stride)
		}
		list = append(list, o)
	}
	for _, stride := range []int{1, 2} {
		for _, m := range mapSizes {
			if m.size < stride {
				continue
			}
			for g := 1; g <= 32; g++ {
				width := g * int(math.RoundToEven(float64(m.channels)/float64(g)))
				conv(opCase{family: "grouped", batch: m.batch, size: m.size, c: width, k: width, r: 3, stride: stride, group: g, act: true})
			}
		}
	}
	for _, m := range mapSizes {
		w := m.channels
		for _, ck := range [][2]int{{w / 2, w / 2}, {w, w}, {w, w / 4}, {w / 4, w}, {w + 8, w - 24}, {2 * w, 2 * w}} {
			conv(opCase{family: "1x1", batch: m.batch, size: m.size, c: ck[0], k: ck[1], r: 1, stride: 1, group: ck[0], act: ck[0] <= ck[1]})
		}
		if m.size > 1 {
			conv(opCase{family: "1x1", batch: m.batch, size: m.size, c: w, k: 2 * w, r: 1, stride: 2, group: w})
		}
	}
	for _, s := range []struct{ size, batch, r, stride int }{{224, 16, 7, 2}, {32, 128, 7, 2}, {224, 16, 3, 2}, {32, 128, 3, 1}} {
		conv(opCase{family: fmt.Sprintf("stem %dx%d", s.r, s.r), batch: s.batch, size: s.size, c: 3, k: 32, r: s.r, stride: s.stride, group: 3, stem: true})
	}
	for _, h := range []struct{ batch, c, k int }{{16, 512, 1000}, {128, 512, 10}} {
		conv(opCase{family: "head", batch: h.batch, size: 1, c: h.c, k: h.k, r: 1, stride: 1, group: h.c})
	}
	for _, m := range mapSizes {
		for _, pass := range []bindings.OpKind{bindings.JoinFwd, bindings.JoinBwd} {
			list = append(list, opCase{name: fmt.Sprintf("join %dpx b%d %d channels", m.size, m.batch, m.channels), family: "join",
				batch: m.batch, size: m.size, c: m.channels, k: m.channels, r: 1, stride: 1, pass: pass})
		}
	}
	for _, s := range []struct{ size, batch int }{{112, 16}, {16, 128}} {
		for _, pass := range []bindings.OpKind{bindings.PoolFwd, bindings.PoolBwd} {
			list = append(list, opCase{name: fmt.Sprintf("pool %dpx b%d 32 channels", s.size, s.batch), family: "pool",
				batch: s.batch, size: s.size, c: 32, k: 32, r: 3, stride: 2, pass: pass})
		}
	}
	return list
}

// opProgram makes programs of a single op, with tensors of their own in one buffer.
type opProgram struct {
	device *bindings.Context
	dtype  bindings.DType // of activations
	desc   bindings.ProgramDesc
	bytes  int64 // of the buffer
	moved  int64 // of activations that the op reads and writes
	fill   []int32
}

func (p *opProgram) add(t bindings.Tensor, filled bool) (int32, error) {
	bytes, err := p.device.TensorBytes(t)
	if err != nil {
		return -1, err
	}
	if t.Layout == bindings.Activation {
		p.moved += int64(t.DType.Bytes()) * int64(t.Elements())
	}
	t.Offset = uint64(p.bytes)
	p.bytes += (bytes + bindings.Alignment - 1) / bindings.Alignment * bindings.Alignment
	p.desc.Tensors = append(p.desc.Tensors, t)
	id := int32(len(p.desc.Tensors) - 1)
	if filled {
		p.fill = append(p.fill, id)
	}
	return id, nil
}

// tensors of an op by what they are: "x", "y" maps at its input and output side, "s" and "k" vectors of either, "S" and "K" their sums,
// "w" the filter, "-" none. Capitals and those behind ">" are not filled with numbers.
func (p *opProgram) build(o *opCase, op bindings.Op, in, out string) error {
	activation := func(size, c int) bindings.Tensor {
		return bindings.Tensor{Layout: bindings.Activation, DType: p.dtype, N: int32(o.batch), H: int32(size), W: int32(size), C: int32(c)}
	}
	vector := func(d bindings.DType, n, c int) bindings.Tensor {
		return bindings.Tensor{DType: d, N: int32(n), H: 1, W: 1, C: int32(c)}
	}
	op.DType = p.dtype
	op.N, op.H, op.W, op.C = int32(o.batch), int32(o.size), int32(o.size), int32(o.c)
	op.P, op.Q, op.K = int32(o.out()), int32(o.out()), int32(o.k)
	op.R, op.Stride, op.Group = int32(o.r), int32(o.stride), int32(o.group)
	for _, side := range []struct {
		letters string
		ids     []int32
		filled  bool
	}{{in, op.In[:], true}, {out, op.Out[:], false}} {
		for i, letter := range side.letters {
			var t bindings.Tensor
			switch letter {
			case '-':
				continue
			case 'x':
				t = activation(o.size, o.c)
			case 'y':
				t = activation(o.out(), o.k)
			case 's':
				t = vector(bindings.F32, 1, o.c)
			case 'k':
				t = vector(bindings.F32, 1, o.k)
			case 'S':
				t = vector(bindings.F64, 2, o.c)
			case 'K':
				t = vector(bindings.F64, 2, o.k)
			case 'w':
				t = bindings.Tensor{N: int32(o.k), H: int32(o.r), W: int32(o.r), C: int32(o.group)}
			}
			id, err := p.add(t, side.filled)
			if err != nil {
				return fmt.Errorf("%s: %w", o.name, err)
			}
			side.ids[i] = id
		}
	}
	p.desc.Ops = []bindings.Op{op}
	return nil
}

// passes are the programs of a case: name of the pass, arithmetic relative to the forward pass, tensors.
type opPass struct {
	name    string
	kind    bindings.OpKind
	macs    float64
	in, out string
}

func (o *opCase) passes() []opPass {
	switch o.family {
	case "join":
		if o.pass == bindings.JoinFwd {
			return []opPass{{name: "fwd", kind: o.pass, in: "xssx", out: "x"}}
		}
		return []opPass{{name: "bwd", kind: o.pass, in: "xxxs", out: "xS"}}
	case "pool":
		if o.pass == bindings.PoolFwd {
			return []opPass{{name: "fwd", kind: o.pass, in: "xss", out: "y"}}
		}
		return []opPass{{name: "bwd", kind: o.pass, in: "yxsss", out: "xS"}}
	case "head":
		return []opPass{
			{"fwd", bindings.ConvFwd, 1, "x--wk", "y"},
			{"bwd", bindings.ConvBwd, 2, "y----x---w", "xwk"},
			{"wgrad", bindings.ConvBwd, 1, "y----x---w", "-wk"}}
	}
	fwd, bwd, gradients, weight := "x--w", "yykkkx---w", "xw", "-w"
	if o.act {
		fwd, bwd, gradients = "xssw", "yykkkxsssw", "xw-S"
	}
	list := []opPass{{"fwd", bindings.ConvFwd, 1, fwd, "yK"}}
	if !o.stem {
		list = append(list, opPass{"bwd", bindings.ConvBwd, 2, bwd, gradients})
	}
	return append(list, opPass{"wgrad", bindings.ConvBwd, 1, bwd, weight})
}
