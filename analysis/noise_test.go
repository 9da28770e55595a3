package analysis

import (
	"math"
	"strings"
	"testing"

	"anynetx/random"
)

// replicated is a task of the given errors, replicate 0 first.
func replicated(errors ...[]float64) *Task {
	t := &Task{Name: "t", Metric: "top1", Errors: errors}
	for _, e := range errors {
		t.First = append(t.First, e[0])
	}
	return t
}

// TestReliabilityByHand: the places of 10, 20, 30, 40, 50 among themselves are 0.1, 0.3, 0.5, 0.7, 0.9, that of 34 is 0.6, that of 26 is 0.4.
func TestReliabilityByHand(t *testing.T) {
	r := reliability(replicated([]float64{10}, []float64{20, 26}, []float64{30, 34}, []float64{40}, []float64{50}), 100, 0.9, random.New(1))
	within, total := (0.1*0.1/2+0.1*0.1/2)/2, 0.1
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"reliability", r.Value, 1 - within/total},
		{"sd of replicates", r.ReplicateSD, math.Sqrt((6*6/2. + 4*4/2.) / 2)},
		{"sd of architectures", r.ArchitectureSD, math.Sqrt(250 - (6*6/2.+4*4/2.)/2)},
	} {
		if !(math.Abs(c.got-c.want) < 1e-12) {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
	if !(r.Low < r.High) || r.Architectures != 5 || r.Replicated != 2 || r.ReplicateRuns != 4 || r.Reason != "" {
		t.Errorf("%+v", r)
	}
}

// TestReliabilitySaysWhatItDoesNotKnow: one replicated architecture gives a value without an interval, too small a population neither.
func TestReliabilitySaysWhatItDoesNotKnow(t *testing.T) {
	one := reliability(replicated([]float64{10}, []float64{20, 26}, []float64{30}, []float64{40}, []float64{50}), 100, 0.9, random.New(1))
	if one.Reason != "" || math.IsNaN(one.Value) || !math.IsNaN(one.Low) || !math.IsNaN(one.High) {
		t.Errorf("one replicated architecture: %+v", one)
	}
	few := reliability(replicated([]float64{10, 11}, []float64{20, 26}, []float64{30, 31}, []float64{40}), 100, 0.9, random.New(1))
	if !math.IsNaN(few.Value) || !strings.Contains(few.Reason, "only 4 architectures are done, at least 5") {
		t.Errorf("four architectures: %+v", few)
	}
}

// TestIntervalsOfReliabilityComeFromBoth: the population and the replicated architectures are each drawn anew.
func TestIntervalsOfReliabilityComeFromBoth(t *testing.T) {
	width := func(errors ...[]float64) float64 {
		r := reliability(replicated(errors...), 400, 0.9, random.New(1))
		return r.High - r.Low
	}
	var equalNoise, unequalNoise [][]float64
	for i := range 40 {
		e := float64(i)
		equalNoise, unequalNoise = append(equalNoise, []float64{e}), append(unequalNoise, []float64{e})
		if i%8 == 4 && i < 32 {
			equalNoise[i] = append(equalNoise[i], e+4.5)
			unequalNoise[i] = append(unequalNoise[i], e+float64(i%16-4)) // 0 or 8 away
		}
	}
	equal, unequal := width(equalNoise...), width(unequalNoise...)
	if equal < 0.01 {
		t.Errorf("with equal noise everywhere the interval is %.4f wide: the population is not drawn anew", equal)
	}
	if unequal < 2*equal {
		t.Errorf("with noise in some architectures only the interval is %.4f wide, with equal noise %.4f: the replicated ones are not drawn anew", unequal, equal)
	}
}

// TestCeilingIsTheGeometricMean of two reliabilities, resample by resample; there is none where one is not known.
func TestCeilingIsTheGeometricMean(t *testing.T) {
	x := Reliability{Value: 0.9, resampled: []float64{0.81, 0.81, 0.81}}
	y := Reliability{Value: 0.4, resampled: []float64{0.25, 0.36, 0.49}}
	value, low, high := ceiling(&x, &y, 0.999)
	for _, c := range [][2]float64{{value, 0.6}, {low, 0.45}, {high, 0.63}} {
		if !(math.Abs(c[0]-c[1]) < 1e-3) {
			t.Errorf("ceiling %v [%v, %v], want 0.6 [0.45, 0.63]", value, low, high)
			break
		}
	}
	if value, low, high := ceiling(&x, &Reliability{Value: nan}, 0.9); !math.IsNaN(value) || !math.IsNaN(low) || !math.IsNaN(high) {
		t.Errorf("without replicates on one side: %v [%v, %v]", value, low, high)
	}
	if value, low, _ := ceiling(&x, &Reliability{Value: 0.4}, 0.9); math.Abs(value-0.6) > 1e-12 || !math.IsNaN(low) {
		t.Errorf("without an interval on one side: %v from %v", value, low)
	}
}

// TestNoShareOfACeilingOfZero: rho / 0 would be no number, or an infinite one.
func TestNoShareOfACeilingOfZero(t *testing.T) {
	errors := [][]float64{{1, 9}, {2, 1}, {3, 8}, {4, 1}, {5, 9}} // the noise is as large as the population
	a := Analyse(&Study{Architectures: make([]Architecture, 5), Tasks: []Task{*replicated(errors...), *replicated(errors...)}}, Options{Bootstrap: 100})
	if c := a.Correlations[0]; c.Rho != 1 || c.Ceiling != 0 || !math.IsNaN(c.RhoOverCeiling) {
		t.Errorf("rho %v, ceiling %v, rho / ceiling %v", c.Rho, c.Ceiling, c.RhoOverCeiling)
	}
}
