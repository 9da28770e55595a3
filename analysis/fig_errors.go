package analysis

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg/draw"
)

// figErrors is Figure 3 of the paper: errors on each task against those of the same architectures on the reference.
func figErrors(a *Analysis) *figure {
	if len(a.Tasks) < 2 {
		return nil
	}
	reference, fewest, most := &a.Tasks[0], a.correlation(0, 1).N, 0
	for j := 1; j < len(a.Tasks); j++ {
		fewest, most = min(fewest, a.correlation(0, j).N), max(most, a.correlation(0, j).N)
	}
	if most == 0 {
		return nil
	}
	legend := bestAndWorst(fewest, most, "the target task")
	columns, height := gridSize(len(a.Tasks)-1, headerLine+4)
	f := &figure{slug: "errors", title: "Errors on each task against " + reference.Name, width: figureWidth, height: height,
		caption: fmt.Sprintf("Test errors of the same architectures on each task (y) and on %s (x), replicate 0, with Spearman's ρ and its %.3g %% bootstrap interval. "+
			"The best architectures on the target task are orange circles, the worst red triangles: ten of each, but no more than a fifth of the population. Compare Figure 3 of the paper.",
			reference.Name, 100*a.Options.Confidence)}
	f.draw = func(c draw.Canvas) []spot {
		var plots []*plot.Plot
		type points struct {
			x, y  []float64
			which []int
		}
		var drawn []points
		for j := 1; j < len(a.Tasks); j++ {
			t, r := &a.Tasks[j], a.correlation(0, j)
			p := newPlot(rhoTitle(t.Name, r.Rho, r.Low, r.High, r.N, r.Reason), errorLabel(reference), metricName(t.Metric)+" error (%)")
			x, y, which := both(reference.First, t.First)
			scatter(p, x, y, y)
			plots, drawn = append(plots, p), append(drawn, points{x, y, which})
		}
		var all []spot
		for i, canvas := range panels(c, plots, columns, legend) {
			d, t := drawn[i], &a.Tasks[i+1]
			all = append(all, spots(plots[i], canvas, height, d.x, d.y, d.which, func(k int) string {
				return fmt.Sprintf("%s: %.2f %%, %s: %.2f %%", reference.Name, d.x[k], t.Name, d.y[k])
			})...)
		}
		return all
	}
	return f
}
