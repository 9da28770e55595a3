package analysis

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html"
	"html/template"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"anynetx/anynetx"
)

//go:embed report.html.tmpl
var reportTemplate string

//go:embed report.css
var reportCSS string

//go:embed report.js
var reportJS string

// reportData is what report.html.tmpl shows.
type reportData struct {
	*Summary
	Analysis       *Analysis
	Percent        string // level of the intervals
	Cards          []card
	Drivers        []driverLine
	Stages         []stageLine
	StageColumns   []string
	Figures        []reportFigure
	Architectures  []string
	Command        string
	TableDir       string
	CSS            template.CSS
	JS             template.JS
	Policy         string
	Done, Planned  int
	Progress       string
	DeviceHours    string
	ExactN         int
	MinimumN       int
	MinimumCI      int
	NoCeiling      bool
	FewReplicates  bool
	BootstrapTimes string
}

// card is one task beside the reference.
type card struct {
	Task, Verdict, Class       string
	Rho, Span, Ceiling, P, Why string
	N                          int
	Scale                      scale
}

// scale is positions in percent on a line from -1 to 1.
type scale struct {
	Has, HasSpan, HasCeiling, HasBand         bool
	Rho, Low, Width, Ceiling, BandLow, BandWd string
}

type driverLine struct {
	Task                     string
	N                        int
	Depth, DepthCI, DepthP   string
	Width, WidthCI, WidthP   string
	DepthColor, WidthColor   template.CSS
	DepthReason, WidthReason string
}

type stageLine struct {
	Task  string
	Cells []stageCell
}

type stageCell struct {
	Text, Title string
	Color       template.CSS
}

type reportFigure struct {
	Slug, Title, Caption string
	SVG                  template.HTML
}

func (a *Analysis) writeReport(path string, figures []rendered) error {
	t, err := template.New("report").Funcs(template.FuncMap{"number": number, "span": span, "p": pText, "percent": percent,
		"clip": func(s string) string { return clip(s, 60) }, "join": func(s []string) string { return strings.Join(s, ", ") },
		"failures": failures, "short": func(s string) string { return s[:min(12, len(s))] }}).Parse(reportTemplate)
	if err != nil {
		return fmt.Errorf("report.html.tmpl: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, a.reportData(figures)); err != nil {
		return fmt.Errorf("report.html.tmpl: %w", err)
	}
	return writeFile(path, out.Bytes())
}

func (a *Analysis) reportData(figures []rendered) *reportData {
	s := a.Summary()
	planned, done, _ := a.Counts()
	d := &reportData{Summary: s, Analysis: a, Percent: fmt.Sprintf("%.3g %%", 100*a.Options.Confidence), Command: a.Options.Command, TableDir: filepath.Base(filepath.Clean(a.Dir)),
		CSS: template.CSS(reportCSS), JS: template.JS(reportJS), Done: done, Planned: planned, Progress: fmt.Sprintf("%.1f", 100*float64(done)/float64(max(1, planned))),
		DeviceHours: fmt.Sprintf("%.3g", a.Provenance.DeviceSeconds/3600), ExactN: exactN, MinimumN: minimumN, MinimumCI: minimumInterval,
		BootstrapTimes: fmt.Sprint(a.Options.Bootstrap)}
	hash := sha256.Sum256([]byte(reportJS))
	d.Policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
	for j := 1; j < len(a.Tasks); j++ {
		d.Cards = append(d.Cards, a.card(a.correlation(0, j)))
	}
	for i := range a.Reliability {
		d.NoCeiling = d.NoCeiling || a.Reliability[i].Reason != ""
		d.FewReplicates = d.FewReplicates || a.Reliability[i].Replicated > 0 && a.Reliability[i].Replicated < 10
	}
	for i := range a.Tasks {
		name := a.Tasks[i].Name
		depth, width := a.driver(name, "depth_sum"), a.driver(name, "width_sum")
		d.Drivers = append(d.Drivers, driverLine{Task: name, N: depth.N, Depth: number(depth.Rho), DepthCI: span(depth.Low, depth.High), DepthP: pText(depth.P),
			Width: number(width.Rho), WidthCI: span(width.Low, width.High), WidthP: pText(width.P), DepthColor: tint(depth.Rho), WidthColor: tint(width.Rho),
			DepthReason: depth.Reason, WidthReason: width.Reason})
		line := stageLine{Task: name}
		for _, p := range parameters() {
			r := a.driver(name, p.name)
			title := fmt.Sprintf("%s: ρ = %s, %s, p %s", p.label, number(r.Rho), span(r.Low, r.High), equation(pText(r.P)))
			if r.Reason != "" {
				title = p.label + ": " + r.Reason
			}
			line.Cells = append(line.Cells, stageCell{number(r.Rho), title, tint(r.Rho)})
			if i == 0 {
				d.StageColumns = append(d.StageColumns, p.name)
			}
		}
		d.Stages = append(d.Stages, line)
	}
	for _, f := range figures {
		d.Figures = append(d.Figures, reportFigure{f.slug, f.title, f.caption, inline(f)})
	}
	for _, arch := range a.Architectures {
		d.Architectures = append(d.Architectures, arch.ID+"\n"+arch.text())
	}
	return d
}

func (a *Architecture) text() string {
	var s anynetx.Architecture
	for i := range s {
		s[i] = anynetx.Stage{Depth: int(a.Depths[i]), Width: int(a.Widths[i]), Bottleneck: int(a.Bottlenecks[i]), GroupWidth: int(a.GroupWidths[i])}
	}
	return s.String()
}

func (a *Analysis) card(c *Correlation) card {
	v := c.judge()
	k := card{Task: c.TaskY, Verdict: v.Word, Class: strings.ReplaceAll(v.Word, " ", "-"), N: c.N, Rho: number(c.Rho), Span: span(c.Low, c.High),
		Ceiling: number(c.Ceiling), P: equation(pText(c.P)), Why: c.Reason}
	at := func(v float64) string { return fmt.Sprintf("%.1f%%", 50*(v+1)) }
	width := func(low, high float64) string { return fmt.Sprintf("%.1f%%", 50*(high-low)) }
	if !math.IsNaN(c.Rho) {
		k.Scale.Has, k.Scale.Rho = true, at(c.Rho)
	}
	if !math.IsNaN(c.Low) {
		k.Scale.HasSpan, k.Scale.Low, k.Scale.Width = true, at(c.Low), width(c.Low, c.High)
	}
	if !math.IsNaN(c.Ceiling) {
		k.Scale.HasCeiling, k.Scale.Ceiling = true, at(c.Ceiling)
	}
	if !c.ceilingKnown() {
		k.Ceiling = "unsure"
	}
	if !math.IsNaN(c.CeilingLow) {
		k.Scale.HasBand, k.Scale.BandLow, k.Scale.BandWd = true, at(c.CeilingLow), width(c.CeilingLow, c.CeilingHigh)
	}
	return k
}

// equation puts "=" before a number that has no relation of its own.
func equation(p string) string {
	if strings.HasPrefix(p, "<") {
		return p
	}
	return "= " + p
}

// tint is a cell's colours for a correlation; they are numbers only.
func tint(v float64) template.CSS {
	if math.IsNaN(v) {
		return ""
	}
	fill, text := diverging(v)
	return template.CSS(fmt.Sprintf("background:#%02x%02x%02x;color:#%02x%02x%02x", fill.R, fill.G, fill.B, text.R, text.G, text.B))
}

func percent(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

func failures(classes map[string]int) string {
	var parts []string
	for k, n := range classes {
		parts = append(parts, fmt.Sprintf("%d %s", n, k))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// inline is a figure's SVG as a part of a page: without the prologue, as wide as its place where it is a full figure, named for readers who do not see it, with spots
// that answer the pointer. All text in it was escaped when it was drawn; what is added here is escaped here.
func inline(f rendered) template.HTML {
	svg := string(f.svg)
	svg = svg[strings.Index(svg, "<svg"):]
	open := strings.Index(svg, ">")
	var b strings.Builder
	fmt.Fprintf(&b, `<svg role="img" aria-label="%s" viewBox="0 0 %g %g" xmlns="http://www.w3.org/2000/svg" style="width:%.3g%%">`, html.EscapeString(f.title), f.width.Points(), f.height.Points(),
		100*float64(f.width/figureWidth)) // letters are of one size in all figures
	b.WriteString(strings.TrimSuffix(strings.TrimSpace(svg[open+1:]), "</svg>"))
	for _, s := range f.spots {
		fmt.Fprintf(&b, `<circle class="spot" cx="%g" cy="%g" r="4.5" data-a="%d" data-t="%s"/>`, s.X, s.Y, s.Architecture, html.EscapeString(s.Label))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}
