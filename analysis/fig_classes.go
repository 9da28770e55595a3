package analysis

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// figClasses shows how the correlation with the reference depends on the number of classes (section 4.3 of the paper).
func figClasses(a *Analysis) *figure {
	type member struct {
		classes float64
		c       *Correlation
	}
	var members []member
	var counts []float64
	low := 0.0
	for j := 1; j < len(a.Tasks); j++ {
		c, k := a.correlation(0, j), float64(a.Tasks[j].Classes)
		if c.Reason != "" || k < 1 {
			continue
		}
		members = append(members, member{k, c})
		if !slices.Contains(counts, k) {
			counts = append(counts, k)
		}
		low = min(low, c.Rho)
		if !math.IsNaN(c.Low) {
			low = min(low, c.Low)
		}
	}
	if len(counts) < 2 {
		return nil
	}
	slices.Sort(counts)
	rho := draw.GlyphStyle{Color: blue, Radius: 3.4, Shape: draw.CircleGlyph{}}
	whisker := draw.LineStyle{Color: blue, Width: 1.4}
	mark := draw.LineStyle{Color: orange, Width: 2}
	legend := []legendItem{{label: "ρ with its interval", glyph: &rho}, {label: "ceiling", line: &mark}}
	return &figure{slug: "classes", title: "Correlation with " + a.Tasks[0].Name + " by number of classes", width: figureWidth, height: 235,
		caption: fmt.Sprintf("Spearman's ρ between each task and %s (%d classes) by the task's number of classes; no ceiling is drawn where its interval reaches 0. Compare section 4.3 of the paper.", a.Tasks[0].Name, a.Tasks[0].Classes),
		draw: func(c draw.Canvas) []spot {
			p := newPlot("", "classes of the task", "ρ with "+clip(a.Tasks[0].Name, 24))
			var ticks plot.ConstantTicks
			for _, k := range counts {
				if n := len(ticks); n == 0 || k > 1.1*ticks[n-1].Value { // labels closer than that overlap
					ticks = append(ticks, plot.Tick{Value: k, Label: fmt.Sprint(k)})
				}
			}
			p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ticks
			p.X.Min, p.X.Max = counts[0]/1.5, counts[len(counts)-1]*1.5
			p.Y.Min, p.Y.Max = math.Floor(low*5)/5, 1
			p.Add(painter(func(c draw.Canvas, p *plot.Plot) {
				x, y := p.Transforms(&c)
				for _, m := range members {
					at := x(m.classes)
					if !math.IsNaN(m.c.Low) {
						c.StrokeLine2(whisker, at, y(m.c.Low), at, y(m.c.High))
					}
					if m.c.ceilingKnown() {
						c.StrokeLine2(mark, at-9, y(m.c.Ceiling), at+9, y(m.c.Ceiling))
					}
					c.DrawGlyph(rho, vg.Point{X: at, Y: y(m.c.Rho)})
					label, style, from := clip(m.c.TaskY, 20)+" "+number(m.c.Rho), textStyle(bodySize, ink, text.XLeft, text.YCenter), at+7
					if from+style.Width(label) > c.Max.X {
						style.XAlign, from = text.XRight, at-7
					}
					c.FillText(style, vg.Point{X: from, Y: y(m.c.Rho)}, label)
				}
			}))
			panels(c, []*plot.Plot{p}, 1, legend)
			return nil
		}}
}
