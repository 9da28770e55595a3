package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"anynetx/anynetx"
	"anynetx/results"
)

// Retry makes failed runs open again. The row of such a run gives way: it is moved to work/superseded, whole, in one rename, and with it the
// run is one that has not begun. Attempt numbers go on where they were, so whoever is left of the earlier attempts is fenced as before. A
// row that says done is never touched.

// RetryOptions say which failed runs are meant: those of a class, if classes are given, and among the given ones, if runs are.
type RetryOptions struct {
	Classes []string // "oom" and "nan" are short for out_of_memory and diverged
	Runs    []string // IDs
	Devices []string // to take into use again
}

// Retried is what Retry did.
type Retried struct {
	Runs    []RetriedRun `json:"runs"`
	Devices []string     `json:"devices"`
}

// RetriedRun is a run that is open again.
type RetriedRun struct {
	RunID  string `json:"run_id"`
	Task   string `json:"task"`
	ArchID string `json:"arch_id"`
	Class  string `json:"failure_class"`
}

var shortClasses = map[string]string{"oom": classMemory, "nan": classDiverged}

// Retry makes failed runs, and those that failed because of them, open again; a running study takes them, or the next `study run` does.
func Retry(dir string, o RetryOptions) (*Retried, error) {
	store, err := OpenStore(dir)
	if err != nil {
		return nil, err
	}
	me := identity()
	q := queue{store: store, me: me}
	if err := q.refresh(); err != nil {
		return nil, err
	}
	failed, err := q.failed()
	if err != nil {
		return nil, err
	}
	chosen, err := choose(q.runs, failed, o)
	if err != nil {
		return nil, err
	}
	release, busy := (&folderLocks{dir: dir}).exclusive()
	if busy == nil {
		defer release()
	}
	for _, r := range chosen {
		path, err := results.Path(dir, "runs", r.Task.Dataset, r.ID)
		if err != nil {
			return nil, err
		}
		if busy != nil && !exists(path) { // it is in a compacted file, which must be written anew
			return nil, busy
		}
	}
	events := store.record("events", me)
	done, err := store.reopen(chosen, failed, me, &q.quiet, events)
	for _, device := range o.Devices {
		if err != nil {
			break
		}
		if err = store.release(device, me, events); err == nil {
			done.Devices = append(done.Devices, device)
		}
	}
	return done, errors.Join(err, events.Close())
}

// failed are the rows of the runs that are committed as failed.
func (q *queue) failed() (map[string]*runRow, error) {
	committed, err := q.store.refresh()
	if err != nil {
		return nil, err
	}
	index := q.store.index()
	list := map[string]*runRow{}
	for _, r := range q.runs {
		if !committed[r.ID] || index[r.ID].Status == statusDone {
			continue
		}
		row, err := q.row(r)
		if err != nil {
			return nil, err
		}
		if row.Status == statusFailed {
			list[r.ID] = row
		}
	}
	return list, nil
}

// choose lists the runs that are meant, and those that failed because they start from one of these.
func choose(runs []*PlannedRun, failed map[string]*runRow, o RetryOptions) ([]*PlannedRun, error) {
	counts := map[string]int{}
	for _, row := range failed {
		counts[row.FailureClass]++
	}
	there := "no run has failed"
	if len(failed) > 0 {
		there = "there are " + countsText(counts)
	}
	var classes []string
	for _, c := range o.Classes {
		if long, ok := shortClasses[c]; ok {
			c = long
		}
		if counts[c] == 0 && len(o.Runs) == 0 {
			return nil, anynetx.Inputf("no run has failed with class %s; %s", c, there)
		}
		classes = append(classes, c)
	}
	for _, id := range o.Runs {
		if !slices.ContainsFunc(runs, func(r *PlannedRun) bool { return r.ID == id }) {
			return nil, anynetx.Inputf("the study has no run %s; `SELECT run_id FROM runs` lists them", id)
		}
		if row := failed[id]; row == nil {
			return nil, anynetx.Inputf("run %s has not failed; only failed runs are tried again, what is done stays", id)
		} else if len(classes) > 0 && !slices.Contains(classes, row.FailureClass) {
			return nil, anynetx.Inputf("run %s has failed with class %s", id, row.FailureClass)
		}
	}
	meant := map[string]bool{}
	for again := len(classes)+len(o.Runs) > 0; again; { // chains of starts have any order in runs
		again = false
		for _, r := range runs {
			row := failed[r.ID]
			if row == nil || meant[r.ID] {
				continue
			}
			follows := row.FailureClass == classSource && r.Source != nil && meant[r.Source.ID]
			named := (len(classes) == 0 || slices.Contains(classes, row.FailureClass)) && (len(o.Runs) == 0 || slices.Contains(o.Runs, r.ID))
			if follows || named {
				meant[r.ID], again = true, true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(runs), func(r *PlannedRun) bool { return !meant[r.ID] }), nil
}

// reopen moves the rows of failed runs out of the way. Runs that start from others go first, so that none of them sees its source open.
func (s *Store) reopen(runs []*PlannedRun, failed map[string]*runRow, me lease, quiet *silence, events *recorder) (*Retried, error) {
	done := &Retried{Runs: []RetriedRun{}, Devices: []string{}}
	depth := func(r *PlannedRun) (n int) {
		for ; r.Source != nil; r = r.Source {
			n++
		}
		return n
	}
	slices.SortStableFunc(runs, func(a, b *PlannedRun) int { return depth(b) - depth(a) })
	for _, r := range runs {
		attempts, err := readAttempts(s.workDir(r.ID))
		if err != nil {
			return done, err
		}
		for i := range attempts {
			l := &attempts[i].lease
			clears := i == len(attempts)-1 && l.here(me) // who has committed the failure is about to remove the folder, which must not be another's by then
			if (attempts[i].end == nil || clears) && !l.dead(me, quiet) {
				return done, anynetx.Inputf("%s is in the hands of process %d on %s; try again when it has ended", r, l.PID, l.Host)
			}
		}
		if err := s.clear(r.ID); err != nil { // what a kill behind the commit left
			return done, err
		}
		if err := s.supersede(r); err != nil {
			return done, err
		}
		class := failed[r.ID].FailureClass
		event := happened(me, "retry", "%s, failed with class %s, is open again", r, class)
		event.RunID = r.ID
		if err := events.append(event); err != nil {
			return done, err
		}
		done.Runs = append(done.Runs, RetriedRun{r.ID, r.Task.Name, r.Member.ID, class})
	}
	return done, nil
}

// supersede moves a failed run's row away, and its epochs after it. A row in a compacted file gets a file of its own first.
func (s *Store) supersede(r *PlannedRun) error {
	folder := filepath.Join(s.Dir, "work", "superseded")
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return diskError(err)
	}
	n := 1
	for exists(filepath.Join(folder, fmt.Sprintf("%s-%d.runs", r.ID, n))) {
		n++
	}
	for _, table := range []string{"runs", "epochs"} {
		path, err := results.Path(s.Dir, table, r.Task.Dataset, r.ID)
		if err != nil {
			return err
		}
		if table == "runs" {
			err = extract(path, table, s.metadata(), func(row runRow) bool { return row.RunID == r.ID })
		} else {
			err = extract(path, table, s.metadata(), func(row epochRow) bool { return row.RunID == r.ID })
		}
		if err != nil {
			return err
		}
		err = os.Rename(path, filepath.Join(folder, fmt.Sprintf("%s-%d.%s", r.ID, n, table)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return diskError(err)
		}
		if err := syncFolder(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncFolder(folder)
}

// extract gives rows of the compacted file beside path a file of their own, path, before it takes them out of there: at no moment are they
// nowhere, and a row that is in both files counts once.
func extract[T any](path, table string, meta map[string]string, of func(T) bool) error {
	compacted := filepath.Join(filepath.Dir(path), "compacted.parquet")
	if !exists(compacted) {
		return nil
	}
	rows, err := results.Read[T](compacted, table)
	if err != nil {
		return err
	}
	var own, rest []T
	for _, row := range rows {
		if of(row) {
			own = append(own, row)
		} else {
			rest = append(rest, row)
		}
	}
	if len(own) == 0 {
		return nil
	}
	if err := results.Write(path, table, own, meta); err != nil {
		return diskError(err)
	}
	return diskError(results.Replace(compacted, table, rest, meta))
}

// release takes a device into use again.
func (s *Store) release(device string, me lease, events *recorder) error {
	s.devices.mu.Lock()
	defer s.devices.mu.Unlock()
	if err := s.devices.refresh(); err != nil {
		return err
	}
	if s.devices.records[device] == nil {
		var names []string
		for name := range s.devices.records {
			names = append(names, name)
		}
		slices.Sort(names)
		return anynetx.Inputf("nothing is on record of a device %s; there are %s", device, strings.Join(names, ", "))
	}
	if err := s.noteDevice(deviceRecord{Device: device, Kind: recordRelease}); err != nil {
		return err
	}
	event := happened(me, "release", "device %s may be used again", device)
	event.Device = device
	return events.append(event)
}
