package bindings

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func newContext(t *testing.T) *Context {
	t.Helper()
	ctx, err := mustLoad(t).NewContext(ContextOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ctx.Close)
	return ctx
}

// sumProgram is V = mean of Y over a 1x2 map.
func sumProgram() ProgramDesc {
	op := NewOp(GapFwd)
	op.N, op.H, op.W, op.C = 1, 1, 2, 1
	op.In[0], op.Out[0] = 0, 1
	return ProgramDesc{
		Tensors: []Tensor{{Layout: Activation, N: 1, H: 1, W: 2, C: 1}, {Layout: Activation, N: 1, H: 1, W: 1, C: 1, Offset: 64}},
		Ops:     []Op{op},
	}
}

func wantInvalid(t *testing.T, what string, err error) {
	t.Helper()
	var native *Error
	if !errors.As(err, &native) || native.Status != InvalidArgument || native.Text == "" {
		t.Errorf("%s gives %v, want an invalid argument", what, err)
	}
}

func TestProgramRunsAndProfiles(t *testing.T) {
	ctx := newContext(t)
	buffer, err := ctx.NewBuffer(128)
	if err != nil {
		t.Fatal(err)
	}
	d := sumProgram()
	if err := ctx.Pack(d.Tensors[0], buffer, []float32{3, 5}); err != nil {
		t.Fatal(err)
	}
	p, err := ctx.NewProgram(d, []*Buffer{buffer})
	if err != nil {
		t.Fatal(err)
	}
	if _, runs, err := p.Profile(); err != nil || len(runs) != 1 || runs[0] != 0 {
		t.Errorf("before the first run: %v, %v", runs, err)
	}
	for range 3 {
		if err := p.Run(nil); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]float32, 1)
	if err := ctx.Unpack(d.Tensors[1], buffer, got); err != nil || got[0] != 4 {
		t.Errorf("the mean is %v, %v", got, err)
	}
	if ns, runs, err := p.Profile(); err != nil || runs[0] != 3 || ns[0] == 0 {
		t.Errorf("after three runs: %v ns, %v runs, %v", ns, runs, err)
	}
	wantInvalid(t, "a slot too many", p.Run([]float64{1}))
	if err := ctx.Synchronize(); err != nil {
		t.Error(err)
	}
}

func TestClosedThingsGiveErrors(t *testing.T) {
	ctx := newContext(t)
	d := sumProgram()
	make2 := func() (*Buffer, *Program) {
		buffer, err := ctx.NewBuffer(128)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ctx.NewProgram(d, []*Buffer{buffer})
		if err != nil {
			t.Fatal(err)
		}
		return buffer, p
	}
	buffer, program := make2()
	program.Close()
	program.Close()
	wantInvalid(t, "Run of a closed program", program.Run(nil))
	_, _, err := program.Profile()
	wantInvalid(t, "Profile of a closed program", err)

	_, other := make2()
	otherBuffer := other.buffers[0]
	otherBuffer.Close() // closes the program too
	otherBuffer.Close()
	wantInvalid(t, "Run on a closed buffer", other.Run(nil))
	wantInvalid(t, "Write to a closed buffer", otherBuffer.Write(0, []byte{1}))
	wantInvalid(t, "Read of a closed buffer", otherBuffer.Read(0, []byte{1}))
	wantInvalid(t, "Pack into a closed buffer", ctx.Pack(d.Tensors[0], otherBuffer, []float32{1, 2}))
	_, err = ctx.NewProgram(d, []*Buffer{otherBuffer})
	wantInvalid(t, "a program on a closed buffer", err)
	_, err = ctx.NewProgram(d, []*Buffer{nil})
	wantInvalid(t, "a program on a nil buffer", err)

	_, last := make2()
	ctx.Close() // closes what is left
	ctx.Close()
	wantInvalid(t, "Run in a closed context", last.Run(nil))
	wantInvalid(t, "Write in a closed context", buffer.Write(0, []byte{1}))
	wantInvalid(t, "Synchronize of a closed context", ctx.Synchronize())
	_, err = ctx.NewBuffer(1)
	wantInvalid(t, "NewBuffer in a closed context", err)
	_, err = ctx.NewProgram(d, nil)
	wantInvalid(t, "NewProgram in a closed context", err)
	_, err = ctx.Workspace(d)
	wantInvalid(t, "Workspace of a closed context", err)
	_, err = ctx.TensorBytes(d.Tensors[0])
	wantInvalid(t, "TensorBytes of a closed context", err)
	wantInvalid(t, "Unpack in a closed context", ctx.Unpack(d.Tensors[0], buffer, []float32{1, 2}))
	buffer.Close()
	last.Close()
}

func TestBuffersRefuseWhatLiesOutside(t *testing.T) {
	ctx := newContext(t)
	buffer, err := ctx.NewBuffer(100)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 100)
	if err := buffer.Read(0, data); err != nil {
		t.Fatal(err)
	}
	for i, v := range data {
		if v != 0 {
			t.Fatalf("byte %d of a new buffer is %d", i, v)
		}
	}
	for i := range data {
		data[i] = byte(i)
	}
	if err := buffer.Write(0, data); err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 10)
	if err := buffer.Read(90, part); err != nil || part[0] != 90 || part[9] != 99 {
		t.Errorf("the last ten bytes are %v, %v", part, err)
	}
	if err := buffer.Write(100, nil); err != nil {
		t.Errorf("nothing written at the end: %v", err)
	}
	for _, offset := range []int64{-1, 91, 100, math.MaxInt64, math.MinInt64} {
		wantInvalid(t, "Read outside", buffer.Read(offset, part))
		wantInvalid(t, "Write outside", buffer.Write(offset, part))
	}
	_, err = ctx.NewBuffer(-1)
	wantInvalid(t, "a buffer of -1 bytes", err)
	var native *Error
	if _, err := ctx.NewBuffer(math.MaxInt64); !errors.As(err, &native) || native.Status != OutOfMemory {
		t.Errorf("a buffer of all memory: %v", err)
	}
	image := Tensor{Layout: Activation, N: 1, H: 1, W: 2, C: 1, Offset: 64}
	wantInvalid(t, "Pack of too few values", ctx.Pack(image, buffer, []float32{1}))
	image.Offset = 128
	wantInvalid(t, "Pack beyond the buffer", ctx.Pack(image, buffer, []float32{1, 2}))
	image.Offset, image.H = 0, -2
	wantInvalid(t, "Pack of an impossible shape", ctx.Pack(image, buffer, []float32{1, 2}))
	other := newContext(t)
	image.H = 1
	wantInvalid(t, "a buffer of another context", other.Pack(image, buffer, []float32{1, 2}))
	_, err = other.NewProgram(sumProgram(), []*Buffer{buffer})
	wantInvalid(t, "a program on another context's buffer", err)
}

func TestContextsRefuseWhatIsNotThere(t *testing.T) {
	library := mustLoad(t)
	for _, c := range []struct {
		options ContextOptions
		status  Status
		text    string
	}{
		{ContextOptions{Device: 1}, InvalidArgument, "device 1"}, {ContextOptions{Device: -1}, InvalidArgument, "device -1"},
		{ContextOptions{ISA: "avx1024"}, Unsupported, "avx1024"}, {ContextOptions{ISA: strings.Repeat("x", 32)}, Unsupported, "xxx"},
	} {
		ctx, err := library.NewContext(c.options)
		var native *Error
		if !errors.As(err, &native) || native.Status != c.status || !strings.Contains(native.Text, c.text) {
			t.Errorf("%+v gives %v, %v", c.options, ctx, err)
		}
	}
	ctx, err := library.NewContext(ContextOptions{ISA: "portable", Threads: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer ctx.Close()
	if ctx.Info().ISA != "portable" || ctx.Library() != library {
		t.Errorf("%+v of %v", ctx.Info(), ctx.Library())
	}
}

func TestBytesIsTheSlicesMemory(t *testing.T) {
	values := []int32{1, 2}
	bytes := Bytes(values)
	if len(bytes) != 8 {
		t.Fatalf("%d bytes", len(bytes))
	}
	values[1] = -1
	if bytes[7] != 0xFF {
		t.Error("the bytes are a copy")
	}
	if len(Bytes([]float64(nil))) != 0 {
		t.Error("the bytes of nothing")
	}
}

// What a call from Go to C and back costs: a program of one op over two values.
func BenchmarkRun(b *testing.B) {
	library, err := Load("reference")
	if err != nil {
		b.Fatal(err)
	}
	ctx, err := library.NewContext(ContextOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer ctx.Close()
	buffer, err := ctx.NewBuffer(128)
	if err != nil {
		b.Fatal(err)
	}
	p, err := ctx.NewProgram(sumProgram(), []*Buffer{buffer})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Run(nil); err != nil {
			b.Fatal(err)
		}
	}
}
