package analysis

import (
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// ceilingRows is how many pairs the figure shows; the reference's come first, the table has all.
const ceilingRows = 30

// figCeiling shows rho beside the largest value that the noise of training allows.
func figCeiling(a *Analysis) *figure {
	var pairs []*Correlation
	low := 0.0
	for i := range a.Correlations {
		if c := &a.Correlations[i]; c.Reason == "" && len(pairs) < ceilingRows {
			pairs = append(pairs, c)
			low = min(low, c.Rho, math.Inf(1))
			if !math.IsNaN(c.Low) {
				low = min(low, c.Low)
			}
		}
	}
	if len(pairs) == 0 {
		return nil
	}
	rho := draw.GlyphStyle{Color: blue, Radius: 3.4, Shape: draw.CircleGlyph{}}
	whisker := draw.LineStyle{Color: blue, Width: 1.4}
	band := draw.LineStyle{Color: alpha(orange, 0.35), Width: 9}
	mark := draw.LineStyle{Color: orange, Width: 2}
	legend := []legendItem{{label: "ρ with its interval", glyph: &rho}, {label: "ceiling with its interval", line: &band}}
	height := headerLine + 50 + 22*vg.Length(len(pairs))
	return &figure{slug: "ceiling", title: "Correlations beside the ceiling that noise sets", width: figureWidth, height: height,
		caption: "Spearman's ρ of each pair of tasks (blue, with its bootstrap interval) and the correlation that two trainings of the same population would show if the true rankings were equal " +
			"(orange, with its interval). A gap between the two is a difference between tasks; reaching the band is full agreement as far as these trainings can tell.",
		draw: func(c draw.Canvas) []spot {
			p := newPlot("", "Spearman's ρ", "")
			ticks := make(plot.ConstantTicks, len(pairs))
			for i, r := range pairs {
				ticks[i] = plot.Tick{Value: -float64(i), Label: clip(r.TaskX, 24) + " – " + clip(r.TaskY, 24)}
			}
			p.Y.Tick.Marker, p.Y.Tick.LineStyle.Width, p.Y.LineStyle.Width = ticks, 0, 0
			p.Y.Tick.Label.Color = ink
			p.Add(painter(func(c draw.Canvas, p *plot.Plot) {
				x, y := p.Transforms(&c)
				zero := draw.LineStyle{Color: muted, Width: 0.8}
				c.StrokeLine2(zero, x(0), c.Min.Y, x(0), c.Max.Y)
				for i, r := range pairs {
					row := y(-float64(i))
					if !math.IsNaN(r.CeilingLow) {
						c.StrokeLine2(band, x(r.CeilingLow), row, x(r.CeilingHigh), row)
					}
					if !math.IsNaN(r.Ceiling) {
						c.StrokeLine2(mark, x(r.Ceiling), row-5.5, x(r.Ceiling), row+5.5)
					}
					if !math.IsNaN(r.Low) {
						c.StrokeLine2(whisker, x(r.Low), row, x(r.High), row)
					}
					c.DrawGlyph(rho, vg.Point{X: x(r.Rho), Y: row})
					label := textStyle(bodySize-0.5, ink, text.XCenter, text.YBottom)
					c.FillText(label, vg.Point{X: x(r.Rho), Y: row + 4.5}, fmt.Sprintf("%.2f", r.Rho))
				}
			}))
			p.X.Min, p.X.Max = math.Floor(low*5)/5, 1
			p.Y.Min, p.Y.Max = -float64(len(pairs))+0.4, 0.6
			panels(c, []*plot.Plot{p}, 1, legend)
			return nil
		}}
}

// painter is a Plotter that draws by itself.
type painter func(c draw.Canvas, p *plot.Plot)

func (f painter) Plot(c draw.Canvas, p *plot.Plot) { f(c, p) }
