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

// Group is runs of one architecture that train in common launches, for networks too small to fill a device one by one: their records are
// the same, their data sets, seeds, learning rates and lengths need not be. State and arena of its trainers lie behind one another in two
// buffers, a place for each. A run's bits are those it has alone, so a trainer of a group is a trainer like any other: it is
// initialized, stepped alone, evaluated, checkpointed and closed whenever its owner likes. Where the back end runs one model a launch
// the trainers step in turn. Like its context it is used by one goroutine at a time.
type Group struct {
	ctx          *bindings.Context
	trainers     []*Trainer
	state, arena *bindings.Buffer
	programs     map[span]*bindings.Program // of two places and more
	alone        bool                       // the back end runs one model a launch
}

// span is the places from first up to, not including, end.
type span struct{ first, end int }

// NewGroup makes the trainers of runs whose networks, batches, dtypes and recipes agree in all that is part of a record.
// The number of classes is: a wider head would add up in another order.
func NewGroup(ctx *bindings.Context, configs []Config, data []*Data) (*Group, error) {
	if len(configs) == 0 || len(configs) != len(data) {
		return nil, fmt.Errorf("a group of %d runs on %d data sets: give one for each", len(configs), len(data))
	}
	g := &Group{ctx: ctx, programs: map[span]*bindings.Program{}}
	for i, c := range configs {
		t, err := planTrainer(ctx, c, data[i], planOptions{})
		if err == nil && i > 0 {
			err = sameRecords(g.trainers[0], t)
		}
		if err != nil {
			return nil, err
		}
		t.group = g
		g.trainers = append(g.trainers, t)
	}
	if err := g.bind(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// bind takes the group's memory.
func (g *Group) bind() (err error) {
	// The run that ends last has the first place: those that are left over stand together.
	order := slices.Clone(g.trainers)
	slices.SortStableFunc(order, func(a, b *Trainer) int { return cmp.Compare(b.stepsInAll(), a.stepsInAll()) })
	memory, count := order[0].memory, int64(len(order))
	if g.state, err = roomFor(g.ctx, "states", count*memory.StateBytes); err != nil {
		return err
	}
	if g.arena, err = roomFor(g.ctx, "arenas", count*memory.ArenaBytes); err != nil {
		return err
	}
	for place, t := range order {
		t.place, t.state, t.arena = place, g.state, g.arena
		if err := t.bind(); err != nil {
			return err
		}
	}
	return nil
}

func (t *Trainer) stepsInAll() int { return t.steps * (t.config.Epochs - t.config.StartEpoch) }

// sameRecords is an error unless two runs can share their launches: every op is the same, and every tensor lies at the same place.
func sameRecords(a, b *Trainer) error {
	p, q := a.lowered[trainMode], b.lowered[trainMode]
	same := a.memory.StateBytes == b.memory.StateBytes && a.memory.ArenaBytes == b.memory.ArenaBytes && slices.Equal(p.ops, q.ops) && len(p.tensors) == len(q.tensors)
	for i := 0; same && i < len(p.tensors); i++ {
		own := p.tensors[i].Buffer == dataBuffer || p.tensors[i].Buffer == sampleBuffer
		same = own || p.tensors[i].Tensor == q.tensors[i].Tensor
	}
	if !same {
		return anynetx.Inputf("runs of tasks %s and %s do not fit into one group: architecture, stem, resolution, classes, batch, dtype and all of the recipe but learning rates must be the same", a.config.Task, b.config.Task)
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
	var ready []int // positions in trainers, by place
	for i, t := range trainers {
		if failures[i] = t.prepare(); failures[i] == nil {
			ready = append(ready, i)
		}
	}
	slices.SortFunc(ready, func(i, j int) int { return cmp.Compare(trainers[i].place, trainers[j].place) })
	for len(ready) > 0 {
		count := 1
		for count < len(ready) && trainers[ready[count]].place == trainers[ready[0]].place+count {
			count++
		}
		neighbours := make([]*Trainer, count)
		for i, at := range ready[:count] {
			neighbours[i] = trainers[at]
		}
		for i, err := range g.run(neighbours) {
			if err == nil {
				err = neighbours[i].stepped()
			}
			failures[ready[i]] = err
		}
		ready = ready[count:]
	}
	return failures
}

// run is a pass of neighbouring trainers through the training program.
func (g *Group) run(neighbours []*Trainer) []error {
	failures := make([]error, len(neighbours))
	program, err := g.program(span{neighbours[0].place, neighbours[0].place + len(neighbours)})
	if program == nil {
		for i, t := range neighbours {
			if failures[i] = err; err == nil {
				failures[i] = t.run(trainMode)
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
	each := time.Since(start) / time.Duration(len(neighbours))
	for i, t := range neighbours {
		t.native += each
		if err != nil {
			failures[i] = fmt.Errorf("train program of %d models, epoch %d, step %d: %w", len(neighbours), t.epoch, t.step, err)
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
	for other, p := range g.programs { // trainers have come to an end: it will not be wanted again
		if p != nil && other.first < s.end && s.first < other.end {
			p.Close()
			delete(g.programs, other)
		}
	}
	d, own := g.joined(s)
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
		return nil, fmt.Errorf("the train program of %d models: %w", s.end-s.first, err)
	}
	g.programs[s] = p
	return p, nil
}

// joined is the training program of a span: an input op for each trainer, whose data set is its own, and every other op for all at once.
func (g *Group) joined(s span) (bindings.ProgramDesc, []*bindings.Buffer) {
	members := make([]*Trainer, s.end-s.first)
	for _, t := range g.trainers {
		if t.place >= s.first && t.place < s.end {
			members[t.place-s.first] = t
		}
	}
	first, count := members[0], int32(len(members))
	d := first.lowered[trainMode].desc()
	strides := map[int32]int64{stateBuffer: first.memory.StateBytes, arenaBuffer: first.memory.ArenaBytes}
	for i := range d.Tensors {
		t := &d.Tensors[i]
		t.Offset += uint64(first.at(t.Buffer))
		t.Stride = uint64(strides[t.Buffer])
	}
	own := []*bindings.Buffer{g.state, g.arena}
	var inputs, rest []bindings.Op
	for _, op := range d.Ops {
		if op.Kind != bindings.Input {
			op.Models = count
			rest = append(rest, joinSlots(op, count, 0))
			continue
		}
		for m, t := range members {
			mine := joinSlots(op, count, int32(m))
			again := func(ids []int32) { // the same tensors, of member m
				for k, id := range ids {
					if id < 0 {
						continue
					}
					tensor := t.lowered[trainMode].tensors[id].Tensor
					tensor.Offset += uint64(t.at(tensor.Buffer))
					tensor.Stride = d.Tensors[id].Stride
					if tensor.Buffer >= dataBuffer {
						tensor.Buffer += int32(m) * (buffers - dataBuffer)
					}
					d.Tensors = append(d.Tensors, tensor)
					ids[k] = int32(len(d.Tensors) - 1)
				}
			}
			if m > 0 {
				again(mine.In[:])
				again(mine.Out[:])
			}
			inputs = append(inputs, mine)
			own = append(own, t.data.buffer, t.samples)
		}
	}
	d.Ops, d.Slots = append(inputs, rest...), slots*len(members)
	return d, own
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
