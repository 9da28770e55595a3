// Package verify runs the conformance cases of every op on the CUDA back end against the reference: on the harness (libanx_cuda_host.so,
// a part of `make test`; alone `make harness`) by default, on a GPU with ANX_CUDA_BACKEND=cuda.
package verify

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

// cases are those whose name contains ANX_CASES; of these, with ANX_EVERY=5, the first of every 5 of each family.
func cases(t *testing.T) []conformance.Case {
	every := 1
	if text := os.Getenv("ANX_EVERY"); text != "" {
		var err error
		if every, err = strconv.Atoi(text); err != nil || every < 1 {
			t.Fatalf("ANX_EVERY is %q, must be a whole number from 1 on", text)
		}
	}
	var some []conformance.Case
	seen := map[string]int{}
	for _, c := range conformance.Cases() {
		if !strings.Contains(c.Name, os.Getenv("ANX_CASES")) {
			continue
		}
		if seen[c.Family]%every == 0 {
			some = append(some, c)
		}
		seen[c.Family]++
	}
	return some
}

// TestHarness: does the harness do what CUDA does, and find what it says it finds? The program is kernels/selfcheck/harness_test.cu.
func TestHarness(t *testing.T) {
	if backend() != "cuda_host" {
		t.Skip("only the harness has a test of its own")
	}
	program := filepath.Join(filepath.Dir(open(t, backend()).Library().Path), "..", "kernels", "anx_harness_test")
	if out, err := exec.Command(program).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", program, err, out)
	}
}

func TestConformance(t *testing.T) {
	for _, dtype := range []bindings.DType{bindings.F32, bindings.F16, bindings.BF16} {
		t.Run(dtype.String(), func(t *testing.T) {
			t.Parallel()
			reference, cuda := open(t, "reference"), open(t, backend())
			ran := map[string]int{}
			all := cases(t)
			if lost := os.Getenv("ANX_LOST_IN"); lost != "" {
				all = all[1+slices.IndexFunc(all, func(c conformance.Case) bool { return c.Name == lost }):]
			}
			for _, c := range all {
				if dtype != bindings.F32 && len(c.Ops) > 1 && !c.MasksGiven {
					continue // rounding between ops flips masks near their kinks, so there is nothing to compare element by element
				}
				if backend() == "cuda" {
					t.Log("begins", c.Name) // the last one is the one that never ends
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
				if isLost(err) {
					t.Error(err)
					runBehind(t, &c)
					return
				}
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
				if isLost(err) {
					runBehind(t, &c)
					return
				}
				ran[c.Family]++
			}
			t.Logf("cases that agree, by family: %v", ran)
		})
	}
}

func isLost(err error) bool {
	var native *bindings.Error
	return errors.As(err, &native) && native.Status == bindings.DeviceLost
}

// runBehind runs the cases of the test in turn behind one that lost the device: another process, for this one will get no further.
func runBehind(t *testing.T, c *conformance.Case) {
	const most = 12 // a kernel that is wrong loses the device in every case of it
	lost, _ := strconv.Atoi(os.Getenv("ANX_LOST"))
	if lost++; lost == most {
		t.Errorf("%d cases have lost the device; those behind them are not run", most)
		return
	}
	names := strings.Split(t.Name(), "/")
	rest := exec.Command(os.Args[0], "-test.v", "-test.run", "^"+strings.Join(names, "$/^")+"$")
	rest.Env = append(os.Environ(), "ANX_LOST_IN="+c.Name, fmt.Sprint("ANX_LOST=", lost))
	rest.Stdout, rest.Stderr = os.Stdout, os.Stderr // as it comes: who kills this test has read it
	if err := rest.Run(); err != nil {
		t.Errorf("the cases behind %s: %v", c.Name, err)
	}
}

// agree compares a case in fp16 with the reference.
func agree(t *testing.T, reference, cuda *bindings.Context, c conformance.Case) {
	t.Helper()
	device, host := c.InDType(bindings.F16)
	want, err := conformance.RunCase(reference, &host)
	if err != nil {
		t.Fatal(err)
	}
	got, err := runCase(cuda, &device)
	if err == nil {
		err = conformance.Compare(&device, want, got)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestSm70: convolutions by the instructions of sm_70, as a newer GPU runs them from PTX of compute_70 (CUDA_FORCE_PTX_JIT=1). All of them with
// ANX_HOST_SM=70 in make harness-long.
func TestSm70(t *testing.T) {
	if backend() != "cuda_host" {
		t.Skip("on a GPU CUDA_FORCE_PTX_JIT=1 chooses the code for sm_70, of all tests")
	}
	t.Setenv("ANX_HOST_PTX", "70")
	reference, cuda := open(t, "reference"), open(t, backend())
	if model := cuda.Info().Model; !strings.Contains(model, "code for sm_70") {
		t.Errorf("the model is %q, must tell what code ran", model)
	}
	for _, name := range []string{"3x3/1 g=1 ", "3x3/2 g=11 ", "3x3/1 g=16 ", "3x3/1 g=31 ", "3x3/2 g=32 ", "7x7/2 g=3 ", "16x7x7x24->48 1x1/2"} {
		ran := 0
		for _, c := range conformance.Cases() {
			if !strings.Contains(c.Name, name) || !strings.HasPrefix(c.Family, "conv") || len(c.Ops) > 1 || ran == 2 {
				continue
			}
			ran++
			agree(t, reference, cuda, c)
		}
		if ran != 2 {
			t.Errorf("%d cases of %q", ran, name)
		}
	}
}

// TestLessSharedMemory: the group widths whose gradients do not fit one launch in the 96 KB of sm_70 are two launches there, and right.
func TestLessSharedMemory(t *testing.T) {
	if backend() != "cuda_host" {
		t.Skip("a GPU has the shared memory that it has")
	}
	t.Setenv("ANX_HOST_SM", "70")
	reference, cuda := open(t, "reference"), open(t, backend())
	for _, g := range []string{"26", "27", "28", "29", "30", "31", "32"} {
		c := find(t, fmt.Sprintf("3x3/1 g=%s affine+sums+bn", g))
		device, _ := c.InDType(bindings.F16)
		whole := g == "26" || g == "28" || g == "32"
		if kernels := kernelsOf(t, cuda, &device)[0]; strings.Contains(kernels, "conv_grouped_gradients") != whole || !strings.Contains(kernels, "conv_grouped") {
			t.Errorf("g = %s takes %s", g, kernels)
		}
		if !whole {
			agree(t, reference, cuda, c)
		}
	}
}
