package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Leases: work/<run_id>/lease-<n> says that attempt n is somebody's. It ends with end-<n>, which holds what became of the attempt, and
// attempt n+1 may begin only then. Both are created exclusively and never removed before the run is committed, so attempt numbers rise,
// of two takers one wins, and whoever sees a higher lease than its own knows that it has been given up: it must not commit (fencing).
// Should it commit nevertheless, between the look and the rename, it commits the same bytes.

// lease is who works on an attempt.
type lease struct {
	RunID   string    `json:"run_id"`
	Attempt int       `json:"attempt"`
	Host    string    `json:"host"`
	Machine string    `json:"machine"` // boot and process namespace: where PID means this process
	PID     int       `json:"pid"`
	Start   uint64    `json:"process_start"` // clock ticks since boot
	Slot    int       `json:"slot"`
	Device  string    `json:"device"`
	Backend string    `json:"backend"`
	Taken   time.Time `json:"taken_utc"`

	dir  string // work/<run_id>
	rest func() // ends its heartbeat, see beat
}

// identity is this process, in the terms of a lease.
func identity() lease {
	host, _ := os.Hostname()
	start, _ := processStart(os.Getpid())
	return lease{Host: host, Machine: machine(), PID: os.Getpid(), Start: start}
}

func (l *lease) path() string       { return filepath.Join(l.dir, fmt.Sprintf("lease-%06d", l.Attempt)) }
func (l *lease) endPath() string    { return filepath.Join(l.dir, fmt.Sprintf("end-%06d", l.Attempt)) }
func (l *lease) folder() string     { return filepath.Join(l.dir, fmt.Sprintf("%06d", l.Attempt)) }
func (l *lease) suffix() string     { return fmt.Sprintf("%d-%d", l.Attempt, l.PID) }
func (l *lease) attempt() *int64    { return ptr(int64(l.Attempt)) }
func (l *lease) nextExists() bool   { return exists((&lease{dir: l.dir, Attempt: l.Attempt + 1}).path()) }
func (l *lease) here(me lease) bool { return l.Host == me.Host && l.Machine == me.Machine }

// fenced says that the attempt was given up by others, or cleared away after another one committed.
func (l *lease) fenced() bool { return l.nextExists() || exists(l.endPath()) || !exists(l.path()) }

// heartbeat is how often a lease is touched.
const heartbeat = 10 * time.Second

// beat touches the lease until rest is called: from the moment that it is taken, since a run waits before it trains, for its device, for data,
// for memory or for a slow disk, and until its end is on record.
func (l *lease) beat() {
	ended := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				now := time.Now()
				os.Chtimes(l.path(), now, now)
			case <-ended:
				return
			}
		}
	})
	l.rest = sync.OnceFunc(func() {
		close(ended)
		beating.Wait()
	})
}

// silence remembers, by this process's own clock, how long a lease of another machine has not been touched.
type silence struct {
	mu   sync.Mutex
	seen map[string]touched
}

type touched struct {
	at    time.Time // the file's time, which is another machine's clock
	since time.Time // when we saw it first, by ours
}

func (s *silence) of(path string) time.Duration {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]touched{}
	}
	if t, ok := s.seen[path]; ok && t.at.Equal(info.ModTime()) {
		return time.Since(t.since)
	}
	s.seen[path] = touched{info.ModTime(), time.Now()}
	return 0
}

// deadFor is how long this process has known a lease's process to be gone.
func (s *silence) deadFor(path string) time.Duration { return s.knownFor("dead " + path) }

// knownFor is how long this process has known something.
func (s *silence) knownFor(what string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]touched{}
	}
	t, ok := s.seen[what]
	if !ok {
		t.since = time.Now()
		s.seen[what] = t
	}
	return time.Since(t.since)
}

// obituary is how long workers leave the attempt of a dead process alone, so that its coordinator, which knows how it died, has the word.
const obituary = 5 * time.Second

// foreignSilence is how long a lease of another machine must lie untouched before it is taken to be dead: many heartbeats.
const foreignSilence = 10 * time.Minute

// dead says whether a lease's process is known to be gone. A living process on this machine is never taken for dead, however silent.
func (l *lease) dead(me lease, quiet *silence) bool {
	if l.here(me) {
		start, alive := processStart(l.PID)
		return !alive || start != l.Start
	}
	return quiet.of(l.path()) > foreignSilence
}

// attempts lists what there is of a run's attempts, oldest first, with nil for a lease that has no end.
type attemptState struct {
	lease lease
	end   *attemptRow
}

func readAttempts(dir string) ([]attemptState, error) {
	entries, err := os.ReadDir(dir) // sorted: the numbers have leading zeros
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diskError(err)
	}
	var list []attemptState
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "lease-")
		if !ok {
			continue
		}
		n, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		a := attemptState{lease: lease{dir: dir, Attempt: n}}
		data, err := os.ReadFile(a.lease.path())
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // being cleared away after a commit
		}
		if err != nil {
			return nil, diskError(err)
		}
		if json.Unmarshal(data, &a.lease) != nil || a.lease.Attempt != n {
			a.lease = lease{Attempt: n} // torn by a crash of the machine: its process is gone with it
			a.lease.Host = "unknown"
			a.end = &attemptRow{Outcome: outcomeLost}
		}
		a.lease.dir = dir
		if data, err := os.ReadFile(a.lease.endPath()); err == nil {
			a.end = &attemptRow{Outcome: outcomeLost}
			json.Unmarshal(data, a.end) // what cannot be read counts as lost
		}
		list = append(list, a)
	}
	return list, nil
}

// take tries to lease a run; the lease's heart beats until endAttempt, or until whoever has no use for it calls rest. It returns nil if another
// living process has it, or won, or if it is too early to decide about the last failure. The earlier attempts come with it.
func (s *Store) take(r *PlannedRun, me lease, quiet *silence) (*lease, []attemptState, error) {
	dir := s.workDir(r.ID)
	earlier, err := readAttempts(dir)
	if err != nil {
		return nil, nil, err
	}
	next := 1
	for i := range earlier {
		a := &earlier[i]
		next = a.lease.Attempt + 1
		if a.end == nil {
			if !a.lease.dead(me, quiet) || quiet.deadFor(a.lease.path()) < obituary {
				return nil, nil, nil
			}
			if a.end, err = s.lost(r, &a.lease); err != nil {
				return nil, nil, err
			}
		}
	}
	if settled, err := s.settled(earlier, quiet); err != nil || !settled {
		return nil, nil, err
	}
	former, err := s.formerAttempts(r.ID)
	if err != nil {
		return nil, nil, err
	}
	for next = max(next, former+1); exists(s.attemptPath(r.ID, next)); { // attempts whose folder is cleared away
		next++
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, nil, diskError(err)
	}
	l := me
	l.RunID, l.Attempt, l.Taken, l.dir = r.ID, next, time.Now().UTC(), dir
	data, err := json.Marshal(&l)
	if err != nil {
		return nil, nil, err
	}
	won, err := createOnce(l.path(), l.suffix(), data)
	if errors.Is(err, fs.ErrNotExist) { // the folder was cleared away under our feet: the run is committed
		return nil, nil, nil
	}
	if err != nil || !won {
		return nil, nil, err
	}
	l.beat()
	return &l, earlier, nil
}

// lost ends the attempt of a process that is gone, and says what is known of it.
func (s *Store) lost(r *PlannedRun, l *lease) (*attemptRow, error) {
	row := l.row(r)
	row.Outcome, row.FailureText = outcomeLost, "the process ended without a word"
	if info, err := os.Stat(l.path()); err == nil {
		row.WallTime = ptr(max(0, info.ModTime().Sub(l.Taken).Seconds())) // to its last heartbeat
	}
	if err := s.endAttempt(l, row); err != nil {
		return nil, err
	}
	if data, err := os.ReadFile(l.endPath()); err == nil { // the first word counts
		json.Unmarshal(data, row)
	}
	return row, nil
}

// row begins the row of an attempt.
func (l *lease) row(r *PlannedRun) *attemptRow {
	return &attemptRow{RunID: r.ID, Attempt: int64(l.Attempt), Task: r.Task.Name, Started: l.Taken, Backend: l.Backend,
		Device: l.Device, Host: l.Host, PID: ptr(int64(l.PID)), ConfigSHA: r.hash()}
}

// endAttempt writes what became of an attempt, once, and its row of the table.
func (s *Store) endAttempt(l *lease, row *attemptRow) error {
	if l.rest != nil { // it is ours, and not that of a process that is gone
		defer l.rest()
	}
	data, err := json.Marshal(row)
	if err != nil {
		return err
	}
	if _, err := createOnce(l.endPath(), l.suffix(), data); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// giveBack ends the attempt at a leased run before anything was trained: others may take it.
func (s *Store) giveBack(o offer) error {
	row := o.lease.row(o.run)
	row.Outcome, row.Ended = outcomeStopped, time.Now().UTC()
	return s.endAttempt(o.lease, row)
}
