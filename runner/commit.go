package runner

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"anynetx/results"
)

// errFenced says that another attempt has taken the run over.
var errFenced = errors.New("another attempt has taken this run over")

// result is what a run came to.
type result struct {
	status, class string
	epochs        []EpochResult
}

// commit makes a result part of the study. The epochs go first, so that one rename, that of the row in runs, commits both.
func (s *Store) commit(r *PlannedRun, l *lease, res result) error {
	if l.fenced() {
		return errFenced
	}
	run, epochs := r.rows(res)
	if len(epochs) > 0 {
		path, err := results.Path(s.Dir, "epochs", r.Task.Dataset, r.ID)
		if err != nil {
			return err
		}
		err = results.Write(path, "epochs", epochs, s.metadata())
		if errors.Is(err, results.ErrExists) {
			if done, e := s.committed(r); done || e != nil {
				return cmp.Or(e, err)
			}
			// Left by an attempt that ended before its commit, under another library: no result yet, so it makes room.
			if err = os.Remove(path); err == nil {
				err = results.Write(path, "epochs", epochs, s.metadata())
			}
		}
		if err != nil {
			return commitError(err)
		}
		if err := tell(s.hook, "epochs committed"); err != nil {
			return err
		}
	}
	if l.fenced() {
		return errFenced
	}
	path, err := results.Path(s.Dir, "runs", r.Task.Dataset, r.ID)
	if err != nil {
		return err
	}
	if err := results.Write(path, "runs", []runRow{run}, s.metadata()); err != nil {
		return commitError(err)
	}
	if err := tell(s.hook, "runs committed"); err != nil {
		return err
	}
	s.mu.Lock()
	s.known[r.ID] = true
	s.mu.Unlock()
	s.indexCommit(r, &run)
	return nil
}

func commitError(err error) error {
	if errors.Is(err, results.ErrExists) {
		return err
	}
	return diskError(err)
}

// rows are a run's rows: functions of its inputs.
func (r *PlannedRun) rows(res result) (runRow, []epochRow) {
	t := r.Task
	row := runRow{RunID: r.ID, ArchID: r.Member.ID, Task: t.Name, Dataset: t.Dataset, Replicate: int64(r.Replicate),
		Status: res.status, FailureClass: res.class, Epochs: int64(len(res.epochs))}
	top5 := func(v float64) *float64 {
		if t.Classes <= 5 {
			return nil
		}
		return measured(v)
	}
	var epochs []epochRow
	for _, e := range res.epochs {
		epochs = append(epochs, epochRow{RunID: r.ID, ArchID: r.Member.ID, Task: t.Name, Dataset: t.Dataset, Replicate: int64(r.Replicate),
			Epoch: int64(e.Epoch) + 1, Rate: e.LearningRate, TrainLoss: measured(e.TrainLoss), TrainTop1: measured(e.TrainTop1ErrPct), TrainTop5: top5(e.TrainTop5ErrPct),
			TestLoss: measured(e.TestLoss), TestTop1: measured(e.TestTop1ErrPct), TestTop5: top5(e.TestTop5ErrPct)})
		if v := measured(e.TestTop1ErrPct); v != nil && (row.BestTestTop1 == nil || *v < *row.BestTestTop1) {
			row.BestTestTop1, row.BestEpoch = v, ptr(int64(e.Epoch)+1)
		}
	}
	if res.status == statusDone && len(epochs) > 0 {
		last := epochs[len(epochs)-1]
		row.TestTop1, row.TestTop5, row.TrainTop1, row.TrainTop5 = last.TestTop1, last.TestTop5, last.TrainTop1, last.TrainTop5
		row.TestLoss, row.TrainLoss = last.TestLoss, last.TrainLoss
	}
	return row, epochs
}

// measured is nil for what is no number.
func measured(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func (s *Store) attemptPath(runID string, attempt int) string {
	return filepath.Join(s.Dir, "attempts", fmt.Sprintf("%s-%d.parquet", runID, attempt))
}

// formerAttempts is the highest number of a run's attempts in the compacted table.
func (s *Store) formerAttempts(runID string) (int, error) {
	path := filepath.Join(s.Dir, "attempts", "compacted.parquet")
	if !exists(path) {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.former == nil {
		rows, err := results.Read[attemptRow](path, "attempts")
		if err != nil {
			return 0, diskError(err)
		}
		s.former = map[string]int{}
		for _, r := range rows {
			s.former[r.RunID] = max(s.former[r.RunID], int(r.Attempt))
		}
	}
	return s.former[runID], nil
}

// publishAttempts writes the rows of a run's ended attempts.
func (s *Store) publishAttempts(runID string) error {
	list, err := readAttempts(s.workDir(runID))
	if err != nil {
		return err
	}
	for _, a := range list {
		if a.end == nil || a.end.RunID == "" || a.end.Attempt != int64(a.lease.Attempt) {
			continue // in progress, or torn by a crash of the machine: nothing is known
		}
		err := results.Write(s.attemptPath(runID, a.lease.Attempt), "attempts", []attemptRow{*a.end}, s.metadata())
		if err != nil && !errors.Is(err, results.ErrExists) {
			return diskError(err)
		}
	}
	return nil
}

// clear removes the work folder of a committed run, once its attempts are written: in one step, so that what somebody else begins under its
// name afterwards is not taken along.
func (s *Store) clear(runID string) error {
	if err := s.publishAttempts(runID); err != nil {
		return err
	}
	if err := tell(s.hook, "attempts published"); err != nil {
		return err
	}
	aside, err := os.MkdirTemp(filepath.Join(s.Dir, "work"), "."+runID+".tmp-*")
	if err != nil {
		return diskError(err)
	}
	if err := os.Rename(s.workDir(runID), filepath.Join(aside, runID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError(err)
	}
	if err := os.RemoveAll(aside); err != nil && !errors.Is(err, syscall.ENOTEMPTY) { // a network file system keeps what is open; it is swept later
		return diskError(err)
	}
	if err := tell(s.hook, "work cleared"); err != nil {
		return err
	}
	return s.forgetCancel(runID)
}

// needs says whether another task starts from the final weights (StartInit) or state (StartContinue) of a task.
func (p *Plan) needs(t *Task, kind string) bool {
	return slices.ContainsFunc(p.Tasks, func(o Task) bool { return o.Start == Start{kind, t.Name} })
}

// indexEntry is a line of work/index.jsonl.
type indexEntry struct {
	RunID  string `json:"run_id"`
	Task   string `json:"task"`
	ArchID string `json:"arch_id"`
	Status string `json:"status"`
	Class  string `json:"class,omitempty"`
	TestError
}

func (r *PlannedRun) indexEntry(row *runRow) indexEntry {
	return indexEntry{row.RunID, row.Task, row.ArchID, row.Status, row.FailureClass, r.Task.testError(row.TestTop1, row.TestTop5)}
}

func (s *Store) indexPath() string { return filepath.Join(s.Dir, "work", "index.jsonl") }

// indexCommit notes a commit. The index may lack entries and never matters for correctness, so errors are of no account.
func (s *Store) indexCommit(r *PlannedRun, row *runRow) { appendLine(s.indexPath(), r.indexEntry(row)) }

// index is what the index knows, by run; it only grows, so each byte is read once.
func (s *Store) index() map[string]indexEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data, err := readFrom(s.indexPath(), s.indexRead); err == nil {
		data = data[:bytes.LastIndexByte(data, '\n')+1] // the rest is being written
		s.indexRead += int64(len(data))
		for line := range lines(data) {
			var e indexEntry
			if records, _ := journalLines(line); len(records) == 1 && json.Unmarshal(records[0], &e) == nil {
				s.indexed[e.RunID] = e
			}
		}
	}
	return maps.Clone(s.indexed)
}

// lines yields the lines of data with their line feeds.
func lines(data []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			end := slices.Index(data, '\n') + 1
			if end == 0 {
				end = len(data)
			}
			if !yield(data[:end]) {
				return
			}
			data = data[end:]
		}
	}
}
