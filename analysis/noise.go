package analysis

import (
	"fmt"
	"math"
	"slices"

	"anynetx/random"
)

// Reliability is how well one training of an architecture on a task repeats.
type Reliability struct {
	Task           string
	Metric         string
	Architectures  int // with replicate 0
	Replicated     int // with two replicates or more
	ReplicateRuns  int // of these
	ReplicateSD    float64
	ArchitectureSD float64
	Value          float64 // NaN where Reason says why
	Low, High      float64
	Reason         string
	resampled      []float64
}

// reliability compares two variances on the scale of ranks. A run's error becomes its place u in 0..1 among the replicate-0 errors of all
// architectures. With u = architecture + noise, the noise's variance is the pooled variance between replicates of one architecture, the total
// that of replicate 0 over all architectures, and
//
//	reliability = 1 - noise / total,
//
// the rank correlation expected between two independent trainings of the population. It needs replicates of some architectures only, and
// supposes that these are like the others.
func reliability(t *Task, count int, confidence float64, stream random.Stream) Reliability {
	r := Reliability{Task: t.Name, Metric: t.Metric, Value: nan, Low: nan, High: nan, ReplicateSD: nan, ArchitectureSD: nan}
	var population []float64
	var groups [][]float64
	for i, e := range t.Errors {
		if !math.IsNaN(t.First[i]) {
			population = append(population, t.First[i])
		}
		if len(e) >= 2 {
			groups = append(groups, e)
			r.ReplicateRuns += len(e)
		}
	}
	r.Architectures, r.Replicated = len(population), len(groups)
	switch {
	case len(groups) == 0:
		r.Reason = "no architecture has two finished replicates"
		return r
	case len(population) < minimumInterval:
		r.Reason = fmt.Sprintf("only %d architectures are done, at least %d are needed", len(population), minimumInterval)
		return r
	case constant(population):
		r.Reason = "all errors are equal"
		return r
	}
	noise := pooled(groups)
	r.ReplicateSD = math.Sqrt(noise)
	r.ArchitectureSD = math.Sqrt(max(0, variance(population)-noise))
	r.Value = rankReliability(population, groups)
	if len(groups) < 2 {
		return r // one architecture says nothing of how much the noise differs between them
	}
	r.resampled = make([]float64, count)
	archs := resamples{stream, len(population)}
	reps := resamples{random.New(stream.Uint64(math.MaxUint64), "replicated"), len(groups)}
	p, g := make([]float64, len(population)), make([][]float64, len(groups))
	for b := range r.resampled {
		for k := range p {
			p[k] = population[archs.index(b, k)]
		}
		for k := range g {
			g[k] = groups[reps.index(b, k)]
		}
		r.resampled[b] = rankReliability(p, g)
	}
	r.Low, r.High = interval(r.resampled, confidence)
	return r
}

func rankReliability(population []float64, groups [][]float64) float64 {
	sorted := slices.Clone(population)
	slices.Sort(sorted)
	place := func(v float64) float64 {
		below, _ := slices.BinarySearch(sorted, v)
		upTo, _ := slices.BinarySearch(sorted, math.Nextafter(v, math.Inf(1)))
		return float64(below+upTo) / 2 / float64(len(sorted))
	}
	placed := make([][]float64, len(groups))
	for i, g := range groups {
		for _, v := range g {
			placed[i] = append(placed[i], place(v))
		}
	}
	total := make([]float64, len(sorted))
	for i, v := range sorted {
		total[i] = place(v)
	}
	return max(0, min(1, 1-pooled(placed)/variance(total)))
}

// pooled is the variance within groups, each weighted by its degrees of freedom.
func pooled(groups [][]float64) float64 {
	var sum float64
	freedom := 0
	for _, g := range groups {
		sum += variance(g) * float64(len(g)-1)
		freedom += len(g) - 1
	}
	return sum / float64(freedom)
}

// ceiling is the correlation that two tasks would show if their true rankings were equal: the geometric mean of their reliabilities.
func ceiling(x, y *Reliability, confidence float64) (value, low, high float64) {
	value, low, high = math.Sqrt(x.Value*y.Value), nan, nan
	if n := min(len(x.resampled), len(y.resampled)); n > 0 {
		both := make([]float64, n)
		for b := range both {
			both[b] = math.Sqrt(x.resampled[b] * y.resampled[b])
		}
		low, high = interval(both, confidence)
	}
	return value, low, high
}
