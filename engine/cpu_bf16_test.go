package engine

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// openBF16 is a context of the CPU back end on a processor with bf16 instructions.
func openBF16(t testing.TB, threads int) *bindings.Context {
	t.Helper()
	library := open(t, "cpu", "").Library()
	ctx, err := library.NewContext(bindings.ContextOptions{Threads: threads})
	must(t, err)
	t.Cleanup(ctx.Close)
	if err := CheckDType(ctx, "bf16"); err != nil {
		t.Skip(err)
	}
	return ctx
}

// TestCPUStepInBF16: a bound like TestStepIn16Bits', wider since the factors of products are rounded too.
func TestCPUStepInBF16(t *testing.T) {
	const roundoff = 0x1p-9
	ctx := openBF16(t, 1)
	want := gradientsIn(t, open(t, "reference", ""), "fp32")
	worst := 0.0
	for name, got := range gradientsIn(t, ctx, "bf16") {
		exact := want[name]
		if scale, ok := strings.CutSuffix(name, "bn.bias"); ok {
			beside := want[scale+"bn.weight"]
			got, exact = slices.Concat(got, beside), slices.Concat(exact, beside)
		}
		d := distance(got, exact)
		worst = max(worst, d)
		if !(d <= 150*roundoff) {
			t.Errorf("the gradient of %s is off by %.2g, %.0f roundoffs", name, d, d/roundoff)
		}
	}
	t.Logf("worst: %.0f roundoffs", worst/roundoff)
	if worst < roundoff {
		t.Error("nothing was rounded")
	}
}

// TestCPULearnsInBF16: it learns, threads do not change a bit, and a context of another instruction set says that it cannot.
func TestCPULearnsInBF16(t *testing.T) {
	var first []byte
	for _, threads := range []int{1, 2, 3} {
		ctx := openBF16(t, threads)
		c := testConfig(tiny(t, anynetx.SimpleStemIN, 16, 4))
		c.DType, c.Epochs, c.Recipe.LearningRate = "bf16", 7, 0.1
		trainer := newTestTrainer(t, ctx, c, load(t, ctx, blobs(16, 3, 4, 320, 64)), planOptions{})
		must(t, trainer.Initialize())
		r := runEpochs(t, trainer, c.Epochs)[c.Epochs-1]
		if !(r.TestLoss < 0.1 && r.TestTop1ErrPct < 5) { // untrained: 1.39 and 75 %; of four seeds, bf16 and fp32: at most 0.019
			t.Errorf("bf16 has not learnt: test loss %.4f, error %.1f %%", r.TestLoss, r.TestTop1ErrPct)
		}
		state, err := trainer.readState()
		must(t, err)
		if first == nil {
			first = state
		} else if !bytes.Equal(first, state) {
			t.Errorf("%d threads: the state differs from one thread's at byte %d", threads, firstDifference(first, state))
		}
	}
	if err := CheckDType(open(t, "cpu", "portable"), "bf16"); err == nil || !strings.Contains(err.Error(), "AVX512_BF16") {
		t.Errorf("bf16 on portable code: %v", err)
	}
}
