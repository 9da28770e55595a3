package engine

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"anynetx/bindings"
)

// Memory is what runs take on the device beside data sets and sample tables, known before they start.
type Memory struct{ StateBytes, ArenaBytes, WorkspaceBytes int64 }

// Total is all of it.
func (m Memory) Total() int64 { return m.StateBytes + m.ArenaBytes + m.WorkspaceBytes }

// planOptions: what is not of the run itself about its plan; the zero value is how a run by itself is planned.
type planOptions struct {
	classes int  // room for a head of so many, as another of its group has
	allLive bool // for tests: every tensor on its own memory, and none transient
}

// PlanMemory tells what a run will take, or several as a Group, without taking it: all places, each run's own programs and the common ones.
// What a group falls into when some have ended takes no more.
func PlanMemory(ctx *bindings.Context, configs ...Config) (m Memory, err error) {
	var runs []*Trainer
	for _, c := range configs {
		if err := c.validate(ctx); err != nil {
			return Memory{}, err
		}
		t := &Trainer{ctx: ctx, config: c}
		size := c.Network.Setting.Resolution // any set will do: what it takes is not counted here
		train, test, _ := placeData(size, size, 3, c.Recipe.Batch, c.Recipe.Batch)
		t.test = test
		if err := t.plan(train, planOptions{classes: mostClasses(configs)}); err != nil {
			return Memory{}, err
		}
		m.StateBytes += t.memory.StateBytes
		m.ArenaBytes += t.memory.ArenaBytes
		m.WorkspaceBytes += t.memory.WorkspaceBytes
		runs = append(runs, t)
	}
	if len(runs) < 2 {
		return m, nil
	}
	if runs, err = places(runs); err != nil {
		return Memory{}, err
	}
	for _, mode := range modes {
		common, err := ctx.Workspace(joined(runs, mode))
		var native *bindings.Error
		if errors.As(err, &native) && native.Status == bindings.Unsupported { // they run in turn
			return m, nil
		}
		if err != nil {
			return Memory{}, fmt.Errorf("workspace of the %s program of %d models: %w", mode, len(runs), err)
		}
		m.WorkspaceBytes += common
	}
	return m, nil
}

func memoryOf(ctx *bindings.Context, l *layout, arena int64, programs []*program) (Memory, error) {
	m := Memory{StateBytes: l.bytes, ArenaBytes: arena}
	for _, p := range programs {
		bytes, err := ctx.Workspace(p.desc())
		if err != nil {
			return Memory{}, fmt.Errorf("workspace of the %s program: %w", p.mode, err)
		}
		m.WorkspaceBytes += bytes
	}
	return m, nil
}

// lowerAll lowers the three programs and plans their common arena.
func lowerAll(ctx *bindings.Context, c Config, l *layout, train, test source, options planOptions) ([]*program, int64, error) {
	var programs []*program
	for _, m := range modes {
		src := train
		if m == evaluateMode {
			src = test
		}
		programs = append(programs, lower(c, l, src, m))
	}
	bytes, err := plan(ctx, programs, l, options)
	return programs, bytes, err
}

// plan gives every tensor of the arena an offset, behind the flat gradients, which keep their place (and the zeros between them) in all
// programs, and returns the arena's size. Tensors share memory only if no op touches both or stands between their lives.
func plan(ctx *bindings.Context, programs []*program, l *layout, options planOptions) (int64, error) {
	base := align(4 * int64(l.values))
	end := base
	for _, p := range programs {
		for i := range p.tensors {
			t := &p.tensors[i]
			if t.fixed {
				continue
			}
			widest := t.Tensor
			if t.perClass {
				widest.C = int32(l.classes)
			}
			bytes, err := ctx.TensorBytes(widest)
			if err != nil {
				return 0, fmt.Errorf("size of tensor %s: %w", t.name, err)
			}
			t.bytes = align(bytes)
			if !options.allLive {
				t.Flags |= bindings.Transient
			}
		}
		if options.allLive {
			for i := range p.tensors {
				if t := &p.tensors[i]; !t.fixed {
					t.Offset = uint64(end)
					end += t.bytes
				}
			}
			continue
		}
		end = max(end, place(p.tensors, base))
	}
	if end > math.MaxInt64/2 {
		return 0, fmt.Errorf("the arena would take %d bytes", end)
	}
	return end, nil
}

// place plans the tensors of one program from base on and returns the end: the largest first, each into the smallest gap that holds it
// among those already placed whose lives overlap its own, else behind them. Plain ones, which are small, come before the activations: a back
// end may keep those in memory of their own (cpu/memory.c).
func place(tensors []tensor, base int64) int64 {
	var order []*tensor
	for i := range tensors {
		if !tensors[i].fixed {
			order = append(order, &tensors[i])
		}
	}
	slices.SortStableFunc(order, func(a, b *tensor) int {
		return cmp.Or(cmp.Compare(a.Layout, b.Layout), cmp.Compare(b.bytes, a.bytes))
	})
	end := base
	var placed []*tensor // by offset
	for _, t := range order {
		gap, best, free := int64(math.MaxInt64), int64(-1), base
		for _, other := range placed {
			if other.last < t.first || t.last < other.first {
				continue
			}
			if hole := int64(other.Offset) - free; hole >= t.bytes && hole < gap {
				gap, best = hole, free
			}
			free = max(free, int64(other.Offset)+other.bytes)
		}
		if best < 0 {
			best = free
		}
		t.Offset = uint64(best)
		end = max(end, best+t.bytes)
		at := sort.Search(len(placed), func(i int) bool { return placed[i].Offset > t.Offset })
		placed = append(placed, nil)
		copy(placed[at+1:], placed[at:])
		placed[at] = t
	}
	return end
}

// desc is the program as a back end takes it.
func (p *program) desc() bindings.ProgramDesc {
	tensors := make([]bindings.Tensor, len(p.tensors))
	for i, t := range p.tensors {
		tensors[i] = t.Tensor
	}
	return bindings.ProgramDesc{Tensors: tensors, Ops: p.ops, Slots: slots}
}
