package engine

import (
	"fmt"
	"math"
	"sort"

	"anynetx/bindings"
)

// Memory is what a run takes on the device beside the data set, known before it starts.
type Memory struct{ StateBytes, ArenaBytes, WorkspaceBytes int64 }

// Total is all of it.
func (m Memory) Total() int64 { return m.StateBytes + m.ArenaBytes + m.WorkspaceBytes }

// planOptions: everything that tests vary about a plan; the zero value is how runs are planned.
type planOptions struct {
	allLive bool // every tensor on its own memory, and none transient
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
			bytes, err := ctx.TensorBytes(t.Tensor)
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
// among those already placed whose lives overlap its own, else behind them.
func place(tensors []tensor, base int64) int64 {
	var order []*tensor
	for i := range tensors {
		if !tensors[i].fixed {
			order = append(order, &tensors[i])
		}
	}
	sort.SliceStable(order, func(i, j int) bool { return order[i].bytes > order[j].bytes })
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
