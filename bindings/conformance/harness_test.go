package conformance

import (
	"math"
	"os"
	"strings"
	"sync"
	"testing"

	"anynetx/bindings"
)

// Cases are the same at every call, and take a second to make.
var allCases = sync.OnceValue(Cases)

// required says whether ANX_REQUIRE, a list of names like "cpu,avx512", makes the absence of name a failure.
func required(name string) bool {
	for _, word := range strings.FieldsFunc(os.Getenv("ANX_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' }) {
		if word == name {
			return true
		}
	}
	return false
}

func missing(t *testing.T, name, format string, arguments ...any) {
	t.Helper()
	if required(name) {
		t.Fatalf(name+" is required: "+format, arguments...)
	}
	t.Skipf(format, arguments...)
}

func load(t *testing.T, name string) *bindings.Library {
	t.Helper()
	library, err := bindings.Load(name)
	if err != nil {
		if name == "reference" {
			t.Fatal(err)
		}
		missing(t, name, "%v", err)
	}
	return library
}

func context(t *testing.T, library *bindings.Library, options bindings.ContextOptions) *bindings.Context {
	t.Helper()
	ctx, err := library.NewContext(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ctx.Close)
	return ctx
}

func reference(t *testing.T) *bindings.Context {
	t.Helper()
	return context(t, load(t, "reference"), bindings.ContextOptions{})
}

func find(t *testing.T, name string) *Case {
	t.Helper()
	for _, c := range allCases() {
		if c.Name == name {
			return &c
		}
	}
	t.Fatalf("there is no case %q", name)
	return nil
}

func TestCasesAreFixedAndDistinct(t *testing.T) {
	a, b := allCases(), Cases()
	seen := map[string]bool{}
	for i, c := range a {
		if seen[c.Name] {
			t.Errorf("two cases are named %s", c.Name)
		}
		seen[c.Name] = true
		for j := range c.Tensors {
			if string(c.Tensors[j].Data) != string(b[i].Tensors[j].Data) {
				t.Errorf("case %s: %s differs from call to call", c.Name, c.Tensors[j].Name)
			}
		}
	}
	for _, kind := range []bindings.OpKind{bindings.ConvFwd, bindings.ConvBwd} {
		widths := map[[2]int32]bool{}
		for _, c := range a {
			if c.Family == kind.String() && c.Ops[0].R == 3 && c.Ops[0].Group < c.Ops[0].C {
				widths[[2]int32{c.Ops[0].Group, c.Ops[0].Stride}] = true
			}
		}
		for g := int32(1); g <= 32; g++ {
			for stride := int32(1); stride <= 2; stride++ {
				if !widths[[2]int32{g, stride}] {
					t.Errorf("no %s case of more than one group has group width %d at stride %d", kind, g, stride)
				}
			}
		}
	}
}

// The harness must see one wrong element, one NaN, one guard byte, one changed input.
func TestHarnessSeesWhatIsWrong(t *testing.T) {
	ctx := reference(t)
	for _, name := range []string{"conv_fwd 16x5x4x9->9 3x3/1 g=3 affine+sums", "pool_bwd 16x7x7x17", "sgd 16 momentum 0.9 decay 5e-05 rate 0.1 scale 1 nesterov"} {
		c := find(t, name)
		t.Run(c.Family, func(t *testing.T) {
			b, err := Bind(ctx, c)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if err := b.Run(); err != nil {
				t.Fatal(err)
			}
			want, err := b.Collect()
			if err != nil {
				t.Fatal(err)
			}
			if err := Compare(c, want, want); err != nil {
				t.Fatalf("equal outputs differ: %v", err)
			}
			for i := range want {
				rms := 0.0
				for _, v := range want[i].Values {
					rms += v * v
				}
				rms = math.Sqrt(rms / float64(len(want[i].Values)))
				for what, wrong := range map[string]float64{"a thousandth": want[i].Values[0] + rms/1000 + math.Abs(want[i].Values[0])/1000, "NaN": math.NaN(), "infinity": math.Inf(1)} {
					got := append([]Output(nil), want...)
					got[i].Values = append([]float64(nil), want[i].Values...)
					got[i].Values[0] = wrong
					if Compare(c, want, got) == nil {
						t.Errorf("%s: an element off by %s passes", want[i].Tensor.Name, what)
					}
					if math.IsNaN(wrong) && Compare(c, got, got) == nil {
						t.Errorf("%s: a NaN on both sides passes", want[i].Tensor.Name)
					}
				}
				got := append([]Output(nil), want...)
				got[i].Bytes = append([]byte(nil), want[i].Bytes...)
				got[i].Bytes[0] ^= 1
				if SameBits(c, want, got) == nil {
					t.Errorf("%s: one flipped bit passes", want[i].Tensor.Name)
				}
			}
			places := map[string]int64{"before all": b.spans[0].offset - 1, "behind all": b.buffer.Size() - 1}
			for i := range b.spans {
				places["before "+c.Tensors[i].Name] = b.spans[i].offset - 1
				places["behind "+c.Tensors[i].Name] = b.spans[i].offset + b.spans[i].bytes
				if !c.Tensors[i].Output {
					places["in "+c.Tensors[i].Name] = b.spans[i].offset
				}
			}
			for what, place := range places {
				one := make([]byte, 1)
				if err := b.buffer.Read(place, one); err != nil {
					t.Fatal(err)
				}
				if err := b.buffer.Write(place, []byte{one[0] ^ 4}); err != nil {
					t.Fatal(err)
				}
				if _, err := b.Collect(); err == nil {
					t.Errorf("a changed byte %s passes", what)
				}
				if err := b.buffer.Write(place, one); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.Collect(); err != nil {
				t.Errorf("after every byte was put back: %v", err)
			}
		})
	}
}

// An op that writes nothing must not pass: what it leaves are NaNs.
func TestUnwrittenOutputFails(t *testing.T) {
	ctx := reference(t)
	c := *find(t, "gap_fwd 16x4x4x8")
	c.Ops = nil
	b, err := Bind(ctx, &c)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := b.Collect()
	if err != nil {
		t.Fatal(err)
	}
	full := find(t, "gap_fwd 16x4x4x8")
	want, err := RunCase(ctx, full)
	if err != nil {
		t.Fatal(err)
	}
	if err := Compare(full, want, got); err == nil || !strings.Contains(err.Error(), "NaN") {
		t.Fatalf("unwritten outputs: %v", err)
	}
}

func benchmarked() string {
	if name := os.Getenv("ANX_BENCH"); name != "" {
		return name
	}
	return "cpu"
}
