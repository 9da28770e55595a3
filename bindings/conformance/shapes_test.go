package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"anynetx/bindings"
)

// cpuContexts are contexts of the cpu back end on every instruction set of this machine, with the numbers of threads given.
func cpuContexts(tb testing.TB, threads ...int) []*bindings.Context {
	tb.Helper()
	library, err := bindings.Load("cpu")
	if err != nil {
		tb.Skip(err)
	}
	var list []*bindings.Context
	for _, isa := range []string{"avx512", "avx2", "portable"} {
		for _, count := range threads {
			ctx, err := library.NewContext(bindings.ContextOptions{Threads: count, ISA: isa})
			var native *bindings.Error
			if errors.As(err, &native) && native.Status == bindings.Unsupported {
				break
			}
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(ctx.Close)
			list = append(list, ctx)
		}
	}
	return list
}

// agree runs a case on the reference and on every context: equal within tolerance, and equal bits where contexts are of one device model.
func agree(tb testing.TB, reference *bindings.Context, contexts []*bindings.Context, c *Case) {
	tb.Helper()
	want, err := RunCase(reference, c)
	if err != nil {
		tb.Fatal(err)
	}
	if err := Sizes(reference, c, want); err != nil {
		tb.Fatal(err)
	}
	first := map[string][]Output{}
	for i, ctx := range contexts {
		what := fmt.Sprintf("context %d, %s", i, ctx.Info().ISA)
		got, err := RunCase(ctx, c)
		if err != nil {
			tb.Fatalf("%s: %v", what, err)
		}
		if err := Compare(c, want, got); err != nil {
			tb.Errorf("%s: %v", what, err)
		}
		model := ctx.Info().Model
		if first[model] == nil {
			first[model] = got
		} else if err := SameBits(c, first[model], got); err != nil {
			tb.Errorf("%s against the first of its model: %v", what, err)
		}
	}
}

// largeCases have activations of 4 MB and more, which the cpu back end writes past the caches.
func largeCases() []Case {
	within, back := convOptions{affine: true, sums: true}, convOptions{affine: true, sums: true, bn: true}
	stem := convOptions{bn: true, noDX: true}
	return []Case{
		convBwd(convShape{16, 32, 32, 3, 40, 7, 2, 3}, stem), convBwd(convShape{16, 9, 67, 3, 35, 7, 2, 3}, stem), convBwd(convShape{16, 3, 33, 3, 70, 3, 1, 3}, convOptions{affine: true, bias: true, noDX: true}),
		convBwd(convShape{16, 64, 65, 3, 5, 3, 1, 3}, stem), // the last: in several slices
		convFwd(convShape{16, 64, 65, 8, 17, 1, 1, 8}, within), convBwd(convShape{16, 64, 65, 17, 8, 1, 1, 17}, back), convBwd(convShape{16, 65, 64, 17, 8, 1, 2, 17}, back),
		convFwd(grouped(16, 64, 65, 4, 4, 1), within), convBwd(grouped(16, 65, 64, 4, 4, 2), back), convFwd(convShape{512, 8, 8, 40, 40, 3, 1, 4}, within),
		convBwd(grouped(16, 33, 57, 4, 2, 1), back), convBwd(grouped(16, 33, 57, 4, 2, 1), convOptions{bn: true, noDX: true}), // in several slices and strips
		convBwd(grouped(16, 20, 57, 2, 12, 1), back),
		joinFwd(16, 64, 65, 17, joinIdentity, false), joinBwd(16, 64, 65, 17, false, true), blockEnd(convShape{16, 65, 64, 20, 81, 1, 1, 20}, true, true, false),
		blockStart(convShape{16, 65, 64, 19, 37, 1, 1, 19}, joinProjection, false), blockStart(convShape{128, 17, 16, 40, 74, 1, 1, 20}, joinIdentity, true),
	}
}

// sheetCases have batches that the cpu back end keeps in two parts (cpu/cpu.h), and maps of which 1x1 convolutions make several sections.
func sheetCases() []Case {
	within, back := convOptions{affine: true, sums: true}, convOptions{affine: true, sums: true, bn: true}
	withBias := convOptions{bias: true}
	return []Case{
		convFwd(convShape{128, 8, 8, 24, 40, 1, 1, 24}, within), convBwd(convShape{128, 8, 8, 24, 40, 1, 1, 24}, back), convBwd(convShape{128, 5, 4, 33, 20, 1, 2, 33}, back),
		convFwd(convShape{128, 1, 1, 40, 70, 1, 1, 40}, within), convBwd(convShape{128, 1, 1, 40, 70, 1, 1, 40}, back), convBwd(convShape{128, 1, 1, 40, 10, 1, 1, 40}, withBias),
		convBwd(convShape{16, 12, 11, 2048, 6, 1, 1, 1024}, back), // a filter whose columns are read from a copy
		convFwd(grouped(128, 7, 6, 4, 3, 1), within), convBwd(grouped(128, 7, 6, 4, 3, 1), back), convBwd(grouped(160, 4, 3, 4, 4, 2), back), convBwd(grouped(256, 2, 2, 4, 5, 1), back),
		convBwd(grouped(160, 4, 3, 2, 7, 1), back), convBwd(grouped(288, 2, 3, 2, 6, 1), back), convBwd(grouped(288, 2, 2, 2, 3, 1), convOptions{}), // 288: a slice of one block
		convBwd(convShape{128, 10, 9, 3, 33, 3, 2, 3}, convOptions{bn: true, bias: true, noDX: true}),
		joinFwd(128, 4, 5, 7, joinIdentity, false), joinBwd(128, 9, 8, 7, false, true), joinBwd(128, 3, 3, 7, true, false),
		poolFwd(128, 5, 6, 7, tiesRare), poolBwd(128, 5, 6, 7, tiesRare), gapFwd(128, 3, 2, 5), xent(128, 10, xentOptions{valid: 100, smoothing: 0.1, scale: 1, gradient: true}),
		inputCase("in sheets", 128, 6, 5, 9, 7, 3, func(b *builder, i int) (int, int, int, int, int) { return b.below(3), b.below(3), 5 + i%2, 5, i % 2 }),
		networkCase(networkOptions{n: 128, side: 6, g: 3, stride: 2, pool: true, projection: true}),
		blockEnd(convShape{128, 8, 8, 100, 64, 1, 1, 100}, true, false, false), blockEnd(convShape{128, 5, 4, 98, 160, 1, 1, 49}, true, true, false),
		blockEnd(convShape{128, 3, 3, 70, 65, 1, 1, 70}, false, false, false), networkCase(networkOptions{n: 128, side: 4, g: 32, stride: 1}),
	}
}

func TestCPULargeActivations(t *testing.T) {
	contexts, ref := cpuContexts(t, 1, 2, 3, 16), reference(t) // 16: more than cores, so that some come to a job when it is over
	for _, c := range append(largeCases(), sheetCases()...) {
		t.Run(c.Name, func(t *testing.T) { agree(t, ref, contexts, &c) })
	}
}

// TestCPUFactorsOfZero: at stride 2 wide groups divide by the factors of the activation.
func TestCPUFactorsOfZero(t *testing.T) {
	c := convFwd(grouped(16, 5, 5, 2, 8, 2), convOptions{affine: true, sums: true})
	factors := c.Tensors[c.Ops[0].In[1]].Data
	for i, s := range []float32{0, float32(math.Copysign(0, -1)), 1e-30, -1e-30, math.SmallestNonzeroFloat32} {
		binary.LittleEndian.PutUint32(factors[4*i:], math.Float32bits(s))
	}
	agree(t, reference(t), cpuContexts(t, 1, 3), &c)
}

// TestCPUEndsBlocks: an input gradient that a block ends with is never written where nobody else reads it and the convolution is wide.
func TestCPUEndsBlocks(t *testing.T) {
	wide, narrow := convShape{16, 5, 5, 24, 60, 1, 1, 24}, convShape{16, 5, 5, 24, 59, 1, 1, 24}
	read := blockEnd(wide, true, false, false)
	again := mapOp(bindings.GapFwd, 16, 5, 5, 24)
	again.P, again.Q, again.K = 1, 1, 24
	again.In[0], again.Out[0] = read.Ops[0].Out[0], int32(len(read.Tensors))
	read.Name += " and read"
	read.Ops = append(read.Ops, again)
	read.Tensors = append(read.Tensors, Tensor{Name: "mean", Tensor: activationTensor(16, 1, 1, 24), Private: true})
	for _, ctx := range cpuContexts(t, 1) {
		for _, v := range []struct {
			c       Case
			written bool
		}{{blockEnd(wide, true, false, false), false}, {blockEnd(wide, false, true, true), true}, {blockEnd(narrow, true, false, false), true}, {read, true}} {
			b, err := Bind(ctx, &v.c)
			if err != nil {
				t.Fatal(err)
			}
			after := make([]byte, len(b.before))
			if err := errors.Join(b.Run(), b.buffer.Read(0, after)); err != nil {
				t.Fatal(err)
			}
			dx := b.spans[v.c.Ops[0].Out[0]]
			if written := !bytes.Equal(after[dx.offset:dx.offset+dx.bytes], b.before[dx.offset:dx.offset+dx.bytes]); written != v.written {
				t.Errorf("%s: dX was written: %v", v.c.Name, written)
			}
			b.Close()
		}
	}
}

// TestCPUStartsBlocks: the end of a block that the convolution behind it makes has the bits of the two apart; an op between them keeps them so.
func TestCPUStartsBlocks(t *testing.T) {
	contexts := cpuContexts(t, 1, 3)
	for _, one := range []Case{blockStart(convShape{16, 65, 64, 19, 37, 1, 1, 19}, joinProjection, true), blockStart(convShape{128, 17, 16, 40, 74, 1, 1, 20}, joinIdentity, true)} {
		join := one.Ops[0]
		between := mapOp(bindings.GapFwd, int(join.N), int(join.H), int(join.W), int(join.C))
		between.P, between.Q, between.In[0], between.Out[0] = 1, 1, join.Out[0], int32(len(one.Tensors))
		apart := one
		apart.Ops = []bindings.Op{join, between, one.Ops[1]}
		apart.Tensors = append(slices.Clone(one.Tensors), Tensor{Name: "mean", Tensor: activationTensor(int(join.N), 1, 1, int(join.C)), Private: true})
		for _, dtype := range []bindings.DType{bindings.F32, bindings.BF16} {
			as := func(c Case) *Case {
				if dtype != bindings.F32 {
					c, _ = c.InDType(dtype)
				}
				return &c
			}
			for _, ctx := range contexts {
				if _, err := ctx.TensorBytes(bindings.Tensor{Layout: bindings.Activation, DType: dtype, N: 16, H: 1, W: 1, C: 1}); err != nil {
					continue // no bf16
				}
				want, err := RunCase(ctx, as(apart))
				if err != nil {
					t.Fatal(err)
				}
				got, err := RunCase(ctx, as(one))
				if err != nil {
					t.Fatal(err)
				}
				if err := SameBits(as(one), want, got); err != nil {
					t.Errorf("%s: %v", ctx.Info().ISA, err)
				}
			}
		}
	}
}

// FuzzCPU draws an op and its shape: the cpu back end against the reference, on every instruction set, with one thread and with three.
func FuzzCPU(f *testing.F) {
	contexts := cpuContexts(f, 1, 3)
	library, err := bindings.Load("reference")
	if err != nil {
		f.Fatal(err)
	}
	ref, err := library.NewContext(bindings.ContextOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(ref.Close)
	for op := range uint8(7) {
		for i, s := range [][8]uint8{{1, 5, 4, 3, 3, 3, 1, 0}, {2, 7, 1, 1, 40, 33, 0, 1}, {1, 1, 1, 2, 17, 5, 1, 0}, {0, 9, 11, 1, 3, 6, 3, 1}} {
			f.Add(op, s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], uint8(9*i+3))
		}
	}
	f.Add(uint8(5), uint8(1), uint8(0), uint8(95), uint8(0), uint8(0), uint8(5), uint8(1), uint8(5), uint8(81)) // two sums that all but cancel
	f.Add(uint8(5), uint8(1), uint8(0), uint8(68), uint8(0), uint8(0), uint8(5), uint8(1), uint8(5), uint8(74)) // one that cancels in any order
	f.Add(uint8(1), uint8(1), uint8(1), uint8(1), uint8(0), uint8(5), uint8(5), uint8(1), uint8(0), uint8(112)) // one group, and no dX
	f.Fuzz(func(t *testing.T, op, blocks, height, width, groups, in, out, filter, stride, options uint8) {
		c := draw(op, blocks, height, width, groups, in, out, filter, stride, options)
		if c != nil {
			agree(t, ref, contexts, c)
		}
	})
}

// draw makes a legal case of any ten bytes, nil where it would take long.
func draw(op, blocks, height, width, groups, in, out, filter, stride, options uint8) *Case {
	s := convShape{n: 16 * (1 + int(blocks%4)), h: 1 + int(height%20), w: 1 + int(width%20), r: 1 + 2*int(filter%4), stride: 1 + int(stride%3), g: 1 + int(in%72)}
	s.c = s.g * (1 + int(groups%6))
	s.k = (1 + int(out%72)) * (s.c / s.g)
	bit := func(i int) bool { return options>>i&1 != 0 }
	if op%7 == 6 { // wide enough to be one
		s.r, s.stride, s.k = 1, 1, (40+int(out%48))*(s.c/s.g)
	}
	o := convOptions{affine: bit(0), sums: bit(1), bias: bit(2), bn: bit(3), add: bit(4), noDX: bit(5)}
	if bit(6) {
		s.k = s.c
	}
	if s.n*s.p()*s.q()*s.k*s.r*s.r*s.g > 4e6 || s.n*s.h*s.w*max(s.c, s.k) > 1e6 {
		return nil
	}
	var c Case
	switch op % 7 {
	case 0:
		c = convFwd(s, convOptions{affine: o.affine, sums: o.sums, bias: o.bias})
	case 1:
		o.add = o.add && !o.noDX
		o.sums = o.sums && o.affine && !o.noDX
		c = convBwd(s, o)
	case 2:
		c = joinFwd(s.n, s.h, s.w, s.c, joinKind(options%3), options%5 == 0)
	case 3:
		c = joinBwd(s.n, s.h, s.w, s.c, bit(0), bit(1))
	case 4:
		c = poolFwd(s.n, s.h, s.w, s.c, ties(options%3))
	case 5:
		c = poolBwd(s.n, s.h, s.w, s.c, ties(options%3))
	default:
		c = blockEnd(s, bit(0), bit(1), bit(2))
	}
	return &c
}
