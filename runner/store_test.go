package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/anynetx"
	"anynetx/results"
)

// openFake makes a study folder without a coordinator.
func openFake(t *testing.T, text, dir string) (*Store, error) {
	t.Helper()
	study, err := ReadStudy(writeStudy(t, text))
	if err != nil {
		t.Fatal(err)
	}
	store, release, err := openStudy(study, &folderLocks{dir: dir}, fakeData)
	if err == nil {
		release()
	}
	return store, err
}

// workFake is a worker in this process.
func workFake(ctx context.Context, dir string, b fakeBehaviour) error {
	return Work(ctx, WorkerOptions{StudyDir: dir, CheckpointEvery: 5 * time.Millisecond,
		Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) { return b.trainers(p.Seed), nil }})
}

func TestAlteredStudy(t *testing.T) {
	dir := t.TempDir()
	if _, err := openFake(t, faultStudy, dir); err != nil {
		t.Fatal(err)
	}
	altered := strings.Replace(faultStudy, "tiny: {batch: 16}", "tiny: {batch: 16, learning_rate: 0.2}", 1)
	if _, err := openFake(t, altered, dir); err != nil {
		t.Errorf("nothing has begun, so everything may change: %v", err)
	}
	if _, err := openFake(t, faultStudy, dir); err != nil {
		t.Fatal(err)
	}
	if err := workFake(t.Context(), dir, fakeBehaviour{}); err != nil {
		t.Fatal(err)
	}
	want := bytesOf(t, dir)
	for _, c := range []struct {
		old, new string
		says     []string
	}{
		{"tiny: {batch: 16}", "tiny: {batch: 16, learning_rate: 0.2}", []string{"task first is altered", "recipe.learning_rate was 0.1 and is 0.2"}},
		{"tiny: {batch: 16}", "tiny: {batch: 16, bn_weight_decay: 0}", []string{"recipe.bn_weight_decay was not set and is 0"}},
		{"seed: 7", "seed: 8", []string{"task first is altered", "seed was 7 and is 8"}},
		{"classes: 6", "classes: 7", []string{"classes was 6 and is 7"}},
		{"resolution: 16", "resolution: 32", []string{"resolution was 16 and is 32"}},
		{"name: tuned, dataset: two", "name: tuned, dataset: three", []string{"task tuned is altered", "dataset was two and is three"}},
		{"count: 2", "count: 1", []string{"has begun, but the study file has no such run any more", "replicate 1"}},
		{"name: best,", "name: better,", []string{"task best is gone from the study file"}},
	} {
		_, err := openFake(t, strings.ReplaceAll(faultStudy, c.old, c.new), dir)
		if !errors.Is(err, anynetx.ErrInput) {
			t.Errorf("%q: %v", c.new, err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%q: %v; want %q", c.new, err, s)
			}
		}
	}
	// Additions: a task, architectures of a task, replicates, and weights of runs that are committed but were not kept.
	grown := faultStudy + "  - {name: added, dataset: two, start: {continue: tuned}, epochs: 4}\n"
	grown = strings.Replace(grown, "count: 2", "count: 3", 1)
	store, err := openFake(t, grown, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := workFake(t.Context(), dir, fakeBehaviour{}); err != nil {
		t.Fatal(err)
	}
	got := bytesOf(t, dir)
	for name := range want {
		if string(got[name]) != string(want[name]) {
			t.Errorf("%s changed when the study grew", name)
		}
	}
	// Two replicates more of first and its tuned ones stay as they are; four added runs continue tuned, which is trained again for its state.
	if n := len(got) - len(want); n != 2*(2+4) {
		t.Errorf("%d files more, want %d", n, 2*(2+4))
	}
	if err := store.sweep(mustRuns(t, store), identity(), &silence{}); err != nil {
		t.Error(err)
	}
	tidy(t, dir, faultRuns+2+4)
	other := t.TempDir()
	if _, err := openFake(t, grown, other); err != nil {
		t.Fatal(err)
	}
	if err := workFake(t.Context(), other, fakeBehaviour{}); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, got, other)
}

func mustRuns(t *testing.T, s *Store) []*PlannedRun {
	t.Helper()
	q := queue{store: s}
	if err := q.refresh(); err != nil {
		t.Fatal(err)
	}
	return q.runs
}

func TestRunIDsAreFunctionsOfInputs(t *testing.T) {
	ids := func(text string) []string {
		s, err := openFake(t, text, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, r := range mustRuns(t, s) {
			list = append(list, r.ID)
		}
		slices.Sort(list)
		return list
	}
	base := ids(faultStudy)
	if len(slices.Compact(slices.Clone(base))) != len(base) {
		t.Error("two runs have one ID")
	}
	if !slices.Equal(base, ids(strings.Replace(faultStudy, "name: faults", "name: other", 1))) {
		t.Error("the study's name changes runs")
	}
	if slices.ContainsFunc(ids(strings.Replace(faultStudy, "seed: 7", "seed: 8", 1)), func(id string) bool { return slices.Contains(base, id) }) {
		t.Error("the seed does not change every run")
	}
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, err := createJournal(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := j.append(EpochResult{Epoch: i, TrainLoss: 0.1 * float64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	data, err := os.ReadFile(path)
	if err != nil || int64(len(data)) != j.bytes || crc32.Checksum(data, castagnoli) != j.sum {
		t.Fatalf("%d bytes, the journal counts %d (%v)", len(data), j.bytes, err)
	}
	ends := []int{}
	for i, c := range data {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	for n := range len(data) + 1 { // torn at every byte
		whole := 0
		for _, end := range ends {
			if end <= n {
				whole++
			}
		}
		if rows := readJournal[EpochResult](data[:n]); len(rows) != whole {
			t.Fatalf("%d of %d bytes give %d records, want %d", n, len(data), len(rows), whole)
		}
	}
	for i := range data { // damaged at every byte
		bad := slices.Clone(data)
		bad[i] ^= 0x10
		if rows := readJournal[EpochResult](bad); len(rows) > 2 {
			t.Fatalf("byte %d is damaged, but %d records are read", i, len(rows))
		}
	}
}

// stopped makes a folder with a run that was stopped on its way and has two checkpoints, both behind the first epoch: what they need of the
// journal is not nothing.
func stopped(t *testing.T, dir string) (*Store, *PlannedRun) {
	t.Helper()
	store, err := openFake(t, smallStudy, dir)
	if err != nil {
		t.Fatal(err)
	}
	r := mustRuns(t, store)[0]
	if r.Task.Name != "first" {
		r = mustRuns(t, store)[1]
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	written := 0 // checkpoints of the second epoch
	o := WorkerOptions{StudyDir: dir, CheckpointEvery: 5 * time.Millisecond,
		Trainers: func(_ WorkerOptions, p *Plan) (Trainers, error) {
			return fakeBehaviour{Step: time.Millisecond}.trainers(p.Seed), nil
		},
		Hook: func(at string) error {
			if strings.HasPrefix(at, "checkpoint-000001") && strings.HasSuffix(at, "renamed") {
				if written++; written == keptCheckpoints {
					cancel()
				}
			}
			return nil
		}}
	if err := Work(ctx, o); !errors.Is(err, ErrStopped) {
		t.Fatalf("the worker ended with %v", err)
	}
	if list := newestFirst(store.workDir(r.ID)); len(list) != keptCheckpoints {
		t.Fatalf("%d checkpoints are kept, want %d", len(list), keptCheckpoints)
	}
	return store, r
}

func TestDamagedCheckpoints(t *testing.T) {
	clean := t.TempDir()
	if _, err := openFake(t, smallStudy, clean); err != nil {
		t.Fatal(err)
	}
	if err := workFake(t.Context(), clean, fakeBehaviour{}); err != nil {
		t.Fatal(err)
	}
	want := bytesOf(t, clean)
	damage := func(name string, f func(t *testing.T, newest, older checkpoint), skipped int) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			store, r := stopped(t, dir)
			list := newestFirst(store.workDir(r.ID))
			f(t, list[0], list[1])
			if err := workFake(t.Context(), dir, fakeBehaviour{}); err != nil {
				t.Fatal(err)
			}
			sameBytes(t, want, dir)
			events, err := results.ReadTable[Event](dir, "events")
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, e := range events {
				if e.Kind == "checkpoint_skipped" {
					n++
				}
			}
			if n != skipped {
				t.Errorf("%d events of checkpoints passed over, want %d: %+v", n, skipped, events)
			}
		})
	}
	change := func(t *testing.T, path string, f func([]byte) []byte) {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f(data), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	half := func(data []byte) []byte { return data[:len(data)/2] }
	damage("none", func(*testing.T, checkpoint, checkpoint) {}, 0)
	damage("newest cut", func(t *testing.T, newest, _ checkpoint) { change(t, newest.path, half) }, 1)
	damage("newest empty", func(t *testing.T, newest, _ checkpoint) { change(t, newest.path, func([]byte) []byte { return nil }) }, 1)
	damage("newest altered", func(t *testing.T, newest, _ checkpoint) {
		change(t, newest.path, func(d []byte) []byte { d[len(d)/3] ^= 1; return d })
	}, 1)
	damage("both", func(t *testing.T, newest, older checkpoint) {
		change(t, newest.path, half)
		change(t, older.path, half)
	}, 2)
	damage("journal gone", func(t *testing.T, newest, _ checkpoint) {
		if err := os.Remove(filepath.Join(newest.folder, "journal.jsonl")); err != nil {
			t.Fatal(err)
		}
	}, 0)
	damage("journal altered", func(t *testing.T, newest, _ checkpoint) {
		change(t, filepath.Join(newest.folder, "journal.jsonl"), func(d []byte) []byte { d[12] ^= 1; return d })
	}, 2)
	// An epoch that was journaled behind the checkpoint is trained again and must not be there twice.
	damage("journal ahead", func(t *testing.T, newest, _ checkpoint) {
		change(t, filepath.Join(newest.folder, "journal.jsonl"), func(d []byte) []byte {
			text, _ := json.Marshal(EpochResult{Epoch: 9})
			return fmt.Appendf(d, "%08x %s\n", crc32.Checksum(text, castagnoli), text)
		})
	}, 0)
}

// A checkpoint that was cut at any byte is passed over.
func TestCheckpointCutAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	store, r := stopped(t, dir)
	newest := newestFirst(store.workDir(r.ID))[0]
	data, err := os.ReadFile(newest.path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(data) + 1 {
		opened, err := fakeTrainers{seed: store.Plan.Seed}.Open(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(newest.path, data[:n], 0o666); err != nil {
			t.Fatal(err)
		}
		w := &worker{store: store, me: identity(), trainers: fakeTrainers{}, where: fakeTrainers{}.Provenance()}
		g := &training{w: w, r: r, l: &lease{dir: store.workDir(r.ID), Attempt: 1}, t: opened}
		if err := g.read(newest); (err == nil) != (n == len(data)) { // the control: the whole one is taken
			t.Fatalf("%d of %d bytes of a checkpoint: %v", n, len(data), err)
		}
	}
}

func TestLeases(t *testing.T) {
	dir := t.TempDir()
	store, err := openFake(t, smallStudy, dir)
	if err != nil {
		t.Fatal(err)
	}
	r, quiet := mustRuns(t, store)[0], &silence{}
	me := identity()
	take := func(who lease) *lease {
		t.Helper()
		l, _, err := store.take(r, who, quiet)
		if err != nil {
			t.Fatal(err)
		}
		if l != nil {
			t.Cleanup(l.rest)
		}
		return l
	}
	gone := me
	gone.PID, gone.Start = 1<<22+1, 12345 // above pid_max
	first := take(gone)
	if first == nil || first.Attempt != 1 || first.fenced() {
		t.Fatalf("%+v", first)
	}
	if take(me) != nil {
		t.Error("a dead process's lease was broken before its coordinator could say how it died")
	}
	time.Sleep(obituary + 10*time.Millisecond)
	second := take(me)
	if second == nil || second.Attempt != 2 || !first.fenced() || second.fenced() {
		t.Fatalf("%+v", second)
	}
	if err := store.commit(r, first, result{status: statusDone}); !errors.Is(err, errFenced) {
		t.Errorf("an attempt that was given up committed: %v", err)
	}
	if take(me) != nil {
		t.Error("a living process's lease was broken")
	}
	reused := me
	reused.Start++ // another process with our number
	if !reused.dead(me, quiet) {
		t.Error("a process with another start time is taken for the same")
	}
	foreign := me
	foreign.Host, foreign.PID = "elsewhere", gone.PID
	if foreign.dir = store.workDir(r.ID); foreign.dead(me, quiet) {
		t.Error("a process on another machine is judged by this machine's process numbers")
	}
	list, err := readAttempts(store.workDir(r.ID))
	if err != nil || len(list) != 2 || list[0].end == nil || list[0].end.Outcome != outcomeLost || list[1].end != nil {
		t.Errorf("%+v %v", list, err)
	}
	// Given up between the two files of its commit, an attempt leaves the second to the next one.
	store.hook = func(at string) error {
		if at != "epochs committed" {
			return nil
		}
		return os.WriteFile((&lease{dir: second.dir, Attempt: 3}).path(), nil, 0o666)
	}
	if err := store.commit(r, second, result{status: statusDone, epochs: []EpochResult{{}}}); !errors.Is(err, errFenced) {
		t.Errorf("an attempt that was given up on the way committed: %v", err)
	}
	if done, err := store.committed(r); done || err != nil {
		t.Errorf("committed: %v, %v", done, err)
	}
}

// A full or read-only disk is an error that names a path and the way out, and costs nothing that is committed.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("SKIPPED: no tmpfs can be mounted here (%v), so full and read-only disks are not tested", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	study := writeStudy(t, faultStudy)
	want := undisturbed(t, study, 2, behaviour(fast))
	folder := filepath.Join(dir, "study")
	b := fast
	b.Hold = filepath.Join(t.TempDir(), "hold")
	c := startStudy(t, study, folder, 2, behaviour(b))
	eventually(t, "three results", func() bool {
		done, err := filepath.Glob(filepath.Join(folder, "runs/*/*.parquet"))
		return err == nil && len(done) >= 3
	})
	if err := os.WriteFile(b.Hold, nil, 0o666); err != nil { // the rest waits until the disk is full
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	f.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	before := bytesOf(t, folder)
	if err := c.Wait(); err == nil {
		t.Error("a study on a full disk ended with exit code 0")
	}
	if text := c.err.String(); !strings.Contains(text, "no space left on device") || !strings.Contains(text, folder) || !strings.Contains(text, "free space") {
		t.Errorf("the message is not enough: %s", text)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	c = startStudy(t, study, folder, 2, behaviour(fast))
	if err := c.Wait(); err == nil {
		t.Error("a study on a read-only disk ended with exit code 0")
	}
	if text := c.err.String(); !strings.Contains(text, "read-only file system") || !strings.Contains(text, folder) || !strings.Contains(text, "writable") {
		t.Errorf("the message is not enough: %s", text)
	}
	if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, "size=2m"); err != nil {
		t.Fatal(err)
	}
	runStudy(t, study, folder, 2, behaviour(fast))
	for name, data := range before {
		if strings.HasSuffix(name, ".parquet") && string(want[name]) != string(data) {
			t.Errorf("%s was not whole while the disk was full", name)
		}
	}
	sameBytes(t, want, folder)
}
