package results

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// writeStudy commits runs of two data sets with their epochs.
func writeStudy(t *testing.T, study string, runs int) {
	t.Helper()
	for i := range runs {
		id, dataset := fmt.Sprintf("r%03d", i), []string{"mnist", "birds"}[i%2]
		path, err := Path(study, "runs", dataset, id)
		must(t, err)
		run := aRun(id)
		run.Dataset = dataset
		must(t, Write(path, "runs", []runRow{run}, map[string]string{MetaStudy: "s"}))
		path, err = Path(study, "epochs", dataset, id)
		must(t, err)
		var epochs []Row
		for e := 1; e <= 3; e++ {
			epochs = append(epochs, Row{"run_id": id, "arch_id": "a", "task": "t", "dataset": dataset, "replicate": 0, "epoch": e, "lr": 0.1, "train_loss": 1 / float64(e)})
		}
		must(t, Write(path, "epochs", epochs, map[string]string{MetaStudy: "s"}))
	}
	path, err := Path(study, "events", "", "coordinator")
	must(t, err)
	event := Row{"ts_utc": someTime, "kind": "start"}
	must(t, Write(path, "events", []Row{event, event}, nil)) // a table without a key keeps equal rows of one file
}

func readAll(t *testing.T, study string) map[string][]Row {
	t.Helper()
	all := map[string][]Row{}
	for _, name := range []string{"runs", "epochs", "events"} {
		rows, err := ReadTable[Row](study, name)
		must(t, err)
		all[name] = rows
	}
	return all
}

const killStudy, killStep, fullStudy = "ANX_TEST_COMPACT_STUDY", "ANX_TEST_COMPACT_STEP", "ANX_TEST_FULL_DISK"

// TestMain is also the processes that some tests start and kill or starve.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(killStudy) != "":
		os.Exit(compactAndDie(os.Getenv(killStudy)))
	case os.Getenv(fullStudy) != "":
		os.Exit(writeToFullDisk(os.Getenv(fullStudy)))
	}
	os.Exit(m.Run())
}

func TestCompactionKeepsEveryRow(t *testing.T) {
	study := t.TempDir()
	writeStudy(t, study, 9)
	before := readAll(t, study)
	done, err := Compact(study)
	must(t, err)
	if done.Files != 19 || done.Rows != 9+27+2 {
		t.Errorf("compaction says %+v", done)
	}
	if d := cmp.Diff(before, readAll(t, study)); d != "" {
		t.Error(d)
	}
	files, err := Files(study, "runs")
	must(t, err)
	if len(files) != 2 {
		t.Errorf("files after compaction: %v", files)
	}
	meta, err := Metadata(files[0], "runs")
	must(t, err)
	if meta[MetaStudy] != "s" {
		t.Errorf("footer lost the study: %v", meta)
	}

	// Later runs are joined to it; the result is a function of the rows, not of when they were joined.
	writeStudy(t, study, 12)
	must(t, os.WriteFile(files[0]+".tmp-dead", []byte("half"), 0o666))
	_, err = Compact(study)
	must(t, err)
	once := t.TempDir()
	writeStudy(t, once, 12)
	_, err = Compact(once)
	must(t, err)
	for _, f := range files {
		a, err := os.ReadFile(f)
		must(t, err)
		b, err := os.ReadFile(strings.Replace(f, study, once, 1))
		must(t, err)
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs between compacting twice and once", f)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(study, "*", "*", "*.tmp-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if done, err = Compact(study); err != nil || done.Files != 0 {
		t.Errorf("compacting what is compact: %+v %v", done, err)
	}
}

// compactAndDie is the process that TestKilledCompactionLosesNothing kills.
func compactAndDie(study string) int {
	at, err := strconv.Atoi(os.Getenv(killStep))
	count := 0
	if err == nil {
		_, err = compact(study, func(string) {
			if count == at {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			count++
		})
	}
	fmt.Fprintln(os.Stderr, "not killed:", err)
	return 3
}

func TestKilledCompactionLosesNothing(t *testing.T) {
	const runs = 3
	reference := t.TempDir()
	writeStudy(t, reference, runs)
	want := readAll(t, reference)
	steps := 0
	_, err := compact(reference, func(string) { steps++ })
	must(t, err)
	if steps < 5*3+2*runs+1 {
		t.Fatalf("only %d steps", steps)
	}
	for at := range steps {
		study := t.TempDir()
		writeStudy(t, study, runs)
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), killStudy+"="+study, killStep+"="+strconv.Itoa(at))
		out, err := child.CombinedOutput()
		if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: the process was not killed but ended with %v: %s", at, err, out)
		}
		if d := cmp.Diff(want, readAll(t, study)); d != "" {
			t.Fatalf("killed before step %d: %s", at, d)
		}
		if _, err := Compact(study); err != nil {
			t.Fatalf("after a kill before step %d: %v", at, err)
		}
		if d := cmp.Diff(want, readAll(t, study)); d != "" {
			t.Fatalf("finished after step %d: %s", at, d)
		}
	}
}

func TestDifferentRowsWithOneKeyAreRefused(t *testing.T) {
	study := t.TempDir()
	a := aRun("1")
	must(t, Write(runPath(t, study, "1"), "runs", []runRow{a}, nil))
	must(t, Write(runPath(t, study, "copy"), "runs", []runRow{a}, nil))
	rows, err := ReadTable[runRow](study, "runs")
	must(t, err)
	if len(rows) != 1 {
		t.Errorf("equal rows counted %d times", len(rows))
	}
	a.Top1++
	must(t, Write(runPath(t, study, "other"), "runs", []runRow{a}, nil))
	_, err = ReadTable[runRow](study, "runs")
	if err == nil || !strings.Contains(err.Error(), "other.parquet") || !strings.Contains(err.Error(), "run_id 1") {
		t.Errorf("different rows of one run: %v", err)
	}
	if _, err := Compact(study); err == nil {
		t.Error("compaction joined different rows of one run")
	}
	if files, _ := Files(study, "runs"); len(files) != 3 {
		t.Errorf("compaction removed files: %v", files)
	}
}

// TestReadingDuringCompaction: whoever reads while parts give way to the compacted file sees every row, however often it meets a part that is gone.
func TestReadingDuringCompaction(t *testing.T) {
	const runs = 60
	study := t.TempDir()
	writeStudy(t, study, runs)
	compacted := make(chan error)
	go func() {
		_, err := compact(study, func(string) { time.Sleep(time.Millisecond) })
		compacted <- err
	}()
	for {
		rows, err := ReadTable[Row](study, "epochs")
		must(t, err)
		if len(rows) != 3*runs {
			t.Fatalf("%d rows of %d", len(rows), 3*runs)
		}
		select {
		case err := <-compacted:
			must(t, err)
			return
		default:
		}
	}
}
