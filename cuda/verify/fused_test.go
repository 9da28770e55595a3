package verify

import (
	"bytes"
	"strings"
	"testing"

	"anynetx/bindings"
	"anynetx/bindings/conformance"
)

// TestFused: where the tensor between two ops is transient one launch makes both; outputs but sums are those of two launches, bit for
// bit (a sum may be added in another order).
func TestFused(t *testing.T) {
	ctx := open(t, backend())
	if strings.HasPrefix(ctx.Info().Model, "sm_7") {
		t.Skip("below sm_80 only the end of a block backward is fused")
	}
	kernels := map[string]int{}
	for _, c := range conformance.Cases() {
		if !c.MasksGiven || strings.HasSuffix(c.Name, "all live") {
			continue
		}
		planned, _ := c.InDType(bindings.F16)
		if c.Ops[0].Kind == bindings.JoinFwd { // its output is saved, fused or not
			planned.Tensors[c.Ops[0].Out[0]].Output = true
		}
		got, err := runCase(ctx, &planned)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range kernelsOf(t, ctx, &planned) {
			kernels[name]++
		}
		planned.Tensors[planned.Ops[0].Out[0]].Flags = 0 // all live
		live, err := runCase(ctx, &planned)
		if err != nil {
			t.Fatal(err)
		}
		for i, o := range got {
			if o.Tensor.DType != bindings.F64 && !bytes.Equal(o.Bytes, live[i].Bytes) {
				t.Errorf("%s: %s is not the one of two launches", c.Name, o.Tensor.Name)
			}
		}
		for _, name := range kernelsOf(t, ctx, &planned) {
			if strings.Contains(name, "block_gradient") || strings.Contains(name, "join_forward + ") || strings.Contains(name, "stem_gather") || strings.Contains(name, "stem_pool") {
				t.Errorf("%s: %s ran where all tensors live", c.Name, name)
			}
		}
	}
	t.Log(kernels)
	for _, name := range []string{"conv_pointwise_join_forward", "conv_pointwise_block_gradients", "conv_pointwise_block_gradient", "conv_stem_gather_forward", "conv_stem_gather_filter_gradient", "conv_stem_pool_filter_gradient"} {
		found := false
		for k := range kernels {
			for _, part := range strings.Split(k, " + ") {
				found = found || part == name
			}
		}
		if !found {
			t.Errorf("no case took %s", name)
		}
	}
}

// kernelsOf are the kernels of each op of a case, as they would run.
func kernelsOf(t *testing.T, ctx *bindings.Context, c *conformance.Case) []string {
	t.Helper()
	bound, err := conformance.Bind(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer bound.Close()
	names, err := bound.Kernels()
	if err != nil {
		t.Fatal(err)
	}
	return names
}
