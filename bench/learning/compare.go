package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// side is one result file: the last epoch's test errors of each network, in the order of the file.
type side struct {
	name     string
	networks []string
	errors   map[string][]float64
	seconds  map[string]float64
}

func readSide(path string) (side, error) {
	s := side{errors: map[string][]float64{}, seconds: map[string]float64{}}
	text, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var t training
		if err := d.Decode(&t); err == io.EOF {
			break
		} else if err != nil {
			return s, fmt.Errorf("%s, byte %d: %w", path, d.InputOffset(), err)
		}
		if len(t.Epochs) == 0 {
			return s, fmt.Errorf("%s: %s, seed %d has no epochs", path, t.Network, t.Seed)
		}
		if s.errors[t.Network] == nil {
			s.networks = append(s.networks, t.Network)
		}
		s.name = t.Side
		s.errors[t.Network] = append(s.errors[t.Network], t.Epochs[len(t.Epochs)-1].TestError)
		s.seconds[t.Network] += t.Seconds
	}
	if len(s.networks) == 0 {
		return s, fmt.Errorf("%s holds no trainings", path)
	}
	return s, nil
}

// interval is Welch's: of mean b - mean a, at 90 %.
func interval(a, b []float64) (difference, half float64) {
	ma, va := stat.MeanVariance(a, nil)
	mb, vb := stat.MeanVariance(b, nil)
	pa, pb := va/float64(len(a)), vb/float64(len(b))
	freedom := (pa + pb) * (pa + pb) / (pa*pa/float64(len(a)-1) + pb*pb/float64(len(b)-1))
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: freedom}.Quantile(0.95)
	return mb - ma, t * math.Sqrt(pa+pb)
}

// compare writes a table and fails if an interval reaches beyond a point.
func compare(out, from, with string) error {
	a, err := readSide(from)
	if err != nil {
		return err
	}
	b, err := readSide(with)
	if err != nil {
		return err
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| network | %s: test errors, %% | %s: test errors, %% | difference, points (90 %% interval) | seconds |\n|---|---|---|---|---|\n", a.name, b.name)
	list := func(errors []float64) string {
		mean, deviation := stat.MeanStdDev(errors, nil)
		parts := make([]string, len(errors))
		for i, e := range errors {
			parts[i] = fmt.Sprintf("%.2f", e)
		}
		return fmt.Sprintf("%s: mean %.2f, deviation %.2f", strings.Join(parts, " "), mean, deviation)
	}
	var failures error
	for _, n := range a.networks {
		x, y := a.errors[n], b.errors[n]
		if len(x) < 2 || len(y) < 2 {
			return fmt.Errorf("%s: %d and %d trainings; both sides need at least 2", n, len(x), len(y))
		}
		difference, half := interval(x, y)
		fmt.Fprintf(&table, "| %s | %s | %s | %+.2f (%+.2f to %+.2f) | %.0f, %.0f |\n", n, list(x), list(y), difference, difference-half, difference+half, a.seconds[n], b.seconds[n])
		if math.Abs(difference)+half > 1 {
			failures = errors.Join(failures, fmt.Errorf("%s: the interval reaches beyond a point", n))
		}
	}
	fmt.Print(table.String())
	if out != "" {
		if err := os.WriteFile(out, []byte(table.String()), 0o666); err != nil {
			return err
		}
	}
	return failures
}
