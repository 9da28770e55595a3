package results

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Files of schema 1, which a program of that time wrote, are read as they are, beside files of today too; what has come since is NULL.
func TestSchema1IsRead(t *testing.T) {
	study := t.TempDir()
	must(t, os.CopyFS(study, os.DirFS(filepath.Join("testdata", "schema-1"))))
	path := filepath.Join(study, "attempts", "compacted.parquet")
	rows, err := Read[Row](path, "attempts")
	must(t, err)
	meta, err := Metadata(path, "attempts")
	must(t, err)
	if len(rows) != 10 || meta[MetaSchemaVersion] != "1" {
		t.Fatalf("%d rows of schema %s", len(rows), meta[MetaSchemaVersion])
	}
	for _, r := range rows {
		if v, there := r["runs_per_launch"]; !there || v != nil || r["device_name"] == nil || r["device_time_s"] == nil {
			t.Errorf("%v", r)
		}
	}
	// The same attempt once more, and another one, as they are written today.
	must(t, Write(filepath.Join(study, "attempts", "same.parquet"), "attempts", rows[:1], nil))
	more := Row{}
	for k, v := range rows[0] {
		more[k] = v
	}
	more["attempt"], more["runs_per_launch"] = int64(2), 3.5
	must(t, Write(filepath.Join(study, "attempts", "more.parquet"), "attempts", []Row{more}, nil))
	if _, err := Compact(study); err != nil {
		t.Fatal(err)
	}
	all, err := ReadTable[Row](study, "attempts")
	must(t, err)
	grouped := 0
	for _, r := range all {
		if r["runs_per_launch"] == 3.5 {
			grouped++
		}
	}
	if len(all) != 11 || grouped != 1 {
		t.Errorf("%d attempts, %d of them in a group", len(all), grouped)
	}
	if meta, err = Metadata(path, "attempts"); err != nil || meta[MetaSchemaVersion] != strconv.Itoa(Tables().Version) {
		t.Errorf("compacted: schema %s, %v", meta[MetaSchemaVersion], err)
	}
	// A result that is there in schema 1 is the same result.
	path = filepath.Join(study, "runs", "dataset=tiny", "compacted.parquet")
	old, err := os.ReadFile(path)
	must(t, err)
	rows, err = Read[Row](path, "runs")
	must(t, err)
	must(t, Write(path, "runs", rows, nil))
	if now, err := os.ReadFile(path); err != nil || string(now) != string(old) {
		t.Errorf("a committed file was changed (%v)", err)
	}
	rows[0]["test_top1_err_pct"] = 1.0
	if err := Write(path, "runs", rows, nil); err == nil {
		t.Error("another result took the place of one in schema 1")
	}
}

// A column that came later may be missing, so it is nullable, and its version is one there has been.
func TestColumnsThatCameLater(t *testing.T) {
	for _, since := range []string{"since: 2", "since: 3, nullable: true", "since: -1, nullable: true"} {
		text := "version: 2\ntables:\n  - {name: t, layout: file, columns: [{name: a, type: int64, description: d, " + since + "}]}\n"
		if _, err := parseSchema([]byte(text)); err == nil || !strings.Contains(err.Error(), "since") {
			t.Errorf("%s: %v", since, err)
		}
	}
}
