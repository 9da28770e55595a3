package verify

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/bindings/conformance"
	"anynetx/engine"
)

// find is the first case whose name contains the text.
func find(t *testing.T, text string) conformance.Case {
	for _, c := range conformance.Cases() {
		if strings.Contains(c.Name, text) {
			return c
		}
	}
	t.Fatalf("no case %q", text)
	return conformance.Case{}
}

func wantStatus(t *testing.T, err error, status bindings.Status, text string) {
	t.Helper()
	var native *bindings.Error
	if !errors.As(err, &native) || native.Status != status || !strings.Contains(err.Error(), text) {
		t.Errorf("the error is %v; want status %v and %q", err, status, text)
	}
}

// TestFaultsOfData: what only the device sees (a row of the table, a label) is an error of the run that reads it first.
func TestFaultsOfData(t *testing.T) {
	ctx := open(t, backend())
	for _, column := range []struct {
		at   int
		text string
	}{{bindings.SampleImage, "names image 9999"}, {bindings.SampleH, "rectangle"}, {bindings.SampleFlip, "flip 9999"}} {
		for _, name := range []string{"input whole", "input+conv_fwd"} { // alone, and in the stem's load
			c, _ := find(t, name).InDType(bindings.F16)
			c.Tensors = append([]conformance.Tensor(nil), c.Tensors...)
			for i := range c.Tensors {
				if c.Tensors[i].Name != "samples" {
					continue
				}
				data := append([]byte(nil), c.Tensors[i].Data...)
				value := int32(9999)
				if column.at == bindings.SampleH {
					value = 0
				}
				copy(data[4*(5*bindings.SampleColumns+column.at):], bindings.Bytes([]int32{value}))
				c.Tensors[i].Data = data
			}
			_, err := runCase(ctx, &c)
			wantStatus(t, err, bindings.InvalidArgument, column.text)
		}
	}
	c := find(t, "xent")
	c.Tensors = append([]conformance.Tensor(nil), c.Tensors...)
	for i := range c.Tensors {
		if c.Tensors[i].Name == "y" {
			c.Tensors[i].Data = append([]byte(nil), c.Tensors[i].Data...)
			copy(c.Tensors[i].Data, bindings.Bytes([]int32{-3}))
		}
	}
	_, err := runCase(ctx, &c)
	wantStatus(t, err, bindings.InvalidArgument, "label of row 0 is -3")
}

// TestOutOfMemory: a buffer that does not fit is a status, and the context stays usable.
func TestOutOfMemory(t *testing.T) {
	ctx := open(t, backend())
	_, err := ctx.NewBuffer(1 << 46)
	wantStatus(t, err, bindings.OutOfMemory, "wanted")
	if b, err := ctx.NewBuffer(1 << 10); err != nil {
		t.Error(err)
	} else {
		b.Close()
	}
}

// onHarness skips what only the harness can bring about.
func onHarness(t *testing.T) {
	t.Helper()
	if backend() != "cuda_host" {
		t.Skip("a GPU cannot be made to fail: the harness is")
	}
}

// smallTrainer is a trainer of a small network that is ready to train. What it takes is given back when the context closes.
func smallTrainer(ctx *bindings.Context, n *anynetx.Network, rate float64) (*engine.Trainer, error) {
	data, err := engine.LoadData(ctx, patterns(n.Setting.Resolution, 4, 32, 8))
	if err != nil {
		return nil, err
	}
	r := engine.DefaultRecipe()
	r.Batch, r.PreciseBNImages, r.LearningRate, r.WarmupEpochs = 8, 0, rate, 0
	trainer, err := engine.NewTrainer(ctx, engine.Config{Network: n, Recipe: r, Epochs: 1, DType: "fp32", Seed: 7, Task: "patterns"}, data)
	if err != nil {
		return nil, err
	}
	return trainer, trainer.Initialize()
}

// TestLostDevice: a device lost in mid-step is a status that says so; every call after it fails at once, and closing ends.
func TestLostDevice(t *testing.T) {
	onHarness(t)
	n := networks(t)[2]
	for _, kernels := range []string{"0", "7", "90"} { // in the first step, in its middle, in a later one
		ctx := open(t, backend())
		trainer, err := smallTrainer(ctx, n, 0.02)
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("ANX_HOST_LOSE", kernels)
		for range 4 {
			if err = trainer.Step(); err != nil {
				break
			}
		}
		if err == nil {
			_, err = trainer.EndEpoch()
		}
		wantStatus(t, err, bindings.DeviceLost, "is lost to this process: uncorrectable ECC error")
		os.Unsetenv("ANX_HOST_LOSE")
		_, err = ctx.NewBuffer(1)
		wantStatus(t, err, bindings.DeviceLost, "start another process")
		wantStatus(t, ctx.Synchronize(), bindings.DeviceLost, "start another process")
		trainer.Close()
		ctx.Close()
	}
}

// TestLostInACase: a case that loses the device does not take those behind it along, each is run by a process that has one.
func TestLostInACase(t *testing.T) {
	onHarness(t)
	open(t, backend())
	tests := exec.Command(os.Args[0], "-test.v", "-test.run", "^TestConformance$/^f16$")
	tests.Env = append(os.Environ(), "ANX_CASES=sgd ", "ANX_EVERY=4", "ANX_HOST_LOSE=5")
	out, err := tests.CombinedOutput()
	if lost := strings.Count(string(out), "is lost to this process: uncorrectable"); err == nil || lost < 2 || !strings.Contains(string(out), "cases that agree, by family: map[sgd:1]") {
		t.Errorf("%v; the device was lost %d times:\n%s", err, lost, out)
	}
}

// TestMemoryRunsOut: wherever memory ends while a training is set up it is the status out of memory, nothing of what was taken stays
// behind, and the same context trains once there is enough.
func TestMemoryRunsOut(t *testing.T) {
	onHarness(t)
	ctx, n := open(t, backend()), networks(t)[2]
	tries := func(limit int) error {
		t.Setenv("ANX_HOST_MEMORY", strconv.Itoa(limit))
		c, err := ctx.Library().NewContext(bindings.ContextOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = smallTrainer(c, n, 0.02)
		return err
	}
	// The least that is enough, to the byte: found by halving, and every limit on the way must fail in the right way.
	enough, little, failed := 1<<24, 0, 0
	if err := tries(enough); err != nil {
		t.Fatal(err)
	}
	for enough-little > 1 {
		limit := (enough + little) / 2
		if err := tries(limit); err == nil {
			enough = limit
		} else {
			wantStatus(t, err, bindings.OutOfMemory, "out of memory: wanted")
			little = limit
			failed++
		}
	}
	if err := tries(enough); err != nil {
		t.Errorf("%d bytes were enough before others ran out, and now: %v", enough, err)
	}
	for part := 1; part < 12; part++ {
		wantStatus(t, tries(enough*part/12), bindings.OutOfMemory, "out of memory: wanted")
	}
	if failed < 3 {
		t.Errorf("memory ran out %d times only", failed)
	}
	t.Logf("%d bytes are enough", enough)
}

// TestMemoryIsFreedBehindItsWork: what is closed while the device still has work on it waits for that; on the harness, where work is done as
// late as can be, it would be done on memory that is gone.
func TestMemoryIsFreedBehindItsWork(t *testing.T) {
	ctx := open(t, backend())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	buffer, err := ctx.NewBuffer(4096)
	must(err)
	waits := func() { must(buffer.Read(0, make([]byte, 64))) }
	zeroed, err := ctx.NewBuffer(1 << 20)
	must(err)
	zeroed.Close()
	waits()
	mean := bindings.NewOp(bindings.GapFwd)
	mean.N, mean.H, mean.W, mean.C, mean.In[0], mean.Out[0] = 1, 1, 2, 1, 0, 1
	map2 := bindings.Tensor{Layout: bindings.Activation, N: 1, H: 1, W: 2, C: 1}
	program, err := ctx.NewProgram(bindings.ProgramDesc{Tensors: []bindings.Tensor{map2, {Layout: bindings.Activation, N: 1, H: 1, W: 1, C: 1, Offset: 1024}},
		Ops: []bindings.Op{mean}, Slots: 1}, []*bindings.Buffer{buffer})
	must(err)
	for range 2 { // the first run waits, to look for faults
		must(program.Run([]float64{0})) // which it writes into memory of its own
	}
	program.Close()
	waits()
}

// TestDivergence: a training that diverges says so, and counts values that are not finite on the device.
func TestDivergence(t *testing.T) {
	trainer, err := smallTrainer(open(t, backend()), networks(t)[2], 1e6)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := trainer.Step(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := trainer.EndEpoch(); !errors.Is(err, engine.ErrDiverged) {
		t.Errorf("the epoch ends with %v, want %v", err, engine.ErrDiverged)
	}
}

// TestOldDriver: a driver older than the library is no device, and who asks for one learns why.
func TestOldDriver(t *testing.T) {
	onHarness(t)
	library := open(t, backend()).Library()
	t.Setenv("ANX_HOST_OLD_DRIVER", "1")
	if devices, err := library.Devices(); err != nil || len(devices) != 0 {
		t.Errorf("devices: %v, %v", devices, err)
	}
	_, err := library.NewContext(bindings.ContextOptions{})
	wantStatus(t, err, bindings.Unsupported, "the driver knows CUDA up to 10.1 and libanx_cuda.so needs 13.0: install a newer driver")
}

func TestWrongDevices(t *testing.T) {
	library, err := bindings.Load(backend())
	if err != nil {
		t.Skip(err)
	}
	_, err = library.NewContext(bindings.ContextOptions{Device: 99})
	wantStatus(t, err, bindings.InvalidArgument, "device 99")
	_, err = library.NewContext(bindings.ContextOptions{ISA: "sm_10"})
	wantStatus(t, err, bindings.Unsupported, "sm_10")
}
