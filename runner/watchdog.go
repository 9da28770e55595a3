package runner

import (
	"fmt"
	"slices"
	"time"
)

// watchdog knows when each run of the coordinator's workers was last heard of. A worker speaks of a run only when the run has got on, so a
// run that hangs is silent, and so is one whose process is stopped.
type watchdog struct {
	limits HangLimits
	runs   map[string]*watched
	looked time.Time
}

type watched struct {
	slot   *slot
	heard  time.Time
	steps  int64
	expect float64 // seconds that what it does now usually takes, by its own measurement
}

// hear takes a worker's message.
func (w *watchdog) hear(s *slot, m *Message, now time.Time) {
	switch m.Kind {
	case "start", "progress", "epoch":
		if w.runs == nil {
			w.runs = map[string]*watched{}
		}
		w.runs[m.RunID] = &watched{slot: s, heard: now, steps: m.Steps, expect: m.Expect}
	case "loading": // no run of the process that has yet to make its first step can be blamed for waiting
		for _, r := range w.runs {
			if r.slot == s && r.steps == 0 {
				r.heard = now
			}
		}
	case "end":
		delete(w.runs, m.RunID)
	}
}

// gone forgets the runs of a worker process that has ended.
func (w *watchdog) gone(s *slot) {
	for id, r := range w.runs {
		if r.slot == s {
			delete(w.runs, id)
		}
	}
}

// limit is how long a run may be silent.
func (l HangLimits) limit(r *watched) time.Duration {
	floor := l.FloorSeconds
	if r.steps == 0 {
		floor = max(floor, l.StartSeconds)
	}
	return time.Duration(max(floor, l.Factor*r.expect) * float64(time.Second))
}

// hang is a run that has been silent for too long.
type hang struct {
	runID  string
	slot   *slot
	reason string
}

// pausedFor is a gap between two looks that says that this process itself was stopped, or starved.
const pausedFor = 5 * time.Second

// overdue lists the runs that hang. Time in which the coordinator did not run either counts for nobody.
func (w *watchdog) overdue(now time.Time) (list []hang) {
	if gap := now.Sub(w.looked); !w.looked.IsZero() && gap > pausedFor {
		for _, r := range w.runs {
			if r.heard = r.heard.Add(gap); r.heard.After(now) { // behind the gap
				r.heard = now
			}
		}
	}
	w.looked = now
	for id, r := range w.runs {
		if silent := now.Sub(r.heard); silent > w.limits.limit(r) {
			reason := fmt.Sprintf("no progress for %.1f s; its limit is %.1f s", silent.Seconds(), w.limits.limit(r).Seconds())
			if r.steps > 0 {
				reason += fmt.Sprintf(", %d steps are done and what it does usually takes %.3f s", r.steps, r.expect)
			} else {
				reason += " before its first step"
			}
			list = append(list, hang{id, r.slot, reason})
		}
	}
	slices.SortFunc(list, func(a, b hang) int { return a.slot.index - b.slot.index })
	return list
}

// pace measures how long the steps of a training take.
type pace struct {
	steps  int64
	recent [31]float64 // seconds
	ends   float64     // the longest end of an epoch, seconds
}

func (p *pace) step(d time.Duration) {
	p.recent[p.steps%int64(len(p.recent))] = d.Seconds()
	p.steps++
}

// median of the recent steps.
func (p *pace) median() float64 {
	n := min(p.steps, int64(len(p.recent)))
	if n == 0 {
		return 0
	}
	sorted := slices.Clone(p.recent[:n])
	slices.Sort(sorted)
	return sorted[n/2]
}

// end of an epoch, in which so many images pass through the network: none takes longer than in training.
func (p *pace) end(batches float64) float64 { return max(p.ends, p.median()*batches) }
