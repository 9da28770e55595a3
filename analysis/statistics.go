package analysis

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

var nan = math.NaN()

// minimumN is the fewest pairs that a rank correlation is given for; minimumInterval the fewest for an interval.
const minimumN, minimumInterval = 3, 5

// exactN is the most pairs whose permutations are all looked at for a p-value.
const exactN = 9

// midRanks is the ranks 1..n; equal values share the mean of their ranks.
func midRanks(x []float64) []float64 {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(x[a], x[b]) })
	ranks := make([]float64, len(x))
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && x[order[j]] == x[order[i]] {
			j++
		}
		for k := i; k < j; k++ {
			ranks[order[k]] = float64(i+j+1) / 2
		}
		i = j
	}
	return ranks
}

// pearson is 0/0 = NaN for a constant vector.
func pearson(x, y []float64) float64 {
	var mx, my float64
	for i := range x {
		mx += x[i]
		my += y[i]
	}
	mx /= float64(len(x))
	my /= float64(len(x))
	var xx, yy, xy float64
	for i := range x {
		dx, dy := x[i]-mx, y[i]-my
		xx += dx * dx
		yy += dy * dy
		xy += dx * dy
	}
	return max(-1, min(1, xy/math.Sqrt(xx*yy)))
}

// checkPairs says why no rank correlation can be given.
func checkPairs(x, y []float64) error {
	if len(x) != len(y) {
		return fmt.Errorf("there are %d values on one side and %d on the other", len(x), len(y))
	}
	for i := range x {
		if math.IsNaN(x[i]) || math.IsNaN(y[i]) {
			return fmt.Errorf("value %d is not a number", i)
		}
	}
	if len(x) < minimumN {
		return fmt.Errorf("architectures done on both sides: %d, at least %d are needed", len(x), minimumN)
	}
	if constant(x) || constant(y) {
		return errors.New("all values on one side are equal, so they give no ranking")
	}
	return nil
}

func constant(x []float64) bool {
	return !slices.ContainsFunc(x, func(v float64) bool { return v != x[0] })
}

// Spearman is Spearman's rho: Pearson's correlation of mid-ranks.
func Spearman(x, y []float64) (float64, error) {
	if err := checkPairs(x, y); err != nil {
		return nan, err
	}
	return pearson(midRanks(x), midRanks(y)), nil
}

// KendallTauB is Kendall's tau-b, which is corrected for ties.
func KendallTauB(x, y []float64) (float64, error) {
	if err := checkPairs(x, y); err != nil {
		return nan, err
	}
	var score, untiedX, untiedY float64
	for i := range x {
		for j := range i {
			sx, sy := cmp.Compare(x[i], x[j]), cmp.Compare(y[i], y[j])
			score += float64(sx * sy)
			untiedX += float64(sx * sx)
			untiedY += float64(sy * sy)
		}
	}
	return score / math.Sqrt(untiedX*untiedY), nil
}

// pValue is the two-sided p-value of a Spearman correlation where all pairings are equally likely: exact for up to exactN pairs, else
// from Student's t with n - 2 degrees of freedom.
func pValue(x, y []float64, rho float64) (p float64, method string) {
	n := len(x)
	if n <= exactN {
		return permutationP(midRanks(x), midRanks(y)), "exact"
	}
	if math.Abs(rho) >= 1 {
		return 0, "t"
	}
	t := rho * math.Sqrt(float64(n-2)/(1-rho*rho))
	return 2 * distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(n - 2)}.Survival(math.Abs(t)), "t"
}

// permutationP is the share of all pairings whose |rho| reaches the observed one. Only the sum of products differs between pairings.
func permutationP(rx, ry []float64) float64 {
	n := len(rx)
	mean := float64(n+1) / 2
	deviation := func(p []float64) float64 {
		var s float64
		for i := range p {
			s += (rx[i] - mean) * (p[i] - mean)
		}
		return math.Abs(s)
	}
	limit := deviation(ry) - 1e-9 // different sums differ by 1/4 at least, equal ones by rounding alone
	p := slices.Clone(ry)
	hits, total := 0, 0
	var visit func(k int)
	visit = func(k int) {
		if k == n {
			total++
			if deviation(p) >= limit {
				hits++
			}
			return
		}
		for i := k; i < n; i++ {
			p[k], p[i] = p[i], p[k]
			visit(k + 1)
			p[k], p[i] = p[i], p[k]
		}
	}
	visit(0)
	return float64(hits) / float64(total)
}

// quantile is the q-quantile of sorted values, linear between order statistics; NaN of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return nan
	}
	h := q * float64(len(sorted)-1)
	i := int(math.Floor(h))
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (h-float64(i))*(sorted[i+1]-sorted[i])
}

// interval is the central part of the values that holds a share of confidence; NaN are left out.
func interval(values []float64, confidence float64) (low, high float64) {
	kept := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	slices.Sort(kept)
	return quantile(kept, (1-confidence)/2), quantile(kept, (1+confidence)/2)
}

// variance is the unbiased sample variance.
func variance(x []float64) float64 {
	var mean, sum float64
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		sum += (v - mean) * (v - mean)
	}
	return sum / float64(len(x)-1)
}
