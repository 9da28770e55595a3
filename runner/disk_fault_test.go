package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"anynetx/results"
)

// diskStudy is small, but has every kind of write.
const diskStudy = `name: disk
seed: 7
population:
  architectures:
    - {depths: [1, 1, 1, 1], widths: [8, 8, 8, 8], bottlenecks: [1, 1, 1, 1], group_widths: [4, 4, 4, 4]}
recipes:
  tiny: {batch: 16}
defaults: {recipe: tiny, epochs: 2, stem: simple_stem_in, stem_width: 8, resolution: 16}
tasks:
  - {name: first, dataset: one, classes: 6}
  - {name: tuned, dataset: two, start: {init: first}}
  - {name: longer, dataset: one, classes: 6, epochs: 3, start: {continue: first}}
`

// torn reads every *.parquet that can be seen until it is told to stop, and says which were without their footer at some moment: none may be.
func torn(dir string) (stop func() []error) {
	done := make(chan struct{})
	var reader sync.WaitGroup
	var seen []error
	reader.Go(func() {
		for last := false; ; {
			for _, table := range []string{"runs", "epochs", "attempts", "events"} {
				filepath.WalkDir(filepath.Join(dir, table), func(path string, e fs.DirEntry, err error) error {
					if err != nil || e.IsDir() || !strings.HasSuffix(path, ".parquet") {
						return nil
					}
					if _, err := results.Metadata(path, table); err != nil && !errors.Is(err, fs.ErrNotExist) {
						seen = append(seen, err)
					}
					return nil
				})
			}
			if last {
				return
			}
			select {
			case <-done:
				last = true
			case <-time.After(time.Millisecond):
			}
		}
	})
	return func() []error { close(done); reader.Wait(); return seen }
}

// The control: a file without its footer is seen.
func TestTornFilesAreSeen(t *testing.T) {
	dir := t.TempDir()
	if _, err := openFake(t, diskStudy, dir); err != nil {
		t.Fatal(err)
	}
	if err := workFake(t.Context(), dir, fakeBehaviour{}); err != nil {
		t.Fatal(err)
	}
	if seen := torn(dir)(); len(seen) != 0 {
		t.Error(seen)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "runs", "*", "*.parquet"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	if err := os.Truncate(paths[0], 100); err != nil {
		t.Fatal(err)
	}
	if seen := torn(dir)(); len(seen) == 0 || !strings.Contains(seen[0].Error(), paths[0]) {
		t.Errorf("a file without footer is not seen: %v", seen)
	}
}

// refusedByDisk checks what a worker says whose disk fails.
func refusedByDisk(t *testing.T, err error, dir, says string) {
	t.Helper()
	if !errors.Is(err, errStudyFolder) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), says) {
		t.Errorf("a failing write gives %v", err)
	}
}

// The disk is full, or has no inode left, at every write there is; what is visible is whole, and with space again the study is completed.
func TestDiskFullAtEachWrite(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("none", disk, "tmpfs", 0, "size=8m,nr_inodes=2000"); err != nil {
		t.Skipf("SKIPPED: no tmpfs can be mounted here (%v), so full disks are not tested", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	clean := t.TempDir()
	if _, err := openFake(t, diskStudy, clean); err != nil {
		t.Fatal(err)
	}
	if err := workFake(t.Context(), clean, fakeBehaviour{}); err != nil {
		t.Fatal(err)
	}
	want := bytesOf(t, clean)
	stride := 9
	if os.Getenv("ANX_FAULTS") != "" {
		stride = 1
	}
	for _, lack := range []string{"size", "nr_inodes"} {
		refused, free := 0, 0
		for ; ; free += stride {
			dir := filepath.Join(disk, fmt.Sprint(lack, free))
			store, err := openFake(t, diskStudy, dir)
			if err != nil {
				t.Fatal(err)
			}
			var st syscall.Statfs_t
			if err := syscall.Statfs(disk, &st); err != nil {
				t.Fatal(err)
			}
			limit := fmt.Sprintf("size=%d", (int64(st.Blocks-st.Bfree)+int64(free))*st.Bsize)
			if lack == "nr_inodes" {
				limit = fmt.Sprintf("nr_inodes=%d", int64(st.Files-st.Ffree)+int64(free))
			}
			remount(t, disk, limit)
			stop := torn(dir)
			// A process of its own: what it cannot say of its end any more, its death says.
			worker := exec.Command(os.Args[0], "worker", "--study", dir)
			worker.Env = append(os.Environ(), roleVariable+"=worker", behaviour(fakeBehaviour{}))
			text, failed := worker.CombinedOutput()
			if failed != nil {
				refused++
				if worker.ProcessState.ExitCode() != exitFolder || !strings.Contains(string(text), dir) || !strings.Contains(string(text), "free space there") {
					t.Errorf("%s, %d left: %v\n%s", lack, free, failed, text)
				}
			}
			remount(t, disk, "size=8m,nr_inodes=2000")
			if err := store.sweep(mustRuns(t, store), identity(), &silence{}); err != nil {
				t.Errorf("%s, %d left: %v", lack, free, err)
			}
			if err := workFake(t.Context(), dir, fakeBehaviour{}); err != nil {
				t.Errorf("%s, %d left: with space again: %v", lack, free, err)
			}
			if seen := stop(); len(seen) > 0 {
				t.Errorf("%s, %d left: %v", lack, free, seen)
			}
			sameBytes(t, want, dir)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if failed == nil {
				break
			}
		}
		t.Logf("%s: refused at %d of the limits, up to %d", lack, refused, free)
		if refused < 3 {
			t.Errorf("%s: only %d limits were too small: the disk was never full", lack, refused)
		}
	}
}

func remount(t *testing.T, disk, options string) {
	t.Helper()
	if err := syscall.Mount("none", disk, "tmpfs", syscall.MS_REMOUNT, options); err != nil {
		t.Fatal(options, err)
	}
}

// A write, a sync or a rename of a checkpoint, of weights or of a commit fails, each in turn.
func TestDiskErrorAtEachStep(t *testing.T) {
	work := func(dir string, hook func(string) error) error {
		return Work(t.Context(), WorkerOptions{StudyDir: dir, CheckpointEvery: time.Hour, Hook: hook,
			Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) { return fakeBehaviour{}.trainers(p.Seed), nil }})
	}
	clean := t.TempDir()
	if _, err := openFake(t, diskStudy, clean); err != nil {
		t.Fatal(err)
	}
	steps := map[string]int{}
	if err := work(clean, func(at string) error { steps[kindOfStep(at)]++; return nil }); err != nil {
		t.Fatal(err)
	}
	want := bytesOf(t, clean)
	if len(steps) < 12 {
		t.Errorf("only the steps %v are told of", steps)
	}
	for kind, n := range steps {
		for _, nth := range []int{1, n} {
			dir := t.TempDir()
			if _, err := openFake(t, diskStudy, dir); err != nil {
				t.Fatal(err)
			}
			seen := 0
			err := work(dir, func(at string) error {
				if kindOfStep(at) != kind {
					return nil
				}
				if seen++; seen == nth {
					return &fs.PathError{Op: "rename", Path: filepath.Join(dir, at), Err: syscall.EIO}
				}
				return nil
			})
			refusedByDisk(t, err, dir, "mend it, then run the same command again")
			if err := workFake(t.Context(), dir, fakeBehaviour{}); err != nil {
				t.Errorf("%s number %d: when the disk is mended: %v", kind, nth, err)
			}
			sameBytes(t, want, dir)
		}
	}
}

// kindOfStep leaves out which checkpoint or run it is.
func kindOfStep(at string) string {
	name, step, ok := strings.Cut(at, " ")
	if !ok {
		return at
	}
	switch {
	case strings.HasPrefix(name, "checkpoint-"):
		return "checkpoint " + step
	case strings.Contains(name, "."):
		return filepath.Ext(name) + " " + step
	}
	return at
}

// Clocks jump, and those of two machines differ: neither decides whether a lease lives or what a run comes to.
func TestClocksThatJump(t *testing.T) {
	clean := t.TempDir()
	if _, err := openFake(t, smallStudy, clean); err != nil {
		t.Fatal(err)
	}
	if err := workFake(t.Context(), clean, fakeBehaviour{}); err != nil {
		t.Fatal(err)
	}
	want := bytesOf(t, clean)
	for _, year := range []int{1971, 2100} {
		then := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		dir := t.TempDir()
		store, r := stopped(t, dir)
		// All of the first attempt happened at a wrong time, by its words and by the times of its files.
		for _, name := range []string{"lease-000001", "end-000001"} {
			path := filepath.Join(store.workDir(r.ID), name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			this := fmt.Sprintf(`_utc":"%d-`, time.Now().UTC().Year())
			if !strings.Contains(string(text), this) {
				t.Fatalf("%s does not say when: %s", name, text)
			}
			if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), this, fmt.Sprintf(`_utc":"%d-`, year))), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				err = os.Chtimes(path, then, then)
			}
			if err != nil {
				t.Error(err)
			}
			return nil
		})
		// Another machine's lease is not dead because its time is odd, but because nobody touches it.
		l := lease{Host: "other", dir: store.workDir(r.ID), Attempt: 1}
		quiet := &silence{}
		if l.dead(identity(), quiet) || l.dead(identity(), quiet) {
			t.Errorf("a lease of %d is taken for dead by its time", year)
		}
		quiet.seen[l.path()] = touched{then, time.Now().Add(-foreignSilence - time.Second)}
		if !l.dead(identity(), quiet) {
			t.Errorf("a lease of %d that nobody touches lives for ever", year)
		}
		os.Chtimes(l.path(), then.Add(-time.Hour), then.Add(-time.Hour)) // a heartbeat by a clock that was set back
		if l.dead(identity(), quiet) {
			t.Errorf("a lease of %d is taken for dead although it was touched, by a clock that was set back", year)
		}
		if err := workFake(t.Context(), dir, fakeBehaviour{}); err != nil {
			t.Fatal(err)
		}
		sameBytes(t, want, dir)
		l1, resumed := disturbances(t, dir)
		if resumed == 0 {
			t.Errorf("clocks of %d cost the checkpoint (%d lost)", year, l1)
		}
	}
}

// A committed row that a worker cannot read any more ends the study with the file's name. The coordinator has the row in its index; it must
// not start workers for ever that fail over it.
func TestDamagedRowEndsTheStudy(t *testing.T) {
	tasks := strings.Split(diskStudy, "  - {name: tuned")
	dir := t.TempDir()
	runStudy(t, writeStudy(t, tasks[0]), dir, 1, behaviour(fast))
	rows, err := filepath.Glob(filepath.Join(dir, "runs", "*", "*.parquet"))
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	if err := os.WriteFile(rows[0], []byte("PAR1 damaged PAR1"), 0o666); err != nil {
		t.Fatal(err)
	}
	c := startStudy(t, writeStudy(t, diskStudy), dir, 1, behaviour(fast))
	if err := c.Wait(); err == nil || strings.Count(c.err.String(), "Restore the file from a copy") != 1 || !strings.Contains(c.err.String(), rows[0]) {
		t.Errorf("%v\n%s", err, c.err.String())
	}
}
