package engine

import (
	"errors"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// dtypes are what a run can store its activations and their gradients in. Parameters, their gradients, momentum and statistics are fp32
// in every run.
var dtypes = map[string]bindings.DType{"fp32": bindings.F32, "fp16": bindings.F16, "bf16": bindings.BF16}

// DTypes are the names that Config.DType can have.
func DTypes() []string { return []string{"fp32", "fp16", "bf16"} }

// The loss scale of fp16 runs, whose small gradients would else be 0: where it begins, how many steps without overflow double it, and how
// far. The first two are those of PyTorch's GradScaler. A step that overflows is skipped and halves the scale; its running statistics have
// moved all the same, as PyTorch's have. A step that overflows at scale 1 counts as divergence.
const (
	firstScale   = 1 << 16
	scaleSteps   = 2000
	largestScale = 1 << 24
)

// CheckDType says whether a run on this device can have the dtype; if not, the error is the user's input.
func CheckDType(ctx *bindings.Context, name string) error {
	dtype, ok := dtypes[name]
	if !ok {
		return anynetx.Inputf("dtype is %q; give fp32, fp16 or bf16", name)
	}
	_, err := ctx.TensorBytes(bindings.Tensor{Layout: bindings.Activation, DType: dtype, N: int32(max(1, ctx.Info().VectorImages)), H: 1, W: 1, C: 1})
	var native *bindings.Error
	if errors.As(err, &native) && native.Status == bindings.Unsupported {
		return anynetx.Inputf("dtype is %s, which the %s back end cannot do on %s: %v; give fp32, or another device", name, ctx.Library().Name, ctx.Info().Name, err)
	}
	return err
}
