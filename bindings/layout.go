package bindings

// #include "shim.h"
import "C"

import "unsafe"

// A field's place in Go and in C. Tests cannot import "C", so the pairs are made here.
type fieldLayout struct {
	name           string
	offset, size   uintptr
	cOffset, cSize uintptr
}

func layouts() []fieldLayout {
	var t Tensor
	var ct C.anx_tensor
	var o Op
	var co C.anx_op
	var ceilings Ceilings
	var cCeilings C.anx_ceilings
	return []fieldLayout{
		{"tensor", 0, unsafe.Sizeof(t), 0, C.sizeof_anx_tensor},
		{"tensor.layout", unsafe.Offsetof(t.Layout), unsafe.Sizeof(t.Layout), unsafe.Offsetof(ct.layout), unsafe.Sizeof(ct.layout)},
		{"tensor.dtype", unsafe.Offsetof(t.DType), unsafe.Sizeof(t.DType), unsafe.Offsetof(ct.dtype), unsafe.Sizeof(ct.dtype)},
		{"tensor.n", unsafe.Offsetof(t.N), unsafe.Sizeof(t.N), unsafe.Offsetof(ct.n), unsafe.Sizeof(ct.n)},
		{"tensor.h", unsafe.Offsetof(t.H), unsafe.Sizeof(t.H), unsafe.Offsetof(ct.h), unsafe.Sizeof(ct.h)},
		{"tensor.w", unsafe.Offsetof(t.W), unsafe.Sizeof(t.W), unsafe.Offsetof(ct.w), unsafe.Sizeof(ct.w)},
		{"tensor.c", unsafe.Offsetof(t.C), unsafe.Sizeof(t.C), unsafe.Offsetof(ct.c), unsafe.Sizeof(ct.c)},
		{"tensor.buffer", unsafe.Offsetof(t.Buffer), unsafe.Sizeof(t.Buffer), unsafe.Offsetof(ct.buffer), unsafe.Sizeof(ct.buffer)},
		{"tensor.flags", unsafe.Offsetof(t.Flags), unsafe.Sizeof(t.Flags), unsafe.Offsetof(ct.flags), unsafe.Sizeof(ct.flags)},
		{"tensor.offset", unsafe.Offsetof(t.Offset), unsafe.Sizeof(t.Offset), unsafe.Offsetof(ct.offset), unsafe.Sizeof(ct.offset)},
		{"tensor.stride", unsafe.Offsetof(t.Stride), unsafe.Sizeof(t.Stride), unsafe.Offsetof(ct.stride), unsafe.Sizeof(ct.stride)},
		{"op", 0, unsafe.Sizeof(o), 0, C.sizeof_anx_op},
		{"op.kind", unsafe.Offsetof(o.Kind), unsafe.Sizeof(o.Kind), unsafe.Offsetof(co.kind), unsafe.Sizeof(co.kind)},
		{"op.flags", unsafe.Offsetof(o.Flags), unsafe.Sizeof(o.Flags), unsafe.Offsetof(co.flags), unsafe.Sizeof(co.flags)},
		{"op.n", unsafe.Offsetof(o.N), unsafe.Sizeof(o.N), unsafe.Offsetof(co.n), unsafe.Sizeof(co.n)},
		{"op.h", unsafe.Offsetof(o.H), unsafe.Sizeof(o.H), unsafe.Offsetof(co.h), unsafe.Sizeof(co.h)},
		{"op.w", unsafe.Offsetof(o.W), unsafe.Sizeof(o.W), unsafe.Offsetof(co.w), unsafe.Sizeof(co.w)},
		{"op.c", unsafe.Offsetof(o.C), unsafe.Sizeof(o.C), unsafe.Offsetof(co.c), unsafe.Sizeof(co.c)},
		{"op.p", unsafe.Offsetof(o.P), unsafe.Sizeof(o.P), unsafe.Offsetof(co.p), unsafe.Sizeof(co.p)},
		{"op.q", unsafe.Offsetof(o.Q), unsafe.Sizeof(o.Q), unsafe.Offsetof(co.q), unsafe.Sizeof(co.q)},
		{"op.k", unsafe.Offsetof(o.K), unsafe.Sizeof(o.K), unsafe.Offsetof(co.k), unsafe.Sizeof(co.k)},
		{"op.r", unsafe.Offsetof(o.R), unsafe.Sizeof(o.R), unsafe.Offsetof(co.r), unsafe.Sizeof(co.r)},
		{"op.stride", unsafe.Offsetof(o.Stride), unsafe.Sizeof(o.Stride), unsafe.Offsetof(co.stride), unsafe.Sizeof(co.stride)},
		{"op.group", unsafe.Offsetof(o.Group), unsafe.Sizeof(o.Group), unsafe.Offsetof(co.group), unsafe.Sizeof(co.group)},
		{"op.dtype", unsafe.Offsetof(o.DType), unsafe.Sizeof(o.DType), unsafe.Offsetof(co.dtype), unsafe.Sizeof(co.dtype)},
		{"op.models", unsafe.Offsetof(o.Models), unsafe.Sizeof(o.Models), unsafe.Offsetof(co.models), unsafe.Sizeof(co.models)},
		{"op.in", unsafe.Offsetof(o.In), unsafe.Sizeof(o.In), unsafe.Offsetof(co.in), unsafe.Sizeof(co.in)},
		{"op.out", unsafe.Offsetof(o.Out), unsafe.Sizeof(o.Out), unsafe.Offsetof(co.out), unsafe.Sizeof(co.out)},
		{"op.slot", unsafe.Offsetof(o.Slot), unsafe.Sizeof(o.Slot), unsafe.Offsetof(co.slot), unsafe.Sizeof(co.slot)},
		{"op.f", unsafe.Offsetof(o.F), unsafe.Sizeof(o.F), unsafe.Offsetof(co.f), unsafe.Sizeof(co.f)},
		{"ceilings", 0, unsafe.Sizeof(ceilings), 0, C.sizeof_anx_ceilings},
		{"ceilings.dot", unsafe.Offsetof(ceilings.DotBF16GFLOPs), 8, unsafe.Offsetof(cCeilings.dot_bf16_gflops), 8},
		{"ceilings.read", unsafe.Offsetof(ceilings.ReadGBPerS), 8, unsafe.Offsetof(cCeilings.read_gb_per_s), 8},
		{"alignment", 0, Alignment, 0, C.ANX_ALIGNMENT},
		{"counters", 0, Counters, 0, C.ANX_COUNTERS},
		{"sample columns", 0, SampleColumns, 0, C.ANX_SAMPLE_COLUMNS},
		{"last sample column", 0, SampleFlip, 0, C.ANX_SAMPLE_FLIP},
		{"scales", 0, Scales, 0, C.ANX_SCALES},
		{"last scale", 0, ScaleSkipped, 0, C.ANX_SCALE_SKIPPED},
		{"op kinds", 0, uintptr(OpKinds), 0, C.ANX_OP_KINDS},
		{"last dtype", 0, uintptr(BF16), 0, C.ANX_BF16},
		{"last status", 0, uintptr(Internal), 0, C.ANX_INTERNAL},
		{"last trace", 0, uintptr(TraceRecord), 0, C.ANX_TRACE_RECORD},
		{"last flag", 0, uintptr(Nesterov), 0, C.ANX_NESTEROV},
	}
}
