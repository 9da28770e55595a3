package analysis

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStudyIsAnalysed runs everything over a study whose truth is known.
func TestStudyIsAnalysed(t *testing.T) {
	dir := quick().write(t)
	s, err := Run(dir, Options{Bootstrap: 500})
	if err != nil {
		t.Fatal(err)
	}
	if s.Reference != "fashion-10" || s.Partial != "" || len(s.Correlations) != 3 {
		t.Fatalf("summary: %+v", s)
	}
	near, far := s.Correlations[0], s.Correlations[1]
	if !(near.Low < near.Rho && near.Rho < near.High && near.Rho > 0.6 && far.Rho < near.Rho-0.1 && near.P < 0.001) {
		t.Errorf("rho of the near task is %v, of the far one %v", near, far)
	}
	if !(near.Ceiling > 0.7 && near.Ceiling < 1 && near.CeilingLow < near.Ceiling && near.Ceiling < near.CeilingHigh+1e-9) {
		t.Errorf("ceiling %v [%v, %v]", near.Ceiling, near.CeilingLow, near.CeilingHigh)
	}
	text := s.Text()
	for _, want := range []string{"fashion-5", "ceiling", "carries over", s.Report} {
		if !strings.Contains(text, want) {
			t.Errorf("the terminal's text lacks %q:\n%s", want, text)
		}
	}
	for _, f := range []string{"report.html", "figures/errors.svg", "figures/errors.png", "figures/depth-and-width.svg", "figures/edf.svg", "figures/ceiling.svg", "figures/replicates.svg",
		"tables/correlations.parquet", "tables/correlations.csv", "tables/correlations.md", "tables/drivers.parquet", "tables/reliability.parquet"} {
		if info, err := os.Stat(filepath.Join(dir, "analysis", f)); err != nil || info.Size() < 100 {
			t.Errorf("%s: %v", f, err)
		}
	}
}
