package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// SlurmStatus is what Slurm says of a study's arrays. Tasks that it does not name may be at work all the same.
type SlurmStatus struct {
	Arrays  []SlurmArray `json:"arrays"`
	Tasks   []SlurmTasks `json:"tasks"`
	Asked   time.Time    `json:"asked_utc"`
	Problem string       `json:"problem,omitempty"` // why there is no newer answer

	Tries int `json:"tries"` // without an answer, in a row
}

// SlurmTasks are the tasks of an array in one state.
type SlurmTasks struct {
	Job    string `json:"job"`
	State  string `json:"state"`
	Reason string `json:"reason"`
	Tasks  int    `json:"tasks"`
}

// How often one machine asks Slurm about one study, however often people ask us: controllers are shared, and slow ones are asked less.
const (
	slurmPause    = 30 * time.Second
	slurmMaxPause = 10 * time.Minute
)

// askSlurm is what Slurm says of the arrays of a study, nil if there are none. An answer is kept in the folder for slurmPause, for each
// machine by its own clock.
func (s *Store) askSlurm(ctx context.Context, host string, now time.Time) *SlurmStatus {
	arrays := s.slurmArrays()
	if len(arrays) == 0 {
		return nil
	}
	path := filepath.Join(s.slurmDir(), "queue-"+plainName(host)+".json")
	known := &SlurmStatus{}
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, known) != nil {
		known = &SlurmStatus{}
	}
	known.Arrays = arrays
	pause := min(slurmPause<<min(known.Tries, 10), slurmMaxPause)
	if age := now.Sub(known.Asked); age >= 0 && age < pause && !slices.ContainsFunc(arrays, func(a SlurmArray) bool { return a.Submitted.After(known.Asked) }) {
		return known
	}
	tasks, err := s.squeue(ctx, arrays)
	known.Asked = now.UTC()
	if err != nil {
		known.Tries++
		known.Problem = err.Error()
	} else {
		known.Tries, known.Problem, known.Tasks = 0, "", tasks
	}
	if data, err := json.Marshal(known); err == nil {
		writeBytes(path, "status", data) // should it fail, we ask again
	}
	return known
}

func (s *Store) slurmArrays() []SlurmArray {
	entries, _ := os.ReadDir(s.slurmDir())
	var arrays []SlurmArray
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "array-") || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		var a SlurmArray
		if data, err := os.ReadFile(filepath.Join(s.slurmDir(), e.Name())); err == nil && json.Unmarshal(data, &a) == nil {
			arrays = append(arrays, a)
		}
	}
	slices.SortFunc(arrays, func(a, b SlurmArray) int { return cmp.Or(a.Submitted.Compare(b.Submitted), cmp.Compare(a.Job, b.Job)) })
	return arrays
}

// squeue counts the tasks of arrays by their states: one question for all. Job numbers are given out again, so the name must fit too.
func (s *Store) squeue(ctx context.Context, arrays []SlurmArray) ([]SlurmTasks, error) {
	ids := make([]string, len(arrays))
	for i, a := range arrays {
		ids[i] = a.Job
	}
	text, err := slurm(ctx, nil, "squeue", "--noheader", "--array", "--jobs="+strings.Join(ids, ","), "--format=%F|%T|%j|%r")
	if err != nil && strings.Contains(err.Error(), "Invalid job id") { // all forgotten
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var tasks []SlurmTasks
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 4)
		if len(f) != 4 || f[2] != s.slurmName() {
			continue
		}
		t := SlurmTasks{Job: f[0], State: strings.ToLower(f[1]), Reason: strings.TrimPrefix(f[3], "None")}
		i := slices.IndexFunc(tasks, func(o SlurmTasks) bool { return o.Job == t.Job && o.State == t.State && o.Reason == t.Reason })
		if i < 0 {
			tasks = append(tasks, t)
			i = len(tasks) - 1
		}
		tasks[i].Tasks++
	}
	return tasks, nil
}

func (q *SlurmStatus) writeText(w io.Writer, now time.Time) {
	for _, a := range q.Arrays {
		var parts []string
		for _, t := range q.Tasks {
			if t.Job != a.Job {
				continue
			}
			text := fmt.Sprintf("%d %s", t.Tasks, t.State)
			if t.Reason != "" {
				text += " (" + t.Reason + ")"
			}
			parts = append(parts, text)
		}
		if len(parts) == 0 && q.Problem != "" {
			continue
		}
		if len(parts) == 0 {
			parts = []string{"Slurm knows of no task any more"}
		}
		fmt.Fprintf(w, "slurm: job %s of %d tasks: %s\n", a.Job, a.Tasks, strings.Join(parts, ", "))
	}
	if q.Problem != "" {
		fmt.Fprintf(w, "slurm: %s; asked %s\n", q.Problem, ago(now.Sub(q.Asked)))
	}
}
