package runner

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// sweep ends what processes that are gone left behind: attempts without an end, work folders of committed runs, events, states that no
// task waits for any more.
func (s *Store) sweep(runs []*PlannedRun, me lease, quiet *silence) error {
	byID := map[string]*PlannedRun{}
	for _, r := range runs {
		byID[r.ID] = r
	}
	entries, err := os.ReadDir(filepath.Join(s.Dir, "work"))
	if err != nil {
		return diskError(err)
	}
	for _, e := range entries {
		r := byID[e.Name()]
		if r == nil {
			continue // not of this plan: a rank range that has moved on, or no run at all
		}
		list, err := readAttempts(s.workDir(r.ID))
		if err != nil {
			return err
		}
		busy := false
		for i := range list {
			if list[i].end != nil {
				continue
			}
			if !list[i].lease.dead(me, quiet) {
				busy = true
			} else if _, err := s.lost(r, &list[i].lease); err != nil {
				return err
			}
		}
		done, err := s.committed(r)
		if err != nil {
			return err
		}
		if done && !busy {
			err = s.clear(r.ID)
		} else {
			err = s.publishAttempts(r.ID)
		}
		if err != nil {
			return err
		}
	}
	return s.sweepStates(runs)
}

// sweepStates removes the final checkpoints of tasks whose continuing tasks are complete.
func (s *Store) sweepStates(runs []*PlannedRun) error {
	for i := range s.Plan.Tasks {
		t := &s.Plan.Tasks[i]
		if !s.Plan.needs(t, StartContinue) {
			continue
		}
		open := false
		for j := range s.Plan.Tasks {
			follower := &s.Plan.Tasks[j]
			if follower.Start != (Start{StartContinue, t.Name}) {
				continue
			}
			n := 0
			for _, r := range runs {
				if r.Task == follower {
					n++
					done, err := s.committed(r)
					if err != nil {
						return err
					}
					open = open || !done
				}
			}
			open = open || n == 0
		}
		for _, r := range runs {
			if r.Task == t && !open {
				if err := os.Remove(s.statePath(r.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return diskError(err)
				}
			}
		}
	}
	return nil
}

// sweepTemporaries removes what writers that were killed left under temporary names, if it is at least that old. Nobody is writing to a
// complete study; in another one a name that old is nobody's.
func (s *Store) sweepTemporaries(age time.Duration) error {
	return filepath.WalkDir(s.Dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return diskError(err)
		}
		inWork := e.IsDir() && filepath.Dir(path) == filepath.Join(s.Dir, "work")
		if info, err := e.Info(); strings.Contains(e.Name(), ".tmp-") && (inWork || !e.IsDir()) && err == nil && time.Since(info.ModTime()) >= age {
			if err := os.RemoveAll(path); err != nil {
				return diskError(err)
			}
		}
		if inWork {
			return filepath.SkipDir // what is in there goes with its run
		}
		return nil
	})
}
