package runner

// tally counts committed runs as they come, so that a look at the progress costs the same however many there are.
type tally struct {
	rows     map[string]indexEntry // by run ID
	done     int
	failures map[string]int    // by class
	best     map[string]Result // by task
}

func newTally() tally {
	return tally{rows: map[string]indexEntry{}, failures: map[string]int{}, best: map[string]Result{}}
}

// commit counts a run, in place of what was known of it.
func (t *tally) commit(e indexEntry) {
	t.reopen(e.RunID)
	t.rows[e.RunID] = e
	if e.Status != statusDone {
		t.failures[e.Class]++
		return
	}
	t.done++
	if e.TestTop1 == nil {
		return
	}
	if b, ok := t.best[e.Task]; !ok || *e.TestTop1 < b.TestTop1 || *e.TestTop1 == b.TestTop1 && e.ArchID < b.ArchID {
		t.best[e.Task] = Result{e.ArchID, *e.TestTop1}
	}
}

// reopen forgets a run. What was best stays, since done runs never change.
func (t *tally) reopen(runID string) {
	e, known := t.rows[runID]
	if !known {
		return
	}
	delete(t.rows, runID)
	if e.Status == statusDone {
		t.done--
		return
	}
	if t.failures[e.Class]--; t.failures[e.Class] == 0 {
		delete(t.failures, e.Class)
	}
}

func (t *tally) failed() int { return len(t.rows) - t.done }
