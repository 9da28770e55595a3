package anynetx

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"testing"

	"anynetx/random"
	"pgregory.net/rapid"
)

func must[T any](t interface{ Fatal(...any) }) func(T, error) T {
	return func(v T, err error) T {
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestThresholdsAreTheScripts(t *testing.T) {
	var laws map[string][]string
	golden(t, "laws.json", &laws)
	if len(laws) < 8 {
		t.Fatalf("laws.json holds %d laws", len(laws))
	}
	for name, want := range laws {
		var low, high, q int
		if _, err := fmt.Sscan(name, &low, &high, &q); err != nil {
			t.Fatal(err)
		}
		law := must[Law](t)(LogUniform(low, high, q))
		if len(law.thresholds) != len(want) {
			t.Fatalf("%s: %d thresholds, the script has %d", name, len(law.thresholds), len(want))
		}
		for k, text := range want {
			if v, err := strconv.ParseUint(text, 16, 64); err != nil || v != law.thresholds[k] {
				t.Errorf("%s: threshold %d is %016x, the script has %s", name, k, law.thresholds[k], text)
			}
		}
	}
}

func TestDrawMeetsItsEnds(t *testing.T) {
	d := must[Law](t)(LogUniform(1, 16, 1)) // log(1/0.5)/log(16/0.5) = 1/5 of the numbers draw 1
	fifth := uint64(math.MaxUint64 / 5)
	for random, want := range map[uint64]int{0: 1, fifth - 1: 1, fifth: 2, math.MaxUint64: 16} {
		if got := d.Draw(random); got != want {
			t.Errorf("number %x draws %d, want %d", random, got, want)
		}
	}
	w := must[Law](t)(LogUniform(8, 1024, 8)) // exactly 1/8 draw 8, log(8/4)/log(1024/4), and 1/8 draw 16
	for random, want := range map[uint64]int{1<<61 - 1: 8, 1 << 61: 16, 1<<62 - 1: 16, 1 << 62: 24} {
		if got := w.Draw(random); got != want {
			t.Errorf("number %x draws %d, want %d", random, got, want)
		}
	}
	c := must[Law](t)(Choice(4, 1, 2))
	third := uint64(math.MaxUint64 / 3)
	for random, want := range map[uint64]int{0: 4, third: 4, third + 1: 1, 2*third + 1: 2, math.MaxUint64: 2} {
		if got := c.Draw(random); got != want {
			t.Errorf("number %x draws %d, want %d", random, got, want)
		}
	}
}

// The law against its formula in floating point: probabilities, and the frequencies of many draws.
func TestLogUniformIsLogUniform(t *testing.T) {
	for _, c := range [][3]int{{1, 16, 1}, {8, 1024, 8}, {2, 9, 1}, {40, 200, 20}, {12, 93, 3}} {
		low, high, q := float64(c[0]), float64(c[1]), float64(c[2])
		law := must[Law](t)(LogUniform(c[0], c[1], c[2]))
		start := low - min(q, low/2)
		const draws = 200_000
		count := map[int]int{}
		stream := random.New(9, "law test", c)
		for i := range uint64(draws) {
			count[law.Draw(stream.Uint64(i))]++
		}
		chi2, before := 0.0, start
		for k, v := range law.Values() {
			p := math.Log(float64(v)/before) / math.Log(high/start)
			before = float64(v)
			if got := law.Probability()[k]; math.Abs(got-p) > 1e-12 {
				t.Errorf("%v: probability of %d is %g, want %g", law, v, got, p)
			}
			chi2 += math.Pow(float64(count[v])-p*draws, 2) / (p * draws)
		}
		free := float64(len(law.Values()) - 1)
		if chi2 > free+5*math.Sqrt(2*free)+10 {
			t.Errorf("%v: chi-square %.1f with %g degrees of freedom", law, chi2, free)
		}
		for v := range count {
			if v%c[2] != 0 || v < c[0] || v > c[1] {
				t.Errorf("%v drew %d", law, v)
			}
		}
	}
}

func TestUniformAndChoiceAreUniform(t *testing.T) {
	uniform := must[Law](t)(Uniform(3, 30, 3))
	choice := must[Law](t)(Choice(1, 2, 4, 8, 16, 32))
	if want := []int{3, 6, 9, 12, 15, 18, 21, 24, 27, 30}; !slices.Equal(uniform.Values(), want) {
		t.Errorf("values %v, want %v", uniform.Values(), want)
	}
	for _, law := range []Law{uniform, choice} {
		n := len(law.Values())
		for k, p := range law.Probability() {
			if math.Abs(p-1/float64(n)) > 1e-15 {
				t.Errorf("%v: probability of %d is %g", law, law.Values()[k], p)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) { // thresholds and the multiply-high draw of package random are one law
		random := rapid.Uint64().Draw(t, "number")
		if rapid.Bool().Draw(t, "near an end") {
			random = uint64(rapid.IntRange(1, 9).Draw(t, "part")) * (math.MaxUint64 / 10)
			random += uint64(rapid.IntRange(0, 20).Draw(t, "offset"))
		}
		high, low := mul64(random, 10)
		if got, want := uniform.Draw(random), int(high)*3+3; got != want {
			t.Fatalf("number %x (fraction %x) draws %d, want %d", random, low, got, want)
		}
	})
}

func mul64(a, b uint64) (high, low uint64) { // schoolbook, on halves
	m := (a & 0xffffffff) * b
	n := (a >> 32) * b
	low = n<<32 + m
	high = n >> 32
	if low < m {
		high++
	}
	return
}

func TestLawsRefuse(t *testing.T) {
	one := func(_ Law, err error) error { return err }
	for want, err := range map[string]error{
		"has quantum 0":                  one(LogUniform(1, 2, 0)),
		"has low 0":                      one(Uniform(0, 2, 1)),
		"low 3 above high 2":             one(Uniform(3, 2, 1)),
		"multiples of its quantum 8":     one(LogUniform(8, 1020, 8)),
		"high 8193":                      one(LogUniform(1, 8193, 1)),
		"choice has 0 values":            one(Choice()),
		"the value 4 twice":              one(Choice(4, 2, 4)),
		"the value 0":                    one(Choice(1, 0)),
		"the value 8193, must be 1":      one(Choice(8193)),
		"low 1073741824 above":           one(Uniform(1<<30, 2, 1)),
		"both must be multiples of its ": one(Uniform(1, 4, 1<<30)),
	} {
		if !contains(err, want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if got := must[Law](t)(LogUniform(5, 5, 5)).Draw(math.MaxUint64); got != 5 {
		t.Errorf("the only value is 5, drew %d", got)
	}
}

func BenchmarkLargestLaw(b *testing.B) {
	for b.Loop() {
		if _, err := LogUniform(1, MaxWidth, 1); err != nil {
			b.Fatal(err)
		}
	}
}
