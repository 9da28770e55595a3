package runner

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"anynetx/anynetx"
	"anynetx/results"
)

// RunLog is all that is on record of a run.
type RunLog struct {
	RunID    string       `json:"run_id"`
	Task     string       `json:"task"`
	ArchID   string       `json:"arch_id"`
	Status   string       `json:"status"` // done, failed, or open
	Class    string       `json:"failure_class,omitempty"`
	Attempts []AttemptLog `json:"attempts"`
	Events   []Event      `json:"events"`
}

// AttemptLog is an attempt with what it left.
type AttemptLog struct {
	Attempt  int           `json:"attempt"`
	Outcome  string        `json:"outcome"` // "" while it goes on
	Class    string        `json:"failure_class,omitempty"`
	Text     string        `json:"failure_text,omitempty"`
	Host     string        `json:"host"`
	PID      int64         `json:"pid,omitempty"`
	Device   string        `json:"device"`
	Started  time.Time     `json:"started_utc"`
	WallTime *float64      `json:"wall_time_s,omitempty"`
	Epochs   []EpochResult `json:"epochs,omitempty"` // its journal, until the run is committed; then table epochs has them
	Stderr   string        `json:"stderr,omitempty"` // what its process wrote meanwhile
}

// ReadLog collects what is on record of a run.
func ReadLog(dir, runID string) (*RunLog, error) {
	store, err := OpenStore(dir)
	if err != nil {
		return nil, err
	}
	q := queue{store: store, me: identity()}
	if err := q.refresh(); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(q.runs, func(r *PlannedRun) bool { return r.ID == runID })
	if i < 0 {
		return nil, anynetx.Inputf("the study has no run %s; `anynetx study status %s` shows those in progress, table runs has the others", runID, dir)
	}
	r := q.runs[i]
	log := &RunLog{RunID: r.ID, Task: r.Task.Name, ArchID: r.Member.ID, Status: "open", Attempts: []AttemptLog{}, Events: []Event{}}
	done, err := store.committed(r)
	if err != nil {
		return nil, err
	}
	if done {
		row, err := q.row(r)
		if err != nil {
			return nil, err
		}
		log.Status, log.Class = row.Status, row.FailureClass
	}
	if err := log.attempts(store, r); err != nil {
		return nil, err
	}
	if err := log.events(store); err != nil {
		return nil, err
	}
	return log, log.stderr(store)
}

// attempts are those of the table, and those that are still in the work folder.
func (log *RunLog) attempts(s *Store, r *PlannedRun) error {
	files, err := filepath.Glob(filepath.Join(s.Dir, "attempts", r.ID+"-*.parquet"))
	if err != nil {
		return err
	}
	if compacted := filepath.Join(s.Dir, "attempts", "compacted.parquet"); exists(compacted) {
		files = append(files, compacted)
	}
	found := map[int]AttemptLog{}
	add := func(row *attemptRow) {
		if row.RunID != r.ID {
			return
		}
		a := AttemptLog{Attempt: int(row.Attempt), Outcome: row.Outcome, Class: row.FailureClass, Text: row.FailureText, Host: row.Host, Device: row.Device,
			Started: row.Started, WallTime: row.WallTime}
		if row.PID != nil {
			a.PID = *row.PID
		}
		found[a.Attempt] = a
	}
	for _, path := range files {
		rows, err := results.Read[attemptRow](path, "attempts")
		if err != nil {
			return err
		}
		for i := range rows {
			add(&rows[i])
		}
	}
	working, err := readAttempts(s.workDir(r.ID))
	if err != nil {
		return err
	}
	for i := range working {
		l := &working[i].lease
		if row := working[i].end; row != nil && row.RunID != "" {
			add(row)
		} else {
			add(l.row(r))
		}
		a := found[l.Attempt]
		if data, err := os.ReadFile(filepath.Join(l.folder(), "journal.jsonl")); err == nil {
			a.Epochs = readJournal[EpochResult](data)
		}
		found[l.Attempt] = a
	}
	for _, a := range found {
		log.Attempts = append(log.Attempts, a)
	}
	slices.SortFunc(log.Attempts, func(a, b AttemptLog) int { return cmp.Compare(a.Attempt, b.Attempt) })
	return nil
}

// events are those of the table, and of processes that are still at work.
func (log *RunLog) events(s *Store) error {
	rows, err := results.ReadTable[Event](s.Dir, "events")
	if err != nil {
		return err
	}
	journals, err := filepath.Glob(s.journalPath("events-*"))
	if err != nil {
		return err
	}
	for _, path := range journals {
		if data, err := os.ReadFile(path); err == nil { // or it has just become part of the table
			rows = append(rows, readJournal[Event](data)...)
		}
	}
	for _, e := range rows {
		if e.RunID == log.RunID {
			log.Events = append(log.Events, e)
		}
	}
	slices.SortStableFunc(log.Events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return nil
}

// A worker marks on standard error where an attempt begins and ends: the coordinator, which hears of it another way, would come too late. It
// marks the ends of those that died.
const markBegins, markEnds = "begins", "ends"

const markPrefix = "-- run "

func markText(runID string, attempt int, what string) string {
	return fmt.Sprintf("%s%s attempt %d %s", markPrefix, runID, attempt, what)
}

func mark(w io.Writer, runID string, attempt int, what string) {
	fmt.Fprintf(w, "%s %s\n", markText(runID, attempt, what), time.Now().UTC().Format(time.DateTime))
}

// stderr finds what the attempts' processes wrote, between the marks in the workers' logs.
func (log *RunLog) stderr(s *Store) error {
	files, err := filepath.Glob(filepath.Join(s.Dir, "work", "logs", "*.log"))
	if err != nil {
		return err
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return diskError(err)
		}
		for i := range log.Attempts {
			a := &log.Attempts[i]
			begins, ends := []byte(markText(log.RunID, a.Attempt, markBegins)), []byte(markText(log.RunID, a.Attempt, markEnds))
			_, text, found := bytes.Cut(data, begins)
			if !found {
				continue
			}
			text, _, _ = bytes.Cut(text, ends)
			for line := range strings.Lines(string(text[bytes.IndexByte(text, '\n')+1:])) {
				if !strings.HasPrefix(line, markPrefix) { // of another run in the same process
					a.Stderr += line
				}
			}
		}
	}
	return nil
}

// WriteText prints the log for people.
func (log *RunLog) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s: task %s, architecture %s, %s", log.RunID, log.Task, log.ArchID, log.Status)
	if log.Class != "" {
		fmt.Fprintf(&b, " (%s)", log.Class)
	}
	b.WriteString("\n")
	if len(log.Attempts) == 0 {
		b.WriteString("\nno attempt has begun\n")
	}
	for _, a := range log.Attempts {
		outcome := cmp.Or(a.Outcome, "goes on")
		if a.Class != "" {
			outcome += ", class " + a.Class
		}
		fmt.Fprintf(&b, "\nattempt %d: %s; %s, process %d on %s, since %s", a.Attempt, outcome, a.Device, a.PID, a.Host, a.Started.Format(time.DateTime))
		if a.WallTime != nil {
			fmt.Fprintf(&b, " for %.1f s", *a.WallTime)
		}
		b.WriteString("\n")
		if a.Text != "" {
			fmt.Fprintf(&b, "  %s\n", printable(a.Text))
		}
		for _, e := range a.Epochs {
			fmt.Fprintf(&b, "  epoch %d: training loss %.4f, test error %.2f %%\n", e.Epoch+1, e.TrainLoss, e.TestTop1ErrPct)
		}
		for line := range strings.Lines(a.Stderr) {
			fmt.Fprintf(&b, "  stderr: %s\n", printable(line))
		}
	}
	if len(log.Events) > 0 {
		b.WriteString("\nevents\n")
	}
	for _, e := range log.Events {
		fmt.Fprintf(&b, "  %s  %-18s %s\n", e.Time.Format(time.DateTime), e.Kind, printable(e.Text))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
