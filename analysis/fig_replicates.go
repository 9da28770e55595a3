package analysis

import (
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"
)

// replicateRows is how many replicated architectures a panel shows.
const replicateRows = 8

// figReplicates is Figure A3 of the paper: how far trainings of one architecture lie apart, beside the whole population.
func figReplicates(a *Analysis) *figure {
	var tasks []int
	for i := range a.Tasks {
		if a.Reliability[i].Replicated > 0 {
			tasks = append(tasks, i)
		}
	}
	if len(tasks) == 0 {
		return nil
	}
	columns, height := gridSize(len(tasks), headerLine+4)
	one := draw.GlyphStyle{Color: alpha(orange, 0.9), Radius: 2.8, Shape: draw.CircleGlyph{}}
	all := draw.GlyphStyle{Color: alpha(blue, 0.45), Radius: 2.8, Shape: draw.CircleGlyph{}}
	legend := []legendItem{{label: "one architecture, all its trainings", glyph: &one}, {label: "all architectures, trained once", glyph: &all}}
	return &figure{slug: "replicates", title: "Trainings of the same architecture", width: figureWidth, height: height,
		caption: fmt.Sprintf("Test errors of replicates of one architecture (a row each, up to %d of them) beside those of the whole population. "+
			"The narrower a row is beside the population, the more of a ranking repeats: the reliability in the title. Compare Figure A3 of the paper.", replicateRows),
		draw: func(c draw.Canvas) []spot {
			var plots []*plot.Plot
			var marked [][]spot
			for _, i := range tasks {
				t, r := &a.Tasks[i], &a.Reliability[i]
				title := clip(t.Name, 34)
				if r.Reason == "" {
					title += "\nreliability " + number(r.Value)
					if !math.IsNaN(r.Low) {
						title += fmt.Sprintf(" [%.2f, %.2f]", r.Low, r.High)
					}
				}
				p := newPlot(title, metricName(t.Metric)+" error (%)", "")
				first := sortedFirst(t)
				ticks := plot.ConstantTicks{{Value: 0, Label: fmt.Sprintf("all %d", len(first))}}
				var values []float64
				var points []spot
				add := func(row float64, errs []float64, style draw.GlyphStyle) {
					xy := make(plotter.XYs, len(errs))
					for k, v := range errs {
						xy[k] = plotter.XY{X: v, Y: row}
					}
					p.Add(&plotter.Scatter{XYs: xy, GlyphStyle: style})
					values = append(values, errs...)
				}
				if len(first) > 0 {
					add(0, first, all)
				}
				row := 0.0
				for k, errs := range t.Errors {
					if len(errs) < 2 || row == replicateRows {
						continue
					}
					row++
					add(row, errs, one)
					ticks = append(ticks, plot.Tick{Value: row, Label: a.Architectures[k].ID[:min(6, len(a.Architectures[k].ID))]})
					for _, v := range errs {
						points = append(points, spot{X: v, Y: row, Architecture: k})
					}
				}
				p.Y.Tick.Marker, p.Y.Tick.LineStyle.Width = ticks, 0
				pad(&p.X, values)
				p.Y.Min, p.Y.Max = -0.6, row+0.6
				plots, marked = append(plots, p), append(marked, points)
			}
			var out []spot
			for i, canvas := range panels(c, plots, columns, legend) {
				data := plots[i].DataCanvas(canvas)
				tx, ty := plots[i].Transforms(&data)
				for _, s := range marked[i] {
					out = append(out, spot{X: round(float64(tx(s.X))), Y: round(float64(height - ty(s.Y))), Architecture: s.Architecture,
						Label: fmt.Sprintf("%s: %.2f %%", a.Tasks[tasks[i]].Name, s.X)})
				}
			}
			return out
		}}
}
