package analysis

import (
	"fmt"
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Sizes of all figures, made for a text width of 17 cm.
const (
	figureWidth = vg.Length(490)
	bodySize    = vg.Length(8)
	titleSize   = vg.Length(8.5)
	headerLine  = vg.Length(15)
)

var (
	ink    = color.NRGBA{0x22, 0x26, 0x2b, 0xff}
	muted  = color.NRGBA{0x6b, 0x72, 0x7a, 0xff}
	faint  = color.NRGBA{0xe4, 0xe7, 0xea, 0xff}
	blue   = color.NRGBA{0x2f, 0x6d, 0xa8, 0xff}
	orange = color.NRGBA{0xf5, 0x9e, 0x1b, 0xff} // best, as in the paper
	red    = color.NRGBA{0xb3, 0x1b, 0x2c, 0xff} // worst, as in the paper; also told apart by shape and lightness
)

// taskColors are told apart by readers with any colour vision; dashes take over where they repeat.
var taskColors = []color.NRGBA{{0x00, 0x72, 0xb2, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0xcc, 0x79, 0xa7, 0xff},
	{0x33, 0x33, 0x33, 0xff}, {0x56, 0xb4, 0xe9, 0xff}, {0xb8, 0x8a, 0x00, 0xff}}

func taskLine(i int) draw.LineStyle {
	dashes := [][]vg.Length{nil, {5, 2}, {1.5, 1.5}, {6, 2, 1.5, 2}}
	return draw.LineStyle{Color: taskColors[i%len(taskColors)], Width: 1.4, Dashes: dashes[i/len(taskColors)%len(dashes)]}
}

func alpha(c color.NRGBA, a float64) color.NRGBA {
	c.A = uint8(math.Round(255 * a))
	return c
}

func face(size vg.Length, bold bool) font.Font {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
	if bold {
		f.Weight = 2 // golang.org/x/image/font.WeightBold - WeightNormal, in steps of 100 from Normal
	}
	return f
}

func textStyle(size vg.Length, c color.Color, x text.XAlignment, y text.YAlignment) text.Style {
	return text.Style{Color: c, Font: face(size, false), XAlign: x, YAlign: y, Handler: text.Plain{Fonts: font.DefaultCache}}
}

// newPlot is an empty panel in the style of all figures.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	p.Title.Text = title
	p.Title.TextStyle = textStyle(titleSize, ink, text.XCenter, text.YTop)
	p.Title.Padding = 5
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.LineStyle = draw.LineStyle{Color: muted, Width: 0.6}
		axis.Label.TextStyle = textStyle(bodySize, ink, text.XCenter, text.YBottom)
		axis.Label.Padding = 3
		axis.Tick.Label.Font = face(bodySize-0.5, false)
		axis.Tick.Label.Color = muted
		axis.Tick.LineStyle = draw.LineStyle{Color: muted, Width: 0.6}
		axis.Tick.Length = 3
		axis.Padding = 3
		axis.Tick.Marker = niceTicks{5}
	}
	p.Y.Tick.Label.XAlign, p.Y.Tick.Label.YAlign = text.XRight, text.YCenter
	p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = text.XCenter, text.YTop
	p.X.Label.TextStyle.YAlign = text.YBottom
	p.X.Label.Text, p.Y.Label.Text = x, y
	grid := plotter.NewGrid()
	grid.Vertical = draw.LineStyle{Color: faint, Width: 0.5}
	grid.Horizontal = grid.Vertical
	p.Add(grid)
	return p
}

// niceTicks are multiples of 1, 2 or 5 times a power of ten, about as many as asked for, without minor ticks.
type niceTicks struct{ about int }

func (t niceTicks) Ticks(low, high float64) []plot.Tick {
	step := niceStep((high - low) / float64(t.about))
	if !(step > 0) || math.IsInf(step, 0) {
		return []plot.Tick{{Value: low, Label: strconv.FormatFloat(low, 'g', 4, 64)}}
	}
	digits := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	var ticks []plot.Tick
	for i := math.Ceil(low/step - 1e-9); i*step <= high+step*1e-9; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: strconv.FormatFloat(i*step+0, 'f', digits, 64)})
	}
	return ticks
}

func niceStep(raw float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= raw*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// legendItem is a mark with its name, in the line above the panels.
type legendItem struct {
	label string
	glyph *draw.GlyphStyle
	line  *draw.LineStyle
}

// header draws a legend from the left in as many lines as it needs, and returns the height it took; with draw false it only measures.
func header(c draw.Canvas, items []legendItem, paint bool) vg.Length {
	style := textStyle(bodySize, ink, text.XLeft, text.YCenter)
	x, y := c.Min.X+4, c.Max.Y-headerLine/2
	for _, it := range items {
		mark := vg.Length(0)
		switch {
		case it.glyph != nil:
			mark = 10
		case it.line != nil:
			mark = 22
		}
		w := mark + style.Width(it.label) + 14
		if x+w > c.Max.X+14 && x > c.Min.X+4 {
			x, y = c.Min.X+4, y-headerLine
		}
		if paint {
			switch {
			case it.glyph != nil:
				c.DrawGlyph(*it.glyph, vg.Point{X: x + 4, Y: y})
			case it.line != nil:
				c.StrokeLine2(*it.line, x, y, x+18, y)
			}
			c.FillText(style, vg.Point{X: x + mark, Y: y}, it.label)
		}
		x += w
	}
	if len(items) == 0 {
		return 0
	}
	return c.Max.Y - y + headerLine/2 + 4
}

// panels lays plots out in a grid below the legend, with their axes in line, and returns the canvas of each.
func panels(c draw.Canvas, plots []*plot.Plot, columns int, legend []legendItem) []draw.Canvas {
	top := header(c, legend, true)
	rows := (len(plots) + columns - 1) / columns
	grid := make([][]*plot.Plot, rows)
	for r := range grid {
		grid[r] = make([]*plot.Plot, columns)
		for k := range columns {
			if i := r*columns + k; i < len(plots) {
				grid[r][k] = plots[i]
			}
		}
	}
	tiles := draw.Tiles{Rows: rows, Cols: columns, PadX: 14, PadY: 14, PadTop: top + 2, PadBottom: 4, PadLeft: 4, PadRight: 8}
	canvases := plot.Align(grid, tiles, c)
	out := make([]draw.Canvas, len(plots))
	for i, p := range plots {
		out[i] = canvases[i/columns][i%columns]
		p.Draw(out[i])
	}
	return out
}

// gridSize is the columns and the height of a figure with n panels of equal size.
func gridSize(n int, legend vg.Length) (columns int, height vg.Length) {
	columns = min(max(n, 1), 3)
	if n == 4 {
		columns = 2
	}
	rows := (n + columns - 1) / columns
	panel := vg.Length(165)
	if columns < 3 {
		panel = 205
	}
	return columns, legend + vg.Length(rows)*panel
}

// clip shortens a name that would run over its panel.
func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return string(r)
	}
	return string(r[:n-1]) + "…"
}

// rhoTitle is a panel's title: the name above rho, its interval and n.
func rhoTitle(name string, rho, low, high float64, n int, reason string) string {
	if reason != "" {
		return fmt.Sprintf("%s\nno ρ: n = %d", clip(name, 34), n)
	}
	span := ""
	if !math.IsNaN(low) {
		span = " [" + number(low) + ", " + number(high) + "]"
	}
	return fmt.Sprintf("%s\nρ = %s%s, n = %d", clip(name, 34), number(rho), span, n)
}

// pad widens a range so that no point sits on the frame; a range of one value gets a width.
func pad(a *plot.Axis, values []float64) {
	if len(values) == 0 {
		a.Min, a.Max = 0, 1
		return
	}
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	margin := 0.04 * (high - low)
	if margin == 0 {
		margin = max(0.5, math.Abs(high)*0.05)
	}
	a.Min, a.Max = low-margin, high+margin
}
