package analysis

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"anynetx/random"

	"github.com/montanaflynn/stats"
	"pgregory.net/rapid"
)

// TestStatisticsAgreeWithScipy compares with testdata/statistics.json, which scripts/golden_statistics.py wrote.
func TestStatisticsAgreeWithScipy(t *testing.T) {
	data, err := os.ReadFile("testdata/statistics.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Cases []struct {
			Name       string
			X, Y       []float64
			RanksX     []float64 `json:"ranks_x"`
			Rho        float64
			TauB       float64  `json:"tau_b"`
			PT         float64  `json:"p_t"`
			PExact     *float64 `json:"p_exact"`
			CI         []float64
			Resamples  int
			Confidence float64
		}
		Noise []struct {
			Population  []float64
			Groups      [][]float64
			Reliability float64
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Cases) < 9 || len(golden.Noise) < 2 {
		t.Fatalf("only %d and %d cases", len(golden.Cases), len(golden.Noise))
	}
	close := func(name string, got, want, tolerance float64) {
		t.Helper()
		if !(math.Abs(got-want) <= tolerance) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	exact, intervals := 0, 0
	for _, c := range golden.Cases {
		for i, r := range midRanks(c.X) {
			if r != c.RanksX[i] {
				t.Fatalf("%s: rank %d is %v, want %v", c.Name, i, r, c.RanksX[i])
			}
		}
		rho, err := Spearman(c.X, c.Y)
		if err != nil {
			t.Fatal(err)
		}
		close(c.Name+" rho", rho, c.Rho, 1e-12)
		tau, err := KendallTauB(c.X, c.Y)
		if err != nil {
			t.Fatal(err)
		}
		close(c.Name+" tau-b", tau, c.TauB, 1e-12)
		p, method := pValue(c.X, c.Y, rho)
		if c.PExact != nil {
			exact++
			close(c.Name+" exact p", p, *c.PExact, 1e-12)
			if method != "exact" {
				t.Errorf("%s: method %s", c.Name, method)
			}
		} else if math.Abs(c.Rho) < 1-1e-12 {
			close(c.Name+" p", p, c.PT, 1e-9*max(1e-6, c.PT)+1e-13)
		}
		if c.CI != nil {
			intervals++
			low, high := interval(bootstrapSpearman(c.X, c.Y, c.Resamples, random.New(5, "golden", c.Name)), c.Confidence)
			close(c.Name+" low", low, c.CI[0], 1e-9)
			close(c.Name+" high", high, c.CI[1], 1e-9)
		}
	}
	if exact < 3 || intervals < 5 {
		t.Errorf("%d exact p-values and %d intervals were compared", exact, intervals)
	}
	for i, n := range golden.Noise {
		close("reliability "+string(rune('0'+i)), rankReliability(n.Population, n.Groups), n.Reliability, 1e-12)
	}
}

func TestCorrelationsAgreeWithAnotherPackage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 40).Draw(t, "n")
		values := rapid.SliceOfN(rapid.Map(rapid.IntRange(1, 12), func(i int) float64 { return float64(i) }), n, n) // small range: many ties
		x, y := values.Draw(t, "x"), values.Draw(t, "y")
		rho, err := Spearman(x, y)
		tau, err2 := KendallTauB(x, y)
		if constant(x) || constant(y) {
			if err == nil || err2 == nil || !math.IsNaN(rho) || !math.IsNaN(tau) {
				t.Fatalf("a constant side gave %v and %v", rho, tau)
			}
			return
		}
		want, wantErr := stats.Spearman(x, y)
		wantTau, wantErr2 := stats.KendallTau(x, y)
		if err != nil || err2 != nil || wantErr != nil || wantErr2 != nil {
			t.Fatal(err, err2, wantErr, wantErr2)
		}
		if math.Abs(rho-want) > 1e-12 || math.Abs(tau-wantTau) > 1e-12 {
			t.Fatalf("rho %v, other package %v; tau-b %v, other package %v", rho, want, tau, wantTau)
		}
		for i := range y {
			y[i] = -math.Exp(y[i] / 3) // strictly falling: only the sign may change
		}
		if turned, _ := Spearman(x, y); math.Abs(turned+rho) > 1e-12 {
			t.Fatalf("a falling map turned %v into %v", rho, turned)
		}
	})
}

func TestNoCorrelationHasAReason(t *testing.T) {
	for want, c := range map[string][2][]float64{
		"at least 3 are needed": {{1, 2}, {2, 1}},
		"no ranking":            {{1, 1, 1, 1}, {1, 2, 3, 4}},
		"is not a number":       {{1, 2, math.NaN()}, {1, 2, 3}},
		"on one side and":       {{1, 2, 3}, {1, 2}},
	} {
		rho, err := Spearman(c[0], c[1])
		if !math.IsNaN(rho) || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v, %v", want, rho, err)
		}
	}
}

// pairs draws n pairs of normal numbers with the given correlation.
func pairs(n int, correlation float64, stream random.Stream) (x, y []float64) {
	for i := range uint64(n) {
		a, b := stream.Normal(2*i), stream.Normal(2*i+1)
		x, y = append(x, a), append(y, correlation*a+math.Sqrt(1-correlation*correlation)*b)
	}
	return x, y
}

// TestIntervalsCoverTheTruth draws many studies of 24 architectures with a known population rho.
func TestIntervalsCoverTheTruth(t *testing.T) {
	const studies, correlation = 400, 0.6
	truth := 6 / math.Pi * math.Asin(correlation/2) // Spearman's rho of a bivariate normal distribution
	covered := 0
	for i := range uint64(studies) {
		x, y := pairs(24, correlation, random.New(i, "coverage"))
		low, high := interval(bootstrapSpearman(x, y, 400, random.New(i, "resamples")), 0.95)
		if low <= truth && truth <= high {
			covered++
		}
	}
	if share := float64(covered) / studies; share < 0.91 || share > 0.99 {
		t.Errorf("95 %% intervals cover the truth in %.1f %% of studies", 100*share)
	}
}

// TestPValuesKeepTheirLevelWithoutAssociation holds for both methods. Exact p-values are discrete: with 6 pairs 42 of the 720 permutations
// have p <= 0.1.
func TestPValuesKeepTheirLevelWithoutAssociation(t *testing.T) {
	for n, want := range map[int]float64{6: 42. / 720, 24: 0.1} {
		below := 0
		const studies = 2000
		for i := range uint64(studies) {
			x, y := pairs(n, 0, random.New(i, "null", n))
			rho, _ := Spearman(x, y)
			if p, _ := pValue(x, y, rho); p <= 0.1 {
				below++
			}
		}
		if share := float64(below) / studies; math.Abs(share-want) > 0.02 {
			t.Errorf("n = %d: p <= 0.1 in %.1f %% of studies, want %.1f %%", n, 100*share, 100*want)
		}
	}
}

// TestCeilingIsTheCorrelationOfTwoTrainings: the ceiling is estimated from replicates of ten architectures, the correlation of two
// independent trainings is measured over all.
func TestCeilingIsTheCorrelationOfTwoTrainings(t *testing.T) {
	for _, noise := range []float64{0.1, 0.5, 1, 3} {
		var estimated, measured float64
		const studies, architectures = 60, 100
		for study := range uint64(studies) {
			s := random.New(study, "ceiling", noise)
			task := Task{Name: "t", Errors: make([][]float64, architectures), First: make([]float64, architectures)}
			var second []float64
			for i := range uint64(architectures) {
				quality := math.Exp(0.7 * s.Normal(10*i)) // errors are skewed
				for r := range uint64(4) {
					e := quality * (1 + 0.3*noise*s.Normal(10*i+1+r))
					if r == 0 || i < 10 {
						task.Errors[i] = append(task.Errors[i], e)
					}
				}
				task.First[i] = task.Errors[i][0]
				second = append(second, quality*(1+0.3*noise*s.Normal(10*i+9)))
			}
			r := reliability(&task, 100, 0.95, random.New(study))
			if r.Reason != "" || r.Replicated != 10 || r.ReplicateRuns != 40 {
				t.Fatalf("%+v", r)
			}
			rho, err := Spearman(task.First, second)
			if err != nil {
				t.Fatal(err)
			}
			estimated, measured = estimated+r.Value/studies, measured+rho/studies
		}
		if math.Abs(estimated-measured) > 0.05 {
			t.Errorf("noise %v: reliability %.3f, two trainings correlate with %.3f", noise, estimated, measured)
		}
	}
}
