// Package verify runs the conformance cases of every op on the CUDA back end against the reference: on the harness (libanx_cuda_host.so,
// `make harness`) by default, on a GPU with ANX_CUDA_BACKEND=cuda.
package verify

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"anynetx/bindings"
	"anynetx/bindings/conformance"
)

// backend is the library under test. One that is not built is a loud skip, or a failure where ANX_REQUIRE names it.
func backend() string {
	if name := os.Getenv("ANX_CUDA_BACKEND"); name != "" {
		return name
	}
	return "cuda_host"
}

func open(t testing.TB, name string) *bindings.Context {
	t.Helper()
	library, err := bindings.Load(name)
	if errors.Is(err, fs.ErrNotExist) && !strings.Contains(os.Getenv("ANX_REQUIRE"), name) {
		t.Skipf("the %s back end is not built: run make harness (or make cuda)", name)
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

func TestConformance(t *testing.T) {
	reference, cuda := open(t, "reference"), open(t, backend())
	for _, dtype := range []bindings.DType{bindings.F32, bindings.F16, bindings.BF16} {
		t.Run(dtype.String(), func(t *testing.T) {
			ran := map[string]int{}
			for _, c := range conformance.Cases() {
				if only := os.Getenv("ANX_CASES"); only != "" && !strings.Contains(c.Name, only) {
					continue
				}
				if dtype != bindings.F32 && len(c.Ops) > 1 {
					continue // rounding between ops flips masks near their kinks, so there is nothing to compare element by element
				}
				device, host := c.InDType(dtype)
				want, err := conformance.RunCase(reference, &host)
				if err != nil {
					t.Fatal(err)
				}
				run := runCase
				if dtype == bindings.F32 {
					run = conformance.RunCase
				}
				got, err := run(cuda, &device)
				if err != nil {
					t.Error(err)
					continue
				}
				if err := conformance.Compare(&device, want, got); err != nil {
					t.Error(err)
					continue
				}
				again, err := run(cuda, &device)
				if err == nil {
					err = conformance.SameBits(&device, got, again)
				}
				if err != nil {
					t.Errorf("the second time: %v", err)
				}
				ran[c.Family]++
			}
			t.Logf("cases that agree, by family: %v", ran)
		})
	}
}
