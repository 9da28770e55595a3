// Package readers tests that what the package results writes is read by the programs that users have.
package readers

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"anynetx/results"
)

// table is what a reader saw of a table.
type table struct {
	Rows    int                `json:"rows"`
	Columns []string           `json:"columns"`
	Nulls   map[string]int     `json:"nulls"`
	Sums    map[string]float64 `json:"sums"` // of columns of numbers, and of those without a value
}

const rowsPerFile = 7

// studyTables are the tables of a study folder; those of the analysis lie elsewhere.
var studyTables = []string{"architectures", "tasks", "runs", "epochs", "attempts", "telemetry", "events"}

// writeStudy fills every table of a study folder, with every third value NULL where that may be, and says what readers should see.
func writeStudy(t *testing.T, study string) map[string]table {
	t.Helper()
	want := map[string]table{}
	for _, name := range studyTables {
		schema, err := results.Tables().Table(name)
		if err != nil {
			t.Fatal(err)
		}
		files := []string{"one", "two"}
		if schema.Layout == results.LayoutFile {
			files = files[:1]
		}
		w := table{Nulls: map[string]int{}, Sums: map[string]float64{}}
		for _, c := range schema.Columns {
			w.Columns = append(w.Columns, c.Name)
			w.Nulls[c.Name] = 0
			if c.Type == results.Int64 || c.Type == results.Int32 || c.Type == results.Float64 {
				w.Sums[c.Name] = 0
			}
		}
		for f, file := range files {
			dataset := "set" + fmt.Sprint(f)
			var rows []results.Row
			for i := range rowsPerFile {
				n := f*rowsPerFile + i
				row := results.Row{}
				for k, c := range schema.Columns {
					switch {
					case c.Nullable && (n+k)%3 == 0:
						row[c.Name] = nil
						w.Nulls[c.Name]++
					case c.Name == "dataset" && schema.Layout == results.LayoutDataset:
						row[c.Name] = dataset
					case c.Type == results.Int64 || c.Type == results.Int32:
						row[c.Name] = n + k
						w.Sums[c.Name] += float64(n + k)
					case c.Type == results.Float64:
						row[c.Name] = float64(n) + 0.25
						w.Sums[c.Name] += float64(n) + 0.25
					case c.Type == results.Bool:
						row[c.Name] = n%2 == 0
					case c.Type == results.Timestamp:
						row[c.Name] = time.Date(2026, 11, 23, 12, 0, n, 123456000, time.UTC)
					default:
						row[c.Name] = fmt.Sprintf("%s %d é", c.Name, n)
					}
				}
				rows = append(rows, row)
				w.Rows++
			}
			path, err := results.Path(study, name, dataset, file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := results.Write(path, name, rows, nil); err != nil {
				t.Fatal(err)
			}
		}
		want[name] = w
	}
	return want
}

func read(t *testing.T, study string) (map[string]map[string]table, error) {
	t.Helper()
	python := os.Getenv("ANX_READERS_PYTHON")
	if python == "" {
		t.Skip("ANX_READERS_PYTHON names no Python with DuckDB, polars and pyarrow; `make test` makes one")
	}
	script, err := filepath.Abs("read_results.py")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), python, script, study)
	var problems strings.Builder
	command.Stderr = &problems
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, problems.String())
	}
	var got map[string]map[string]table
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return got, nil
}

func TestReadersSeeWhatWasWritten(t *testing.T) {
	study := t.TempDir()
	want := writeStudy(t, study)
	got, err := read(t, study)
	if err != nil {
		t.Fatal(err)
	}
	for name, w := range want {
		for _, reader := range []string{"duckdb", "polars", "pyarrow"} {
			g, ok := got[name][reader]
			if !ok {
				t.Errorf("%s did not read %s", reader, name)
				continue
			}
			for c, n := range g.Nulls {
				if _, number := w.Sums[c]; !number && n == g.Rows {
					delete(g.Sums, c)
				}
			}
			if d := cmp.Diff(w, g); d != "" {
				t.Errorf("%s of %s (-written +read):\n%s", reader, name, d)
			}
		}
	}
}

// The harness itself: a changed byte of a page must not go unnoticed.
func TestReadersNoticeDamage(t *testing.T) {
	study := t.TempDir()
	writeStudy(t, study)
	path := filepath.Join(study, "tasks.parquet")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data[:len(data)-5], 0o666); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, study); err == nil {
		t.Errorf("a file that was cut short was read: %v", got["tasks"])
	}
}
