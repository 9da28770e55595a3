package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"anynetx/anynetx"
)

// A request to cancel is a file, so that it reaches whoever works on the study, on any machine:
//
//	work/cancel            its words change with each request; a coordinator stops when they are not those it began with
//	work/cancelled/<run>   the run is to end as failed, class cancelled; gone when it has

// ErrCancelled says that the work was ended by `anynetx study cancel`.
var ErrCancelled = errors.New("cancelled by `anynetx study cancel`; `anynetx study run` goes on with it")

// errRunCancelled ends a training whose run is cancelled.
var errRunCancelled = errors.New("cancelled on request")

func (s *Store) cancelPath() string { return filepath.Join(s.Dir, "work", "cancel") }

func (s *Store) cancelledPath(runID string) string {
	return filepath.Join(s.Dir, "work", "cancelled", runID)
}

// cancelWord is the last request to stop the study, "" if there was none.
func (s *Store) cancelWord() string {
	text, err := os.ReadFile(s.cancelPath())
	if err != nil {
		return ""
	}
	return string(text)
}

const lookForEnd = 200 * time.Millisecond

// Cancel asks all who work on a study to stop, as Ctrl-C does, and waits until no run is in anybody's hands.
func Cancel(ctx context.Context, dir string) error {
	store, err := OpenStore(dir)
	if err != nil {
		return err
	}
	if status, err := Status(dir); err != nil {
		return err
	} else if status.Complete {
		return anynetx.Inputf("study %s is complete: there is nothing to cancel", dir)
	}
	me := identity()
	if err := writeBytes(store.cancelPath(), fmt.Sprint(me.PID), fmt.Appendf(nil, "process %d on %s, %s\n", me.PID, me.Host, time.Now().Format(time.RFC3339Nano))); err != nil {
		return err
	}
	for {
		status, err := Status(dir)
		if err != nil || status.Running == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d runs are still in hand; the request to stop stands", status.Running)
		case <-time.After(lookForEnd):
		}
	}
}

// CancelRun ends a run for good as failed, class cancelled, whoever has it in hand.
func CancelRun(ctx context.Context, dir, runID string) error {
	store, err := OpenStore(dir)
	if err != nil {
		return err
	}
	q := queue{store: store, me: identity()}
	if err := q.refresh(); err != nil {
		return err
	}
	var r *PlannedRun
	for _, planned := range q.runs {
		if planned.ID == runID {
			r = planned
		}
	}
	if r == nil {
		return anynetx.Inputf("the study has no run %s that could be cancelled", runID)
	}
	if done, err := store.committed(r); err != nil || done {
		return errors.Join(err, anynetx.Inputf("%s is committed already; a result is never taken back", r))
	}
	path := store.cancelledPath(r.ID)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return diskError(err)
	}
	if err := writeBytes(path, fmt.Sprint(q.me.PID), nil); err != nil {
		return err
	}
	events := store.record("events", q.me)
	err = store.endCancelled(ctx, r, &q, events)
	return errors.Join(err, events.Close())
}

// endCancelled commits a cancelled run that nobody has in hand, or waits for whoever has it.
func (s *Store) endCancelled(ctx context.Context, r *PlannedRun, q *queue, events *recorder) error {
	for {
		l, _, err := s.take(r, q.me, &q.quiet)
		if err != nil {
			return err
		}
		if l != nil {
			defer l.rest()
		}
		done, err := s.committed(r)
		if err != nil {
			return err
		}
		if l != nil && !done {
			row := l.row(r)
			if err := s.commit(r, l, result{status: statusFailed, class: classCancelled}); err != nil {
				return err
			}
			row.Outcome, row.FailureClass, row.FailureText, row.Ended = outcomeFailed, classCancelled, errRunCancelled.Error(), time.Now().UTC()
			if err := errors.Join(s.endAttempt(l, row), events.append(happened(q.me, "failure", "%s: cancelled on request", r).of(l)), s.clear(r.ID)); err != nil {
				return err
			}
			done = true
		} else if l != nil { // committed while we took it
			if err := s.clear(r.ID); err != nil {
				return err
			}
		}
		if done {
			row, err := s.row(r)
			if err != nil {
				return err
			}
			if row.Status == statusDone {
				return fmt.Errorf("%s was done before it could be cancelled; its result stays", r)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is still in hand; the request to cancel it stands", r)
		case <-time.After(lookForEnd):
		}
	}
}

// cancelled says whether a run is to end.
func (s *Store) cancelled(runID string) bool { return exists(s.cancelledPath(runID)) }

// forgetCancel removes the request once the run has ended.
func (s *Store) forgetCancel(runID string) error {
	if err := os.Remove(s.cancelledPath(runID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError(err)
	}
	return nil
}
