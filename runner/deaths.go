package runner

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// died deals with a worker that should not have ended: its run goes to the next worker, it is started again after a pause, and given up
// when it dies again and again before it is ready, or by its own doing before it has a run.
func (c *coordinator) died(s *slot, state *os.ProcessState) {
	reason := state.String()
	if s.fatal != nil {
		reason = s.fatal.Text
	}
	text := fmt.Sprintf("worker %d on %s ended: %s%s", s.index, s.device, reason, with(s.tail.last()))
	if len(s.runs) > 0 {
		if err := c.blame(s, text, crashed(state)); err != nil {
			c.stop(err)
			return
		}
	}
	c.events.append(happened(c.me, "worker_died", "%s", text))
	if c.stopping {
		return
	}
	if c.judge(s); s.closed != "" {
		return
	}
	c.Progress.Note(text)
	if !s.ready || len(s.runs) == 0 && crashed(state) {
		s.deaths++
	}
	if s.deaths >= maxStarts {
		s.again = time.Time{}
		text := fmt.Sprintf("worker %d on %s is given up: %d starts in a row died before it had a run: %s%s", s.index, s.device, s.deaths, reason, with(s.tail.last()))
		c.events.append(happened(c.me, "worker_given_up", "%s", text))
		c.Progress.Note(text)
		if !c.living() {
			c.cause = fmt.Errorf("%w: %s", errNoWorker, text)
		}
		return
	}
	s.again = time.Now().Add(min(30*time.Second, 100*time.Millisecond<<(2*s.deaths)))
}

// crashed says whether a process ended by a fault of its own. SIGKILL is somebody else's doing, and so is a polite signal.
func crashed(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return state.ExitCode() != exitStopped
	}
	switch status.Signal() {
	case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGABRT:
		return true
	}
	return false
}

// blame ends the attempts of a worker that is gone: with a failure if it crashed or hung, so that a run that takes its process down is not
// tried for ever.
func (c *coordinator) blame(s *slot, text string, crashed bool) error {
	training := 0
	for id := range s.runs {
		if !s.trained[id] {
			training++
		}
	}
	for _, r := range c.queue.runs {
		if _, was := s.runs[r.ID]; !was {
			continue
		}
		list, err := readAttempts(c.store.workDir(r.ID))
		if err != nil {
			return err
		}
		for _, a := range list {
			if a.end != nil || a.lease.PID != s.pid || !a.lease.here(c.me) {
				continue
			}
			reason, hung := s.hung[r.ID]
			if !hung && (!crashed || s.trained[r.ID] || len(s.hung) > 0 || s.closed != "") {
				if _, err := c.store.lost(r, &a.lease); err != nil {
					return err
				}
				continue
			}
			row := a.lease.row(r)
			row.Outcome, row.FailureClass, row.FailureText, row.Ended = outcomeFailed, classCrash, text, time.Now().UTC()
			if hung {
				row.FailureClass, row.FailureText = classHung, reason
			}
			row.WallTime, row.Shared, row.Steps = ptr(time.Since(a.lease.Taken).Seconds()), training > 1, s.steps[r.ID]
			row.Group = s.groups[r.ID]
			if err := errors.Join(c.store.endAttempt(&a.lease, row), c.store.aftermath(r, &a.lease, row)); err != nil {
				return err
			}
			c.ask(s)
		}
	}
	return nil
}
