package engine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// Group is runs of one architecture that train in common launches, for networks too small to fill a device one by one: their recipes are
// the same, their data sets, classes, seeds, learning rates and lengths need not be. State and arena of its trainers lie behind one another
// in two buffers, a place for each, as those of the run of most classes do: all but head and loss has the same offset in every place.
// A run's bits are those it has alone, so a trainer of a group is a trainer like any other: it is initialized, stepped alone, evaluated,
// checkpointed and closed whenever its owner likes. Where the back end runs one model a launch the trainers step in turn. Like its context
// it is used by one goroutine at a time.
type Group struct {
	ctx          *bindings.Context
	trainers     []*Trainer
	state, arena *bindings.Buffer
	programs     map[span]*bindings.Program // of two places and more
	alone        bool                       // the back end runs one model a launch
}

// span is a program of the places from first up to, not including, end.
type span struct {
	mode       mode
	first, end int
}

// NewGroup makes the trainers of runs whose networks (but for the classes), batches, dtypes and recipes agree in all that is part of a record.
func NewGroup(ctx *bindings.Context, configs []Config, data []*Data) (*Group, error) {
	if len(configs) == 0 || len(configs) != len(data) {
		return nil, fmt.Errorf("a group of %d runs on %d data sets: give one for each", len(configs), len(data))
	}
	g := &Group{ctx: ctx, programs: map[span]*bindings.Program{}}
	for i, c := range configs {
		t, err := planTrainer(ctx, c, data[i], planOptions{classes: mostClasses(configs)})
		if err != nil {
			return nil, err
		}
		t.group = g
		g.trainers = append(g.trainers, t)
	}
	order, err := places(g.trainers)
	if err != nil {
		return nil, err
	}
	if err := g.bind(order); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func mostClasses(configs []Config) (most int) {
	for _, c := range configs {
		if c.Network != nil {
			most = max(most, c.Network.Setting.Classes)
		}
	}
	return most
}

// places gives each of planned trainers its place in a group, and the trainers in that order; an error if they do not fit into one.
func places(trainers []*Trainer) ([]*Trainer, error) {
	// The run that ends last has the first place: those that are left over stand together. Beside it stands what has as many classes.
	order := slices.Clone(trainers)
	slices.SortStableFunc(order, func(a, b *Trainer) int {
		return cmp.Or(cmp.Compare(b.stepsInAll(), a.stepsInAll()), cmp.Compare(a.saved.classes, b.saved.classes))
	})
	for place, t := range order {
		t.place = place
		if err := sameRecords(trainers[0], t); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// bind takes the group's memory.
func (g *Group) bind(order []*Trainer) (err error) {
	memory, count := order[0].memory, int64(len(order))
	if g.state, err = roomFor(g.ctx, "states", count*memory.StateBytes); err != nil {
		return err
	}
	if g.arena, err = roomFor(g.ctx, "arenas", count*memory.ArenaBytes); err != nil {
		return err
	}
	for _, t := range order {
		t.state, t.arena = g.state, g.arena
		if err := t.bind(); err != nil {
			return err
		}
	}
	return nil
}

func (t *Trainer) stepsInAll() int { return t.steps * (t.config.Epochs - t.config.StartEpoch) }

// sameRecords is an error unless two runs can share their launches: every op is the same at the same places, but for what goes by the classes.
func sameRecords(a, b *Trainer) error {
	p, q := a.lowered[trainMode], b.lowered[trainMode]
	same := a.memory.StateBytes == b.memory.StateBytes && a.memory.ArenaBytes == b.memory.ArenaBytes && len(p.ops) == len(q.ops)
	for i := 0; same && i < len(p.ops); i++ {
		op := p.ops[i]
		if p.perClass(op) {
			op.K, op.C = q.ops[i].K, q.ops[i].C
		}
		same = op == q.ops[i] && (op.Kind == bindings.Input || p.perClass(op) || sameOp(p, q, i))
	}
	if !same {
		return anynetx.Inputf("runs of tasks %s and %s do not fit into one group: architecture, stem, resolution, batch, dtype and all of the recipe but learning rates must be the same", a.config.Task, b.config.Task)
	}
	return nil
}

// Trainers are those of the runs, in the order of NewGroup.
func (g *Group) Trainers() []*Trainer { return g.trainers }

// Close frees the trainers and what they lie in. Closing twice does nothing.
func (g *Group) Close() {
	for _, t := range g.trainers {
		t.Close()
	}
	for _, p := range g.programs {
		if p != nil {
			p.Close()
		}
	}
	for _, b := range []*bindings.Buffer{g.state, g.arena} {
		if b != nil {
			b.Close()
		}
	}
}

// Step trains each of the given trainers on its next batch, as its own Step would, and says what became of each.
func (g *Group) Step(trainers []*Trainer) []error {
	failures := make([]error, len(trainers))
	var ready []*Trainer
	var at []int // in trainers
	for i, t := range trainers {
		if failures[i] = t.prepare(); failures[i] == nil {
			ready, at = append(ready, t), append(at, i)
		}
	}
	for i, err := range g.run(trainMode, ready) {
		if err == nil {
			err = ready[i].stepped()
		}
		failures[at[i]] = err
	}
	return failures
}

// EndEpoch finishes the epoch of each of the given trainers, as its own EndEpoch would, and says what became of each. It is for those that
// have come to the end together: each may as well finish its epoch by itself.
func (g *Group) EndEpoch(trainers []*Trainer) ([]EpochResult, []error) {
	return endEpochs(trainers, g.run)
}

// run is a pass of trainers through a program.
func (g *Group) run(m mode, trainers []*Trainer) []error {
	failures := make([]error, len(trainers))
	order := make([]int, len(trainers)) // by place
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(trainers[i].place, trainers[j].place) })
	for len(order) > 0 {
		neighbours := []*Trainer{trainers[order[0]]}
		for _, next := range order[1:] {
			if trainers[next].place != neighbours[0].place+len(neighbours) {
				break
			}
			neighbours = append(neighbours, trainers[next])
		}
		for i, err := range g.runNeighbours(m, neighbours) {
			failures[order[i]] = err
		}
		order = order[len(neighbours):]
	}
	return failures
}

// runNeighbours is a pass of trainers in places behind one another.
func (g *Group) runNeighbours(m mode, neighbours []*Trainer) []error {
	failures := make([]error, len(neighbours))
	program, err := g.program(span{m, neighbours[0].place, neighbours[0].place + len(neighbours)})
	if program == nil {
		for i, t := range neighbours {
			if failures[i] = err; err == nil {
				failures[i] = t.run(m)
			}
		}
		return failures
	}
	var values []float64
	for s := range slots {
		for _, t := range neighbours {
			values = append(values, t.slots[s])
		}
	}
	start := time.Now()
	err = program.Run(values)
	took := time.Since(start)
	for i, t := range neighbours {
		t.launched(m, len(neighbours), took)
		if err != nil {
			failures[i] = fmt.Errorf("%s program of %d models, epoch %d, step %d: %w", m, len(neighbours), t.epoch, t.step, err)
		}
	}
	return failures
}

// program is that of a span of places, made when it is first needed; nil where each trainer runs its own, because the span is one place,
// the back end runs one model a launch, or there is no memory for more.
func (g *Group) program(s span) (*bindings.Program, error) {
	if g.alone || s.end-s.first == 1 {
		return nil, nil
	}
	if p, ok := g.programs[s]; ok {
		return p, nil
	}
	for other, p := range g.programs { // there is memory for one of a place
		if p != nil && other.mode == s.mode && other.first < s.end && s.first < other.end {
			p.Close()
			delete(g.programs, other)
		}
	}
	members := make([]*Trainer, s.end-s.first)
	for _, t := range g.trainers {
		if t.place >= s.first && t.place < s.end {
			members[t.place-s.first] = t
		}
	}
	d, own := joined(members, s.mode), []*bindings.Buffer{g.state, g.arena}
	for _, t := range members {
		own = append(own, t.data.buffer, t.samples)
	}
	p, err := g.ctx.NewProgram(d, own)
	var native *bindings.Error
	if errors.As(err, &native) && native.Status == bindings.Unsupported {
		g.alone = true
		return nil, nil
	}
	if errors.As(err, &native) && native.Status == bindings.OutOfMemory {
		p, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the %s program of %d models: %w", s.mode, s.end-s.first, err)
	}
	g.programs[s] = p
	return p, nil
}

// joined is a program of neighbouring trainers: an op that neighbours have in common is one for all of them. That is all but
// the input, since each has a data set of its own, and what goes by the number of classes. Its buffers are the group's two, then data and
// samples of each trainer.
func joined(members []*Trainer, mode mode) bindings.ProgramDesc {
	d := bindings.ProgramDesc{Slots: slots * len(members)}
	numbers := make([]map[int32]int32, len(members)) // of each member's tensors in the program
	for m := range numbers {
		numbers[m] = map[int32]int32{}
	}
	number := func(m int, ids []int32) {
		for i, id := range ids {
			if id < 0 {
				continue
			}
			if _, ok := numbers[m][id]; !ok {
				t := members[m]
				tensor := t.lowered[mode].tensors[id].Tensor
				tensor.Offset += uint64(t.at(tensor.Buffer))
				switch tensor.Buffer {
				case stateBuffer:
					tensor.Stride = uint64(t.memory.StateBytes)
				case arenaBuffer:
					tensor.Stride = uint64(t.memory.ArenaBytes)
				default:
					tensor.Buffer += int32(m) * (buffers - dataBuffer)
				}
				numbers[m][id] = int32(len(d.Tensors))
				d.Tensors = append(d.Tensors, tensor)
			}
			ids[i] = numbers[m][id]
		}
	}
	for i := range members[0].lowered[mode].ops {
		for m := 0; m < len(members); {
			p := members[m].lowered[mode]
			op, first := p.ops[i], m
			for m++; m < len(members) && sameOp(p, members[m].lowered[mode], i); m++ {
			}
			number(first, op.In[:])
			number(first, op.Out[:])
			op.Models = int32(m - first)
			d.Ops = append(d.Ops, joinSlots(op, int32(len(members)), int32(first)))
		}
	}
	return d
}

// perClass says whether an op goes by the number of classes.
func (p *program) perClass(op bindings.Op) bool {
	return slices.ContainsFunc(tensorsOf(op), func(id int32) bool { return p.tensors[id].perClass })
}

// tensorsOf are the tensors that an op names.
func tensorsOf(op bindings.Op) []int32 {
	return slices.DeleteFunc(slices.Concat(op.In[:], op.Out[:]), func(id int32) bool { return id < 0 })
}

// sameOp says whether op i of two programs is the same and works at the same places of what lies in a group.
func sameOp(p, q *program, i int) bool {
	if p.ops[i] != q.ops[i] {
		return false
	}
	for _, id := range tensorsOf(p.ops[i]) {
		if p.tensors[id].Buffer >= dataBuffer || p.tensors[id].Tensor != q.tensors[id].Tensor {
			return false
		}
	}
	return true
}

// joinSlots is the op whose scalars are those of member m on: the members' values of a slot stand behind one another.
func joinSlots(op bindings.Op, members, m int32) bindings.Op {
	for i, s := range op.Slot {
		if s >= 0 {
			op.Slot[i] = s*members + m
		}
	}
	return op
}
