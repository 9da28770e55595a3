package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"anynetx/results"
)

// recorder keeps the events, or the telemetry, of one process in a journal, and makes it a file of the table when it is closed. The
// journal of a process that was killed is made one by sweepJournals.
type recorder struct {
	mu      sync.Mutex
	store   *Store
	table   string
	name    string
	journal *journal
	rows    int
	part    int
	me      lease
}

// recordsPerFile bounds what a long study holds in journals.
const recordsPerFile = 20_000

func (s *Store) record(table string, me lease) *recorder {
	return &recorder{store: s, table: table, me: me}
}

func (r *recorder) append(row any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.journal != nil && !exists(r.journal.path) { // published by another machine, which took us for dead: it has what we wrote so far
		r.journal.Close()
		r.journal, r.rows = nil, 0
	}
	if r.journal == nil {
		r.name = fmt.Sprintf("%s-%s-%d-%d-%d", r.table, plainName(r.me.Host), r.me.PID, r.me.Start, r.part)
		j, err := createJournal(r.store.journalPath(r.name), nil)
		if err != nil {
			return err
		}
		r.journal, r.part = j, r.part+1
	}
	if err := r.journal.append(row); err != nil {
		return err
	}
	if r.rows++; r.rows >= recordsPerFile {
		return r.flush()
	}
	return nil
}

// Close makes the journal a Parquet file.
func (r *recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flush()
}

func (r *recorder) flush() error {
	if r.journal == nil {
		return nil
	}
	r.journal.Close()
	r.journal, r.rows = nil, 0
	return r.store.publishJournal(r.name)
}

func (s *Store) journalPath(name string) string {
	return filepath.Join(s.Dir, "work", "journals", name+".jsonl")
}

// publishJournal writes the Parquet file of a journal, under the journal's name, then removes the journal: done twice, it makes no
// row twice.
func (s *Store) publishJournal(name string) error {
	data, err := os.ReadFile(s.journalPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return diskError(err)
	}
	table, _, _ := strings.Cut(name, "-")
	path, err := results.Path(s.Dir, table, "", name)
	if err != nil {
		return err
	}
	switch table {
	case "events":
		err = writeRows(path, table, readJournal[Event](data), s.metadata())
	case "telemetry":
		err = writeRows(path, table, readJournal[telemetryRow](data), s.metadata())
	default:
		return nil // not a journal of ours
	}
	if err != nil {
		return diskError(err)
	}
	if err := os.Remove(s.journalPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError(err)
	}
	return nil
}

func writeRows[T any](path, table string, rows []T, meta map[string]string) error {
	if len(rows) == 0 {
		return nil
	}
	err := results.Write(path, table, rows, meta)
	if errors.Is(err, results.ErrExists) {
		return nil // written before a kill
	}
	return err
}

// sweepJournals publishes the journals of processes that are gone.
func (s *Store) sweepJournals(me lease, quiet *silence) error {
	entries, err := os.ReadDir(filepath.Join(s.Dir, "work", "journals"))
	if err != nil {
		return diskError(err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".jsonl")
		parts := strings.Split(name, "-") // table, host (without dashes), pid, start, part
		if !ok || len(parts) != 5 {
			continue
		}
		pid, err1 := strconv.Atoi(parts[2])
		start, err2 := strconv.ParseUint(parts[3], 10, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		if parts[1] == plainName(me.Host) {
			if now, alive := processStart(pid); alive && now == start {
				continue
			}
		} else if quiet.of(s.journalPath(name)) < foreignSilence {
			continue
		}
		if err := s.publishJournal(name); err != nil {
			return err
		}
	}
	return nil
}

// plainName is a host's name as part of a file's name.
func plainName(host string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r == '.' || r == '_' {
			return r
		}
		return '_'
	}, host)
}

// happened makes an event of this process.
func happened(me lease, kind, format string, args ...any) Event {
	return Event{Time: time.Now().UTC().Truncate(time.Microsecond), Kind: kind, Host: me.Host, Text: fmt.Sprintf(format, args...)}
}

func (e Event) of(l *lease) Event {
	e.RunID, e.Attempt, e.Device = l.RunID, l.attempt(), l.Device
	return e
}
