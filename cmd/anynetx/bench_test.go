package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"strings"
	"testing"

	"anynetx/bindings"
	"anynetx/engine"
)

func benchDevice(t *testing.T, name string) *bindings.Context {
	library, err := bindings.Load(name)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the %s back end is not built", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := library.NewContext(bindings.ContextOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ctx.Close)
	return ctx
}

func benchRun(t *testing.T, into any, args ...string) {
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), append([]string{"anynetx", "bench"}, args...), &stdout, &stderr); code != 0 {
		t.Fatalf("bench %s: exit code %d: %s", strings.Join(args, " "), code, stderr.String())
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		t.Fatal(err)
	}
}

// Every op of the list is one that back ends take, with names all different.
func TestOpCasesAreAccepted(t *testing.T) {
	for _, c := range []struct{ name, dtype string }{{"reference", "fp32"}, {"cpu", "fp32"}, {"cpu", "bf16"}} {
		name, device := c.name, benchDevice(t, c.name)
		dtype := map[string]bindings.DType{"fp32": bindings.F32, "bf16": bindings.BF16}[c.dtype]
		if err := engine.CheckDType(device, c.dtype); err != nil {
			t.Log(err)
			continue
		}
		seen := map[string]bool{}
		for _, o := range opCases() {
			for _, pass := range o.passes() {
				full := o.name + " " + pass.name
				if seen[full] {
					t.Errorf("two ops are called %q", full)
				}
				seen[full] = true
				p := opProgram{device: device, dtype: dtype}
				if err := p.build(&o, bindings.NewOp(pass.kind), pass.in, pass.out); err != nil {
					t.Fatal(err)
				}
				if _, err := device.Workspace(p.desc); err != nil {
					t.Errorf("%s: %s: %v", name, full, err)
				}
			}
		}
	}
}

func TestInsideShare(t *testing.T) {
	for _, c := range []struct {
		size, r, stride int
		want            float64
	}{
		{1, 3, 1, 1.0 / 9}, {2, 3, 1, 16.0 / 36}, {7, 3, 1, 361.0 / 441}, {7, 1, 1, 1},
		{4, 3, 2, 25.0 / 36}, // outputs at 0 and 2: two of three taps, then all
	} {
		o := opCase{size: c.size, r: c.r, stride: c.stride}
		if got := o.insideShare(); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%d px, filter %d, stride %d: %v of the taps meet the map, want %v", c.size, c.r, c.stride, got, c.want)
		}
	}
}

// The arithmetic of the ops that ran is what is reported for a training step, but for the head's bias, which counts as FLOPs and is no
// multiply-add of an op.
func TestBenchNetworkCountsWhatItRuns(t *testing.T) {
	benchDevice(t, "cpu")
	var r benchJSON
	benchRun(t, &r, "network", "--depths", "1,2,1,1", "--widths", "8,12,16,16", "--bottlenecks", "1,2,1,1", "--group-widths", "4,3,16,8",
		"--resolution", "16", "--classes", "10", "--batch", "16", "--processes", "2", "--models", "2", "--seconds", "0.05", "--ops", "--json")
	sum, shares := 0.0, 0.0
	for _, k := range r.Kinds {
		sum += k.GFLOPs * k.MS * 1e6
		shares += k.Share
	}
	want := float64(r.TrainingFLOPs-2*3*int64(r.Classes)) * float64(r.Batch*r.Models)
	if math.Abs(sum/want-1) > 1e-9 {
		t.Errorf("the ops that ran have %v FLOPs, the report says %v", sum, want)
	}
	if math.Abs(shares-1) > 1e-9 {
		t.Errorf("shares add up to %v", shares)
	}
	if r.Processes != 2 || r.Models != 2 || r.Threads != 1 || r.Steps < 2*leastSteps || r.FractionOfPeak == nil || !(r.StepMinMS > 0 && r.StepMinMS <= r.StepMS) {
		t.Errorf("the report does not hold together: %+v", r)
	}
	if got := r.GFLOPs / *r.FMAPeakGFLOPs; math.Abs(got / *r.FractionOfPeak - 1) > 1e-9 {
		t.Errorf("fraction of peak is %v, %v GFLOP/s of %v are %v", *r.FractionOfPeak, r.GFLOPs, *r.FMAPeakGFLOPs, got)
	}
}

func TestBenchOps(t *testing.T) {
	benchDevice(t, "cpu")
	var r opsJSON
	benchRun(t, &r, "ops", "--filter", "grouped 2px .* g3 ", "--seconds", "0.001", "--json")
	passes := map[string]opJSON{}
	for _, o := range r.Ops {
		if o.Stride == 1 {
			passes[o.Pass] = o
		}
	}
	both, weight := passes["bwd"], passes["wgrad"]
	if len(passes) < 3 || both.US <= 0 || weight.US <= 0 {
		t.Fatalf("passes of one op: %+v", r.Ops)
	}
	macs := 128.0 * 2 * 2 * 255 * 9 * 3
	if got := both.GFLOPs * both.US * 1e3; math.Abs(got/(4*macs)-1) > 1e-9 {
		t.Errorf("both gradients count as %v FLOPs, want %v", got, 4*macs)
	}
	if got := *weight.FractionInside / *weight.FractionOfPeak; math.Abs(got-16.0/36) > 1e-9 {
		t.Errorf("%v of the taps on a map of 2 pixels count as inside", got)
	}
}

func TestCeilings(t *testing.T) {
	ctx := benchDevice(t, "cpu")
	c, err := ctx.Ceilings(0.1)
	if err != nil {
		t.Fatal(err)
	}
	if !(c.FMAF32GFLOPs > 1 && c.FMAF32GFLOPs < 1e4 && c.CopyGBPerS > 0.1 && c.ReadGBPerS > 0.1) {
		t.Errorf("no machine has such peaks: %+v", c)
	}
	if _, err := ctx.Ceilings(-1); err == nil {
		t.Error("peaks were measured for less than no time")
	}
	var native *bindings.Error
	if _, err := benchDevice(t, "reference").Ceilings(0.1); !errors.As(err, &native) || native.Status != bindings.Unsupported {
		t.Errorf("the reference back end measures no peaks, but says %v", err)
	}
}
