package results

import (
	"encoding/binary"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/random"
)

var someTime = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func someEpochs(n int) []Row {
	var rows []Row
	for i := range n {
		rows = append(rows, Row{"run_id": fmt.Sprint("run", i/5), "arch_id": "a", "task": "t", "dataset": "d", "replicate": 0, "epoch": i%5 + 1, "lr": 0.1, "test_loss": float64(i)})
	}
	return rows
}

func encoded(t testing.TB, table string, rows []Row) []byte {
	t.Helper()
	tab, err := Tables().Table(table)
	if err != nil {
		t.Fatal(err)
	}
	c, err := toColumns(tab, rows)
	if err != nil {
		t.Fatal(err)
	}
	data, err := encode(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMutatedFilesNeverKillTheProcess(t *testing.T) {
	table, err := Tables().Table("epochs")
	must(t, err)
	data := encoded(t, "epochs", someEpochs(400))
	footer := len(data) - 8 - int(binary.LittleEndian.Uint32(data[len(data)-8:]))
	whole, _, err := decode(table, data)
	must(t, err)
	sum := whole.sha256()
	refused := 0
	const files = 4000
	for i := range uint64(files) {
		s := random.New(7, "mutate", i)
		bad := append([]byte(nil), data...)
		from := uint64(0)
		if i%2 == 0 {
			from = uint64(footer) // half of them in the footer, where the claims are
		}
		for k := range 1 + s.Below(0, 4) {
			at := from + s.Below(10+k, uint64(len(bad))-from)
			bad[at] ^= 1 << s.Below(20+k, 8)
			if s.Below(30, 3) == 0 {
				bad[at] = byte(s.Uint64(40 + k))
			}
		}
		if i%5 == 0 {
			bad = bad[:s.Below(50, uint64(len(bad)))]
		}
		c, _, err := decode(table, bad)
		if err != nil {
			refused++
		} else if c.sha256() != sum {
			t.Fatalf("damaged file %d was read, with other values", i)
		}
	}
	if refused < files*3/4 { // the rest was hit where it does not matter: statistics, padding, names of the writer
		t.Errorf("only %d of %d damaged files were refused", refused, files)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.Sys > 2<<30 {
		t.Errorf("reading damaged files took %d MiB", m.Sys>>20)
	}
}

func FuzzDecode(f *testing.F) {
	table, err := Tables().Table("epochs")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded(f, "epochs", someEpochs(3)))
	f.Add(encoded(f, "epochs", nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, _, err := decode(table, data); err == nil && c.rows > maxRows {
			t.Errorf("%d rows", c.rows)
		}
	})
}

func TestDamagedFileIsNamed(t *testing.T) {
	study := t.TempDir()
	must(t, Write(runPath(t, study, "1"), "runs", []runRow{aRun("1")}, nil))
	good, err := os.ReadFile(runPath(t, study, "1"))
	must(t, err)
	wrong := append([]byte(nil), good...)
	wrong[len(wrong)-5] = 0x7f // the length of the footer
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":     {nil, "too few"},
		"cut short": {good[:len(good)/2], "PAR1"},
		"not":       {[]byte("<html>this is no Parquet file</html>"), "PAR1"},
		"footer":    {wrong, "footer claims"},
		"table":     {encoded(t, "epochs", someEpochs(2)), `holds table "epochs"`},
	} {
		path := runPath(t, study, "bad")
		must(t, os.WriteFile(path, c.data, 0o666))
		_, err := ReadTable[runRow](study, "runs")
		var damaged *DamagedError
		if !errors.As(err, &damaged) || damaged.Path != path || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Compact(study); !errors.As(err, &damaged) {
			t.Errorf("%s: compaction says %v", name, err)
		}
		if _, err := os.Stat(runPath(t, study, "1")); err != nil {
			t.Errorf("%s: compaction removed a part beside a damaged file", name)
		}
	}
	must(t, os.Remove(runPath(t, study, "bad")))
	elsewhere, err := Path(study, "runs", "e", "1")
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(elsewhere), 0o777))
	must(t, os.WriteFile(elsewhere, good, 0o666))
	if _, err := ReadTable[runRow](study, "runs"); err == nil || !strings.Contains(err.Error(), `data set "d"`) {
		t.Errorf("a file in the folder of another data set: %v", err)
	}
}

func TestOtherSchemaVersionIsNamed(t *testing.T) {
	table, err := Tables().Table("runs")
	must(t, err)
	c, err := toColumns(table, []runRow{aRun("1")})
	must(t, err)
	data, err := encode(c, nil)
	must(t, err)
	at := strings.LastIndex(string(data), MetaSchemaVersion) + len(MetaSchemaVersion)
	for i := at; i < at+4; i++ {
		if data[i] == byte('0'+Tables().Version) {
			data[i] = '9'
		}
	}
	path := filepath.Join(t.TempDir(), "runs.parquet")
	must(t, os.WriteFile(path, data, 0o666))
	_, err = Read[runRow](path, "runs")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("schema version 9, this program reads up to %d: use the program", Tables().Version)) || strings.Contains(err.Error(), "Restore") {
		t.Errorf("schema version 9: %v", err)
	}
}

func TestRowsThatDoNotFitAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.parquet")
	type extra struct {
		Nothing int `col:"no_such_column"`
	}
	type mistyped struct {
		RunID int `col:"run_id"`
	}
	for want, rows := range map[string]any{
		"no_such_column":      []extra{{}},
		"run_id":              []mistyped{{}},
		"not nullable":        []Row{{"run_id": "1"}},
		"no column \"oops\"":  []Row{{"ts_utc": someTime, "kind": "x", "oops": 1}},
		"two rows have run_i": []runRow{aRun("1"), aRun("1")},
		"+Inf":                []runRow{{Top1: math.Inf(1)}},
		"not UTF-8":           []Row{{"ts_utc": someTime, "kind": "\xff"}},
		"slice of structs":    42,
	} {
		table := "runs"
		if r, ok := rows.([]Row); ok && r[0]["kind"] != nil {
			table = "events"
		}
		if err := Write(path, table, rows, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Fatalf("%s: a file was written", want)
		}
	}
	if _, err := Path("s", "runs", "../evil", "x"); err == nil {
		t.Error("a data set may leave the folder")
	}
}

// writeToFullDisk is the process of TestFullDisk: its files may not grow, and the error must say so.
func writeToFullDisk(dir string) int {
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 512, Max: 512}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	path := filepath.Join(dir, "x.parquet")
	err := Write(path, "epochs", someEpochs(100), nil)
	if err == nil || !strings.Contains(err.Error(), path) || !errors.Is(err, syscall.EFBIG) {
		fmt.Fprintln(os.Stderr, "writing beyond the limit gave", err)
		return 3
	}
	return 0
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), fullStudy+"="+dir)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	// A place that cannot be written: a file where a folder should be (permissions do not stop root).
	blocked := filepath.Join(dir, "blocked")
	must(t, os.WriteFile(blocked, nil, 0o666))
	if err := Write(filepath.Join(blocked, "x.parquet"), "epochs", someEpochs(5), nil); err == nil || !strings.Contains(err.Error(), blocked) {
		t.Errorf("writing below a file gave %v", err)
	}
}

// pqarrow reads in goroutines of its own, where a panic over a damaged file cannot be caught, and trusts sizes it should not.
func TestNobodyImportsPqarrow(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // other engineers' files come and go
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "build" || d.Name() == "venv") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return nil // the compiler tells
		}
		for _, i := range f.Imports {
			if strings.Contains(i.Path.Value, "parquet/pqarrow") {
				t.Errorf("%s imports %s: use parquet/file", path, i.Path.Value)
			}
		}
		return nil
	})
	must(t, err)
	if files < 10 {
		t.Fatalf("only %d Go files found", files)
	}
}

func BenchmarkReadTable(b *testing.B) {
	study := b.TempDir()
	const runs = 1000
	dir := filepath.Join(study, "runs", "dataset=d")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		b.Fatal(err)
	}
	table, _ := Tables().Table("runs")
	for i := range runs {
		c, err := toColumns(table, []runRow{aRun(fmt.Sprint(i))})
		if err != nil {
			b.Fatal(err)
		}
		data, err := encode(c, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)+".parquet"), data, 0o666); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		rows, err := ReadTable[runRow](study, "runs")
		if err != nil || len(rows) != runs {
			b.Fatal(len(rows), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*runs), "us/file")
}
