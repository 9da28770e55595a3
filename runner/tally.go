package runner

import (
	"cmp"
	"fmt"
)

// TestError is a run's error on the test images by its task's metric: one of the two, or none while there is none.
type TestError struct {
	Top1 *float64 `json:"test_top1_err_pct,omitempty"`
	Top5 *float64 `json:"test_top5_err_pct,omitempty"`
}

// testError chooses the one that is the task's metric.
func (t *Task) testError(top1, top5 *float64) TestError {
	if t.Metric == "top5" {
		return TestError{Top5: top5}
	}
	return TestError{Top1: top1}
}

// lastError is that of the last epoch, if there is one.
func (t *Task) lastError(epochs []EpochResult) TestError {
	if len(epochs) == 0 {
		return TestError{}
	}
	last := epochs[len(epochs)-1]
	return t.testError(measured(last.TestTop1ErrPct), measured(last.TestTop5ErrPct))
}

func (e TestError) Percent() (value float64, known bool) {
	if v := cmp.Or(e.Top1, e.Top5); v != nil {
		return *v, true
	}
	return 0, false
}

// Text is for people, who expect top-1 where nothing is said.
func (e TestError) Text() string {
	value, known := e.Percent()
	switch {
	case !known:
		return "-"
	case e.Top5 != nil:
		return fmt.Sprintf("%.2f %% top-5", value)
	}
	return fmt.Sprintf("%.2f %%", value)
}

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
	now, known := e.Percent()
	if !known {
		return
	}
	b, ok := t.best[e.Task]
	if before, _ := b.Percent(); !ok || now < before || now == before && e.ArchID < b.ArchID {
		t.best[e.Task] = Result{e.ArchID, e.TestError}
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
