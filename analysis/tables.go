package analysis

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"anynetx/results"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

type reliabilityRow struct {
	Task           string  `col:"task"`
	Metric         string  `col:"metric"`
	Architectures  int     `col:"architectures"`
	Replicated     int     `col:"replicated"`
	ReplicateRuns  int     `col:"replicate_runs"`
	ReplicateSD    float64 `col:"replicate_sd_pct"`
	ArchitectureSD float64 `col:"architecture_sd_pct"`
	Value          float64 `col:"reliability"`
	Low            float64 `col:"reliability_low"`
	High           float64 `col:"reliability_high"`
	Reason         string  `col:"reason"`
}

// writeTables leaves each table as Parquet in full, as CSV and as Markdown in the form of the report.
func (a *Analysis) writeTables(dir string) error {
	meta := map[string]string{results.MetaStudy: a.Name}
	var noise []reliabilityRow
	for _, r := range a.Reliability {
		noise = append(noise, reliabilityRow{r.Task, r.Metric, r.Architectures, r.Replicated, r.ReplicateRuns, r.ReplicateSD, r.ArchitectureSD, r.Value, r.Low, r.High, r.Reason})
	}
	for _, t := range []struct {
		name string
		rows any
	}{{"correlations", a.Correlations}, {"drivers", a.Drivers}, {"reliability", noise}} {
		if err := results.Replace(filepath.Join(dir, t.name+".parquet"), t.name, t.rows, meta); err != nil {
			return elsewhere(err)
		}
	}
	for name, t := range a.textTables() {
		if err := writeFile(filepath.Join(dir, name+".csv"), []byte(t.RenderCSV()+"\n")); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, name+".md"), []byte(t.RenderMarkdown()+"\n")); err != nil {
			return err
		}
	}
	return nil
}

func newTable(header ...any) table.Writer {
	w := table.NewWriter()
	w.Style().Format.Header = text.FormatDefault
	w.AppendHeader(header)
	return w
}

func (a *Analysis) textTables() map[string]table.Writer {
	correlations := newTable("task_x", "task_y", "n", "rho", "ci_low", "ci_high", "p_value", "tau_b", "ceiling", "ceiling_low", "ceiling_high", "rho_over_ceiling")
	for _, c := range a.Correlations {
		correlations.AppendRow(table.Row{plain(c.TaskX), plain(c.TaskY), c.N, digits(c.Rho), digits(c.Low), digits(c.High), digits(c.P), digits(c.TauB),
			digits(c.Ceiling), digits(c.CeilingLow), digits(c.CeilingHigh), digits(c.RhoOverCeiling)})
	}
	drivers := newTable("task", "parameter", "n", "rho", "ci_low", "ci_high", "p_value")
	for _, d := range a.Drivers {
		drivers.AppendRow(table.Row{plain(d.Task), d.Parameter, d.N, digits(d.Rho), digits(d.Low), digits(d.High), digits(d.P)})
	}
	noise := newTable("task", "architectures", "replicated", "replicate_runs", "replicate_sd_pct", "architecture_sd_pct", "reliability", "reliability_low", "reliability_high")
	for _, r := range a.Reliability {
		noise.AppendRow(table.Row{plain(r.Task), r.Architectures, r.Replicated, r.ReplicateRuns, digits(r.ReplicateSD), digits(r.ArchitectureSD), digits(r.Value), digits(r.Low), digits(r.High)})
	}
	tasks := newTable("task", "dataset", "metric", "classes", "planned", "done", "failed", "missing", "best_err_pct", "median_err_pct", "worst_err_pct")
	for _, t := range a.Summary().Tasks {
		tasks.AppendRow(table.Row{plain(t.Task), plain(t.Dataset), t.Metric, t.Classes, t.Planned, t.Done, t.Failed, t.Missing, digits(t.Best), digits(t.Median), digits(t.Worst)})
	}
	return map[string]table.Writer{"correlations": correlations, "drivers": drivers, "reliability": noise, "tasks": tasks}
}

// plain keeps a spreadsheet from taking a name for a formula.
func plain(s string) string {
	if s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
		return "'" + s
	}
	return s
}

// visible replaces what a terminal would act on or a reader would not see.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// digits is four significant digits, empty for what is not there.
func digits(v float64) string {
	if v != v {
		return ""
	}
	return fmt.Sprintf("%.4g", v)
}

// writeFile replaces a file at once, so that a reader never sees half of it.
func writeFile(path string, data []byte) error {
	temporary := path + ".tmp-write"
	err := os.WriteFile(temporary, data, 0o666)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary)
		return elsewhere(fmt.Errorf("cannot write %s: %w", path, err))
	}
	return nil
}

// elsewhere says what to do about a failed write.
func elsewhere(err error) error {
	return fmt.Errorf("%w; free space, or choose another folder with --out", err)
}
