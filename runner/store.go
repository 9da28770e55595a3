package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"anynetx/anynetx"
	"anynetx/results"
)

// Store is a study folder. Its files are the only truth: any number of processes on any number of machines may work in it at a time.
//
//	study.yaml plan.json tasks.parquet architectures.parquet lock
//	runs/ epochs/ attempts/ events/ telemetry/                        tables, see package results
//	weights/<run_id>.safetensors, weights/<run_id>.state              final weights; final checkpoints that another task continues
//	work/<run_id>/lease-<n> end-<n> <n>/journal.jsonl <n>/checkpoint-<step>    of runs that are not committed; n is the attempt
//	work/journals/*.jsonl                                             events and telemetry of living processes, Parquet when they end
//	work/devices/*.jsonl                                              what happened to devices and on them, see quarantine.go
//	work/joined, work/slurm/                                          see folderLocks; scripts, logs and answers of Slurm
//	work/index.jsonl                                                  what was committed, to spare readers the opening of thousands of files
type Store struct {
	Dir  string
	Plan *Plan

	hook    func(point string) error // for tests: told of each step of a commit, may make it fail
	policy  *Policy
	devices deviceLog

	mu     sync.Mutex
	known  map[string]bool // committed runs by the last look; only `study retry` makes one of them, a failed one, open again
	parts  map[string]part // compacted files, by path
	former map[string]int  // attempts in the compacted table, by run

	indexed   map[string]indexEntry // what the index says ...
	indexRead int64                 // ... in its first bytes
}

// OpenStore opens a study folder that has a plan.
func OpenStore(dir string) (*Store, error) {
	text, err := os.ReadFile(filepath.Join(dir, "plan.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, anynetx.Inputf("%s is not a study folder (it has no plan.json); `anynetx study run FILE.yaml --out %s` makes it one", dir, dir)
	}
	if err != nil {
		return nil, anynetx.Inputf("study folder: %w", err)
	}
	p := &Plan{}
	if err := json.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w); run `anynetx study run` with the study file again to write it anew", filepath.Join(dir, "plan.json"), err)
	}
	if p.Version != planVersion {
		return nil, anynetx.Inputf("%s has version %d, this program reads %d; go on with the program that began the study", filepath.Join(dir, "plan.json"), p.Version, planVersion)
	}
	return newStore(dir, p), nil
}

func newStore(dir string, p *Plan) *Store {
	return &Store{Dir: dir, Plan: p, policy: p.policy(), devices: deviceLog{folder: filepath.Join(dir, "work", "devices")}, known: map[string]bool{}, parts: map[string]part{}, indexed: map[string]indexEntry{}}
}

// makeFolders makes those of a study folder that are not there, as in a copy that was made without them.
func (s *Store) makeFolders() error {
	for _, dir := range []string{"runs", "epochs", "attempts", "events", "telemetry", "weights", "work/journals"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, dir), 0o777); err != nil {
			return diskError(err)
		}
	}
	return nil
}

// create writes the folder's description; the plan comes last and makes it one that OpenStore opens.
func (s *Store) create(study *Study, counts map[string]int) error {
	if err := s.makeFolders(); err != nil {
		return err
	}
	if err := results.Replace(filepath.Join(s.Dir, "architectures.parquet"), "architectures", s.Plan.architectureRows(), s.metadata()); err != nil {
		return diskError(err)
	}
	if err := s.writeTasks(counts); err != nil {
		return err
	}
	suffix := fmt.Sprint(os.Getpid())
	if err := writeBytes(filepath.Join(s.Dir, "study.yaml"), suffix, study.Text); err != nil {
		return err
	}
	text, err := json.MarshalIndent(s.Plan, "", " ")
	if err != nil {
		return err
	}
	return writeBytes(filepath.Join(s.Dir, "plan.json"), suffix, append(text, '\n'))
}

func (s *Store) writeTasks(counts map[string]int) error {
	rows, err := s.Plan.taskRows(counts)
	if err != nil {
		return err
	}
	return diskError(results.Replace(filepath.Join(s.Dir, "tasks.parquet"), "tasks", rows, s.metadata()))
}

// metadata goes to the footers: a function of the study, since runs and epochs must not depend on time or place.
func (s *Store) metadata() map[string]string { return map[string]string{"anynetx.study": s.Plan.Name} }

// committed says whether a run's result is in the folder.
func (s *Store) committed(r *PlannedRun) (bool, error) {
	s.mu.Lock()
	known := s.known[r.ID]
	s.mu.Unlock()
	if known {
		return true, nil
	}
	path, err := results.Path(s.Dir, "runs", r.Task.Dataset, r.ID)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(path)
	if err == nil {
		s.mu.Lock()
		s.known[r.ID] = true
		s.mu.Unlock()
		return true, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if !exists(filepath.Join(filepath.Dir(path), "compacted.parquet")) {
			return false, nil
		}
		all, err := s.refresh()
		return all[r.ID], err
	}
	return false, diskError(err)
}

// part is what a compacted file holds, as long as it stays the same file.
type part struct {
	info fs.FileInfo
	runs []string
}

// refresh looks for results that others committed, and returns all known.
func (s *Store) refresh() (map[string]bool, error) {
	files, err := results.Files(s.Dir, "runs")
	if err != nil {
		return nil, diskError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[string]bool, len(files))
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".parquet")
		if isRunID(name) {
			known[name] = true
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, diskError(err)
		}
		p := s.parts[path]
		if p.info == nil || !os.SameFile(p.info, info) {
			rows, err := results.Read[runRow](path, "runs")
			if err != nil {
				return nil, diskError(err)
			}
			p = part{info: info}
			for _, r := range rows {
				p.runs = append(p.runs, r.RunID)
			}
			s.parts[path] = p
		}
		for _, id := range p.runs {
			known[id] = true
		}
	}
	s.known = known
	return maps.Clone(known), nil
}

func isRunID(name string) bool {
	return len(name) == 16 && strings.Trim(name, "0123456789abcdef") == ""
}

// row reads a committed run.
func (s *Store) row(r *PlannedRun) (*runRow, error) {
	path, err := results.Path(s.Dir, "runs", r.Task.Dataset, r.ID)
	if err != nil {
		return nil, err
	}
	rows, err := results.Read[runRow](path, "runs")
	if errors.Is(err, fs.ErrNotExist) {
		rows, err = results.ReadTable[runRow](s.Dir, "runs")
	}
	if err != nil {
		return nil, diskError(err)
	}
	for i := range rows {
		if rows[i].RunID == r.ID {
			return &rows[i], nil
		}
	}
	return nil, fmt.Errorf("run %s (task %s, architecture %s) should be in %s but is not: %w", r.ID, r.Task.Name, r.Member.ID, path, fs.ErrNotExist)
}

func (s *Store) workDir(runID string) string { return filepath.Join(s.Dir, "work", runID) }

func (s *Store) weightsPath(runID string) string {
	return filepath.Join(s.Dir, "weights", runID+".safetensors")
}

func (s *Store) statePath(runID string) string {
	return filepath.Join(s.Dir, "weights", runID+".state")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
