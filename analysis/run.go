package analysis

import (
	"fmt"
	"math"
	"os"
	"path/filepath"

	"anynetx/anynetx"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Options of an analysis; the zero value is the usual one.
type Options struct {
	Out        string  // folder of report.html, figures/ and tables/; default <study>/analysis
	Reference  string  // task that the others are compared with; default the one with most classes
	Metric     string  // top1 or top5 for all tasks; default what each task says
	Bootstrap  int     // resamples; default 2000
	Confidence float64 // of intervals; default 0.95
	Seed       uint64  // of the bootstrap
	Command    string  // the command line, for captions; default "anynetx analyze <study's folder name>"
}

func (o Options) withDefaults() Options {
	if o.Bootstrap == 0 {
		o.Bootstrap = 2000
	}
	if o.Confidence == 0 {
		o.Confidence = 0.95
	}
	return o
}

func (o Options) check() error {
	switch {
	case o.Bootstrap < 100 || o.Bootstrap > 1_000_000:
		return anynetx.Inputf("%d bootstrap resamples were asked for; use 100 to 1000000", o.Bootstrap)
	case !(o.Confidence >= 0.5 && o.Confidence < 1):
		return anynetx.Inputf("the level of intervals is %v; use 0.5 up to but not including 1", o.Confidence)
	}
	return nil
}

// Summary is what a terminal shows of an analysis.
type Summary struct {
	Study        string
	Partial      string        // what is missing, "" if nothing
	Headline     string        // the answer in a sentence
	Reference    string        // task
	Tasks        []TaskSummary // the reference first
	Correlations []Correlation // all pairs, the reference's first
	Report       string        // path of report.html
	Out          string        // its folder
}

// TaskSummary counts a task's runs and describes its errors (replicate 0).
type TaskSummary struct {
	Task, Dataset, Metric           string
	Classes                         int64
	Planned, Done, Failed, Missing  int
	Best, Median, Worst, Chance     float64 // percent; NaN without runs
	ReplicateSD, Reliability        float64
	ReliabilityLow, ReliabilityHigh float64
	Replicated                      int
	ReliabilityReason               string
	FailureClasses                  map[string]int
	TrainImages, TestImages         int64
	Resolution, Epochs              int64
	ClassNames                      []string
}

// Run analyses a study folder and leaves report.html, figures/ and tables/.
func Run(studyDir string, o Options) (*Summary, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Out == "" {
		o.Out = filepath.Join(studyDir, "analysis")
	}
	if o.Command == "" {
		o.Command = "anynetx analyze " + filepath.Base(filepath.Clean(studyDir))
	}
	s, err := Load(studyDir, o.Reference, o.Metric)
	if err != nil {
		return nil, err
	}
	a := Analyse(s, o)
	for _, dir := range []string{"tables", "figures"} {
		if err := os.MkdirAll(filepath.Join(o.Out, dir), 0o777); err != nil {
			return nil, fmt.Errorf("cannot make the folder of the report: %w", err)
		}
	}
	if err := a.writeTables(filepath.Join(o.Out, "tables")); err != nil {
		return nil, err
	}
	figures, err := a.writeFigures(filepath.Join(o.Out, "figures"))
	if err != nil {
		return nil, err
	}
	summary := a.Summary()
	summary.Out, summary.Report = o.Out, filepath.Join(o.Out, "report.html")
	return summary, a.writeReport(summary.Report, figures)
}

// Summary is the analysis in short.
func (a *Analysis) Summary() *Summary {
	s := &Summary{Study: a.Name, Partial: a.Partial(), Headline: a.Headline(), Reference: a.Tasks[0].Name, Correlations: a.Correlations}
	for i := range a.Tasks {
		t, r := &a.Tasks[i], &a.Reliability[i]
		d := sortedFirst(t)
		s.Tasks = append(s.Tasks, TaskSummary{Task: t.Name, Dataset: t.Dataset, Metric: t.Metric, Classes: t.Classes,
			Planned: t.Planned, Done: t.Done, Failed: t.Failed, Missing: t.Missing(), FailureClasses: t.Failures,
			Best: quantile(d, 0), Median: quantile(d, 0.5), Worst: quantile(d, 1), Chance: t.chance(), Replicated: r.Replicated,
			ReplicateSD: r.ReplicateSD, Reliability: r.Value, ReliabilityLow: r.Low, ReliabilityHigh: r.High, ReliabilityReason: r.Reason,
			TrainImages: t.TrainImages, TestImages: t.TestImages, Resolution: t.Resolution, Epochs: t.Epochs, ClassNames: t.ClassNames})
	}
	return s
}

// chance is the error of guessing among equally frequent classes.
func (t *Task) chance() float64 {
	guesses := 1.0
	if t.Metric == "top5" {
		guesses = 5
	}
	return 100 * max(0, 1-guesses/float64(max(1, t.Classes)))
}

// terminalPairs is how many pairs a terminal shows beside those of the reference.
const terminalPairs = 15

// Text is the table of correlations beside the ceiling, for a terminal.
func (s *Summary) Text() string {
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.Style().Options.SeparateRows = false
	w.Style().Format.Header = text.FormatDefault
	level := 0.95
	if len(s.Correlations) > 0 {
		level = s.Correlations[0].Confidence
	}
	w.AppendHeader(table.Row{"task", "against", "n", "rho", fmt.Sprintf("%.3g %% interval", 100*level), "p", "ceiling", "interval", "rho / ceiling"})
	var notes []string
	for i, c := range s.Correlations {
		if i >= terminalPairs && c.TaskX != s.Reference {
			notes = append(notes, fmt.Sprintf("%d more pairs are in %s", len(s.Correlations)-i, filepath.Join(s.Out, "tables", "correlations.csv")))
			break
		}
		w.AppendRow(table.Row{c.TaskY, c.TaskX, c.N, number(c.Rho), span(c.Low, c.High), pText(c.P), number(c.Ceiling), span(c.CeilingLow, c.CeilingHigh), number(c.RhoOverCeiling)})
		if c.Reason != "" {
			notes = append(notes, fmt.Sprintf("no rho of %s against %s: %s", c.TaskY, c.TaskX, c.Reason))
		}
	}
	for _, t := range s.Tasks {
		if t.ReliabilityReason != "" {
			notes = append(notes, fmt.Sprintf("no ceiling with %s: %s", t.Task, t.ReliabilityReason))
		}
	}
	out := s.Headline + "\n"
	if s.Partial != "" {
		out += s.Partial + "\n"
	}
	out += "\n"
	if len(s.Correlations) > 0 {
		out += w.Render() + "\n"
	}
	for _, n := range notes {
		out += n + "\n"
	}
	return out + "report: " + s.Report + "\n"
}

// number is two digits behind the point, "-" for what is not there.
func number(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.2f", math.Round(v*100)/100+0) // +0: no "-0.00"
}

func span(low, high float64) string {
	if math.IsNaN(low) || math.IsNaN(high) {
		return "-"
	}
	return number(low) + " to " + number(high)
}

func pText(p float64) string {
	switch {
	case math.IsNaN(p):
		return "-"
	case p < 0.0001:
		return "< 0.0001"
	case p < 0.001:
		return fmt.Sprintf("%.4f", p)
	default:
		return fmt.Sprintf("%.3f", p)
	}
}
