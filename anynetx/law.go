package anynetx

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"sort"
	"strings"
)

// Law is how one quantity of a stage is drawn; made by LogUniform, Uniform or Choice. It turns 64 random bits into a value with
// integer comparisons alone, so that a draw is the same on every machine and under every compiler.
type Law struct {
	text   string
	values []int
	// value k is drawn from numbers below thresholds[k] (and no smaller threshold); the last value has the rest.
	thresholds []uint64
}

const maxLawValues = 1 << 14 // of one law; bounds time and memory of a hostile file

// LogUniform is the law of pycls's sampler: f = exp(U(log(low - min(q, low/2)), log high)), rounded up to a multiple of quantum q.
func LogUniform(low, high, quantum int) (Law, error) {
	values, err := multiples("log_uniform", low, high, quantum)
	if err != nil {
		return Law{}, err
	}
	// Twice the open lower end, low - min(q, low/2), is an integer.
	end := 2*low - min(2*quantum, low)
	law := Law{text: fmt.Sprintf("log-uniform %d to %d in steps of %d", low, high, quantum), values: values}
	for _, v := range values[:len(values)-1] {
		law.thresholds = append(law.thresholds, logRatio(2*v, 2*high, end))
	}
	return law, nil
}

// Uniform draws each multiple of quantum from low to high equally often.
func Uniform(low, high, quantum int) (Law, error) {
	values, err := multiples("uniform", low, high, quantum)
	if err != nil {
		return Law{}, err
	}
	return equallyOften(fmt.Sprintf("uniform %d to %d in steps of %d", low, high, quantum), values), nil
}

// Choice draws each of the values equally often.
func Choice(values ...int) (Law, error) {
	if len(values) == 0 || len(values) > maxLawValues {
		return Law{}, fmt.Errorf("choice has %d values, must have 1 to %d", len(values), maxLawValues)
	}
	seen := map[int]bool{}
	for _, v := range values {
		if v < 1 || v > MaxWidth {
			return Law{}, fmt.Errorf("choice has the value %d, must be 1 to %d", v, MaxWidth)
		}
		if seen[v] {
			return Law{}, fmt.Errorf("choice has the value %d twice: remove one", v)
		}
		seen[v] = true
	}
	return equallyOften("one of "+strings.Trim(fmt.Sprint(values), "[]"), append([]int(nil), values...)), nil
}

func multiples(law string, low, high, quantum int) ([]int, error) {
	switch {
	case quantum < 1:
		return nil, fmt.Errorf("%s has quantum %d, must be at least 1", law, quantum)
	case low < 1:
		return nil, fmt.Errorf("%s has low %d, must be at least 1", law, low)
	case high > MaxWidth:
		return nil, fmt.Errorf("%s has high %d, must be at most %d", law, high, MaxWidth)
	case high < low:
		return nil, fmt.Errorf("%s has low %d above high %d: swap them", law, low, high)
	case low%quantum != 0 || high%quantum != 0:
		return nil, fmt.Errorf("%s has low %d and high %d, both must be multiples of its quantum %d", law, low, high, quantum)
	}
	var values []int
	for v := low; v <= high; v += quantum {
		values = append(values, v)
	}
	return values, nil
}

func equallyOften(text string, values []int) Law {
	law := Law{text: text, values: values}
	n := uint64(len(values))
	for k := uint64(1); k < n; k++ {
		quotient, remainder := bits.Div64(k, 0, n) // 2^64 k / n
		if remainder != 0 {
			quotient++
		}
		law.thresholds = append(law.thresholds, quotient)
	}
	return law
}

// logRatio is floor(2^64 log(a/c) / log(b/c)) for c < a < b: the binary digits of that logarithm, found by squaring a/c and dividing
// by b/c whenever that is passed. 512 bits lose about 64 over the 64 squarings; where the ratio is a dyadic fraction, so that a
// square meets b/c exactly, nearness below 2^-400 says so (a near miss of that size would need numbers far above MaxWidth).
func logRatio(a, b, c int) uint64 {
	const precision = 512
	whole := func(i int) *big.Float { return new(big.Float).SetPrec(precision).SetInt64(int64(i)) }
	x := whole(0).Quo(whole(a), whole(c))
	base := whole(0).Quo(whole(b), whole(c))
	near := new(big.Float).SetMantExp(big.NewFloat(1), -400)
	justBelow := new(big.Float).Neg(near)
	difference := whole(0)
	var digits uint64
	for k := 63; k >= 0; k-- {
		x.Mul(x, x)
		difference.Sub(x, base)
		if difference.Cmp(justBelow) < 0 {
			continue
		}
		digits |= 1 << k
		if difference.Cmp(near) <= 0 {
			break // exactly the base: all further digits are 0
		}
		x.Quo(x, base)
	}
	return digits
}

// Draw turns 64 random bits into a value.
func (l Law) Draw(random uint64) int {
	return l.values[sort.Search(len(l.thresholds), func(k int) bool { return random < l.thresholds[k] })]
}

// Values are those the law can draw.
func (l Law) Values() []int { return append([]int(nil), l.values...) }

// Probability of each of Values.
func (l Law) Probability() []float64 {
	p := make([]float64, len(l.values))
	before := 0.0
	for k := range p {
		upTo := 1.0
		if k < len(l.thresholds) {
			upTo = math.Ldexp(float64(l.thresholds[k]), -64)
		}
		p[k], before = upTo-before, upTo
	}
	return p
}

func (l Law) String() string { return l.text }

func (l Law) highest() int {
	top := 0
	for _, v := range l.values {
		top = max(top, v)
	}
	return top
}
