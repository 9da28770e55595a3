package analysis

import (
	"math"

	"anynetx/random"
)

// Correlation is the rank correlation of two tasks' errors over the architectures done on both (replicate 0).
type Correlation struct {
	TaskX          string  `col:"task_x"`
	TaskY          string  `col:"task_y"`
	Method         string  `col:"method"`
	MetricX        string  `col:"metric_x"`
	MetricY        string  `col:"metric_y"`
	N              int     `col:"n"`
	Rho            float64 `col:"rho"` // this and all below are NaN where there is none
	Low            float64 `col:"ci_low"`
	High           float64 `col:"ci_high"`
	P              float64 `col:"p_value"`
	PMethod        string  `col:"p_method"`
	TauB           float64 `col:"tau_b"`
	Ceiling        float64 `col:"ceiling"`
	CeilingLow     float64 `col:"ceiling_low"`
	CeilingHigh    float64 `col:"ceiling_high"`
	RhoOverCeiling float64 `col:"rho_over_ceiling"`
	Confidence     float64 `col:"confidence"`
	Resamples      int     `col:"resamples"`
	Reason         string  `col:"reason"` // why there is no rho
}

// Driver is the rank correlation of a task's error with a parameter of the architectures.
type Driver struct {
	Task      string  `col:"task"`
	Parameter string  `col:"parameter"`
	Metric    string  `col:"metric"`
	N         int     `col:"n"`
	Rho       float64 `col:"rho"`
	Low       float64 `col:"ci_low"`
	High      float64 `col:"ci_high"`
	P         float64 `col:"p_value"`
	PMethod   string  `col:"p_method"`
	Reason    string  `col:"reason"`
}

// Analysis is a study with all that is computed from it.
type Analysis struct {
	*Study
	Options      Options
	Correlations []Correlation // of each pair of tasks once, the reference's pairs first
	Drivers      []Driver
	Reliability  []Reliability // of each task
}

// parameter is a number of an architecture that may drive errors.
type parameter struct {
	name  string // column of architectures
	label string
	of    func(a *Architecture) float64
}

func parameters() []parameter {
	list := []parameter{
		{"depth_sum", "cumulative depth", func(a *Architecture) float64 { return float64(a.DepthSum) }},
		{"width_sum", "cumulative width", func(a *Architecture) float64 { return float64(a.WidthSum) }},
		{"flops_mac", "multiply-adds", func(a *Architecture) float64 { return float64(a.FLOPsMAC) }},
		{"params", "parameters", func(a *Architecture) float64 { return float64(a.Params) }},
		{"activations", "activations", func(a *Architecture) float64 { return float64(a.Activations) }},
	}
	fields := []struct {
		letter, word string
		of           func(a *Architecture, stage int) int64
	}{
		{"d", "depth", func(a *Architecture, i int) int64 { return a.Depths[i] }},
		{"w", "width", func(a *Architecture, i int) int64 { return a.Widths[i] }},
		{"b", "bottleneck ratio", func(a *Architecture, i int) int64 { return a.Bottlenecks[i] }},
		{"g", "group width", func(a *Architecture, i int) int64 { return a.GroupWidths[i] }},
	}
	for _, f := range fields {
		for i := range 4 {
			stage := string(rune('1' + i))
			list = append(list, parameter{f.letter + stage, f.word + " of stage " + stage, func(a *Architecture) float64 { return float64(f.of(a, i)) }})
		}
	}
	return list
}

// both is the values of the architectures that have one on either side.
func both(x, y []float64) (bx, by []float64, which []int) {
	for i := range x {
		if !math.IsNaN(x[i]) && !math.IsNaN(y[i]) {
			bx, by, which = append(bx, x[i]), append(by, y[i]), append(which, i)
		}
	}
	return bx, by, which
}

// rankCorrelation is rho with interval and p-value, or the reason why not.
func (o Options) rankCorrelation(x, y []float64, stream random.Stream) (rho, low, high, p float64, method, reason string) {
	rho, err := Spearman(x, y)
	if err != nil {
		return nan, nan, nan, nan, "", err.Error()
	}
	low, high = nan, nan
	if len(x) >= minimumInterval {
		low, high = interval(bootstrapSpearman(x, y, o.Bootstrap, stream), o.Confidence)
	}
	p, method = pValue(x, y, rho)
	return rho, low, high, p, method, ""
}

// Analyse computes everything from a loaded study.
func Analyse(s *Study, o Options) *Analysis {
	a := &Analysis{Study: s, Options: o.withDefaults()}
	o = a.Options
	for i := range s.Tasks {
		t := &s.Tasks[i]
		a.Reliability = append(a.Reliability, reliability(t, o.Bootstrap, o.Confidence, random.New(o.Seed, "bootstrap", "reliability", t.Name)))
		for _, p := range parameters() {
			values := make([]float64, len(s.Architectures))
			for k := range s.Architectures {
				values[k] = p.of(&s.Architectures[k])
			}
			x, y, _ := both(values, t.First)
			d := Driver{Task: t.Name, Parameter: p.name, Metric: t.Metric, N: len(x)}
			d.Rho, d.Low, d.High, d.P, d.PMethod, d.Reason = o.rankCorrelation(x, y, random.New(o.Seed, "bootstrap", "driver", t.Name, p.name))
			a.Drivers = append(a.Drivers, d)
		}
	}
	for i := range s.Tasks {
		for j := i + 1; j < len(s.Tasks); j++ {
			a.Correlations = append(a.Correlations, a.correlate(i, j))
		}
	}
	return a
}

func (a *Analysis) correlate(i, j int) Correlation {
	tx, ty, o := &a.Tasks[i], &a.Tasks[j], a.Options
	x, y, _ := both(tx.First, ty.First)
	c := Correlation{TaskX: tx.Name, TaskY: ty.Name, Method: "spearman", MetricX: tx.Metric, MetricY: ty.Metric, N: len(x),
		Confidence: o.Confidence, Resamples: o.Bootstrap, TauB: nan}
	c.Rho, c.Low, c.High, c.P, c.PMethod, c.Reason = o.rankCorrelation(x, y, random.New(o.Seed, "bootstrap", "correlation", tx.Name, ty.Name))
	if c.Reason == "" {
		c.TauB, _ = KendallTauB(x, y) // defined wherever rho is
	}
	c.Ceiling, c.CeilingLow, c.CeilingHigh = ceiling(&a.Reliability[i], &a.Reliability[j], o.Confidence)
	c.RhoOverCeiling = c.overCeiling()
	return c
}

// correlation of two tasks by their places in Tasks, i < j.
func (a *Analysis) correlation(i, j int) *Correlation {
	n := len(a.Tasks)
	return &a.Correlations[i*n-i*(i+1)/2+j-i-1]
}

func (a *Analysis) driver(task, parameter string) *Driver {
	for i := range a.Drivers {
		if a.Drivers[i].Task == task && a.Drivers[i].Parameter == parameter {
			return &a.Drivers[i]
		}
	}
	return nil
}
