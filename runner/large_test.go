package runner

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/results"
)

// The paper's size: 500 networks on 15 tasks.
const (
	largeRuns      = 7500
	largeCommitted = 7400
	largeActive    = 8
)

// largeStudy makes a study of 7,500 runs that goes on: 7,400 are committed, 8 are leased and have checkpoints. The files of committed runs are
// empty, so that nobody can read them unnoticed. It returns the study file and the store.
func largeStudy(t testing.TB, dir string) (string, *Store) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var text strings.Builder
	text.WriteString("name: large\nseed: 1\npopulation:\n  architectures:\n")
	for i := range 500 {
		fmt.Fprintf(&text, "    - {depths: [1, 1, %d, %d], widths: [8, 8, 8, 8], bottlenecks: [1, 1, 1, 1], group_widths: [4, 4, 4, 4]}\n", i%25+1, i/25+1)
	}
	text.WriteString("recipes: {tiny: {batch: 16}}\ndefaults: {recipe: tiny, epochs: 2, resolution: 32, stem: simple_stem_in}\ntasks:\n")
	for i := range 15 {
		fmt.Fprintf(&text, "  - {name: task%d, dataset: set%d}\n", i, i)
	}
	file := filepath.Join(t.TempDir(), "study.yaml")
	must(os.WriteFile(file, []byte(text.String()), 0o666))
	study, err := ReadStudy(file)
	must(err)
	store, release, err := openStudy(study, &folderLocks{dir: dir}, fakeData)
	must(err)
	release()
	index, err := os.Create(store.indexPath())
	must(err)
	defer index.Close()
	q := queue{store: store}
	must(q.refresh())
	for i, r := range q.runs[:largeCommitted] {
		path, err := results.Path(dir, "runs", r.Task.Dataset, r.ID)
		must(err)
		must(os.MkdirAll(filepath.Dir(path), 0o777))
		must(os.WriteFile(path, nil, 0o666))
		entry, err := json.Marshal(indexEntry{RunID: r.ID, Task: r.Task.Name, ArchID: r.Member.ID, Status: statusDone, TestError: TestError{Top1: ptr(float64(i))}})
		must(err)
		fmt.Fprintf(index, "\n%08x %s\n", crc32.Checksum(entry, castagnoli), entry)
	}
	for _, r := range q.runs[largeCommitted : largeCommitted+largeActive] {
		l, _, err := store.take(r, identity(), &q.quiet)
		must(err)
		t.Cleanup(l.rest)
		must(os.MkdirAll(l.folder(), 0o777))
		must(os.WriteFile(filepath.Join(l.folder(), checkpointName(1, 0)), nil, 0o666))
	}
	return file, store
}

// Status and the start of a stopped study read names, not thousands of files. Both are judged by processor time, which hardly depends on what
// else the machine does, or on whether it stands still for a while; a start also by how long it takes.
func TestLargeStudy(t *testing.T) {
	dir := t.TempDir()
	file, store := largeStudy(t, dir)
	begin, before := time.Now(), processorTime(t)
	s, err := Status(dir)
	status, used := time.Since(begin), processorTime(t)-before
	if err != nil || s.Runs != largeRuns || s.Done != largeCommitted || s.Running != largeActive || s.Active[0].Epoch != 1 {
		t.Fatalf("%+v %v", s, err)
	}
	first, took := startLarge(t, file, store)
	t.Logf("status %v (%v of a processor; promised: 200ms), resumed work after %v (2s; %v of a processor to its end)", status, used, first, took)
	if used > 800*time.Millisecond || first > 15*time.Second || took > 2*time.Second { // a sixteenth of the last here
		t.Errorf("status of %d runs took %v of a processor, the first new lease %v, starting and stopping %v of a processor", largeRuns, used, first, took)
	}
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// startLarge goes on with the large study until a worker has taken a run, and says how long that took from the start of the program, and what
// all its processes took of a processor until they had stopped again.
func startLarge(t testing.TB, file string, store *Store) (first, used time.Duration) {
	t.Helper()
	leases := func() int {
		list, err := filepath.Glob(filepath.Join(store.Dir, "work", "*", "lease-*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := leases()
	last := time.Now()
	c := exec.Command(os.Args[0], file, store.Dir, "1")
	c.Env = append(os.Environ(), roleVariable+"=coordinator", behaviour(fakeBehaviour{Step: 10 * time.Millisecond}))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for leases() == before && first < time.Minute {
		time.Sleep(2 * time.Millisecond)
		first += min(time.Since(last), time.Second) // a machine that is stopped for a minute has waited for one moment
		last = time.Now()
	}
	c.Process.Signal(os.Interrupt)
	c.Wait()
	return first, c.ProcessState.UserTime() + c.ProcessState.SystemTime()
}

// go test -run - -bench Large ./runner
func BenchmarkLargeStatus(b *testing.B) {
	dir := b.TempDir()
	largeStudy(b, dir)
	for b.Loop() {
		if _, err := Status(dir); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLargeResume is from the start of `study run` to the first run taken.
func BenchmarkLargeResume(b *testing.B) {
	file, store := largeStudy(b, b.TempDir())
	total := time.Duration(0)
	for b.Loop() {
		first, _ := startLarge(b, file, store)
		total += first
	}
	b.ReportMetric(total.Seconds()/float64(b.N), "s/resume")
}
