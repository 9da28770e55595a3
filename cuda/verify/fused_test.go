package verify

import (
	"bytes"
	"strings"
	"testing"

	"anynetx/bindings"
	"anynetx/bindings/conformance"
)

// TestFused: where the tensor between two ops is transient one launch makes both and does not write it; outputs but sums are those of
// the two launches, bit for bit (a sum may be added in another order).
func TestFused(t *testing.T) {
	ctx := open(t, backend())
	fused := 0
	for _, c := range conformance.Cases() {
		if !strings.HasPrefix(c.Family, "conv_bwd+") || strings.HasSuffix(c.Name, "all live") {
			continue
		}
		if o := c.Ops[0]; o.R != 1 || o.C%8 != 0 { // what is not dense 1x1 is not fused; padding that nobody writes is a fault to runCase
			continue
		}
		planned, _ := c.InDType(bindings.F16)
		between := &planned.Tensors[planned.Ops[0].Out[0]]
		between.Output, between.NaNs = true, true
		got, err := runCase(ctx, &planned)
		if err != nil {
			t.Fatal(err)
		}
		between.Flags = 0 // all live
		live, err := runCase(ctx, &planned)
		if err != nil {
			t.Fatal(err)
		}
		for i, o := range got {
			switch untouched := len(bytes.TrimLeft(o.Bytes, "\xff")) == 0; {
			case o.Tensor == between && !untouched:
				t.Errorf("%s: %s is transient, and was written: nothing was fused", c.Name, o.Tensor.Name)
			case o.Tensor == between:
				fused++
			case o.Tensor.DType != bindings.F64 && !bytes.Equal(o.Bytes, live[i].Bytes):
				t.Errorf("%s: %s is not the one of two launches", c.Name, o.Tensor.Name)
			}
		}
	}
	if fused < 4 {
		t.Errorf("only %d pairs were fused", fused)
	}
}
