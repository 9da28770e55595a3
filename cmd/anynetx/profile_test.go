package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/engine"
)

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
