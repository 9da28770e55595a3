package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"anynetx/anynetx"
	"anynetx/telemetry"
)

// RunOptions says how a study is carried out.
type RunOptions struct {
	StudyFile       string
	Dir             string   // the study folder
	DataDir         string   // of the data sets
	Devices         []string // "cpu", "cuda:0" ...; workers take them in turn; empty: "cpu"
	Workers         int      // processes; 0: one per core of a CPU, one per device otherwise
	Group           int      // runs of one architecture that a GPU trains in common launches, at most; 0: MostGrouped, 1: none
	CheckpointEvery time.Duration
	AcceptLibrary   bool                   // see WorkerOptions
	Progress        Progress               // nil: none
	Join            bool                   // work beside others in a folder that has a plan; StudyFile and Describe are not needed
	DeviceEvents    <-chan telemetry.Event // nil: nobody watches the devices
	AskDevice       func(device string)    // has DeviceEvents answer with telemetry.Heard; nil: nobody can be asked

	Describe   Describe      // nil: DescribeData of DataDir
	Command    []string      // that starts a worker, before its arguments; nil: this program's verb "worker"
	StopWithin time.Duration // until workers that were asked to stop are killed; 0: two minutes

	tryLock tryLock   // for tests
	timing  gpuTiming // for tests
}

// Summary is what a call of Run came to.
type Summary struct {
	Dir            string            `json:"dir"`
	Study          string            `json:"study"`
	Runs           int               `json:"runs"`
	Done           int               `json:"done"`
	Failed         int               `json:"failed"`
	FailureClasses map[string]int    `json:"failure_classes,omitempty"`
	Earlier        int               `json:"earlier"` // of Done and Failed, those there were at the start
	Images         int64             `json:"images"`  // trained on by this call
	Seconds        float64           `json:"seconds"`
	OutsideNative  *float64          `json:"outside_native_pct,omitempty"` // of the workers' time
	Complete       bool              `json:"complete"`
	Best           map[string]Result `json:"best,omitempty"`           // by task
	Closed         map[string]string `json:"closed_devices,omitempty"` // why, by device
}

// Result is the error of a run.
type Result struct {
	ArchID string `json:"arch_id"`
	TestError
}

// ErrFailedRuns says that a study is complete, but not all of its runs are done.
var ErrFailedRuns = errors.New("runs failed")

// errNoWorker says that no worker can be had on the devices that were asked for.
var errNoWorker = errors.New("no worker is left")

const maxStarts = 3 // of a worker that die before they have looked for work

type coordinator struct {
	RunOptions
	store     *Store
	locks     *folderLocks
	release   func() // of what we hold of them
	queue     queue
	me        lease
	events    *recorder
	telemetry *recorder
	model     *model
	slots     []*slot
	inbox     chan report
	start     chan func()
	watchdog  watchdog
	gpus      *gpuWatch // nil: none
	costs     learned   // what runs take
	unit      CostModel // of work: what was known of costs at the start
	nextLook  time.Time
	cancel    string // the request to stop that there was at the start
	stopping  bool
	complete  bool
	cause     error // why it stops, if not on request
}

// Run carries a study out, or goes on with it. It ends when all runs are committed (ErrFailedRuns if some have failed), when the context
// ends (ErrStopped), or when nothing can go on.
func Run(ctx context.Context, o RunOptions) (summary *Summary, err error) {
	if o.StopWithin == 0 {
		o.StopWithin = 2 * time.Minute
	}
	if o.Progress == nil {
		o.Progress = noProgress{}
	}
	if len(o.Devices) == 0 {
		o.Devices = []string{"cpu"}
	}
	if o.Command == nil {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("cannot start workers: %w", err)
		}
		o.Command = []string{self, "worker"}
	}
	locks := &folderLocks{dir: o.Dir, try: o.tryLock}
	store, release, err := o.open(ctx, locks)
	if err != nil {
		return nil, err
	}
	defer release()
	c := &coordinator{RunOptions: o, store: store, locks: locks, release: release, me: identity(), inbox: make(chan report), start: make(chan func())}
	c.events, c.telemetry = store.record("events", c.me), store.record("telemetry", c.me)
	c.queue, c.watchdog.limits = queue{store: store, me: c.me}, store.policy.Hang
	defer func() {
		err = errors.Join(err, c.events.Close(), c.telemetry.Close(), c.tidy())
		c.gpus.close()
	}()
	if err := c.openGPUs(); err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	err = c.loop(ctx)
	return c.finish(err)
}

func (o *RunOptions) open(ctx context.Context, locks *folderLocks) (*Store, func(), error) {
	if o.Join {
		return joinStudy(ctx, locks)
	}
	study, err := ReadStudy(o.StudyFile)
	if err != nil {
		return nil, nil, err
	}
	describe := o.Describe
	if describe == nil {
		describe = DescribeData(o.DataDir)
	}
	return openStudy(study, locks, describe)
}

// begin cleans up behind a killed predecessor and looks how far the study is.
func (c *coordinator) begin() error {
	if err := c.queue.refresh(); err != nil {
		return err
	}
	if err := c.store.sweep(c.queue.runs, c.me, &c.queue.quiet); err != nil {
		return err
	}
	if err := c.store.sweepJournals(c.me, &c.queue.quiet); err != nil {
		return err
	}
	if !c.Join { // what others rely on is not ours to judge
		if err := errors.Join(c.store.sweepTemporaries(time.Hour), c.session()); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "work", "logs"), 0o777); err != nil {
		return diskError(err)
	}
	var err error
	if c.model, err = newModel(c.store, &c.queue); err != nil {
		return err
	}
	if c.costs, err = c.store.learn(c.queue.runs); err != nil {
		return err
	}
	c.cancel = c.store.cancelWord()
	for i := range c.workers() {
		c.slots = append(c.slots, &slot{index: i, device: c.Devices[i%len(c.Devices)], packing: packing{window: c.timing.window}})
	}
	if c.locks.missing {
		text := fmt.Sprintf("locks do not work in %s: take care yourself that one `study run` or `study compact` works there at a time; results are safe without", c.Dir)
		c.Progress.Note(text)
		if err := c.events.append(happened(c.me, "no_locks", "%s", text)); err != nil {
			return err
		}
	}
	return c.events.append(happened(c.me, "start", "study %s: %d of %d runs are committed, %d workers", c.store.Plan.Name, c.model.committed(), c.model.total, len(c.slots)))
}

// workers is the number of processes.
func (c *coordinator) workers() int {
	n := c.Workers
	if n == 0 {
		n = min(workersOn(c.Devices), max(1, c.model.total-c.model.committed()))
	}
	return n
}

// workersOn is the number of processes on devices where nobody says it: one per core of a CPU, one per GPU.
func workersOn(devices []string) int {
	if onGPU(devices[0]) {
		return len(devices)
	}
	return max(len(devices), processors())
}

// threads of one worker: the cores are shared between them. The number does not show in the results.
func (c *coordinator) threads() int { return max(1, processors()/len(c.slots)) }

func (c *coordinator) loop(ctx context.Context) error {
	if c.model.open() == 0 {
		return nil
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		// The kernel ties a worker's life to the thread that started it (Pdeathsig), so one thread starts all and lives as long as we.
		runtime.LockOSThread()
		for {
			select {
			case f := <-c.start:
				f()
			case <-ended:
				return
			}
		}
	}()
	for _, s := range c.slots {
		c.spawn(s)
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	sampled, shown := time.Now(), time.Time{}
	done, events := ctx.Done(), c.DeviceEvents
	for c.living() {
		select {
		case <-done:
			done = nil
			if asked := (stopSignal{}); errors.As(context.Cause(ctx), &asked) {
				c.events.append(happened(c.me, "signal", "%v", asked))
			}
			c.stop(nil)
		case r := <-c.inbox:
			c.receive(r)
		case e, open := <-events:
			if !open {
				events = nil
				continue
			}
			c.deviceEvent(e)
		case now := <-second.C:
			c.supervise(now)
			c.direct(now)
			if c.store.cancelWord() != c.cancel {
				c.stop(ErrCancelled)
			}
			c.revive(now)
			if now.Sub(sampled) >= telemetryInterval {
				c.sample(now.Sub(sampled))
				sampled = now
			}
			if err := c.look(now); err != nil {
				c.stop(err)
			}
		}
		if time.Since(shown) >= 250*time.Millisecond { // it looks at every run; messages come in hundreds a second
			shown = time.Now()
			c.Progress.Update(c.model.snapshot(c.slots))
		}
	}
	c.sample(time.Since(sampled))
	if ctx.Err() != nil && c.cause == nil {
		return ErrStopped
	}
	return c.cause
}

// lookEvery is how often the folder is read for what others do in it; of its own workers the coordinator hears.
const lookEvery = 10 * time.Second

// look reads the folder again, but spends no more than a twentieth of the time on it: a network file system has others to serve.
func (c *coordinator) look(now time.Time) error {
	if now.Before(c.nextLook) {
		return nil
	}
	begin := time.Now()
	err := c.model.refresh()
	c.nextLook = time.Now().Add(max(lookEvery, 20*time.Since(begin)))
	return err
}

// living says whether there is a worker, or will be.
func (c *coordinator) living() bool {
	for _, s := range c.slots {
		if s.process != nil || !s.again.IsZero() && !c.stopping {
			return true
		}
	}
	return false
}

// stop asks all workers for a checkpoint and an end, and makes sure that they do end. cause is nil on request.
func (c *coordinator) stop(cause error) {
	if c.cause == nil {
		c.cause = cause
	}
	if c.stopping {
		return
	}
	c.stopping = true
	text := "on request"
	if cause != nil {
		text = cause.Error()
	}
	c.events.append(happened(c.me, "stop", "%s", text))
	c.Progress.Note("stopping: workers write a checkpoint at the next step")
	for _, s := range c.slots {
		if s.process != nil {
			s.stdin.Close()
			process := s.process
			s.killer = time.AfterFunc(c.StopWithin, func() { syscall.Kill(-process.Pid, syscall.SIGKILL) })
		}
	}
}

// revive starts the workers whose pause after a death is over.
func (c *coordinator) revive(now time.Time) {
	for _, s := range c.slots {
		if s.process == nil && !s.again.IsZero() && now.After(s.again) && !c.stopping {
			s.again = time.Time{}
			c.spawn(s)
		}
	}
}

// receive takes a worker's message, or its end.
func (c *coordinator) receive(r report) {
	s := r.slot
	if r.message != nil {
		m := r.message
		switch m.Kind {
		case "ready":
			s.ready, s.key = true, deviceKey(c.me.Host, m.Device)
		case "fatal":
			s.fatal = m
		case "waiting":
			s.deaths = 0
		case "start":
			s.deaths = 0
			if c.model.byID[m.RunID] == nil { // a task that ranks another one has begun
				if err := c.model.refresh(); err != nil {
					c.stop(err)
				}
			}
			s.runs[m.RunID], s.trained[m.RunID] = m.Attempt, false
		case "trained":
			s.trained[m.RunID] = true
		case "end":
			delete(s.runs, m.RunID)
			if m.Outcome == outcomeFailed {
				c.ask(s)
			}
			if m.Outcome == outcomeFailed || m.Outcome == outcomeDuplicate {
				c.Progress.Note(fmt.Sprintf("run %s (task %s, architecture %s): %s %s%s", m.RunID, m.Task, m.ArchID, m.Outcome, m.Class, with(m.Text)))
			}
		}
		if m.Steps > 0 {
			s.steps[m.RunID] = m.Steps
		}
		c.watchdog.hear(s, m, time.Now())
		c.told(s, m)
		c.model.hear(s, m)
		if m.Kind == "ready" {
			c.direct(time.Now())
		}
		return
	}
	if s.killer != nil {
		s.killer.Stop()
		s.killer = nil
	}
	for id, attempt := range s.runs {
		mark(s.log, id, attempt, markEnds)
	}
	s.log.Close()
	s.process = nil
	c.model.gone(s)
	c.watchdog.gone(s)
	code := r.state.ExitCode()
	switch {
	case code == 0:
		return
	case s.fatal != nil && s.fatal.UserInput:
		c.stop(anynetx.Inputf("worker %d: %s", s.index, s.fatal.Text))
		return
	case s.fatal != nil && s.fatal.Class == classFolder:
		c.stop(folderError{fmt.Errorf("worker %d: %s", s.index, s.fatal.Text)})
		return
	case code == exitStopped && c.stopping:
		return
	}
	c.died(s, r.state)
}

// tidy removes what killed writers left in a complete study, unless somebody is still about to write.
func (c *coordinator) tidy() error {
	if !c.complete || c.locks.missing {
		return nil
	}
	if c.Join {
		c.release() // it is shared: the last one out has the folder to itself
		release, got, err := c.locks.take("lock", false)
		if err != nil || !got {
			return err
		}
		defer release()
	}
	release, alone, err := c.locks.alone()
	if err != nil || !alone {
		return err
	}
	defer release()
	return c.store.sweepTemporaries(0)
}

// finish leaves the folder tidy and says what there is.
func (c *coordinator) finish(cause error) (*Summary, error) {
	if err := c.model.refresh(); err != nil {
		return nil, errors.Join(cause, err)
	}
	summary := c.model.summary()
	summary.Closed = c.closedDevices()
	err := errors.Join(c.store.sweep(c.queue.runs, c.me, &c.queue.quiet), c.store.sweepJournals(c.me, &c.queue.quiet), c.store.writeTasks(c.queue.counts()))
	c.complete = summary.Complete
	c.Progress.Update(c.model.snapshot(c.slots))
	c.Progress.Close()
	if summary.Complete && (errors.Is(cause, ErrStopped) || errors.Is(cause, ErrCancelled)) {
		cause = nil // the last run was committed meanwhile
	}
	switch {
	case cause != nil || err != nil:
	case !summary.Complete && len(summary.Closed) > 0:
		cause = fmt.Errorf("%d of %d runs are not finished: %w", summary.Runs-summary.Done-summary.Failed, summary.Runs, closedText(summary.Closed))
	case !summary.Complete:
		cause = fmt.Errorf("%d of %d runs are not finished although no worker is left; run the same command again", summary.Runs-summary.Done-summary.Failed, summary.Runs)
	case len(summary.Closed) > 0 && summary.Failed == 0:
		cause = fmt.Errorf("all %d runs are done, but %w", summary.Runs, closedText(summary.Closed))
	case summary.Failed > 0:
		cause = fmt.Errorf("%d of %d %w (%s); table events says why", summary.Failed, summary.Runs, ErrFailedRuns, countsText(summary.FailureClasses))
	}
	c.events.append(happened(c.me, "end", "study %s: %d of %d runs done, %d failed", c.store.Plan.Name, summary.Done, summary.Runs, summary.Failed))
	return summary, errors.Join(cause, err)
}
