package main

import (
	"math"

	"github.com/urfave/cli/v2"

	"anynetx/analysis"
)

func analyzeCommand() *cli.Command {
	return &cli.Command{
		Name:      "analyze",
		Usage:     "correlations, figures and a report of a study, finished or not",
		ArgsUsage: "DIR",
		Description: "Example:\n\nanynetx analyze study-quick --out report\n\n" +
			"Leaves report.html, figures/ and tables/ in --out, and prints the rank correlation of each pair of tasks beside the ceiling that the noise of\n" +
			"training sets. DIR needs the study's Parquet files only.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "out", Usage: "`FOLDER` of the report", DefaultText: "the study's", TakesFile: true},
			&cli.StringFlag{Name: "reference", Usage: "the `TASK` that the others are compared with", DefaultText: "the one with most classes"},
			&cli.StringFlag{Name: "metric", Usage: "`ERROR` that is compared: top1 or top5", DefaultText: "what each task says"},
			&cli.IntFlag{Name: "bootstrap", Value: 2000, Usage: "`NUMBER` of resamples for the intervals"},
			&cli.Float64Flag{Name: "confidence", Value: 0.95, Usage: "`LEVEL` of the intervals"},
			&cli.Uint64Flag{Name: "seed", Usage: "`SEED` of the resamples"},
			&cli.BoolFlag{Name: "json", Usage: "one object on standard output"}},
		Action: analyze,
	}
}

type analysisJSON struct {
	Study        string            `json:"study"`
	Report       string            `json:"report"`
	Headline     string            `json:"headline"`
	Partial      string            `json:"partial"` // what is missing, "" if nothing
	Reference    string            `json:"reference"`
	Correlations []correlationJSON `json:"correlations"`
}

// correlationJSON has the names of tables/correlations.parquet. What could not be worked out is null.
type correlationJSON struct {
	TaskX          string   `json:"task_x"`
	TaskY          string   `json:"task_y"`
	N              int      `json:"n"`
	Rho            *float64 `json:"rho"`
	Low            *float64 `json:"ci_low"`
	High           *float64 `json:"ci_high"`
	P              *float64 `json:"p_value"`
	Ceiling        *float64 `json:"ceiling"`
	CeilingLow     *float64 `json:"ceiling_low"`
	CeilingHigh    *float64 `json:"ceiling_high"`
	RhoOverCeiling *float64 `json:"rho_over_ceiling"`
	Reason         string   `json:"reason,omitempty"`
}

func analyze(c *cli.Context) error {
	dir, err := oneArgument(c, "one study folder")
	if err != nil {
		return err
	}
	out := c.String("out")
	if out == "" {
		out = dir
	}
	s, err := analysis.Run(dir, analysis.Options{Out: out, Reference: c.String("reference"), Metric: c.String("metric"),
		Bootstrap: c.Int("bootstrap"), Confidence: c.Float64("confidence"), Seed: c.Uint64("seed")})
	if err != nil {
		return err
	}
	if !c.Bool("json") {
		return write(c.App.Writer, "%s", s.Text())
	}
	j := analysisJSON{Study: s.Study, Report: s.Report, Headline: s.Headline, Partial: s.Partial, Reference: s.Reference, Correlations: []correlationJSON{}}
	for _, r := range s.Correlations {
		j.Correlations = append(j.Correlations, correlationJSON{r.TaskX, r.TaskY, r.N, known(r.Rho), known(r.Low), known(r.High), known(r.P),
			known(r.Ceiling), known(r.CeilingLow), known(r.CeilingHigh), known(r.RhoOverCeiling), r.Reason})
	}
	return writeJSON(c.App.Writer, j)
}

// known is nil for what is no number, which JSON has no word for.
func known(x float64) *float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return &x
}
