package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// StudyStatus is how far a study is, from the files of its folder alone: on any machine that sees them, whether anybody works on it or not.
type StudyStatus struct {
	Study          string         `json:"study"`
	Dir            string         `json:"dir"`
	Runs           int            `json:"runs"`
	Done           int            `json:"done"`
	Failed         int            `json:"failed"`
	Running        int            `json:"running"`
	Complete       bool           `json:"complete"`
	FailureClasses map[string]int `json:"failure_classes"`
	Tasks          []TaskStatus   `json:"tasks"`
	Hosts          []HostStatus   `json:"hosts"`
	Active         []ActiveRun    `json:"active"`
	Slurm          *SlurmStatus   `json:"slurm,omitempty"` // nil: nothing was submitted, or the study is complete
}

// TaskStatus is how far a task is.
type TaskStatus struct {
	Task   string  `json:"task"`
	Runs   int     `json:"runs"`
	Done   int     `json:"done"`
	Failed int     `json:"failed"`
	Best   *Result `json:"best"`
}

// HostStatus is a machine that works on the study.
type HostStatus struct {
	Host      string    `json:"host"`
	Running   int       `json:"running"`
	Heartbeat time.Time `json:"heartbeat_utc"` // the last of all its workers, by the clock of its files
}

// ActiveRun is a run that is leased.
type ActiveRun struct {
	RunID   string `json:"run_id"`
	Task    string `json:"task"`
	ArchID  string `json:"arch_id"`
	Attempt int    `json:"attempt"`
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	Device  string `json:"device"`
	Epoch   int    `json:"epoch"` // epochs done by the last checkpoint or journal record
	Epochs  int    `json:"epochs"`

	Heartbeat time.Time `json:"heartbeat_utc"`
}

// Status reads how far a study is.
func Status(dir string) (*StudyStatus, error) {
	store, err := OpenStore(dir)
	if err != nil {
		return nil, err
	}
	m, err := newModel(store, &queue{store: store, me: identity()})
	if err != nil {
		return nil, err
	}
	s, err := m.status()
	if err == nil && !s.Complete {
		s.Slurm = store.askSlurm(context.Background(), m.queue.me.Host, time.Now())
	}
	return s, err
}

// status is how far the study is, by what the model has read and the leases that are out.
func (m *model) status() (*StudyStatus, error) {
	store, q := m.store, m.queue
	s := &StudyStatus{Study: store.Plan.Name, Dir: store.Dir, Runs: m.total, FailureClasses: m.failures, Active: []ActiveRun{}, Tasks: []TaskStatus{}}
	var best map[string]Result
	s.Done, s.Failed, best = m.done, m.failed(), m.best
	s.Complete = s.Done+s.Failed == s.Runs
	perTask := map[string]*TaskStatus{}
	for i := range store.Plan.Tasks {
		t := &store.Plan.Tasks[i]
		s.Tasks = append(s.Tasks, TaskStatus{Task: t.Name})
		if !q.resolved[t.Name] {
			s.Tasks[i].Runs = store.Plan.planned(t)
		}
		if b, ok := best[t.Name]; ok {
			s.Tasks[i].Best = &b
		}
	}
	for i := range s.Tasks {
		perTask[s.Tasks[i].Task] = &s.Tasks[i]
	}
	begun, err := os.ReadDir(filepath.Join(store.Dir, "work")) // once, not for each run
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, diskError(err)
	}
	attempted := make(map[string]bool, len(begun))
	for _, e := range begun {
		attempted[e.Name()] = true
	}
	for _, r := range q.runs {
		t := perTask[r.Task.Name]
		t.Runs++
		if e, ok := m.rows[r.ID]; ok {
			if e.Status == statusDone {
				t.Done++
			} else {
				t.Failed++
			}
			continue
		}
		if !attempted[r.ID] {
			continue
		}
		list, err := readAttempts(store.workDir(r.ID))
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			continue
		}
		if a := list[len(list)-1]; a.end == nil && !a.lease.dead(q.me, &q.quiet) {
			active := ActiveRun{RunID: r.ID, Task: r.Task.Name, ArchID: r.Member.ID, Attempt: a.lease.Attempt, Host: a.lease.Host,
				PID: a.lease.PID, Device: a.lease.Device, Epochs: r.Task.Epochs}
			if info, err := os.Stat(a.lease.path()); err == nil {
				active.Heartbeat = info.ModTime().UTC()
			}
			if list := checkpoints(a.lease.folder()); len(list) > 0 {
				fmt.Sscanf(list[len(list)-1].name(), "checkpoint-%d", &active.Epoch)
			}
			s.Active = append(s.Active, active)
		}
	}
	s.Running = len(s.Active)
	s.Hosts = hosts(s.Active)
	return s, nil
}

func hosts(active []ActiveRun) []HostStatus {
	list := []HostStatus{}
	for _, a := range active {
		i := slices.IndexFunc(list, func(h HostStatus) bool { return h.Host == a.Host })
		if i < 0 {
			list = append(list, HostStatus{Host: a.Host})
			i = len(list) - 1
		}
		h := &list[i]
		h.Running++
		if a.Heartbeat.After(h.Heartbeat) {
			h.Heartbeat = a.Heartbeat
		}
	}
	slices.SortFunc(list, func(a, b HostStatus) int { return cmp.Compare(a.Host, b.Host) })
	return list
}

// WriteText prints a status for people.
func (s *StudyStatus) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "study %s in %s: %d of %d runs done", s.Study, s.Dir, s.Done, s.Runs)
	if s.Failed > 0 {
		fmt.Fprintf(&b, ", %d failed (%s)", s.Failed, countsText(s.FailureClasses))
	}
	if s.Running > 0 {
		fmt.Fprintf(&b, ", %d running", s.Running)
	}
	b.WriteString("\n\n")
	width := 4
	for _, t := range s.Tasks {
		width = max(width, len(t.Task))
	}
	fmt.Fprintf(&b, "%-*s  %6s  %6s  %6s  %s\n", width, "task", "runs", "done", "failed", "best error")
	for _, t := range s.Tasks {
		best := "-"
		if t.Best != nil {
			best = fmt.Sprintf("%s (%s)", t.Best.Text(), t.Best.ArchID)
		}
		fmt.Fprintf(&b, "%-*s  %6d  %6d  %6d  %s\n", width, t.Task, t.Runs, t.Done, t.Failed, best)
	}
	now := time.Now()
	for _, h := range s.Hosts {
		fmt.Fprintf(&b, "host %s: %d running, last heartbeat %s\n", h.Host, h.Running, ago(now.Sub(h.Heartbeat)))
	}
	for _, a := range s.Active {
		fmt.Fprintf(&b, "running: %s on %s, %s, process %d on %s, attempt %d, epoch %d of %d", a.ArchID, a.Task, a.Device, a.PID, a.Host, a.Attempt, a.Epoch, a.Epochs)
		if silent := now.Sub(a.Heartbeat); silent > foreignSilence {
			fmt.Fprintf(&b, ", last heartbeat %s", ago(silent))
		}
		b.WriteString("\n")
	}
	if s.Slurm != nil {
		s.Slurm.writeText(&b, now)
	} else if !s.Complete && s.Running == 0 {
		fmt.Fprintf(&b, "\nnobody works on it; `anynetx study run FILE.yaml --out %s` goes on where it was\n", s.Dir)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// ago is a time that has passed, by a clock that may not be the one that began to measure it.
func ago(d time.Duration) string {
	if d = max(0, d); d < 2*time.Minute {
		return fmt.Sprintf("%.0f s ago", d.Seconds())
	}
	return d.Round(time.Minute).String() + " ago"
}
