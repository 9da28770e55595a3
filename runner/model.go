package runner

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// model is what the coordinator knows of the progress: from the folder, and between looks at it from its workers' messages.
type model struct {
	store  *Store
	queue  *queue
	total  int
	tally                         // of committed runs
	byID   map[string]*PlannedRun // of the runs as they were listed ...
	listed int                    // ... the last time
	left   float64                // multiply-adds of the runs that are not committed

	began    time.Time
	earlier  int
	running  map[string]*running // by run ID
	sessions map[*slot]Message   // the last totals of each worker process
	before   Message             // totals of worker processes that are gone
	macs     float64             // of the runs ended in this session
	window   []sample
	gpus     []telemetryRow // the last of each
}

// running is a run that a slot is at.
type running struct {
	slot    *slot
	run     *PlannedRun
	message Message
	first   float64 // share that was done when the attempt began
}

type sample struct {
	at     time.Time
	images int64
}

func newModel(store *Store, q *queue) (*model, error) {
	m := &model{store: store, queue: q, tally: newTally(), began: time.Now(), running: map[string]*running{}, sessions: map[*slot]Message{}}
	if err := m.refresh(); err != nil {
		return nil, err
	}
	m.earlier = len(m.rows)
	return m, nil
}

// refresh looks at the folder: runs of a task whose source is complete are known now, and other workers may have committed.
func (m *model) refresh() error {
	committed, err := m.store.refresh()
	if err != nil {
		return err
	}
	if err := m.queue.refresh(); err != nil {
		return err
	}
	m.total = m.queue.expected()
	if m.listed != m.queue.listed { // runs that no rank range takes any more do not count
		m.tally, m.listed = newTally(), m.queue.listed
		m.byID = make(map[string]*PlannedRun, len(m.queue.runs))
		for _, r := range m.queue.runs {
			m.byID[r.ID] = r
		}
	}
	m.left = 0
	all := 0.0
	var index map[string]indexEntry
	for _, r := range m.queue.runs {
		all += r.MACs
		if !committed[r.ID] {
			m.left += r.MACs
			if m.rows[r.ID].Status == statusFailed { // and is to be tried again
				m.reopen(r.ID)
			}
			continue
		}
		before, known := m.rows[r.ID]
		if known && before.Status == statusDone {
			continue
		}
		if index == nil {
			index = m.store.index()
		}
		e, ok := index[r.ID]
		if known && e.Status != statusDone { // it has failed, and was not tried again since
			continue
		}
		if !ok || e.Status != statusDone || e.TestError != r.Task.testError(e.Top1, e.Top5) { // what the index says of a failure may be out of date, and so may the metric
			row, err := m.queue.row(r)
			if err != nil {
				return err
			}
			e = r.indexEntry(row)
		}
		m.commit(e)
	}
	m.left += all / float64(max(1, len(m.queue.runs))) * float64(m.total-len(m.queue.runs)) // those that are not known yet are like the others
	return nil
}

// expected is the number of runs, those of rank ranges that are not known yet included.
func (q *queue) expected() int {
	n := len(q.runs)
	for i := range q.store.Plan.Tasks {
		t := &q.store.Plan.Tasks[i]
		if !q.resolved[t.Name] {
			n += q.store.Plan.planned(t)
		}
	}
	return n
}

func (m *model) committed() int { return len(m.rows) }

func (m *model) open() int { return m.total - len(m.rows) }

// hear takes a worker's message.
func (m *model) hear(s *slot, msg *Message) {
	m.sessions[s] = *msg
	switch msg.Kind {
	case "start":
		if r := m.byID[msg.RunID]; r != nil {
			m.running[r.ID] = &running{slot: s, run: r, message: *msg, first: -1}
		}
	case "progress", "epoch":
		if g := m.running[msg.RunID]; g != nil {
			if g.first < 0 {
				g.first = msg.Share
			}
			g.message = *msg
		}
	case "end":
		if g := m.running[msg.RunID]; g != nil && msg.Outcome == outcomeCommitted {
			m.macs += g.run.MACs * (1 - max(g.first, 0))
		}
		if msg.Outcome == outcomeCommitted {
			if r, seen := m.byID[msg.RunID], m.rows[msg.RunID].RunID != ""; r != nil && !seen {
				m.left -= r.MACs
			}
			m.commit(indexEntry{RunID: msg.RunID, Task: msg.Task, ArchID: msg.ArchID, Status: statusDone, TestError: msg.TestError})
		}
		delete(m.running, msg.RunID)
	}
}

// gone forgets a worker process.
func (m *model) gone(s *slot) {
	last := m.sessions[s]
	m.before.Images += last.Images
	m.before.Native += last.Native
	m.before.Busy += last.Busy
	delete(m.sessions, s)
	maps.DeleteFunc(m.running, func(_ string, g *running) bool { return g.slot == s })
}

func (m *model) totals() Message {
	t := m.before
	for _, s := range m.sessions {
		t.Images += s.Images
		t.Native += s.Native
		t.Busy += s.Busy
	}
	return t
}

// Snapshot is the progress of a study at a moment.
type Snapshot struct {
	Study           string            `json:"study"`
	Runs            int               `json:"runs"`
	Done            int               `json:"done"`
	Failed          int               `json:"failed"`
	FailureClasses  map[string]int    `json:"failure_classes,omitempty"`
	GPUs            []DeviceSample    `json:"gpus,omitempty"` // means of the last ten seconds
	Running         []RunningRun      `json:"running"`
	Workers         int               `json:"workers"` // processes alive
	ImagesPerSecond float64           `json:"images_per_s"`
	Elapsed         float64           `json:"elapsed_s"`
	Remaining       *float64          `json:"eta_s"` // null until something has been measured
	Best            map[string]Result `json:"best,omitempty"`
	Tasks           []string          `json:"-"` // order of Best
}

// RunningRun is a run in progress.
type RunningRun struct {
	RunID  string  `json:"run_id"`
	Task   string  `json:"task"`
	ArchID string  `json:"arch_id"`
	Device string  `json:"device"`
	Epoch  int     `json:"epoch"`
	Epochs int     `json:"epochs"`
	Share  float64 `json:"share"`
	TestError
}

const rateWindow = 30 * time.Second

func (m *model) snapshot(slots []*slot) Snapshot {
	now := time.Now()
	s := Snapshot{Study: m.store.Plan.Name, Runs: m.total, Elapsed: now.Sub(m.began).Seconds(), Running: []RunningRun{}}
	s.Done, s.Failed, s.Best = m.done, m.failed(), maps.Clone(m.best)
	s.FailureClasses, s.GPUs = maps.Clone(m.failures), m.gpus
	for i := range m.store.Plan.Tasks {
		s.Tasks = append(s.Tasks, m.store.Plan.Tasks[i].Name)
	}
	macs := m.macs
	for _, slot := range slots {
		if slot.process != nil {
			s.Workers++
		}
	}
	for _, g := range slices.SortedFunc(maps.Values(m.running), func(a, b *running) int {
		return cmp.Or(cmp.Compare(a.slot.index, b.slot.index), cmp.Compare(a.run.ID, b.run.ID))
	}) {
		r := RunningRun{RunID: g.run.ID, Task: g.run.Task.Name, ArchID: g.run.Member.ID, Device: g.slot.device, Epoch: g.message.Epoch, Epochs: g.run.Task.Epochs, Share: g.message.Share, TestError: g.message.TestError}
		s.Running = append(s.Running, r)
		if g.first >= 0 {
			macs += g.run.MACs * (g.message.Share - g.first)
		}
	}
	images := m.totals().Images
	m.window = append(m.window, sample{now, images})
	for len(m.window) > 2 && now.Sub(m.window[0].at) > rateWindow {
		m.window = m.window[1:]
	}
	if span := now.Sub(m.window[0].at).Seconds(); span > 0.5 {
		s.ImagesPerSecond = float64(images-m.window[0].images) / span
	}
	if macs > 0 && s.Elapsed > 1 {
		left := m.macsLeft()
		s.Remaining = ptr(math.Round(left / macs * s.Elapsed))
	}
	return s
}

// macsLeft is the work of the runs that are not committed, less what those in progress have behind them.
func (m *model) macsLeft() float64 {
	left := m.left
	for _, g := range m.running {
		left -= g.run.MACs * g.message.Share
	}
	return max(0, left)
}

func (m *model) summary() *Summary {
	s := &Summary{Dir: m.store.Dir, Study: m.store.Plan.Name, Runs: m.total, Earlier: m.earlier, Seconds: time.Since(m.began).Seconds(), FailureClasses: m.failures}
	s.Done, s.Failed, s.Best = m.done, m.failed(), m.best
	s.Complete = s.Done+s.Failed == s.Runs
	t := m.totals()
	s.Images = t.Images
	if t.Busy > 0 {
		s.OutsideNative = ptr(100 * (1 - t.Native/t.Busy))
	}
	return s
}

// countsText is "2 diverged, 1 out_of_memory".
func countsText(counts map[string]int) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	var parts []string
	for _, n := range names {
		parts = append(parts, fmt.Sprintf("%d %s", counts[n], n))
	}
	return strings.Join(parts, ", ")
}
