package conformance

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"anynetx/bindings"
	"anynetx/random"
)

// malformed is one mistake in a case that is otherwise right, and a word that the error's text must hold.
type malformed struct {
	name    string
	family  string
	corrupt func(d *bindings.ProgramDesc)
	status  bindings.Status
	text    string
}

func mistakes() []malformed {
	const invalid = bindings.InvalidArgument
	op := func(change func(o *bindings.Op)) func(d *bindings.ProgramDesc) {
		return func(d *bindings.ProgramDesc) { change(&d.Ops[0]) }
	}
	in := func(i int, change func(t *bindings.Tensor)) func(d *bindings.ProgramDesc) {
		return func(d *bindings.ProgramDesc) { change(&d.Tensors[d.Ops[0].In[i]]) }
	}
	out := func(i int, change func(t *bindings.Tensor)) func(d *bindings.ProgramDesc) {
		return func(d *bindings.ProgramDesc) { change(&d.Tensors[d.Ops[0].Out[i]]) }
	}
	list := []malformed{
		{"a tensor beyond its buffer", "conv_fwd", in(0, func(t *bindings.Tensor) { t.Offset = 1 << 40 }), invalid, ""},
		{"an offset that wraps", "conv_fwd", in(0, func(t *bindings.Tensor) { t.Offset = math.MaxUint64 - 63 }), invalid, ""},
		{"an odd offset", "conv_fwd", in(0, func(t *bindings.Tensor) { t.Offset += 4 }), invalid, ""},
		{"a buffer that is not there", "conv_fwd", in(0, func(t *bindings.Tensor) { t.Buffer = 1 }), invalid, ""},
		{"a negative buffer", "conv_fwd", in(0, func(t *bindings.Tensor) { t.Buffer = -1 }), invalid, ""},
		{"a layout that is not there", "conv_fwd", in(0, func(t *bindings.Tensor) { t.Layout = 2 }), invalid, ""},
		{"a dtype that is not there", "conv_fwd", in(0, func(t *bindings.Tensor) { t.DType = 6 }), invalid, ""},
		{"a size of 0", "conv_fwd", in(0, func(t *bindings.Tensor) { t.H = 0 }), invalid, ""},
		{"a size that overflows", "conv_fwd", in(0, func(t *bindings.Tensor) { t.H, t.W, t.C = math.MaxInt32, math.MaxInt32, math.MaxInt32 }), invalid, ""},
		{"an op that is not there", "conv_fwd", op(func(o *bindings.Op) { o.Kind = bindings.OpKinds }), invalid, ""},
		{"a negative op", "conv_fwd", op(func(o *bindings.Op) { o.Kind = -1 }), invalid, ""},
		{"an id beyond the tensors", "conv_fwd", op(func(o *bindings.Op) { o.In[0] = 99 }), invalid, "conv_fwd"},
		{"an id below -1", "conv_fwd", op(func(o *bindings.Op) { o.In[1], o.In[2] = -2, -2 }), invalid, "conv_fwd"},
		{"no X", "conv_fwd", op(func(o *bindings.Op) { o.In[0] = -1 }), invalid, "conv_fwd"},
		{"no Y", "conv_fwd", op(func(o *bindings.Op) { o.Out[0] = -1 }), invalid, "conv_fwd"},
		{"s without t", "conv_fwd", op(func(o *bindings.Op) { o.In[2] = -1 }), invalid, "conv_fwd"},
		{"an even filter", "conv_fwd", op(func(o *bindings.Op) { o.R = 2 }), invalid, "conv_fwd"},
		{"a stride of 0", "conv_fwd", op(func(o *bindings.Op) { o.Stride = 0 }), invalid, "conv_fwd"},
		{"a group width of 0", "conv_fwd", op(func(o *bindings.Op) { o.Group = 0 }), invalid, "conv_fwd"},
		{"a group width that does not divide", "conv_fwd", op(func(o *bindings.Op) { o.Group = 2*o.C - 1 }), invalid, "conv_fwd"},
		{"a wrong output map", "conv_fwd", op(func(o *bindings.Op) { o.P++ }), invalid, "conv_fwd"},
		{"a wrong number of channels", "conv_fwd", in(0, func(t *bindings.Tensor) { t.C-- }), invalid, "conv_fwd"},
		{"a filter of another shape", "conv_fwd", in(3, func(t *bindings.Tensor) { t.N, t.C = t.C, t.N }), invalid, "conv_fwd"},
		{"a filter that is an activation", "conv_fwd", in(3, func(t *bindings.Tensor) { t.Layout = bindings.Activation }), invalid, ""},
		{"sums in F32", "conv_fwd", out(1, func(t *bindings.Tensor) { t.DType = bindings.F32 }), invalid, "conv_fwd"},
		{"Y over X", "conv_bwd", func(d *bindings.ProgramDesc) { d.Tensors[d.Ops[0].Out[0]].Offset = d.Tensors[d.Ops[0].In[5]].Offset }, invalid, "conv_bwd"},
		{"no model", "conv_fwd", op(func(o *bindings.Op) { o.Models = 0 }), invalid, ""},
		{"an unknown dtype", "conv_fwd", op(func(o *bindings.Op) { o.DType = 9 }), invalid, ""},
		{"al without be", "conv_bwd", op(func(o *bindings.Op) { o.In[3] = -1 }), invalid, "conv_bwd"},
		{"sums without a mean", "conv_bwd", op(func(o *bindings.Op) { o.In[8] = -1 }), invalid, "conv_bwd"},
		{"sums without an affine", "conv_bwd", op(func(o *bindings.Op) { o.In[6], o.In[7] = -1, -1 }), invalid, "conv_bwd"},
		{"no dW", "conv_bwd", op(func(o *bindings.Op) { o.Out[1] = -1 }), invalid, "conv_bwd"},
		{"running statistics elsewhere", "bn_fwd_coef", func(d *bindings.ProgramDesc) { d.Ops[0].Flags, d.Ops[0].Out[4], d.Ops[0].Out[5] = bindings.Train, 1, 2 }, invalid, "bn_fwd_coef"},
		{"a flag of another op", "join_fwd", op(func(o *bindings.Op) { o.Flags = bindings.Nesterov }), invalid, "join_fwd"},
		{"sp without P", "join_fwd", op(func(o *bindings.Op) { o.In[4], o.In[5] = o.In[1], o.In[2] }), invalid, "join_fwd"},
		{"a wrong pooled map", "pool_fwd", op(func(o *bindings.Op) { o.Q++ }), invalid, "pool_fwd"},
		{"a map that is not 1x1", "gap_fwd", out(0, func(t *bindings.Tensor) { t.N, t.H = t.N/2, 2 }), invalid, ""},
		{"broadcast of a whole map", "join_bwd", op(func(o *bindings.Op) { o.Flags = bindings.Broadcast }), invalid, "join_bwd"},
		{"labels in F32", "xent", in(1, func(t *bindings.Tensor) { t.DType = bindings.F32 }), invalid, "xent"},
		{"a slot beyond the slots", "xent", op(func(o *bindings.Op) { o.Slot[0] = 17 }), invalid, "xent"},
		{"no slot", "sgd", op(func(o *bindings.Op) { o.Slot[0] = -1 }), invalid, "sgd"},
		{"more momenta than weights", "sgd", out(1, func(t *bindings.Tensor) { t.N = 2 }), invalid, "sgd"},
		{"half a loss scale", "loss_scale", out(0, func(t *bindings.Tensor) { t.C = 2 }), invalid, "loss_scale"},
		{"a scale without a gradient", "xent", op(func(o *bindings.Op) { o.In[2], o.Out[1] = o.In[0], -1 }), invalid, "xent"},
		{"doubling after no step", "loss_scale", op(func(o *bindings.Op) { o.F[0] = 0 }), invalid, "loss_scale"},
		{"images of two channels", "input", in(0, func(t *bindings.Tensor) { t.C, t.W = 2, t.W/2 }), invalid, "input"},
		{"a table that ends within a row", "input", in(2, func(t *bindings.Tensor) { t.N, t.C = 1, t.N*t.C-1 }), invalid, "input"},
	}
	return list
}

func TestMalformedRecordsAreRefused(t *testing.T) {
	for _, name := range []string{"reference", "cpu"} {
		t.Run(name, func(t *testing.T) {
			ctx := context(t, load(t, name), bindings.ContextOptions{})
			for _, m := range mistakes() {
				t.Run(m.family+" "+m.name, func(t *testing.T) {
					c := firstOf(m.family)
					b, err := Bind(ctx, c)
					if err != nil {
						t.Fatal(err)
					}
					defer b.Close()
					d := b.desc()
					d.Ops = append([]bindings.Op(nil), d.Ops...)
					m.corrupt(&d)
					p, err := ctx.NewProgram(d, []*bindings.Buffer{b.buffer})
					if err == nil {
						p.Close()
						t.Fatal("was accepted")
					}
					var native *bindings.Error
					if !errors.As(err, &native) || native.Status != m.status {
						t.Fatalf("gives %v, want %s", err, m.status)
					}
					if native.Text == "" || !strings.Contains(native.Text, m.text) {
						t.Errorf("the text %q does not name %q", native.Text, m.text)
					}
				})
			}
		})
	}
}

// firstOf is the family's first case of a whole batch.
func firstOf(family string) *Case {
	for _, c := range allCases() {
		if c.Family == family && c.Images()%16 == 0 {
			return &c
		}
	}
	panic("no case of " + family)
}

// What can be known only when a program runs: labels, rows, images, how many rows count.
func TestBadContentsAreRefused(t *testing.T) {
	for _, name := range []string{"reference", "cpu"} {
		t.Run(name, func(t *testing.T) {
			ctx := context(t, load(t, name), bindings.ContextOptions{})
			for _, bad := range []struct {
				what   string
				family string
				tensor int // of in[]
				at     int
				value  int32
				slot   float64
			}{
				{"a label of -1", "xent", 1, 3, -1, math.NaN()}, {"a label of C", "xent", 1, 3, 2, math.NaN()},
				{"more valid rows than there are", "xent", -1, 0, 0, 17}, {"minus one valid row", "xent", -1, 0, 0, -1}, {"half a valid row", "xent", -1, 0, 0, 2.5},
				{"an image beyond the set", "input", 2, 3 * 8, 7, math.NaN()}, {"a negative image", "input", 2, 3 * 8, -1, math.NaN()},
				{"a rectangle of no height", "input", 2, 3*8 + 3, 0, math.NaN()}, {"a rectangle of no width", "input", 2, 3*8 + 4, -5, math.NaN()},
				{"rows beyond the table", "input", -1, 0, 0, 6}, {"a negative row", "input", -1, 0, 0, -1}, {"a huge row", "input", -1, 0, 0, 1e300},
				{"a row that is no number", "input", -2, 0, 0, math.NaN()},
			} {
				t.Run(bad.what, func(t *testing.T) {
					b, err := Bind(ctx, firstOf(bad.family))
					if err != nil {
						t.Fatal(err)
					}
					defer b.Close()
					slots := append([]float64(nil), b.Case.Slots...)
					if bad.tensor >= 0 {
						id := b.Case.Ops[0].In[bad.tensor]
						if err := b.buffer.Write(b.spans[id].offset+4*int64(bad.at), bindings.Bytes([]int32{bad.value})); err != nil {
							t.Fatal(err)
						}
					} else {
						slots[b.Case.Ops[0].Slot[0]] = bad.slot
					}
					var native *bindings.Error
					if err := b.program.Run(slots); !errors.As(err, &native) || native.Status != bindings.InvalidArgument || native.Text == "" {
						t.Errorf("gives %v, want an invalid argument with a text", err)
					}
				})
			}
		})
	}
}

// Models of one launch that lie on one another, outside the buffer or without slots of their own are refused; where there is one model
// a launch, all are.
func TestMalformedModelsAreRefused(t *testing.T) {
	for _, name := range []string{"reference", "cpu"} {
		ctx := context(t, load(t, name), bindings.ContextOptions{})
		for _, m := range []struct {
			what    string
			stride  uint64
			corrupt func(d *bindings.ProgramDesc)
			text    string
		}{
			{"", 1 << 20, nil, ""},
			{"outputs without a stride", 1 << 20, func(d *bindings.ProgramDesc) { d.Tensors[d.Ops[0].Out[0]].Stride = 0 }, "stride"},
			{"a stride that is too short", 1 << 20, func(d *bindings.ProgramDesc) { d.Tensors[d.Ops[0].Out[0]].Stride = 64 }, "stride"},
			{"a crooked stride", 1<<20 + 4, nil, "within its stride"},
			{"a stride beyond all memory", 1 << 62, nil, "within its stride"},
			{"two strides in one buffer", 1 << 20, func(d *bindings.ProgramDesc) { d.Tensors[d.Ops[0].In[0]].Stride *= 2 }, "have the strides"},
			{"models behind the buffer", 1 << 21, nil, "ends behind its buffer"},
			{"an output on another model's input", 1 << 20, func(d *bindings.ProgramDesc) {
				d.Tensors[d.Ops[0].Out[0]].Offset = d.Tensors[d.Ops[0].In[0]].Offset + d.Tensors[0].Stride
			}, "overlaps"},
			{"an output of another model on an input of all", 1 << 20, func(d *bindings.ProgramDesc) {
				shared := &d.Tensors[d.Ops[0].In[0]]
				shared.Stride, shared.Offset = 0, d.Tensors[d.Ops[0].Out[0]].Offset+d.Tensors[0].Stride
			}, "overlaps"},
			{"too many models", 1 << 20, func(d *bindings.ProgramDesc) { d.Ops[0].Models = 1 << 30 }, "models"},
			{"a slot short", 1 << 20, func(d *bindings.ProgramDesc) { d.Slots-- }, "slot"},
		} {
			b, err := Bind(ctx, firstOf("sgd"))
			if err != nil {
				t.Fatal(err)
			}
			buffer, err := ctx.NewBuffer(4 << 20)
			if err != nil {
				t.Fatal(err)
			}
			d := b.desc()
			d.Ops = append([]bindings.Op(nil), d.Ops[:1]...)
			d.Ops[0].Models, d.Ops[0].Slot[0], d.Slots = 3, 0, 3
			for i := range d.Tensors {
				d.Tensors[i].Stride = m.stride
			}
			if m.corrupt != nil {
				m.corrupt(&d)
			}
			p, err := ctx.NewProgram(d, []*bindings.Buffer{buffer})
			var native *bindings.Error
			switch {
			case name == "cpu":
				if !errors.As(err, &native) || native.Status != bindings.Unsupported {
					t.Errorf("%s, %s: %v, want %s", name, m.what, err, bindings.Unsupported)
				}
			case m.text == "":
				if err != nil {
					t.Errorf("%s: three models in their places: %v", name, err)
				}
			case !errors.As(err, &native) || native.Status != bindings.InvalidArgument || !strings.Contains(native.Text, m.text):
				t.Errorf("%s, %s: %v, want an invalid argument and %q", name, m.what, err, m.text)
			}
			if err == nil {
				p.Close()
			}
			buffer.Close()
			b.Close()
		}
	}
}

// mutate changes one to three numbers of a case's records.
func mutate(d *bindings.ProgramDesc, slots []float64, s random.Stream) {
	next := uint64(0)
	below := func(n int) int {
		next++
		return int(s.Below(next, uint64(n)))
	}
	values := []int32{-1, 0, 1, 2, 3, 7, 8, 16, 17, 64, 1000, math.MaxInt32, math.MinInt32, math.MaxInt32 - 1, 1 << 16}
	numbers := []float64{0, -1, 1, 1e300, math.NaN(), math.Inf(1), 2.5, 1 << 31, 16}
	for range 1 + below(3) {
		switch below(4) {
		case 0, 1:
			words := bindings.Bytes(d.Ops[below(len(d.Ops)):len(d.Ops)][:1])
			copy(words[4*below(len(words)/4):], bindings.Bytes([]int32{values[below(len(values))]}))
		case 2:
			words := bindings.Bytes(d.Tensors[below(len(d.Tensors)):][:1])
			copy(words[4*below(len(words)/4):], bindings.Bytes([]int32{values[below(len(values))]}))
		case 3:
			if len(slots) > 0 {
				slots[below(len(slots))] = numbers[below(len(numbers))]
			}
		}
	}
}

// Mutated records are refused or run; nothing crashes, and nothing is written outside the buffer's tensors that the records name.
func TestMutatedRecordsDoNotCrash(t *testing.T) {
	for _, name := range []string{"reference", "cpu"} {
		t.Run(name, func(t *testing.T) {
			ctx := context(t, load(t, name), bindings.ContextOptions{})
			var small []Case
			for _, c := range allCases() {
				if c.MACs() < 100_000 && len(c.Tensors) > 0 && c.Unfit(ctx.Info()) == "" {
					small = append(small, c)
				}
			}
			accepted, refused := 0, 0
			for i := range small {
				b, err := Bind(ctx, &small[i])
				if err != nil {
					t.Fatal(err)
				}
				for round := range 20 {
					d := b.desc()
					d.Ops = append([]bindings.Op(nil), d.Ops...)
					slots := append([]float64(nil), b.Case.Slots...)
					mutate(&d, slots, random.New(7, "mutate", small[i].Name, fmt.Sprint(round)))
					p, err := ctx.NewProgram(d, []*bindings.Buffer{b.buffer})
					if err != nil {
						var native *bindings.Error
						if !errors.As(err, &native) || native.Text == "" || native.Status == bindings.Internal {
							t.Fatalf("case %s, round %d: %v", small[i].Name, round, err)
						}
						refused++
						continue
					}
					accepted++
					if err := p.Run(slots); err != nil {
						var native *bindings.Error
						if !errors.As(err, &native) || native.Status != bindings.InvalidArgument {
							t.Fatalf("case %s, round %d: %v", small[i].Name, round, err)
						}
					}
					p.Close()
				}
				b.Close()
			}
			if accepted == 0 || refused == 0 {
				t.Errorf("%d mutants ran and %d were refused: want some of both", accepted, refused)
			}
			t.Logf("%d mutants ran, %d were refused", accepted, refused)
		})
	}
}

// FuzzProgramCreate takes the records from the fuzzer: eight tensors and one op over a small buffer.
func FuzzProgramCreate(f *testing.F) {
	const tensors = 8
	library, err := bindings.Load("reference")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range allCases() {
		if len(c.Tensors) <= tensors && c.Ops != nil && c.MACs() < 1000 {
			d := make([]bindings.Tensor, tensors)
			for i := range c.Tensors {
				d[i] = c.Tensors[i].Tensor
				d[i].Offset = uint64(64 * i)
			}
			f.Add(append(append([]byte(nil), bindings.Bytes(d)...), bindings.Bytes(c.Ops[:1])...))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		desc := bindings.ProgramDesc{Tensors: make([]bindings.Tensor, tensors), Ops: make([]bindings.Op, 1), Slots: 2}
		n := copy(bindings.Bytes(desc.Tensors), data)
		copy(bindings.Bytes(desc.Ops), data[n:])
		ctx, err := library.NewContext(bindings.ContextOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer ctx.Close()
		buffer, err := ctx.NewBuffer(4096)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ctx.Workspace(desc); err != nil && err.Error() == "" {
			t.Fatal("an error without a text")
		}
		p, err := ctx.NewProgram(desc, []*bindings.Buffer{buffer})
		if err != nil {
			return
		}
		_ = p.Run([]float64{1, 1}) // must come back; what it says about zeros does not matter
	})
}
