package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"anynetx/anynetx"
)

// openStudy makes a study folder of a study file, or opens the one there is; what the file adds to it is added, what it alters of runs
// that have begun is refused. A new study is planned before anything is made: where its data set is missing, nothing is left behind.
func openStudy(study *Study, locks *folderLocks, describe Describe) (*Store, func(), error) {
	plan := sync.OnceValues(func() (*Plan, error) { return NewPlan(study, describe) })
	if err := ours(locks.dir); err != nil {
		return nil, nil, err
	}
	if !exists(filepath.Join(locks.dir, "plan.json")) {
		if _, err := plan(); err != nil {
			return nil, nil, err
		}
	}
	if err := os.MkdirAll(locks.dir, 0o777); err != nil {
		return nil, nil, diskError(err)
	}
	release, err := locks.coordinator()
	if err != nil {
		return nil, nil, err
	}
	store, err := openLocked(study, locks, plan)
	if err != nil {
		release()
		return nil, nil, err
	}
	return store, release, nil
}

// ours refuses a folder that holds other things, such as a home directory given by mistake.
func ours(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return diskError(err)
	}
	known := []string{"study.yaml", "plan.json", "tasks.parquet", "architectures.parquet", "lock", "runs", "epochs", "attempts", "events", "telemetry", "weights", "work"}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == "plan.json" }) {
		return nil
	}
	for _, e := range entries {
		if !slices.Contains(known, e.Name()) && !strings.Contains(e.Name(), ".tmp-") {
			return anynetx.Inputf("%s is not a study folder and not empty (it holds %s); give a new or an empty folder", dir, e.Name())
		}
	}
	return nil
}

func openLocked(study *Study, locks *folderLocks, plan func() (*Plan, error)) (*Store, error) {
	dir := locks.dir
	var old *Store
	if exists(filepath.Join(dir, "plan.json")) {
		var err error
		if old, err = OpenStore(dir); err != nil {
			return nil, err
		}
		if old.Plan.StudySHA256 == study.digest {
			return old, old.makeFolders() // nothing is sampled and no data set is read for a plain resume
		}
	}
	release, alone, err := locks.alone()
	if err != nil {
		return nil, err
	}
	if !alone {
		return nil, anynetx.Inputf("the study file is not the one that %s was planned from, and others have joined the work there; stop them first "+
			"(`anynetx study status %s` shows them), or give the study file as it was", dir, dir)
	}
	defer release()
	p, err := plan()
	if err != nil {
		return nil, err
	}
	store := newStore(dir, p)
	if old != nil {
		if err := refuseAltered(old, store); err != nil {
			return nil, err
		}
	}
	q := queue{store: store}
	if err := q.refresh(); err != nil {
		return nil, err
	}
	return store, store.create(study, q.counts())
}

// counts are the numbers of runs of the tasks where they are known.
func (q *queue) counts() map[string]int {
	counts := map[string]int{}
	for task := range q.resolved {
		counts[task] = 0
	}
	for _, r := range q.runs {
		counts[r.Task.Name]++
	}
	return counts
}

type runKey struct {
	task, arch string
	replicate  int
}

func (r *PlannedRun) key() runKey { return runKey{r.Task.Name, r.Member.ID, r.Replicate} }

// refuseAltered compares what the folder was planned for with what the study file says now. Runs that have not begun may change.
func refuseAltered(old, now *Store) error {
	before, after := queue{store: old}, queue{store: now}
	if err := errors.Join(before.refresh(), after.refresh()); err != nil {
		return err
	}
	planned := map[runKey]*PlannedRun{}
	for _, r := range after.runs {
		planned[r.key()] = r
	}
	committed, err := old.refresh()
	if err != nil {
		return err
	}
	for _, r := range before.runs {
		if !committed[r.ID] && !exists(old.workDir(r.ID)) {
			continue
		}
		n := planned[r.key()]
		switch {
		case n == nil && r.Task.Architectures.Of != "" && now.Plan.Task(r.Task.Name) != nil && now.Plan.Task(r.Task.Name).Architectures.Of != "":
			// The rank range has moved on, since the task that it ranks has grown; its results stay.
		case n == nil && now.Plan.Task(r.Task.Name) == nil:
			return anynetx.Inputf("task %s is gone from the study file, but %s has begun; put the task back, or use another folder", r.Task.Name, r)
		case n == nil:
			return anynetx.Inputf("%s has begun, but the study file has no such run any more; put its architecture and replicate back, or use another folder", r)
		case n.ID != r.ID:
			return anynetx.Inputf("task %s is altered: %s. %s has begun and cannot change; put the old value back, give the altered task a name of its own, or use another folder",
				r.Task.Name, difference(r, n), r)
		}
	}
	return nil
}

// difference names the inputs in which two runs differ.
func difference(a, b *PlannedRun) string {
	values := func(r *PlannedRun) map[string]string {
		m := map[string]string{}
		for _, in := range r.inputs() {
			m[in.name] = in.value
		}
		return m
	}
	av, bv := values(a), values(b)
	var names []string
	for _, in := range slices.Concat(a.inputs(), b.inputs()) {
		if av[in.name] != bv[in.name] && !slices.Contains(names, in.name) {
			names = append(names, in.name)
		}
	}
	if len(names) > 1 { // a consequence of the others
		names = slices.DeleteFunc(names, func(n string) bool { return n == "source_run" })
	}
	var parts []string
	for _, name := range names {
		show := func(v string) string {
			if v == "" {
				return "not set"
			}
			return v
		}
		parts = append(parts, fmt.Sprintf("%s was %s and is %s", name, show(av[name]), show(bv[name])))
	}
	return strings.Join(parts, ", ")
}

// Prepare makes a study folder, or brings the one there is up to date with its study file, without training anything. A look alone writes
// nothing.
func Prepare(studyFile, dir, dataDir string, look bool) (*Store, error) {
	study, err := ReadStudy(studyFile)
	if err != nil {
		return nil, err
	}
	if old, err := OpenStore(dir); err == nil && old.Plan.StudySHA256 == study.digest {
		return old, nil // whoever works on it may go on
	}
	if look {
		p, err := NewPlan(study, DescribeWithoutData(study, dataDir))
		if err != nil {
			return nil, err
		}
		return newStore(dir, p), nil
	}
	store, release, err := openStudy(study, &folderLocks{dir: dir}, DescribeData(dataDir))
	if err != nil {
		return nil, err
	}
	release()
	return store, nil
}
