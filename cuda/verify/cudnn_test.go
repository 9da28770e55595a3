package verify

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"anynetx/bindings"
	"anynetx/bindings/conformance"
)

// openCudnn is a context that asks cuDNN for a choice of convolutions: on the harness a small stand-in, on a GPU the machine's own.
func openCudnn(t *testing.T, choice, failure string) *bindings.Context {
	t.Helper()
	t.Setenv("ANX_CUDNN", choice)
	t.Setenv("FAKE_CUDNN", failure)
	if backend() == "cuda_host" && os.Getenv("ANX_CUDNN_LIBRARY") == "" {
		t.Setenv("ANX_CUDNN_LIBRARY", filepath.Join(filepath.Dir(open(t, "reference").Library().Path), "..", "fake-cudnn", "libcudnn.so.9"))
	}
	return open(t, backend())
}

// runNamed runs a case and says which kernels ran for its first op.
func runNamed(t *testing.T, ctx *bindings.Context, c *conformance.Case) ([]conformance.Output, string, error) {
	t.Helper()
	tensors, end := make([]bindings.Tensor, len(c.Tensors)), int64(0)
	for i, x := range c.Tensors {
		tensors[i] = x.Tensor
		bytes, err := ctx.TensorBytes(x.Tensor)
		if err != nil {
			t.Fatal(err)
		}
		tensors[i].Buffer, tensors[i].Offset = 0, uint64(end)
		end += (bytes + guard - 1) / guard * guard
	}
	buffer, err := ctx.NewBuffer(end)
	if err != nil {
		t.Fatal(err)
	}
	defer buffer.Close()
	program, err := ctx.NewProgram(bindings.ProgramDesc{Tensors: tensors, Ops: c.Ops, Slots: len(c.Slots)}, []*bindings.Buffer{buffer})
	if err != nil {
		return nil, "", err
	}
	defer program.Close()
	names, err := program.Kernels()
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := runCase(ctx, c)
	return outputs, names[0], err
}

// dense is the first convolution of 1x1 pixels that is not grouped, forward.
func dense(t *testing.T) conformance.Case {
	for _, c := range conformance.Cases() {
		if op := c.Ops[0]; len(c.Ops) == 1 && op.Kind == bindings.ConvFwd && op.R == 1 && op.Group == op.C && op.C != 3 && op.In[4] < 0 {
			return c
		}
	}
	t.Fatal("no dense 1x1 convolution among the cases")
	return conformance.Case{}
}

// TestCudnn: what cuDNN takes agrees with the reference, twice with the same bits, and every op says who did it.
func TestCudnn(t *testing.T) {
	reference, cuda := open(t, "reference"), openCudnn(t, "all", "")
	took, refused := map[bindings.OpKind]int{}, map[string]int{}
	for _, dtype := range []bindings.DType{bindings.F16, bindings.BF16} {
		for i, c := range cases(t) {
			op := c.Ops[0]
			if i%2 > 0 || dtype == bindings.BF16 && i%8 > 0 {
				continue // seconds of make test
			}
			wide := op.C == 3 || op.R == 1 && op.Group == op.C || op.Group > 32
			if len(c.Ops) > 1 || op.Kind != bindings.ConvFwd && op.Kind != bindings.ConvBwd || !wide {
				continue
			}
			device, host := c.InDType(dtype)
			want, err := conformance.RunCase(reference, &host)
			if err != nil {
				t.Fatal(err)
			}
			got, names, err := runNamed(t, cuda, &device)
			if err != nil {
				t.Error(err)
				continue
			}
			if err := conformance.Compare(&device, want, got); err != nil {
				t.Errorf("%s: %v", names, err)
			}
			if again, err := runCase(cuda, &device); err != nil {
				t.Error(err)
			} else if err := conformance.SameBits(&device, got, again); err != nil {
				t.Errorf("the second time: %v", err)
			}
			if strings.Contains(names, "cudnn_") {
				took[op.Kind]++
			} else if _, why, ok := strings.Cut(names, " instead of cuDNN: "); ok {
				refused[strings.Split(why, " + ")[0]]++
			} else {
				t.Errorf("case %s ran %q, which does not say why cuDNN did not take it", c.Name, names)
			}
		}
	}
	t.Logf("cuDNN took %v; refused: %v", took, refused)
	if backend() == "cuda_host" && os.Getenv("ANX_EVERY") == "" && (took[bindings.ConvFwd] < 20 || took[bindings.ConvBwd] < 20) {
		t.Errorf("cuDNN took %v only", took)
	}
}

// TestCudnnTraining: a training with cuDNN begins as the reference's does, its device says so, and its checkpoint is not one without.
func TestCudnnTraining(t *testing.T) {
	n := networks(t)[1]
	ctx := openCudnn(t, "all", "")
	if backend() != "cuda_host" && !strings.Contains(ctx.Info().Name, "cuDNN") {
		t.Skip("this machine has no cuDNN 9")
	}
	exact, reference, cuda := firstUpdate(t, open(t, "reference"), n, "fp32"), firstUpdate(t, open(t, "reference"), n, "fp16"), firstUpdate(t, ctx, n, "fp16")
	all := slices.Sorted(maps.Keys(exact))
	if off, own := offBy(exact, cuda, all...), offBy(exact, reference, all...); !(off <= 2.5*own) {
		t.Errorf("the first update is off by %.4f, the reference's by %.4f", off, own)
	}
	if info := ctx.Info(); !strings.Contains(info.Name, ", cuDNN 9.") || !strings.HasSuffix(info.Model, " for all") {
		t.Errorf("the device is %q, model %q", info.Name, info.Model)
	}
}

// TestCudnnChoice: nobody asks, nobody gets it; who asks for some shapes gets it for those.
func TestCudnnChoice(t *testing.T) {
	stem, pointwise := find(t, "7x7/2 g=3 "), dense(t)
	for _, choice := range []struct {
		text            string
		stem, pointwise bool
	}{{"", false, false}, {"stem", true, false}, {"wide,1x1", false, true}, {"all", true, true}} {
		ctx := openCudnn(t, choice.text, "")
		for _, c := range []struct {
			c    conformance.Case
			want bool
		}{{stem, choice.stem}, {pointwise, choice.pointwise}} {
			device, _ := c.c.InDType(bindings.F16)
			_, names, err := runNamed(t, ctx, &device)
			if err != nil {
				t.Error(err)
			}
			if got := strings.Contains(names, "cuDNN") || strings.Contains(names, "cudnn"); got != c.want {
				t.Errorf("ANX_CUDNN=%s: %s ran %s", choice.text, c.c.Name, names)
			}
		}
		ctx.Close()
	}
	t.Setenv("ANX_CUDNN", "1x1,all of it")
	library, err := bindings.Load(backend())
	if err != nil {
		t.Fatal(err)
	}
	_, err = library.NewContext(bindings.ContextOptions{})
	wantStatus(t, err, bindings.InvalidArgument, `ANX_CUDNN has "all of it"; give stem, 1x1, wide`)
}

// TestCudnnMissing: whatever is wrong with cuDNN, our kernels run, with right results, and their name says what it was.
func TestCudnnMissing(t *testing.T) {
	onHarness(t)
	c := dense(t)
	device, host := c.InDType(bindings.F16)
	want, err := conformance.RunCase(open(t, "reference"), &host)
	if err != nil {
		t.Fatal(err)
	}
	for failure, why := range map[string]string{
		"missing": "it cannot be loaded: ", "empty": "it has no cudnn", "old": "it is version 8.9, and 9 is needed", "later": "the last with code for this GPU is 9.10",
		"start": "it does not start: CUDNN_STATUS_NOT_INITIALIZED", "graph": "the graph: CUDNN_STATUS_NOT_SUPPORTED", "nothing": "it has no deterministic engine for this shape",
		"memory": "the plan: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "nondeterministic": "it has no deterministic engine",
	} {
		t.Run(failure, func(t *testing.T) {
			switch failure {
			case "missing":
				t.Setenv("ANX_CUDNN_LIBRARY", "/nowhere/libcudnn.so.9")
			case "empty":
				t.Setenv("ANX_CUDNN_LIBRARY", open(t, "reference").Library().Path)
			case "later":
				t.Setenv("ANX_HOST_SM", "70")
			}
			got, names, err := runNamed(t, openCudnn(t, "all", failure), &device)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(names, " instead of cuDNN: it") && !strings.Contains(names, " instead of cuDNN: the") || !strings.Contains(names, why) || strings.Contains(names, "cudnn_") {
				t.Errorf("ran %q, want %q", names, why)
			}
			if err := conformance.Compare(&device, want, got); err != nil {
				t.Error(err)
			}
		})
	}
	_, _, err = runNamed(t, openCudnn(t, "all", "execute"), &device)
	wantStatus(t, err, bindings.Internal, "invalid argument")
}
