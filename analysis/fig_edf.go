package analysis

import (
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"
)

// sortedFirst is the errors of replicate 0 in order.
func sortedFirst(t *Task) []float64 {
	d := slices.DeleteFunc(slices.Clone(t.First), math.IsNaN)
	slices.Sort(d)
	return d
}

// figEDF is the error distribution function of each task.
func figEDF(a *Analysis) *figure {
	var legend []legendItem
	var lines []*plotter.Line
	var values []float64
	for i := range a.Tasks {
		d := sortedFirst(&a.Tasks[i])
		if len(d) == 0 {
			continue
		}
		style := taskLine(i)
		points := plotter.XYs{{X: d[0], Y: 0}}
		for k, v := range d {
			points = append(points, plotter.XY{X: v, Y: float64(k+1) / float64(len(d))})
		}
		lines = append(lines, &plotter.Line{XYs: points, LineStyle: style, StepStyle: plotter.PostStep})
		legend = append(legend, legendItem{label: clip(a.Tasks[i].Name, 30), line: &style})
		values = append(values, d...)
	}
	if len(lines) == 0 {
		return nil
	}
	return &figure{slug: "edf", title: "Error distribution functions", width: figureWidth, height: 250,
		caption: "Share of the architectures whose test error (replicate 0) is at most x. A steep curve is a task on which all architectures do about equally well, " +
			"so that little is left to rank.",
		draw: func(c draw.Canvas) []spot {
			p := newPlot("", "test error (%)", "share of architectures")
			for _, l := range lines {
				p.Add(l)
			}
			pad(&p.X, values)
			p.Y.Min, p.Y.Max = 0, 1
			panels(c, []*plot.Plot{p}, 1, legend)
			return nil
		}}
}
