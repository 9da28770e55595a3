package results

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type runRow struct {
	RunID        string   `col:"run_id"`
	ArchID       string   `col:"arch_id"`
	Task         string   `col:"task"`
	Dataset      string   `col:"dataset"`
	Replicate    int      `col:"replicate"`
	Status       string   `col:"status"`
	FailureClass string   `col:"failure_class"`
	Epochs       int64    `col:"epochs"`
	Top1         float64  `col:"test_top1_err_pct"`
	Top5         *float64 `col:"test_top5_err_pct"`
	BestEpoch    *int     `col:"best_epoch"`
}

func aRun(id string) runRow {
	top5, best := 1.5, 3
	return runRow{RunID: id, ArchID: "a" + id, Task: "t", Dataset: "d", Status: "done", Epochs: 5, Top1: 12.25, Top5: &top5, BestEpoch: &best}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func runPath(t *testing.T, study, id string) string {
	t.Helper()
	path, err := Path(study, "runs", "d", id)
	must(t, err)
	return path
}

func TestRowsComeBackAsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runs", "dataset=d", "x.parquet")
	failed := runRow{RunID: "2", ArchID: "a", Task: "t", Dataset: "d", Status: "failed", FailureClass: "oom", Replicate: 7, Top1: math.NaN()}
	want := []runRow{aRun("1"), failed}
	must(t, Write(path, "runs", want, map[string]string{MetaStudy: "quick"}))
	got, err := Read[runRow](path, "runs")
	must(t, err)
	nan := cmp.Comparer(func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) })
	if d := cmp.Diff(want, got, nan); d != "" {
		t.Error(d)
	}
	rows, err := Read[Row](path, "runs")
	must(t, err)
	if rows[1]["test_top1_err_pct"] != nil || rows[1]["failure_class"] != "oom" || rows[0]["failure_class"] != nil || rows[0]["test_loss"] != nil {
		t.Errorf("NULL is not where it should be: %v", rows)
	}
	meta, err := Metadata(path, "runs")
	must(t, err)
	if meta[MetaStudy] != "quick" || meta[MetaSchemaVersion] != strconv.Itoa(Tables().Version) || !strings.Contains(meta[MetaUnits], `"test_top1_err_pct":"percent"`) {
		t.Errorf("footer is %v", meta)
	}
}

func TestEveryTypeAndNull(t *testing.T) {
	var cols []Column
	for _, ty := range []Type{Int64, Int32, Float64, String, Bool, Timestamp} {
		cols = append(cols, Column{Name: "r_" + string(ty), Type: ty}, Column{Name: "n_" + string(ty), Type: ty, Nullable: true})
	}
	table := &Table{Name: "all", Layout: LayoutFile, Columns: cols}
	now := time.Date(2026, 11, 23, 1, 2, 3, 456789000, time.UTC)
	const rows = 20_000 // more than one batch of the reader and one page of the writer
	var want []Row
	for i := range rows {
		r := Row{"r_int64": int64(i) - 1<<40, "r_int32": int64(-i), "r_float64": float64(i) / 3, "r_string": strings.Repeat("é", i%5), "r_bool": i%3 == 0, "r_timestamp_us": now.Add(time.Duration(i) * time.Microsecond)}
		for name, v := range r {
			null := i%7 == 0 || v == ""
			r["n"+name[1:]] = v
			if null {
				r["n"+name[1:]] = nil
			}
		}
		want = append(want, r)
	}
	c, err := toColumns(table, want)
	must(t, err)
	data, err := encode(c, nil)
	must(t, err)
	got, _, err := decode(table, data)
	must(t, err)
	back, err := fromColumns[Row](got)
	must(t, err)
	if d := cmp.Diff(want, back); d != "" {
		t.Error(d)
	}
}

func TestSameRowsGiveSameBytes(t *testing.T) {
	dir := t.TempDir()
	rows := []runRow{aRun("1"), aRun("2"), aRun("3")}
	var first []byte
	for i := range 20 {
		path := filepath.Join(dir, string(rune('a'+i))+".parquet")
		must(t, Write(path, "runs", rows, map[string]string{"b": "2", "a": "1", "c": "3"}))
		data, err := os.ReadFile(path)
		must(t, err)
		if first == nil {
			first = data
		}
		if !bytes.Equal(first, data) {
			t.Fatalf("file %d differs", i)
		}
	}
	rows[1].Top1++
	path := filepath.Join(dir, "other.parquet")
	must(t, Write(path, "runs", rows, nil))
	if data, _ := os.ReadFile(path); bytes.Equal(first, data) {
		t.Error("other rows gave the same bytes")
	}
}

func TestACommittedFileIsNeverChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.parquet")
	must(t, Write(path, "runs", []runRow{aRun("1")}, nil))
	before, _ := os.ReadFile(path)
	must(t, Write(path, "runs", []runRow{aRun("1")}, nil)) // the same again is no change
	err := Write(path, "runs", []runRow{aRun("2")}, nil)
	if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), path) {
		t.Errorf("overwriting gave %v", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file changed")
	}
	must(t, Replace(path, "runs", []runRow{aRun("2")}, nil))
	got, err := Read[runRow](path, "runs")
	must(t, err)
	if got[0].RunID != "2" {
		t.Errorf("replaced by %v", got)
	}
	left, _ := filepath.Glob(path + ".tmp-*")
	if len(left) > 0 {
		t.Errorf("temporary files left: %v", left)
	}
}

func BenchmarkWrite(b *testing.B) {
	table, err := Tables().Table("runs")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c, err := toColumns(table, []runRow{aRun("1")})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := encode(c, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// TestWhatTheDiskGivesBackIsCompared: a file that does not hold what was written never takes its name.
func TestWhatTheDiskGivesBackIsCompared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "one.parquet")
	table, err := Tables().Table("runs")
	must(t, err)
	c, err := toColumns(table, []runRow{aRun("1")})
	must(t, err)
	err = commitSteps(path, c, nil, false, func(step string) {
		if temporary, ok := strings.CutPrefix(step, "verify "); ok {
			data, err := os.ReadFile(temporary)
			must(t, err)
			data[len(data)/2] ^= 1
			must(t, os.WriteFile(temporary, data, 0o666))
		}
	})
	if err == nil || !strings.Contains(err.Error(), "check the disk") {
		t.Errorf("a bit that the disk turned over: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
