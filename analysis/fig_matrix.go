package analysis

import (
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// figMatrix is all correlations at a glance.
func figMatrix(a *Analysis) *figure {
	n := len(a.Tasks)
	if n < 3 {
		return nil
	}
	labels := make([]string, n)
	widest := vg.Length(0)
	style := textStyle(bodySize, ink, text.XRight, text.YCenter)
	for i := range a.Tasks {
		labels[i] = clip(a.Tasks[i].Name, 22)
		widest = max(widest, style.Width(labels[i]))
	}
	cell := min(46, (figureWidth-1.75*widest-20)/vg.Length(n))
	top := widest*0.75 + 14
	height, width := top+cell*vg.Length(n)+14, widest+16+cell*vg.Length(n)+widest*0.75+4
	return &figure{slug: "matrix", title: "Correlations of all pairs of tasks", width: width, height: height,
		caption: "Below the diagonal Spearman's ρ (blue positive, red negative), above it the ceiling of the pair, in brackets where its interval reaches 0, on it the reliability of the task. An en dash stands where there is none.",
		draw: func(c draw.Canvas) []spot {
			left := c.Min.X + widest + 16
			small := textStyle(min(bodySize, cell*0.3), ink, text.XCenter, text.YCenter)
			for i := range n {
				y := c.Max.Y - top - cell*vg.Length(i) - cell/2
				c.FillText(style, vg.Point{X: left - 6, Y: y}, labels[i])
				turned := textStyle(bodySize, ink, text.XLeft, text.YCenter)
				turned.Rotation = math.Pi / 4
				c.FillText(turned, vg.Point{X: left + cell*vg.Length(i) + cell/2, Y: c.Max.Y - top + 5}, labels[i])
				for j := range n {
					x := left + cell*vg.Length(j)
					v, form, fill, tint := nan, "%s", color.NRGBA{0xf4, 0xf5, 0xf6, 0xff}, muted
					switch {
					case i == j:
						v = a.Reliability[i].Value
						fill, tint = faint, ink
					case j < i:
						if v = a.correlation(j, i).Rho; !math.IsNaN(v) {
							fill, tint = diverging(v)
						}
					default:
						pair := a.correlation(i, j)
						if v = pair.Ceiling; !pair.ceilingKnown() {
							form = "(%s)"
						}
					}
					c.FillPolygon(fill, []vg.Point{{X: x + 0.7, Y: y - cell/2 + 0.7}, {X: x + cell - 0.7, Y: y - cell/2 + 0.7}, {X: x + cell - 0.7, Y: y + cell/2 - 0.7}, {X: x + 0.7, Y: y + cell/2 - 0.7}})
					small.Color = tint
					label := "–"
					if !math.IsNaN(v) {
						label = fmt.Sprintf(form, number(v))
					}
					c.FillText(small, vg.Point{X: x + cell/2, Y: y}, label)
				}
			}
			return nil
		}}
}

// diverging is blue for positive, red for negative, white at 0, and a text colour that reads on it.
func diverging(v float64) (fill, text color.NRGBA) {
	end := blue
	if v < 0 {
		end = red
	}
	w := math.Abs(v)
	mix := func(c uint8) uint8 { return uint8(math.Round(255 + (float64(c)-255)*w)) }
	fill = color.NRGBA{mix(end.R), mix(end.G), mix(end.B), 0xff}
	if w > 0.6 {
		return fill, color.NRGBA{0xff, 0xff, 0xff, 0xff}
	}
	return fill, ink
}
