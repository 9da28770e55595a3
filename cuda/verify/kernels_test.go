package verify

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"anynetx/bindings"
	"anynetx/random"
)

// row is one measured op: bytes are those the op must move at the least (inputs read once, outputs written once, filters left out).
type row struct {
	Device      string  `json:"device"`
	Op          string  `json:"op"`
	DType       string  `json:"dtype"`
	N           int     `json:"n"`
	Side        int     `json:"side"`
	C           int     `json:"c"`
	K           int     `json:"k"`
	R           int     `json:"r"`
	Stride      int     `json:"stride"`
	Group       int     `json:"group"`
	Microsecond float64 `json:"us"`
	GBPerS      float64 `json:"gb_per_s"`
	OfCopy      float64 `json:"of_copy"` // fraction of the measured copy bandwidth
	TFlops      float64 `json:"tflops"`
	Kernels     string  `json:"kernels"`
}

// BenchmarkKernels measures convolutions at the shapes of the default space, for every group width, and writes rows to the file that
// ANX_BENCH names. ANX_BENCH_QUICK=1: fewer widths; dense: what cuDNN may take; dry: small ones, to see that it runs. It times by itself:
// run it with -test.benchtime 1x.
func BenchmarkKernels(t *testing.B) {
	path := os.Getenv("ANX_BENCH")
	if path == "" {
		t.Fatal("ANX_BENCH must name a file for the rows")
	}
	ctx := open(t, backend())
	quick := os.Getenv("ANX_BENCH_QUICK")
	dry := quick == "dry"
	ceilings, err := ctx.Ceilings(2)
	if dry { // the harness has none
		ceilings, err = bindings.Ceilings{CopyGBPerS: 1}, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %+v", ctx.Info().Name, ceilings)
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out := json.NewEncoder(file)
	_ = out.Encode(struct {
		Device string `json:"device"`
		bindings.Ceilings
	}{ctx.Info().Name, ceilings})
	widths := []int{}
	for g := 1; g <= 32; g++ {
		if quick == "" || quick == "1" && (g&(g-1) == 0 || g == 24 || g == 11) {
			widths = append(widths, g)
		}
	}
	batch := 128
	type shape struct{ side, c, k, r, stride, g int }
	var shapes []shape
	for _, stage := range [][2]int{{56, 64}, {28, 128}, {14, 256}, {7, 512}} {
		for _, g := range widths {
			c := (stage[1] + g - 1) / g * g
			shapes = append(shapes, shape{stage[0], c, c, 3, 1, g})
			if stage[0] == 28 {
				shapes = append(shapes, shape{56, c, c, 3, 2, g})
			}
		}
		shapes = append(shapes, shape{stage[0], stage[1], stage[1], 1, 1, stage[1]}, shape{stage[0], stage[1], 2 * stage[1], 1, 2, stage[1]})
	}
	shapes = append(shapes, shape{224, 3, 32, 7, 2, 3}, shape{224, 3, 32, 3, 2, 3})
	if quick == "dense" {
		shapes = append(shapes, shape{28, 128, 128, 3, 1, 64}, shape{14, 256, 256, 3, 1, 256})
	}
	if dry {
		batch, shapes = 2, []shape{{8, 32, 32, 3, 1, 16}, {8, 32, 64, 1, 2, 32}, {16, 3, 32, 7, 2, 3}}
	}
	for _, s := range shapes {
		for _, kind := range []bindings.OpKind{bindings.ConvFwd, bindings.ConvBwd} {
			us, bytes, kernels, err := timeConv(ctx, kind, batch, s.side, s.c, s.k, s.r, s.stride, s.g, bindings.F16)
			if err != nil {
				t.Errorf("%v %+v: %v", kind, s, err)
				continue
			}
			p := (s.side-1)/s.stride + 1
			flops := 2 * float64(batch*p*p*s.k) * float64(s.r*s.r*s.g)
			if kind == bindings.ConvBwd && s.c != 3 {
				flops *= 2
			}
			r := row{ctx.Info().Name, kind.String(), "f16", batch, s.side, s.c, s.k, s.r, s.stride, s.g, us, float64(bytes) / us * 1e-3, 0, flops / us * 1e-6, kernels}
			r.OfCopy = r.GBPerS / ceilings.CopyGBPerS
			if err := out.Encode(r); err != nil {
				t.Fatal(err)
			}
			t.Logf("%-9s %3d px %4d->%4d %dx%d/%d g=%-3d %9.1f us %7.0f GB/s %5.2f of copy %6.1f TFLOP/s  %s", r.Op, s.side, s.c, s.k, s.r, s.r, s.stride, s.g, us, r.GBPerS, r.OfCopy, r.TFlops, r.Kernels)
		}
	}
}

// timeConv is the mean time of an op over some runs, with what a block's convolution has around it: affine, sums, batch-norm gradient.
func timeConv(ctx *bindings.Context, kind bindings.OpKind, n, side, c, k, r, stride, g int, dtype bindings.DType) (us float64, bytes int64, kernels string, err error) {
	var tensors []bindings.Tensor
	end := int64(0)
	put := func(t bindings.Tensor) int32 {
		size, e := ctx.TensorBytes(t)
		if e != nil && err == nil {
			err = e
		}
		t.Offset = uint64(end)
		end += (size + 255) / 256 * 256
		tensors = append(tensors, t)
		return int32(len(tensors) - 1)
	}
	activation := func(h, channels int) int32 {
		id := put(bindings.Tensor{Layout: bindings.Activation, DType: dtype, N: int32(n), H: int32(h), W: int32(h), C: int32(channels)})
		bytes += int64(n) * int64(h) * int64(h) * int64(channels) * int64(dtype.Bytes())
		return id
	}
	vector := func(channels int) int32 { return put(bindings.Tensor{N: 1, H: 1, W: 1, C: int32(channels)}) }
	sums := func(channels int) int32 {
		return put(bindings.Tensor{DType: bindings.F64, N: 2, H: 1, W: 1, C: int32(channels)})
	}
	filter := func() int32 { return put(bindings.Tensor{N: int32(k), H: int32(r), W: int32(r), C: int32(g)}) }
	p := (side-1)/stride + 1
	op := bindings.NewOp(kind)
	op.N, op.H, op.W, op.C, op.P, op.Q, op.K = int32(n), int32(side), int32(side), int32(c), int32(p), int32(p), int32(k)
	op.R, op.Stride, op.Group, op.DType = int32(r), int32(stride), int32(g), dtype
	stem := c == 3
	if kind == bindings.ConvFwd {
		op.In[0], op.In[3], op.Out[0], op.Out[1] = activation(side, c), filter(), activation(p, k), sums(k)
		if !stem {
			op.In[1], op.In[2] = vector(c), vector(c)
		}
	} else {
		op.In[0], op.In[1], op.In[2], op.In[3], op.In[4] = activation(p, k), activation(p, k), vector(k), vector(k), vector(k)
		op.In[5], op.In[9], op.Out[1] = activation(side, c), filter(), filter()
		if !stem {
			op.In[6], op.In[7], op.In[8], op.Out[0], op.Out[3] = vector(c), vector(c), vector(c), activation(side, c), sums(c)
		}
	}
	if err != nil {
		return 0, 0, "", err
	}
	buffer, err := ctx.NewBuffer(end)
	if err != nil {
		return 0, 0, "", fmt.Errorf("room: %w", err)
	}
	defer buffer.Close()
	for _, x := range tensors {
		if err := fillNoise(buffer, x, ctx); err != nil {
			return 0, 0, "", err
		}
	}
	program, err := ctx.NewProgram(bindings.ProgramDesc{Tensors: tensors, Ops: []bindings.Op{op}}, []*bindings.Buffer{buffer})
	if err != nil {
		return 0, 0, "", err
	}
	defer program.Close()
	const warm, runs = 3, 10
	for range warm {
		if err := program.Run(nil); err != nil {
			return 0, 0, "", err
		}
	}
	if _, _, err := program.Profile(); err != nil {
		return 0, 0, "", err
	}
	for range runs {
		if err := program.Run(nil); err != nil {
			return 0, 0, "", err
		}
	}
	ns, _, err := program.Profile()
	if err != nil {
		return 0, 0, "", err
	}
	names, err := program.Kernels()
	if err != nil || len(names) == 0 {
		return 0, 0, "", err
	}
	return float64(ns[0]) / runs * 1e-3, bytes, names[0], nil
}

// fillNoise makes a tensor's values random, of 0.5 to 1 and either sign: on zeros tensor cores are faster than on data.
func fillNoise(b *bindings.Buffer, x bindings.Tensor, ctx *bindings.Context) error {
	if x.DType == bindings.F64 {
		return nil // sums are written
	}
	bytes, err := ctx.TensorBytes(x)
	if err != nil {
		return err
	}
	stream := random.New(1, "noise")
	noise := make([]byte, min(bytes, 1<<18))
	if x.DType == bindings.F32 {
		for i := 0; i+4 <= len(noise); i += 4 {
			binary.LittleEndian.PutUint32(noise[i:], uint32(stream.Uint64(uint64(i)))&0x807fffff|0x3f000000)
		}
	} else {
		for i := 0; i+2 <= len(noise); i += 2 {
			binary.LittleEndian.PutUint16(noise[i:], uint16(stream.Uint64(uint64(i)))&0x83ff|0x3800)
		}
	}
	for at := int64(0); at < bytes; at += int64(len(noise)) {
		if err := b.Write(int64(x.Offset)+at, noise[:min(bytes-at, int64(len(noise)))]); err != nil {
			return err
		}
	}
	return nil
}

// TestTimedRecords: what BenchmarkKernels measures is legal and runs, on small maps; so that no time on a GPU is lost to it.
func TestTimedRecords(t *testing.T) {
	ctx := open(t, backend())
	for _, kind := range []bindings.OpKind{bindings.ConvFwd, bindings.ConvBwd} {
		for _, s := range [][5]int{{8, 32, 32, 3, 16}, {8, 33, 33, 3, 11}, {8, 16, 24, 1, 16}, {12, 3, 32, 7, 3}} {
			if _, _, _, err := timeConv(ctx, kind, 1, s[0], s[1], s[2], s[3], 1, s[4], bindings.F16); err != nil {
				t.Errorf("%v %v: %v", kind, s, err)
			}
		}
	}
}
