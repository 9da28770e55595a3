package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/engine"
)

// TestProfileOfFusedOps: an op that ran inside of another's kernel took no time, and the report is numbers all the same.
func TestProfileOfFusedOps(t *testing.T) {
	step := []bindings.OpTime{
		{Op: bindings.Op{Kind: bindings.Input, Models: 1}, Runs: 1},
		{Op: bindings.Op{Kind: bindings.ConvFwd, N: 1, C: 3, P: 2, Q: 2, K: 8, R: 3, Group: 3, Models: 1}, Runs: 1},
		{Op: bindings.Op{Kind: bindings.SGD, Models: 1}, Runs: 1, NS: 1000},
	}
	kinds, records := profileReport([][]bindings.OpTime{step}, &benchJSON{Processes: 1, Ceilings: &bindings.Ceilings{FMAF32GFLOPs: 1}})
	if text, err := json.Marshal([]any{kinds, records}); err != nil || len(kinds) != 3 {
		t.Errorf("%s: %v", text, err)
	}
}

// TestProfileSteps: the profiler of the harness records the steps that --profile-steps names and no others.
func TestProfileSteps(t *testing.T) {
	device := benchDevice(t, "cuda_host")
	a := anynetx.Architecture{{Depth: 1, Width: 8, Bottleneck: 1, GroupWidth: 8}, {Depth: 1, Width: 8, Bottleneck: 1, GroupWidth: 8},
		{Depth: 1, Width: 8, Bottleneck: 1, GroupWidth: 8}, {Depth: 1, Width: 8, Bottleneck: 1, GroupWidth: 8}}
	n, err := anynetx.Build(a, anynetx.Setting{Stem: anynetx.SimpleStemIN, StemWidth: 8, Strides: [4]int{1, 2, 1, 2}, Resolution: 4, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	recipe := engine.DefaultRecipe()
	recipe.Batch, recipe.PreciseBNImages = 4, 0
	config := engine.Config{Network: n, Recipe: recipe, Epochs: 1 << 30, DType: "fp32", Task: "random"}
	for _, ranges := range []bindings.Trace{0, bindings.TraceRanges} {
		path := filepath.Join(t.TempDir(), "trace")
		t.Setenv("ANX_HOST_TRACE", path)
		if err := device.Trace(ranges); err != nil {
			t.Fatal(err)
		}
		profile := &profiler{device: device, ranges: ranges, first: 1, last: 3}
		times, err := timeSteps(context.Background(), device, config, 1, randomSet(n.Setting, 4), 1e-9, false, profile, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if times.kernels["gather"] != 1 || times.kernels["update"] != 1 || times.kernels["conv_direct_forward"] < 10 {
			t.Errorf("kernels: %v", times.kernels)
		}
		os.Unsetenv("ANX_HOST_TRACE")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		step := map[bindings.Trace]string{0: "graph", bindings.TraceRanges: "push anynetx train"}[ranges]
		var got []string // two steps of warm-up, three that are measured
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line == "start" || line == "stop" || line == step {
				got = append(got, line)
			}
		}
		if want := []string{step, "start", step, step, "stop", step, step}; strings.Join(got, ",") != strings.Join(want, ",") {
			t.Errorf("seen: %q, want %q", got, want)
		}
	}
}
