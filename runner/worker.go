package runner

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"anynetx/anynetx"
	"anynetx/results"
)

// WorkerOptions says what a worker works on and with.
type WorkerOptions struct {
	StudyDir        string
	DataDir         string
	Slot            int
	Device          string        // "cpu", "reference", "cuda:1"; empty: "cpu"
	UUID            string        // of the GPU that Device stands for; "": the back end's name for it
	Threads         int           // of the back end; 0: 1
	Only            []string      // run IDs; empty: all
	Elsewhere       bool          // other devices work on the study, so that a run may be left to them
	Ordered         bool          // nothing starts before the coordinator's first orders
	CheckpointEvery time.Duration // besides every epoch; 0: a minute
	AcceptLibrary   bool          // go on although the native library has changed since the study began

	Stdin  io.Reader // its end, or a line "stop", asks for a checkpoint and an end; nil: no such pipe
	Stdout io.Writer // messages for the coordinator, JSON lines; nil: none
	Stderr io.Writer // where native code writes too; marks go there, see markBegins; nil: none

	Trainers func(WorkerOptions, *Plan) (Trainers, error) // nil: engine's
	loading  func()                                       // for Trainers to call as they get on with loading data; nil: nobody listens
	Hook     func(point string) error                     // for tests: told of the steps of commits and checkpoints, may make them fail
}

// ErrStopped says that the work ended on request before it was done; the same command goes on with it.
var ErrStopped = errors.New("stopped before the study was complete; the same command goes on with it")

// Message is a line from a worker to its coordinator.
type Message struct {
	Kind      string  `json:"kind"` // ready, start, loading, progress, epoch, trained, end, waiting, fatal
	Slot      int     `json:"slot"`
	RunID     string  `json:"run_id,omitempty"`
	Task      string  `json:"task,omitempty"`
	ArchID    string  `json:"arch_id,omitempty"`
	Attempt   int     `json:"attempt,omitempty"`
	Epoch     int     `json:"epoch,omitempty"` // epochs done
	Epochs    int     `json:"epochs,omitempty"`
	Share     float64 `json:"share,omitempty"`    // of the run that is done
	Steps     int64   `json:"steps,omitempty"`    // trained by this attempt
	Expect    float64 `json:"expect_s,omitempty"` // seconds that what it does now usually takes
	Images    int64   `json:"images,omitempty"`   // trained on by this process since its start
	Outcome   string  `json:"outcome,omitempty"`
	Class     string  `json:"class,omitempty"`
	Text      string  `json:"text,omitempty"`
	Device    string  `json:"device,omitempty"` // of "ready", in the terms of a lease
	UserInput bool    `json:"user_input,omitempty"`
	Group     string  `json:"group,omitempty"`    // of runs that train in common launches with it
	Bytes     int64   `json:"bytes,omitempty"`    // that the attempt is planned to take on the device
	Seconds   float64 `json:"seconds,omitempty"`  // of the device that the whole run took, if one attempt did all of it
	Native    float64 `json:"native_s,omitempty"` // seconds in native code by this process
	Busy      float64 `json:"busy_s,omitempty"`   // seconds with a run leased
	TestError         // of the last epoch
}

type worker struct {
	WorkerOptions
	store    *Store
	queue    queue
	me       lease
	trainers Trainers
	where    Provenance
	events   *recorder
	orders   chan Orders // the newest, or none
	meter    meter
	asked    <-chan struct{} // that of the context
	halting  sync.Once
	stop     chan struct{}

	mu     sync.Mutex // of what follows, and of messages
	images int64
	native time.Duration
	busy   float64   // seconds
	loaded time.Time // the last word of it
}

// Work leases runs from a study folder and trains them until none is left, or until it is asked to stop (ErrStopped).
func Work(ctx context.Context, o WorkerOptions) (err error) {
	store, err := OpenStore(o.StudyDir)
	if err != nil {
		return err
	}
	if o.Device == "" {
		o.Device = "cpu"
	}
	if o.CheckpointEvery == 0 {
		o.CheckpointEvery = time.Minute
	}
	o.Threads = max(o.Threads, 1)
	store.hook = o.Hook
	w := &worker{WorkerOptions: o, store: store, me: identity(), orders: make(chan Orders, 1), asked: ctx.Done(), stop: make(chan struct{})}
	w.me.Slot = o.Slot
	w.events = store.record("events", w.me)
	defer func() { err = errors.Join(err, w.events.Close()) }()
	done := make(chan struct{})
	defer close(done)
	w.watch(ctx, done)
	if w.trainers, err = w.openTrainers(); err != nil {
		return err
	}
	w.where = w.trainers.Provenance()
	w.where.Device = cmp.Or(o.UUID, w.where.Device)
	w.me.Device, w.me.Backend = w.where.Device, w.where.Backend
	if err := store.checkLibrary(w.where, o.AcceptLibrary); err != nil {
		w.trainers.Close()
		return err
	}
	w.queue = queue{store: store, only: o.Only, me: w.me, elsewhere: o.Elsewhere}
	w.send(Message{Kind: "ready", Text: w.where.DeviceName, Device: w.where.Device})
	return w.loop()
}

// watch closes w.stop when the context ends, or standard input does.
func (w *worker) watch(ctx context.Context, done chan struct{}) {
	asked := make(chan struct{})
	if w.Stdin != nil {
		go func() {
			defer close(asked)
			for s := bufio.NewScanner(w.Stdin); s.Scan() && s.Text() != "stop"; {
				w.hear(s.Bytes())
			}
		}()
	}
	go func() {
		select {
		case <-ctx.Done():
		case <-asked:
		case <-done:
			return
		}
		w.halt()
	}()
}

// halt asks the runs in training for a checkpoint, and lets no other start.
func (w *worker) halt() { w.halting.Do(func() { close(w.stop) }) }

// openTrainers takes the device into use once more.
func (w *worker) openTrainers() (Trainers, error) {
	o := w.WorkerOptions
	o.loading = w.loads
	if w.Trainers != nil {
		return w.Trainers(o, w.store.Plan)
	}
	return OpenEngine(o, w.store.Plan)
}

// loads says, not too often, that data are coming in.
func (w *worker) loads() {
	w.mu.Lock()
	recent := time.Since(w.loaded) < 500*time.Millisecond
	if !recent {
		w.loaded = time.Now()
	}
	w.mu.Unlock()
	if !recent {
		w.send(Message{Kind: "loading"})
	}
}

func (w *worker) stopping() bool {
	select {
	case <-w.stop:
	case <-w.asked: // watch may not have come to it yet
	default:
		return false
	}
	return true
}

// attempt carries a leased run as far as it goes in a lane, and calls trained when it needs the device no more. The error is one that the
// worker cannot go on after.
func (w *worker) attempt(o offer, n *lane, trained func()) error {
	r, l := o.run, o.lease
	if d := o.decision; d.Run != "" && o.earlier[len(o.earlier)-1].end.Outcome == outcomeFailed {
		failed := &o.earlier[len(o.earlier)-1].lease
		w.events.append(happened(w.me, "decision", "%s: %s: %s", r, d.Run, d.Reason).of(failed))
	}
	begin, mine := time.Now(), n.clock.pass(1)
	row := l.row(r)
	row.DeviceName, row.LibrarySHA, row.GitCommit = w.where.DeviceName, w.where.Library, commitOfBuild()
	row.Threads, row.Group = ptr(int64(w.where.Threads)), n.name()
	w.send(Message{Kind: "start", RunID: r.ID, Task: r.Task.Name, ArchID: r.Member.ID, Attempt: l.Attempt, Epochs: r.Task.Epochs, Bytes: o.bytes, Group: row.Group})
	w.mark(l, markBegins)
	res, err := w.fate(o, n, row)
	if n.group != nil {
		n.group.leave(r.ID)
	}
	row.Shared = n.shared.Load()
	if classify(err) == classMemory {
		err = errors.Join(err, w.store.learnMemory(r, l, n.trains())) // before anything else is put on the device
	}
	row.EnergyJ = w.meter.end(r.ID, time.Now())
	w.send(Message{Kind: "trained", RunID: r.ID, Attempt: l.Attempt})
	if err == nil {
		trained()
		err = w.store.commit(r, l, *res)
	} else {
		defer trained() // when the failure is on record, which may close the device
	}
	err = w.conclude(o, row, res, err)
	row.Ended = time.Now().UTC()
	row.WallTime = ptr(time.Since(begin).Seconds())
	w.mu.Lock()
	w.busy += n.clock.pass(-1) - mine // a lane's time is spent once
	w.mu.Unlock()
	if e := w.store.endAttempt(l, row); err == nil {
		err = e
	}
	if o.finish == nil && o.decision.Run != runFails { // it did use the device
		if e := w.store.aftermath(r, l, row); err == nil {
			err = e
		}
	}
	var e error
	switch {
	case row.Outcome == outcomeCommitted || row.Outcome == outcomeFailed && res != nil:
		e = w.store.clear(r.ID)
	case exists(l.dir):
		e = w.store.publishAttempts(r.ID)
	}
	if err == nil {
		err = e
	}
	message := Message{Kind: "end", RunID: r.ID, Task: r.Task.Name, ArchID: r.Member.ID, Attempt: l.Attempt, Outcome: row.Outcome, Class: row.FailureClass, Text: row.FailureText}
	if res != nil {
		message.Epoch, message.TestError = len(res.epochs), r.Task.lastError(res.epochs)
	}
	if row.ResumedFrom == nil && row.DeviceTime != nil {
		message.Seconds = *row.DeviceTime
	}
	w.mark(l, markEnds)
	w.send(message)
	return err
}

// fate trains the run, unless its fate is known already. A run that fails by its own inputs has a result too.
func (w *worker) fate(o offer, n *lane, row *attemptRow) (*result, error) {
	if o.finish != nil {
		return o.finish, nil
	}
	if o.decision.Run == runFails {
		row.FailureText = o.decision.Reason
		return &result{status: statusFailed, class: o.decision.Class}, nil
	}
	epochs, err := w.train(o, n, row)
	switch {
	case err == nil:
		return &result{status: statusDone, epochs: epochs}, nil
	case classify(err) == classDiverged:
		row.FailureText = err.Error()
		return &result{status: statusFailed, class: classDiverged, epochs: finite(epochs)}, nil
	case classify(err) == classCancelled:
		row.FailureText = err.Error()
		return &result{status: statusFailed, class: classCancelled}, nil
	}
	return nil, err
}

// finite are the epochs with nothing but numbers.
func finite(epochs []EpochResult) []EpochResult {
	for i, e := range epochs {
		if measured(e.TrainLoss) == nil || measured(e.TestLoss) == nil {
			return epochs[:i]
		}
	}
	return epochs
}

// conclude fills in what became of the attempt, and returns the error if the worker must end.
func (w *worker) conclude(o offer, row *attemptRow, res *result, err error) error {
	r, l := o.run, o.lease
	note := func(kind string, text string) {
		row.FailureText = text
		w.events.append(happened(w.me, kind, "%s: %s", r, text).of(l))
	}
	switch {
	case err == nil && res.status == statusDone:
		row.Outcome = outcomeCommitted
	case err == nil:
		row.Outcome, row.FailureClass = outcomeFailed, res.class
		note("failure", "failed for good, class "+res.class+with(row.FailureText))
	case errors.Is(err, ErrStopped): // the loop sees it
		row.Outcome = outcomeStopped
		return nil
	case errors.Is(err, errNoRoom):
		row.Outcome, row.FailureText = outcomeStopped, err.Error()
		return nil
	case errors.Is(err, errFenced):
		row.Outcome = outcomeDuplicate
		note("fenced", "given up: another attempt has taken it over")
		return nil
	case errors.Is(err, results.ErrExists):
		row.Outcome = outcomeDuplicate
		note("conflict", fmt.Sprintf("trained again, it came to another result than the one committed, which stays: %v", err))
		return fmt.Errorf("%s came to another result than the one committed: %w", r, err)
	default:
		row.Outcome, row.FailureClass = outcomeFailed, classify(err)
		note("failure", err.Error())
		switch row.FailureClass {
		case classFolder, classInput, classDevice:
			return err
		}
		return nil
	}
	return nil
}

func with(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// send tells the coordinator. It may be gone: then standard input has ended too, and the worker will stop.
func (w *worker) send(m Message) {
	if w.Stdout == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m.Slot = w.Slot
	m.Images, m.Native, m.Busy = w.images, w.native.Seconds(), w.busy
	text, err := json.Marshal(m)
	if err != nil {
		return // a figure that is no number
	}
	w.Stdout.Write(append(text, '\n'))
}

// mark says on standard error where an attempt begins and ends.
func (w *worker) mark(l *lease, what string) {
	if w.Stderr != nil {
		mark(w.Stderr, l.RunID, l.Attempt, what)
	}
}

// checkLibrary refuses to mix the bits of two versions of a native library in one study.
func (s *Store) checkLibrary(where Provenance, accept bool) error {
	if where.Library == "" {
		return nil
	}
	path := filepath.Join(s.Dir, "work", "library-"+where.Backend)
	won, err := createOnce(path, fmt.Sprint(os.Getpid()), []byte(where.Library))
	if err != nil || won {
		return err
	}
	began, err := os.ReadFile(path)
	if err != nil {
		return diskError(err)
	}
	if string(began) == where.Library {
		return nil
	}
	if accept {
		return writeBytes(path, fmt.Sprint(os.Getpid()), []byte(where.Library))
	}
	return anynetx.Inputf("the %s library has changed since this study began (SHA-256 %.12s, now %.12s), so its results need not be the same bits; "+
		"use the library it began with, or a new folder, or accept the change with --accept-library", where.Backend, began, where.Library)
}
