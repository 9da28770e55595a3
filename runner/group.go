package runner

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"

	"anynetx/engine"
)

// A group is runs of one architecture that train in common launches, in one lane of a worker: small images leave a GPU idle between
// launches, so that several networks take hardly longer than one. Each run is carried by an attempt of its own, in a goroutine of its own, as
// if it were alone: lease, checkpoints, requests, failures and rows are the attempt's. They meet at their steps only: when all that are still
// there have come to one, it is made for all of them; those that are at the end of an epoch finish it together first. What else they do on the
// device they do one after another, since a context is not for two at a time.
type group struct {
	Trainers // of the lane
	w        *worker
	offers   []offer

	mu       sync.Mutex // and of the lane's context
	opened   bool
	together TrainingGroup       // nil before, or if there was room for one run only
	places   map[string]Training // by run ID, of those that found room; nil where the run has taken its place, or has the lane for itself
	failure  error               // why nobody can train
	inside   map[string]bool     // whom the others wait for
	waiting  []*groupMember      // at a step, or at the end of an epoch
}

// MostGrouped is how many runs train in common launches at most.
const MostGrouped = 16

// filled is how many outputs of layers a step of a group may compute: what a GPU does, and stores, in about the time that it takes to launch
// a step's kernels (300 of 3 us, at 3 TB/s and 4 bytes an output). Beyond, launches cost little, and a group gains nothing. By
// arithmetic; no GPU has been measured.
const filled = 6e8

// errNoRoom gives a run back that found no room in its group. Nobody is at fault.
var errNoRoom = errors.New("given back: the group has no room for it")

// sharesLaunches says whether two runs can train in common launches: what engine.NewGroup asks of them.
func (r *PlannedRun) sharesLaunches(o *PlannedRun) bool {
	launched := func(c engine.Recipe) engine.Recipe { // what is part of a launch, and not of a run's own input or numbers
		c.LearningRate, c.Schedule, c.WarmupEpochs, c.WarmupFactor = 0, "", 0, 0
		c.BNMomentum, c.PreciseBNImages, c.ZeroInitLastGamma = 0, 0, false
		c.Augmentation = engine.Recipe{}.Augmentation
		return c
	}
	return r.Member.ID == o.Member.ID && r.footprintKey() == o.footprintKey() &&
		reflect.DeepEqual(launched(r.Task.Recipe), launched(o.Task.Recipe))
}

// stepValues are the outputs of layers that a step computes, with its part of the tests.
func (r *PlannedRun) stepValues() float64 {
	return r.Values / float64(max(r.Images, 1)) * float64(r.Task.Recipe.Batch)
}

func newGroup(w *worker, t Trainers, offers []offer) *group {
	g := &group{Trainers: t, w: w, offers: offers, places: map[string]Training{}, inside: map[string]bool{}}
	for _, o := range offers {
		g.inside[o.run.ID] = true
	}
	return g
}

// name tells groups apart.
func (g *group) name() string {
	return fmt.Sprintf("%s-%d", g.offers[0].run.ID, g.offers[0].lease.Attempt)
}

// Open takes a run's place in the group, which the first to come makes. What is opened once more, behind a damaged checkpoint, trains beside it.
func (g *group) Open(r *PlannedRun) (Training, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.opened {
		g.opened = true
		g.open()
	}
	if g.failure != nil {
		return nil, g.failure
	}
	t, placed := g.places[r.ID]
	if !placed {
		return nil, errNoRoom
	}
	m := &groupMember{Training: t, g: g, id: r.ID, met: make(chan meeting, 1)}
	if m.common = t != nil; !m.common {
		var err error
		if m.Training, err = g.Trainers.Open(r); err != nil {
			return nil, err
		}
	}
	g.places[r.ID] = nil
	return m, nil
}

// open makes the trainings, of fewer runs where there is no room for all. What makes a group impossible for another reason the runs will say
// one by one.
func (g *group) open() {
	var runs []*PlannedRun
	for _, o := range g.offers {
		if g.inside[o.run.ID] {
			runs = append(runs, o.run)
		}
	}
	for n := len(runs); ; n -= max(1, n/4) {
		if n <= 1 {
			g.places[runs[0].ID] = nil
			return
		}
		var err error
		if g.together, err = g.Trainers.OpenGroup(runs[:n]); err == nil {
			var names []string
			for i, t := range g.together.Trainings() {
				g.places[runs[i].ID] = t
				names = append(names, runs[i].ID)
			}
			for _, o := range g.offers {
				if _, placed := g.places[o.run.ID]; placed {
					g.event(o, "%d runs of architecture %s train in common launches: %s", n, o.run.Member.ID, strings.Join(names, ", "))
				}
			}
			return
		}
		g.together = nil
		switch g.event(g.offers[0], "%d runs of architecture %s do not fit into one group: %v", n, runs[0].Member.ID, err); classify(err) {
		case classDevice:
			g.failure = err
			return
		case classMemory:
		default:
			n = 1
		}
	}
}

func (g *group) event(o offer, format string, args ...any) {
	g.w.events.append(happened(g.w.me, "group", format, args...).of(o.lease))
}

func (g *group) Need(runs ...*PlannedRun) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Trainers.Need(runs...)
}

// leave says that the others need not wait for a run any more.
func (g *group) leave(runID string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left(runID)
}

func (g *group) left(runID string) {
	delete(g.inside, runID)
	g.meet()
}

// meet lets the runs go on together if all have come. The caller holds mu.
func (g *group) meet() {
	if len(g.waiting) == 0 || len(g.waiting) < len(g.inside) {
		return
	}
	var ending, stepping []*groupMember
	for _, m := range g.waiting {
		if p := m.Position(); p.Step < p.StepsPerEpoch {
			stepping = append(stepping, m)
		} else {
			ending = append(ending, m)
		}
	}
	if len(ending) > 0 { // the others wait for them to come to their next step
		g.waiting = stepping
		results, failures := g.together.EndEpoch(trainings(ending))
		for i, m := range ending {
			m.met <- meeting{results[i], failures[i]}
		}
		return
	}
	g.waiting = nil
	for i, err := range g.together.Step(trainings(stepping)) {
		stepping[i].met <- meeting{err: err}
	}
}

func trainings(members []*groupMember) (list []Training) {
	for _, m := range members {
		list = append(list, m.Training)
	}
	return list
}

// size is how many runs found room.
func (g *group) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.places)
}

// close gives the device's memory back, when nobody is inside.
func (g *group) close() {
	if g.together != nil {
		g.together.Close()
	}
}

// groupMember is the training of a run in a group.
type groupMember struct {
	Training
	g      *group
	id     string
	common bool // it goes on with the group
	met    chan meeting
}

// meeting is what a run takes away from one.
type meeting struct {
	result EpochResult
	err    error
}

// wait is until the run has gone on with the others.
func (m *groupMember) wait() meeting {
	m.g.mu.Lock()
	m.g.waiting = append(m.g.waiting, m)
	m.g.meet()
	m.g.mu.Unlock()
	return <-m.met
}

func (m *groupMember) Step() error {
	if m.common {
		return m.wait().err
	}
	return m.inTurn(m.Training.Step)
}

func (m *groupMember) EndEpoch() (r EpochResult, err error) {
	if m.common {
		met := m.wait()
		return met.result, met.err
	}
	err = m.inTurn(func() error { r, err = m.Training.EndEpoch(); return err })
	return r, err
}

// Close takes the run out of the group.
func (m *groupMember) Close() {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	m.Training.Close()
	m.g.left(m.id)
}

// inTurn is what only one member does at a time.
func (m *groupMember) inTurn(do func() error) error {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	return do()
}

func (m *groupMember) Initialize() error { return m.inTurn(m.Training.Initialize) }

func (m *groupMember) InitializeFrom(weights io.Reader) error {
	return m.inTurn(func() error { return m.Training.InitializeFrom(weights) })
}

func (m *groupMember) ContinueFrom(state io.Reader) error {
	return m.inTurn(func() error { return m.Training.ContinueFrom(state) })
}

func (m *groupMember) WriteCheckpoint(w io.Writer, extra []byte) error {
	return m.inTurn(func() error { return m.Training.WriteCheckpoint(w, extra) })
}

func (m *groupMember) ReadCheckpoint(r io.Reader) (extra []byte, err error) {
	err = m.inTurn(func() error { extra, err = m.Training.ReadCheckpoint(r); return err })
	return extra, err
}

func (m *groupMember) WriteWeights(w io.Writer) error {
	return m.inTurn(func() error { return m.Training.WriteWeights(w) })
}
