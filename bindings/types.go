package bindings

import (
	"fmt"
	"unsafe"
)

// The Go side of anx.h, whose comments define every field. Tensor and Op have C's memory layout (TestLayouts).

// MaxIn and MaxOut are the number of tensors an Op can name; Alignment is the multiple every Tensor.Offset must be of.
const (
	MaxIn     = 11
	MaxOut    = 6
	Alignment = 64
)

// DType is the type of a tensor's elements.
type DType int32

const (
	F32 DType = iota
	F64
	I32
	U8
	F16
	BF16
)

// Bytes is the size of one element.
func (d DType) Bytes() int {
	switch d {
	case F32, I32:
		return 4
	case F64:
		return 8
	case F16, BF16:
		return 2
	case U8:
		return 1
	}
	return 0
}

func (d DType) String() string {
	if name, ok := at([]string{"f32", "f64", "i32", "u8", "f16", "bf16"}, int(d)); ok {
		return name
	}
	return fmt.Sprintf("dtype(%d)", int32(d))
}

// Layout says who may look at a tensor's memory: Plain is row-major [n][h][w][c], Activation belongs to the back end.
type Layout int32

const (
	Plain Layout = iota
	Activation
)

// Transient marks a tensor that only the program's own ops read (Tensor.Flags).
const Transient uint32 = 1

// Tensor is where a numbered tensor of a program lies: anx_tensor.
type Tensor struct {
	Layout     Layout
	DType      DType
	N, H, W, C int32
	Buffer     int32
	Flags      uint32
	Offset     uint64
	Stride     uint64 // bytes to the next model's values, in ops of several Models
}

// Elements is N H W C.
func (t Tensor) Elements() int { return int(t.N) * int(t.H) * int(t.W) * int(t.C) }

// OpKind is the kind of an op: anx_op_kind.
type OpKind int32

const (
	Input OpKind = iota
	ConvFwd
	BNFwdCoef
	JoinFwd
	PoolFwd
	GapFwd
	Xent
	ConvBwd
	BNBwdCoef
	JoinBwd
	PoolBwd
	SGD
	LossScale
	OpKinds
)

func (k OpKind) String() string {
	names := []string{"input", "conv_fwd", "bn_fwd_coef", "join_fwd", "pool_fwd", "gap_fwd", "xent", "conv_bwd", "bn_bwd_coef", "join_bwd", "pool_bwd", "sgd", "loss_scale"}
	if name, ok := at(names, int(k)); ok {
		return name
	}
	return fmt.Sprintf("op(%d)", int32(k))
}

// Op flags.
const (
	Train     uint32 = 1
	Broadcast uint32 = 2
	Nesterov  uint32 = 4
)

// Places in the counters of an epoch, F64 [Counters].
const (
	LossSum = iota
	Top1Right
	Top5Right
	Seen
	NonFinite
	Counters = 8
)

// Places in a loss scale, F32 [Scales].
const (
	Scale = iota
	Unscale
	ScaleSteps
	ScaleSkipped
	Scales
)

// Columns of a row of the sample table, I32 [SampleColumns].
const (
	SampleImage = iota
	SampleY
	SampleX
	SampleH
	SampleW
	SampleFlip
	SampleColumns = 8
)

// Op is one op record: anx_op. NewOp gives one that names no tensor.
type Op struct {
	Kind             OpKind
	Flags            uint32
	N, H, W, C       int32
	P, Q, K          int32
	R, Stride, Group int32
	DType            DType
	Models           int32
	In               [MaxIn]int32
	Out              [MaxOut]int32
	Slot             [2]int32
	F                [2]float32
}

// NewOp is an op of one model that names no tensors and no slots: all -1, which is "absent".
func NewOp(kind OpKind) Op {
	op := Op{Kind: kind, Models: 1, Slot: [2]int32{-1, -1}}
	for i := range op.In {
		op.In[i] = -1
	}
	for i := range op.Out {
		op.Out[i] = -1
	}
	return op
}

// ProgramDesc is a program before it is bound to buffers. Slots is the number of scalars that Program.Run takes.
type ProgramDesc struct {
	Tensors []Tensor
	Ops     []Op
	Slots   int
}

// DeviceInfo describes a device. Model is the key of "same bits"; batches of activations must be a multiple of VectorImages.
type DeviceInfo struct {
	Name, Model, ISA string
	Units            int
	VectorImages     int
	MemoryBytes      int64
}

// ContextOptions choose what a context runs on. Threads below 1 counts as 1; ISA "" is the best the device has.
type ContextOptions struct {
	Device, Threads int
	ISA             string
}

// Bytes is a slice's memory as bytes: no copy, so it is valid as long as s is.
func Bytes[T any](s []T) []byte {
	var zero T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(zero)))
}

func at(names []string, i int) (string, bool) {
	if i < 0 || i >= len(names) {
		return "", false
	}
	return names[i], true
}
