package analysis

import (
	"math"
	"strings"
	"testing"
)

// What is said of a correlation goes by the ceiling only where the replicates bound it away from 0.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name                                             string
		rho, low, high, ceiling, ceilingLow, ceilingHigh float64
		want, headline                                   string
	}{
		{"near its ceiling", 0.59, 0.24, 0.79, 0.65, 0.4, 0.8, "carries over", "ρ = 0.59, ceiling 0.65"},
		{"half of its ceiling", 0.4, 0.1, 0.6, 0.7, 0.5, 0.8, "partly", "ceiling 0.70"},
		{"above a ceiling that may be 0", 0.59, 0.24, 0.79, 0.29, 0, 0.86, "partly", "ρ = 0.59, ceiling unsure: 0.00 to 0.86"},
		{"no replicates", 0.85, 0.7, 0.9, nan, nan, nan, "carries over", "(ρ = 0.85)"},
		{"interval holds 0", 0.2, -0.1, 0.5, 0.2, 0.1, 0.3, "not shown", "ceiling 0.20"},
		{"interval begins at 0", 0.2, 0, 0.5, 0.2, 0.1, 0.3, "not shown", "ceiling 0.20"},
		{"below 0", -0.5, -0.7, -0.2, nan, nan, nan, "reversed", "is reversed for"},
		{"weak", 0.3, 0.1, 0.5, 0.9, 0.8, 0.95, "weakly", "ceiling 0.90"},
	} {
		r := Correlation{TaskX: "a", TaskY: "b", Rho: c.rho, Low: c.low, High: c.high, Ceiling: c.ceiling, CeilingLow: c.ceilingLow,
			CeilingHigh: c.ceilingHigh}
		r.RhoOverCeiling = r.overCeiling()
		if unsure := !(c.ceilingLow > 0); math.IsNaN(r.RhoOverCeiling) != unsure {
			t.Errorf("%s: rho / ceiling is %v", c.name, r.RhoOverCeiling)
		}
		if got := r.judge().Word; got != c.want {
			t.Errorf("%s: judged %q, want %q", c.name, got, c.want)
		}
		if got := (&Analysis{}).card(&r).Ceiling; (got == "unsure") != strings.Contains(c.headline, "unsure") && c.ceiling == c.ceiling {
			t.Errorf("%s: the report's card has the ceiling %q", c.name, got)
		}
		a := Analysis{Study: &Study{Tasks: []Task{{Name: "a"}, {Name: "b"}}}, Correlations: []Correlation{r}}
		if got := a.Headline(); !strings.Contains(got, c.headline) {
			t.Errorf("%s: the headline is %q, without %q", c.name, got, c.headline)
		}
	}
}
