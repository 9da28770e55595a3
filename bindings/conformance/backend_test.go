package conformance

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"anynetx/bindings"
)

// runAll runs every case that the device takes; what is nil in the result it cannot take.
func runAll(t *testing.T, ctx *bindings.Context, cases []Case) [][]Output {
	t.Helper()
	results := make([][]Output, len(cases))
	for i := range cases {
		if cases[i].Unfit(ctx.Info()) != "" {
			continue
		}
		outputs, err := RunCase(ctx, &cases[i])
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		results[i] = outputs
	}
	return results
}

// The reference takes every case and compares equal with itself: no NaN where none belongs, no guard byte and no input touched.
func TestReferenceRunsEveryCase(t *testing.T) {
	cases := allCases()
	for i, outputs := range runAll(t, reference(t), cases) {
		if outputs == nil {
			t.Errorf("case %s does not run", cases[i].Name)
		} else if err := Compare(&cases[i], outputs, outputs); err != nil {
			t.Error(err)
		}
	}
}

// The reference in 16 bits is the reference in F32 but for the rounding of what is stored.
func TestReferenceIn16Bits(t *testing.T) {
	ctx := reference(t)
	for _, dtype := range []bindings.DType{bindings.F16, bindings.BF16} {
		rounded := false
		for i, c := range allCases() {
			if len(c.Ops) > 1 || i%3 > 0 { // a third is enough: the arithmetic is F32's
				continue // rounding between ops flips masks near their kinks, so there is nothing to compare element by element
			}
			stored, exact := c.InDType(dtype)
			results := runAll(t, ctx, []Case{exact, stored})
			if t.Failed() {
				return
			}
			if err := Compare(&stored, results[0], results[1]); err != nil {
				t.Errorf("%s: %v", dtype, err)
			}
			rounded = rounded || SameBits(&stored, results[0], results[1]) != nil
		}
		if !rounded {
			t.Errorf("%s: no case was rounded", dtype)
		}
	}
}

// Every back end against the reference, on each instruction set; and the same bits for every number of threads, and for every
// instruction set that calls itself the same device model.
func TestBackEndsAgreeWithReference(t *testing.T) {
	cases := allCases()
	want := runAll(t, reference(t), cases)
	for _, backend := range []struct { // CUDA's has tests of its own: cuda/verify
		name string
		isas []string
	}{{"cpu", []string{"avx512", "avx2", "portable"}}} {
		t.Run(backend.name, func(t *testing.T) {
			library := load(t, backend.name)
			type first struct {
				what    string
				results [][]Output
			}
			models := map[string]first{}
			for _, isa := range backend.isas {
				t.Run("isa="+isa, func(t *testing.T) {
					for _, count := range []int{1, 2, 3} {
						ctx, err := library.NewContext(bindings.ContextOptions{Threads: count, ISA: isa})
						var native *bindings.Error
						if errors.As(err, &native) && native.Status == bindings.Unsupported {
							missing(t, isa, "%v", err)
						}
						if err != nil {
							t.Fatal(err)
						}
						got := runAll(t, ctx, cases)
						info := ctx.Info()
						ctx.Close()
						what := fmt.Sprintf("%s with %d threads", info.ISA, count)
						same, seen := models[info.Model]
						if !seen {
							models[info.Model] = first{what, got}
						}
						for i := range cases {
							if got[i] == nil {
								continue
							}
							if seen {
								if same.results[i] == nil {
									continue
								}
								if err := SameBits(&cases[i], same.results[i], got[i]); err != nil {
									t.Errorf("%s against %s: %v", what, same.what, err)
								}
							}
							if count == 1 {
								if err := Compare(&cases[i], want[i], got[i]); err != nil {
									t.Errorf("%s: %v", what, err)
								}
							}
						}
						if count == 1 {
							unfit(t, info, cases)
						}
					}
				})
			}
		})
	}
}

// BF16 activations of the cpu back end, where the processor has the instructions, against the reference with the same inputs in F32; and the
// same bits for every number of threads. Cases of one op only: rounding between ops flips masks near their kinks, so that there is nothing to
// compare element by element.
func TestCPUInBF16(t *testing.T) {
	library := load(t, "cpu")
	var device, host []Case
	for _, c := range append(allCases(), largeCases()...) {
		if len(c.Ops) > 1 {
			continue
		}
		d, h := c.InDType(bindings.BF16)
		device, host = append(device, d), append(host, h)
	}
	var first, want [][]Output
	for _, threads := range []int{1, 2, 3} {
		ctx := context(t, library, bindings.ContextOptions{Threads: threads})
		if _, err := ctx.TensorBytes(bindings.Tensor{Layout: bindings.Activation, DType: bindings.BF16, N: 16, H: 1, W: 1, C: 1}); err != nil {
			missing(t, "bf16", "%v", err)
		}
		got := runAll(t, ctx, device)
		if first == nil {
			first, want = got, runAll(t, reference(t), host)
			unfit(t, ctx.Info(), device)
		}
		for i := range device {
			if got[i] == nil {
				continue
			}
			if err := Compare(&device[i], want[i], got[i]); err != nil {
				t.Errorf("%d threads: %v", threads, err)
			}
			if err := SameBits(&device[i], first[i], got[i]); err != nil {
				t.Errorf("%d threads against 1: %v", threads, err)
			}
		}
	}
}

// Other instruction sets refuse BF16 in words.
func TestBF16NeedsItsInstructions(t *testing.T) {
	ctx := context(t, load(t, "cpu"), bindings.ContextOptions{ISA: "portable"})
	_, err := ctx.TensorBytes(bindings.Tensor{Layout: bindings.Activation, DType: bindings.BF16, N: 16, H: 1, W: 1, C: 1})
	var native *bindings.Error
	if !errors.As(err, &native) || native.Status != bindings.Unsupported || !strings.Contains(native.Text, "AVX512_BF16") {
		t.Errorf("BF16 on portable code: %v", err)
	}
}

// unfit reports the cases that a device cannot take as one skip with its count and reason.
func unfit(t *testing.T, info bindings.DeviceInfo, cases []Case) {
	t.Helper()
	count, why := 0, ""
	for i := range cases {
		if reason := cases[i].Unfit(info); reason != "" {
			count++
			why = reason
		}
	}
	t.Logf("%s ran %d cases of %d", info.ISA, len(cases)-count, len(cases))
	if count > 0 {
		t.Run("unfit", func(t *testing.T) { t.Skipf("%d cases: %s", count, why) })
	}
}

// BenchmarkCases gives each case's time on the back end that ANX_BENCH names ("cpu" if unset).
func BenchmarkCases(b *testing.B) {
	library, err := bindings.Load(benchmarked())
	if err != nil {
		b.Skip(err)
	}
	ctx, err := library.NewContext(bindings.ContextOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer ctx.Close()
	for _, c := range allCases() {
		b.Run(c.Name, func(b *testing.B) {
			bound, err := Bind(ctx, &c)
			if err != nil {
				b.Skip(err)
			}
			defer bound.Close()
			for b.Loop() {
				if err := bound.Run(); err != nil {
					b.Fatal(err)
				}
			}
			if macs := c.MACs(); macs > 0 {
				b.ReportMetric(float64(macs)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GMAC/s")
			}
		})
	}
}
