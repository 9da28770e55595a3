package runner

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"anynetx/bindings"
)

// A checkpoint is a file of the training's own format, whose extra bytes are a bookmark: how much of the attempt's journal belongs to it.
// It is named after its position, so that names sort by progress.
type checkpoint struct {
	path   string
	folder string // of its attempt
}

func checkpointName(epoch, step int) string { return fmt.Sprintf("checkpoint-%06d-%08d", epoch, step) }

// bookmark travels in a checkpoint.
type bookmark struct {
	RunID   string `json:"run_id"`
	Library string `json:"library_sha256"` // a run's bits come from one library
	Bytes   int64  `json:"journal_bytes"`
	CRC     uint32 `json:"journal_crc32c"`
}

// keptCheckpoints is how many there are of a run: should the newest be damaged, the one before it is used.
const keptCheckpoints = 2

// checkpoints lists those of an attempt.
func checkpoints(folder string) []checkpoint {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	var list []checkpoint
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "checkpoint-") {
			list = append(list, checkpoint{filepath.Join(folder, e.Name()), folder})
		}
	}
	return list
}

// newestFirst lists the checkpoints of all attempts at a run.
func newestFirst(dir string) []checkpoint {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var list []checkpoint
	for _, e := range entries {
		if e.IsDir() {
			list = append(list, checkpoints(filepath.Join(dir, e.Name()))...)
		}
	}
	slices.SortFunc(list, func(a, b checkpoint) int {
		return cmp.Or(cmp.Compare(filepath.Base(b.path), filepath.Base(a.path)), cmp.Compare(b.folder, a.folder))
	})
	return list
}

// training is a leased run on its way.
type training struct {
	w       *worker
	in      *lane
	r       *PlannedRun
	l       *lease
	t       Training
	journal *journal
	epochs  []EpochResult
	saved   time.Time     // the last checkpoint
	told    time.Time     // the last progress message
	native  time.Duration // of trainings that are closed
	crowd   float64       // the runs that were in the launches of the last one's steps, in the mean
	asked   time.Time     // whether the run is cancelled
	pace    pace
	expect  float64 // seconds that the end of the epoch under way may take
	images  int64
}

// train takes a run from its newest valid checkpoint, or from its start, to its end, and returns its epochs.
func (w *worker) train(o offer, in *lane, row *attemptRow) ([]EpochResult, error) {
	g := &training{w: w, in: in, r: o.run, l: o.lease, saved: time.Now()}
	if err := os.MkdirAll(o.lease.folder(), 0o777); err != nil {
		return nil, diskError(err)
	}
	if err := g.open(); err != nil {
		return nil, err
	}
	defer func() {
		g.close()
		w.mu.Lock()
		w.native += g.native
		w.mu.Unlock()
		row.Steps = g.pace.steps
		row.DeviceTime, row.Images = ptr(g.native.Seconds()), &g.images
		if g.crowd > 0 {
			row.RunsPerLaunch = &g.crowd
		}
		if g.journal != nil {
			g.journal.Close()
		}
	}()
	resumed, err := g.resume()
	if err != nil {
		return nil, err
	}
	if resumed {
		p := g.t.Position()
		row.ResumedFrom = ptr(int64(p.Epoch*p.StepsPerEpoch + p.Step))
	} else if err := g.begin(); err != nil {
		return nil, err
	}
	memory := g.t.Memory()
	row.StateBytes, row.ArenaBytes = ptr(memory.StateBytes), ptr(memory.ArenaBytes+memory.WorkspaceBytes)
	if err := g.run(); err != nil {
		return g.epochs, err
	}
	return g.epochs, g.keep()
}

// open opens the training, in place of one that is open.
func (g *training) open() (err error) {
	g.close()
	t, err := g.in.trains().Open(g.r)
	if err == nil {
		g.t = t
	}
	return err
}

func (g *training) close() {
	if g.t != nil {
		g.native += g.t.NativeTime()
		g.crowd = g.t.RunsPerLaunch()
		g.t.Close()
		g.t = nil
	}
}

// begin gives the run its first weights.
func (g *training) begin() (err error) {
	if g.journal, err = createJournal(g.journalPath(g.l.folder()), nil); err != nil {
		return err
	}
	if g.r.Source == nil {
		return g.t.Initialize()
	}
	path := g.w.store.sourcePath(g.r)
	f, err := os.Open(path)
	if err != nil {
		return diskError(fmt.Errorf("weights of %s, which %s starts from: %w", g.r.Source, g.r, err))
	}
	defer f.Close()
	if g.r.Task.Start.Kind == StartContinue {
		err = g.t.ContinueFrom(bufio.NewReaderSize(f, 1<<20))
	} else {
		err = g.t.InitializeFrom(bufio.NewReaderSize(f, 1<<20))
	}
	if err != nil {
		return fmt.Errorf("%s starts from %s: %w", g.r, path, err)
	}
	return nil
}

// resume reads the newest checkpoint that is valid; those that are not are passed over, with an event that names them.
func (g *training) resume() (bool, error) {
	tried := false
	for _, c := range newestFirst(g.l.dir) {
		if tried { // a training that refused a checkpoint may hold half of it
			if err := g.open(); err != nil {
				return false, err
			}
		}
		tried = true
		err := g.read(c)
		if err == nil {
			return true, nil
		}
		if errors.Is(err, errStudyFolder) {
			return false, err
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var native *bindings.Error
		if errors.As(err, &native) {
			return false, err // the device's fault, not the file's
		}
		g.event("checkpoint_skipped", "%s: checkpoint %s is passed over: %v", g.r, c.path, err)
		aside := filepath.Join(c.folder, "damaged-"+filepath.Base(c.path)) // or it would push out good ones
		if err := os.Rename(c.path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, diskError(err)
		}
	}
	if tried {
		return false, g.open()
	}
	return false, nil
}

func (g *training) read(c checkpoint) error {
	f, err := os.Open(c.path)
	if err != nil {
		return err
	}
	defer f.Close()
	extra, err := g.t.ReadCheckpoint(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return err
	}
	var mark bookmark
	if err := json.Unmarshal(extra, &mark); err != nil {
		return fmt.Errorf("its bookmark cannot be read: %w", err)
	}
	if mark.RunID != g.r.ID {
		return fmt.Errorf("it belongs to run %s", mark.RunID)
	}
	if mark.Library != g.w.where.Library {
		return fmt.Errorf("it was made by another version of the %s library (SHA-256 %.12s, now %.12s)", g.w.where.Backend, mark.Library, g.w.where.Library)
	}
	data, err := os.ReadFile(g.journalPath(c.folder))
	if err != nil {
		return err
	}
	if mark.Bytes < 0 || int64(len(data)) < mark.Bytes || crc32.Checksum(data[:mark.Bytes], castagnoli) != mark.CRC {
		return fmt.Errorf("its journal %s is damaged or short of the %d bytes that belong to it", g.journalPath(c.folder), mark.Bytes)
	}
	// What the journal holds beyond belongs to steps that are done again.
	epochs := readJournal[EpochResult](data[:mark.Bytes])
	if first, p := g.firstEpoch(), g.t.Position(); len(epochs) != p.Epoch-first {
		return fmt.Errorf("its journal has %d epochs, its position says %d", len(epochs), p.Epoch-first)
	}
	if c.folder != g.l.folder() || g.journal == nil {
		if g.journal, err = createJournal(g.journalPath(g.l.folder()), data[:mark.Bytes]); err != nil {
			return err
		}
	}
	g.epochs = epochs
	return nil
}

// firstEpoch is where the run's own epochs begin.
func (g *training) firstEpoch() int {
	if g.r.Task.Start.Kind == StartContinue {
		return g.r.Source.Task.Epochs
	}
	return 0
}

func (g *training) journalPath(folder string) string { return filepath.Join(folder, "journal.jsonl") }

// run steps to the end. It looks for a request to stop, and for the time of a checkpoint, between steps.
func (g *training) run() error {
	for {
		p := g.t.Position()
		if p.Epoch >= p.Epochs {
			return nil
		}
		if p.Step < p.StepsPerEpoch {
			begin := time.Now()
			if err := g.t.Step(); err != nil {
				return err
			}
			g.pace.step(time.Since(begin))
			g.count(int64(g.r.Task.Recipe.Batch))
			if time.Since(g.told) > 500*time.Millisecond {
				g.tell("progress")
			}
		} else {
			g.expect = g.pace.end(g.endBatches())
			g.tell("progress")
			begin := time.Now()
			result, err := g.t.EndEpoch()
			if err != nil {
				return err
			}
			g.pace.ends, g.expect = max(g.pace.ends, time.Since(begin).Seconds()), 0
			g.epochs = append(g.epochs, result)
			g.tell("epoch")
			if g.t.Position().Epoch >= p.Epochs {
				return nil // the commit follows at once
			}
			if err := g.journal.append(result); err != nil {
				return err
			}
			if err := g.checkpoint(); err != nil {
				return err
			}
		}
		if time.Since(g.asked) >= time.Second {
			if g.asked = time.Now(); g.w.store.cancelled(g.r.ID) {
				return errRunCancelled
			}
		}
		if g.w.stopping() {
			if err := g.checkpoint(); err != nil {
				return err
			}
			return ErrStopped
		}
		if time.Since(g.saved) >= g.w.CheckpointEvery {
			if err := g.checkpoint(); err != nil {
				return err
			}
		}
	}
}

// endBatches is how many batches pass through the network at the end of an epoch.
func (g *training) endBatches() float64 {
	t := g.r.Task
	return float64(t.TestImages+min(t.Recipe.PreciseBNImages, t.TrainImages)) / float64(t.Recipe.Batch)
}

// count adds to the images trained on.
func (g *training) count(images int64) {
	g.images += images
	g.w.mu.Lock()
	g.w.images += images
	g.w.mu.Unlock()
}

func (g *training) tell(kind string) {
	g.told = time.Now()
	p := g.t.Position()
	first := g.firstEpoch()
	expect := max(g.expect, g.pace.median()) + g.in.expect(g.pace.end(g.endBatches()))
	m := Message{Kind: kind, Steps: g.pace.steps, Expect: expect, RunID: g.r.ID, Task: g.r.Task.Name, ArchID: g.r.Member.ID, Attempt: g.l.Attempt, Epoch: p.Epoch, Epochs: p.Epochs,
		Share: (float64(p.Epoch-first) + float64(p.Step)/float64(max(p.StepsPerEpoch, 1))) / float64(max(p.Epochs-first, 1))}
	m.TestError = g.r.Task.lastError(g.epochs)
	g.w.send(m)
}

// checkpoint writes one, unless nothing has happened since the last, and removes those that are no longer needed.
func (g *training) checkpoint() error {
	if g.l.fenced() {
		return errFenced
	}
	g.saved = time.Now()
	p := g.t.Position()
	path := filepath.Join(g.l.folder(), checkpointName(p.Epoch, p.Step))
	if exists(path) {
		return nil
	}
	extra, err := json.Marshal(bookmark{g.r.ID, g.w.where.Library, g.journal.bytes, g.journal.sum})
	if err != nil {
		return err
	}
	if err := writeFile(path, g.l.suffix(), g.w.Hook, func(f io.Writer) error { return g.t.WriteCheckpoint(f, extra) }); err != nil {
		return err
	}
	for i, c := range newestFirst(g.l.dir) {
		if i >= keptCheckpoints {
			if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return diskError(err)
			}
		}
	}
	return nil
}

// keep writes the final weights, and the final state if another task continues from it, before the run is committed.
func (g *training) keep() error {
	p := g.w.store.Plan
	if g.l.fenced() {
		return errFenced
	}
	if p.KeepWeights == KeepAll || p.needs(g.r.Task, StartInit) {
		if err := writeFile(g.w.store.weightsPath(g.r.ID), g.l.suffix(), g.w.Hook, g.t.WriteWeights); err != nil {
			return err
		}
	}
	if p.needs(g.r.Task, StartContinue) {
		extra, err := json.Marshal(bookmark{RunID: g.r.ID, Library: g.w.where.Library})
		if err != nil {
			return err
		}
		state := func(f io.Writer) error { return g.t.WriteCheckpoint(f, extra) }
		if err := writeFile(g.w.store.statePath(g.r.ID), g.l.suffix(), g.w.Hook, state); err != nil {
			return err
		}
	}
	return nil
}

func (g *training) event(kind, format string, args ...any) {
	g.w.events.append(happened(g.w.me, kind, format, args...).of(g.l))
}

func (c checkpoint) name() string { return filepath.Base(c.path) }
