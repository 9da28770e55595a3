package analysis

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// figDrivers is Figure 7 and Table 4 of the paper: errors of each task against cumulative depth (A) and width (B).
func figDrivers(a *Analysis) *figure {
	var tasks []*Task
	for i := range a.Tasks {
		if d := a.driver(a.Tasks[i].Name, "depth_sum"); d.N > 0 {
			tasks = append(tasks, &a.Tasks[i])
		}
	}
	if len(tasks) == 0 {
		return nil
	}
	columns, part := gridSize(len(tasks), headerLine+6)
	height := 2 * part
	f := &figure{slug: "depth-and-width", title: "Errors against cumulative depth and width", width: figureWidth, height: height,
		caption: "Test errors (x) against cumulative block depth d1 + d2 + d3 + d4 (A) and cumulative block width w1 + w2 + w3 + w4 (B), with Spearman's ρ between the two. " +
			"A positive ρ means that smaller is better. Compare Figure 7 and Table 4 of the paper."}
	f.draw = func(c draw.Canvas) []spot {
		var all []spot
		for k, name := range []string{"depth_sum", "width_sum"} {
			letter, axis := "A   cumulative block depth", "depth (blocks)"
			if k == 1 {
				letter, axis = "B   cumulative block width", "width (channels)"
			}
			area := draw.Crop(c, 0, 0, part*vg.Length(1-k), -part*vg.Length(k))
			var plots []*plot.Plot
			var xs, ys [][]float64
			var whiches [][]int
			for _, t := range tasks {
				d := a.driver(t.Name, name)
				values := make([]float64, len(a.Architectures))
				for i := range values {
					values[i] = float64(a.Architectures[i].DepthSum)
					if k == 1 {
						values[i] = float64(a.Architectures[i].WidthSum)
					}
				}
				p := newPlot(rhoTitle(t.Name, d.Rho, d.Low, d.High, d.N, d.Reason), metricName(t.Metric)+" error (%)", axis)
				x, y, which := both(t.First, values)
				scatter(p, x, y, nil)
				plots, xs, ys, whiches = append(plots, p), append(xs, x), append(ys, y), append(whiches, which)
			}
			for i, canvas := range panels(area, plots, columns, []legendItem{{label: letter}}) {
				all = append(all, spots(plots[i], canvas, height, xs[i], ys[i], whiches[i], func(j int) string {
					return fmt.Sprintf("%s: %.2f %%, %s %.0f", tasks[i].Name, xs[i][j], axis, ys[i][j])
				})...)
			}
		}
		return all
	}
	return f
}
