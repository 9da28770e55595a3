package analysis

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// figure is a picture that is drawn twice, as SVG and as PNG.
type figure struct {
	slug, title, caption string
	width, height        vg.Length
	draw                 func(c draw.Canvas) []spot
}

// spot is where an architecture is drawn, in points from the left upper corner: the report makes these react.
type spot struct {
	X, Y         float64
	Architecture int
	Label        string
}

// figureList is all figures in the order of the report; one that has nothing to show returns nil.
func (a *Analysis) figureList() []*figure {
	makers := []func(*Analysis) *figure{figErrors, figCeiling, figMatrix, figClasses, figDrivers, figEDF, figReplicates}
	var list []*figure
	for _, make := range makers {
		if f := make(a); f != nil {
			list = append(list, f)
		}
	}
	return list
}

// rendered is a figure with the bytes of its SVG.
type rendered struct {
	*figure
	svg   []byte
	spots []spot
}

const pngDPI = 200

// render draws a figure in both formats.
func (f *figure) render() (r rendered, png []byte, err error) {
	vector := vgsvg.New(f.width, f.height)
	spots := f.draw(draw.New(vector))
	var svg, raster bytes.Buffer
	if _, err := vector.WriteTo(&svg); err != nil {
		return r, nil, fmt.Errorf("figure %s: %w", f.slug, err)
	}
	pixels := vgimg.NewWith(vgimg.UseWH(f.width, f.height), vgimg.UseDPI(pngDPI), vgimg.UseBackgroundColor(color.White))
	f.draw(draw.New(pixels))
	if _, err := (vgimg.PngCanvas{Canvas: pixels}).WriteTo(&raster); err != nil {
		return r, nil, fmt.Errorf("figure %s: %w", f.slug, err)
	}
	return rendered{f, portable(svg.Bytes()), spots}, raster.Bytes(), nil
}

// portable names fonts of the same metrics for readers without ours.
func portable(svg []byte) []byte {
	return bytes.ReplaceAll(svg, []byte("font-family:Liberation Sans;"), []byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif;"))
}

func (a *Analysis) writeFigures(dir string) ([]rendered, error) {
	var list []rendered
	for _, f := range a.figureList() {
		r, png, err := f.render()
		if err != nil {
			return nil, err
		}
		for ext, data := range map[string][]byte{"svg": r.svg, "png": png} {
			if err := writeFile(filepath.Join(dir, f.slug+"."+ext), data); err != nil {
				return nil, err
			}
		}
		list = append(list, r)
	}
	return list, nil
}

// extremes is how many best and worst are coloured: ten of the paper's 500, fewer of few so that most stay uncoloured.
func extremes(n int) int { return min(10, n/5) }

func dot(n int) draw.GlyphStyle {
	radius := vg.Length(2.4)
	if n > 150 {
		radius = 1.6
	}
	return draw.GlyphStyle{Color: alpha(blue, 0.55), Radius: radius, Shape: draw.CircleGlyph{}}
}

func bestDot(n int) draw.GlyphStyle {
	g := dot(n)
	g.Color, g.Radius, g.Shape = orange, g.Radius+0.6, draw.CircleGlyph{}
	return g
}

func worstDot(n int) draw.GlyphStyle {
	g := dot(n)
	g.Color, g.Radius, g.Shape = red, g.Radius+0.6, draw.PyramidGlyph{}
	return g
}

// scatter adds points, those with the best k and worst k values of by in colour and drawn last. by nil colours none.
func scatter(p *plot.Plot, x, y, by []float64) {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	k := 0
	if by != nil {
		slices.SortStableFunc(order, func(i, j int) int {
			switch {
			case by[i] < by[j]:
				return -1
			case by[i] > by[j]:
				return 1
			}
			return 0
		})
		k = extremes(len(x))
	}
	n := len(order)
	groups := []struct {
		members []int
		style   draw.GlyphStyle
	}{{order[k : n-k], dot(n)}, {order[n-k:], worstDot(n)}, {order[:k], bestDot(n)}}
	for _, g := range groups {
		if len(g.members) == 0 {
			continue
		}
		points := make(plotter.XYs, len(g.members))
		for i, m := range g.members {
			points[i] = plotter.XY{X: x[m], Y: y[m]}
		}
		s := &plotter.Scatter{XYs: points, GlyphStyle: g.style}
		p.Add(s)
	}
	pad(&p.X, x)
	pad(&p.Y, y)
}

// spots finds where points were drawn.
func spots(p *plot.Plot, c draw.Canvas, height vg.Length, x, y []float64, which []int, label func(i int) string) []spot {
	data := p.DataCanvas(c)
	tx, ty := p.Transforms(&data)
	out := make([]spot, len(x))
	for i := range x {
		out[i] = spot{X: round(float64(tx(x[i]))), Y: round(float64(height - ty(y[i]))), Architecture: which[i], Label: label(i)}
	}
	return out
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

// errorLabel is an axis label: "fashion-10: top-1 error (%)".
func errorLabel(t *Task) string { return clip(t.Name, 26) + ": " + metricName(t.Metric) + " error (%)" }

func metricName(m string) string {
	if m == "top5" {
		return "top-5"
	}
	return "top-1"
}

// bestAndWorst is the legend of coloured points in panels of between fewest and most architectures.
func bestAndWorst(fewest, most int, of string) []legendItem {
	count := fmt.Sprint(extremes(most))
	if extremes(fewest) != extremes(most) {
		count = fmt.Sprintf("%d to %d", extremes(fewest), extremes(most))
	}
	items := []legendItem{{label: "architecture", glyph: glyph(dot(most))}}
	if extremes(most) > 0 {
		items = append(items, legendItem{label: "best " + count + " on " + of, glyph: glyph(bestDot(most))},
			legendItem{label: "worst " + count + " on " + of, glyph: glyph(worstDot(most))})
	}
	return items
}

func glyph(g draw.GlyphStyle) *draw.GlyphStyle { return &g }
