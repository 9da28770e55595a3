package runner

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// queue decides which run is next. It knows nothing that is not in the study folder, so any number of workers have one each.
type queue struct {
	store *Store
	only  []string // run IDs; empty: all
	me    lease
	quiet silence

	elsewhere bool // other devices work on the study, see keepsOff

	costs    CostModel
	runs     []*PlannedRun    // longest first
	resolved map[string]bool  // tasks whose runs are known ...
	rankings map[string][]int // ... by these, of the tasks that they go by
	listed   int              // how often runs were listed anew
	rows     map[string]*runRow
}

// offer is a leased run, or why there is none.
type offer struct {
	run      *PlannedRun
	lease    *lease
	earlier  []attemptState
	decision Decision // that follows from them
	bytes    int64    // that it is planned to take on the device; 0 where nobody asks
	finish   *result  // the run's fate is known without training
	waiting  bool     // others work on what is left, or on what it waits for
	tooLarge bool     // it does not fit
}

// trains says that the run's fate is not known before.
func (o offer) trains() bool { return o.finish == nil && o.decision.Run != runFails }

// groups says that the run may train in common launches with others. One that has failed before is tried by itself.
func (o offer) groups() bool { return o.trains() && o.decision.Run == "" && !o.decision.Alone }

// refresh lists the runs, with those of rank ranges that are known by now.
func (q *queue) refresh() error {
	if moved, err := q.moved(); err != nil {
		return err
	} else if moved {
		q.runs, q.resolved = nil, nil
	}
	changed := q.runs == nil
	if q.resolved == nil {
		q.resolved, q.rankings = map[string]bool{}, map[string][]int{}
	}
	for {
		for i := range q.store.Plan.Tasks {
			t := &q.store.Plan.Tasks[i]
			if q.resolved[t.Name] {
				continue
			}
			complete := true
			if of := t.Architectures.Of; of != "" {
				var err error
				if q.rankings[of], complete, err = q.ranking(of); err != nil {
					return err
				}
			}
			if t.Start.Task != "" && !q.resolved[t.Start.Task] {
				complete = false
			}
			if complete {
				q.resolved[t.Name], changed = true, true
			}
		}
		if !changed {
			return nil
		}
		runs, err := q.store.Plan.Runs(q.ranking)
		if err != nil {
			return err
		}
		q.runs, changed = longestFirst(runs, q.costs), false
		q.listed++
	}
}

// moved says whether a ranking is no longer what rank ranges went by: runs of its task that had failed are tried again (`study retry`).
func (q *queue) moved() (bool, error) {
	for i := range q.store.Plan.Tasks {
		t := &q.store.Plan.Tasks[i]
		if of := t.Architectures.Of; of != "" && q.resolved[t.Name] {
			best, complete, err := q.ranking(of)
			if err != nil || !complete || !slices.Equal(best, q.rankings[of]) {
				return true, err
			}
		}
	}
	return false, nil
}

// order is told what runs are predicted to take by now.
func (q *queue) order(c CostModel) {
	if c != q.costs {
		q.costs, q.runs = c, longestFirst(q.runs, c)
	}
}

// ranking orders the architectures of a complete task by the error of replicate 0, and by ID where errors are equal. Failed runs are left
// out.
func (q *queue) ranking(task string) ([]int, bool, error) {
	if q.runs == nil || !q.resolved[task] {
		return nil, false, nil
	}
	type ranked struct {
		index int
		id    string
		error float64
	}
	var list []ranked
	for _, r := range q.runs {
		if r.Task.Name != task || r.Replicate != 0 {
			continue
		}
		done, err := q.store.committed(r)
		if err != nil || !done {
			return nil, false, err
		}
		row, err := q.row(r)
		if errors.Is(err, fs.ErrNotExist) { // it has just been opened again
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		if value, known := r.Task.testError(row.TestTop1, row.TestTop5).Percent(); known && row.Status == statusDone {
			list = append(list, ranked{q.store.Plan.indexOf(r.Member.ID), r.Member.ID, value})
		}
	}
	slices.SortFunc(list, func(a, b ranked) int { return cmp.Or(cmp.Compare(a.error, b.error), cmp.Compare(a.id, b.id)) })
	var best []int
	for _, r := range list {
		best = append(best, r.index)
	}
	return best, true, nil
}

// row reads a committed run's row, once if the run is done; a failed one may be tried again.
func (q *queue) row(r *PlannedRun) (*runRow, error) {
	if row := q.rows[r.ID]; row != nil {
		return row, nil
	}
	row, err := q.store.row(r)
	if err != nil || row.Status != statusDone {
		return row, err
	}
	if q.rows == nil {
		q.rows = map[string]*runRow{}
	}
	q.rows[r.ID] = row
	return row, nil
}

// lookedAt is how many runs are asked whether they fit; behind so many that do not, no smaller one is looked for.
const lookedAt = 64

// folder is what a look at it says of all runs.
type folder struct{ committed, again map[string]bool }

func (q *queue) look() (f folder, err error) {
	if f.committed, err = q.store.refresh(); err != nil {
		return f, err
	}
	if err := q.refresh(); err != nil {
		return f, err
	}
	f.again, err = q.again(f.committed)
	return f, err
}

// next leases the longest run that can start and fits (nil: all do). Nothing at all (no run, not waiting) means that everything is committed.
func (q *queue) next(fits func(*PlannedRun) bool) (offer, error) {
	f, err := q.look()
	if err != nil {
		return offer{}, err
	}
	waiting := len(q.resolved) < len(q.store.Plan.Tasks) && len(q.only) == 0
	tooLarge := 0
	for _, r := range q.runs {
		o, err := q.lease(r, f, fits)
		if err != nil || o.lease != nil {
			return o, err
		}
		waiting = waiting || o.waiting
		if o.tooLarge {
			if tooLarge++; tooLarge >= lookedAt {
				break
			}
		}
	}
	return offer{waiting: waiting}, nil
}

// fellows leases the runs that may train in common launches with a leased one, as long as there is room: the longest first, and none that has
// failed before.
func (q *queue) fellows(leader *PlannedRun, room func(*PlannedRun) bool, take func(offer)) error {
	f, err := q.look()
	if err != nil {
		return err
	}
	for _, r := range q.runs {
		if r.ID == leader.ID || !r.sharesLaunches(leader) {
			continue
		}
		attempts, err := readAttempts(q.store.workDir(r.ID))
		if err != nil {
			return err
		}
		if d, err := q.store.decide(attempts); err != nil {
			return err
		} else if d.Run != "" {
			continue
		}
		o, err := q.lease(r, f, room)
		switch {
		case err != nil:
			return err
		case o.lease == nil:
		case o.groups():
			take(o)
		default: // it failed meanwhile, or will never train
			if err := q.store.giveBack(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// lease takes a run, unless it is committed, others work on it or on what it waits for (waiting), or it does not fit.
func (q *queue) lease(r *PlannedRun, f folder, fits func(*PlannedRun) bool) (offer, error) {
	if len(q.only) > 0 && !slices.Contains(q.only, r.ID) || f.committed[r.ID] && !f.again[r.ID] {
		return offer{}, nil
	}
	o := offer{run: r}
	if r.Source != nil {
		if !f.committed[r.Source.ID] {
			return offer{waiting: true}, nil
		}
		row, err := q.row(r.Source)
		if err != nil {
			return offer{}, err
		}
		if row.Status != statusDone {
			o.finish = &result{status: statusFailed, class: classSource}
		} else if !exists(q.store.sourcePath(r)) {
			return offer{waiting: true}, nil
		}
	}
	if o.finish == nil && q.store.cancelled(r.ID) {
		o.finish = &result{status: statusFailed, class: classCancelled}
	}
	if off, err := q.keepsOff(r); err != nil || off {
		return offer{waiting: off}, err
	}
	if fits != nil && o.finish == nil && !fits(r) {
		return offer{waiting: true, tooLarge: true}, nil
	}
	var err error
	if o.lease, o.earlier, err = q.store.take(r, q.me, &q.quiet); err != nil || o.lease == nil {
		return offer{waiting: true}, err
	}
	if needed, err := q.weigh(&o, f); err != nil || !needed {
		o.lease.rest()
		return offer{}, err
	}
	return o, nil
}

// weigh says what follows for a leased run from the earlier attempts, and whether it is still to be trained.
func (q *queue) weigh(o *offer, f folder) (needed bool, err error) {
	if o.decision, err = q.store.decide(o.earlier); err != nil {
		return false, err
	}
	ranOut, err := q.store.ranOut(o.run)
	if err != nil {
		return false, err
	}
	o.decision.Alone = o.decision.Alone || len(ranOut) > 0
	if f.committed[o.run.ID] { // and is to be trained again
		return true, nil
	}
	done, err := q.store.committed(o.run) // while we took the lease
	if err != nil {
		return false, err
	}
	if done {
		return false, q.store.clear(o.run.ID)
	}
	return true, nil
}

// keepsOff says whether a run that failed on this device is to be left to another one for a while. By the clock of this process: where no
// other device takes it, it does not wait for ever.
func (q *queue) keepsOff(r *PlannedRun) (bool, error) {
	if !q.elsewhere {
		return false, nil
	}
	attempts, err := readAttempts(q.store.workDir(r.ID))
	if err != nil || len(attempts) == 0 {
		return false, err
	}
	d, err := q.store.decide(attempts)
	if err != nil || d.Run != runElsewhere || !slices.Contains(d.Avoid, q.me.deviceKey()) {
		return false, err
	}
	last := attempts[len(attempts)-1].lease
	return q.quiet.knownFor("elsewhere "+last.path()).Seconds() < q.store.policy.ElsewhereSeconds, nil
}

// again lists the committed runs that must be trained once more, for the weights that a run which was added later starts from: their
// results are there, the weights are not.
func (q *queue) again(committed map[string]bool) (map[string]bool, error) {
	list := map[string]bool{}
	for _, r := range q.runs {
		if r.Source == nil || committed[r.ID] || !committed[r.Source.ID] || list[r.Source.ID] || exists(q.store.sourcePath(r)) {
			continue
		}
		row, err := q.row(r.Source)
		if err != nil {
			return nil, err
		}
		list[r.Source.ID] = row.Status == statusDone
	}
	return list, nil
}

// sourcePath is the file that a run starts from.
func (s *Store) sourcePath(r *PlannedRun) string {
	if r.Task.Start.Kind == StartContinue {
		return s.statePath(r.Source.ID)
	}
	return s.weightsPath(r.Source.ID)
}

// String names a run for people.
func (r *PlannedRun) String() string {
	text := fmt.Sprintf("run %s (task %s, architecture %s", r.ID, r.Task.Name, r.Member.ID)
	if r.Replicate > 0 {
		text += fmt.Sprintf(", replicate %d", r.Replicate)
	}
	return text + ")"
}
