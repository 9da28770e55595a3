package engine

import (
	"strings"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// The buffers of every program, in the order given to NewProgram.
const (
	stateBuffer  = iota // weights, momentum, running statistics, counters: what a checkpoint holds
	arenaBuffer         // gradients, activations, coefficients: nothing in it outlives a step
	dataBuffer          // images, labels, norm: shared by the trainers of a worker
	sampleBuffer        // sample tables of one trainer
	buffers
)

// entry is one named tensor of the state. Offsets are bytes from the start of the state buffer.
type entry struct {
	anynetx.Parameter
	offset int64
}

// layout is where everything of a network's state lies. The parameters are one flat range of float32, each on its own 64 bytes with
// zeros between, those with Decay first; the momentum is a second range of the same form behind it, and so are the gradients at the
// start of the arena. It depends on the network, and on whether the dtype is fp16, so that a state fits every recipe and back end.
// Runs of a group lie as the one of most classes does: behind the head of another there are zeros, which no op makes anything else of.
type layout struct {
	classes    int // the head has room for
	parameters []entry
	running    []entry
	decayed    int   // values of the flat range that belong to parameters with Decay, padding included
	values     int   // values of the flat range
	momentum   int64 // offset of the momentum's range
	training   int64 // offset of the counters of the epoch in training
	testing    int64 // offset of the counters of the test pass
	lossScale  int64 // offset of the loss scale; 0: the dtype needs none
	bytes      int64
	byName     map[string]int64 // offset of each parameter and running statistic
}

// newLayout has room for a head of so many classes; for fewer than the network's, for its own.
func newLayout(n *anynetx.Network, dtype string, classes int) *layout {
	own := n.Setting.Classes
	l := &layout{classes: max(classes, own), byName: map[string]int64{}}
	place := func(list *[]entry, p anynetx.Parameter) {
		*list = append(*list, entry{p, l.bytes})
		l.byName[p.Name] = l.bytes
		count := p.Count()
		if strings.HasPrefix(p.Name, n.Head.Name+".") {
			count = count / own * l.classes
		}
		l.bytes = align(l.bytes + 4*int64(count))
	}
	all := n.Parameters()
	for _, decay := range []bool{true, false} {
		for _, p := range all {
			if p.Decay == decay {
				place(&l.parameters, p)
			}
		}
		if decay {
			l.decayed = int(l.bytes / 4)
		}
	}
	l.values = int(l.bytes / 4)
	l.momentum = l.bytes
	l.bytes *= 2
	for _, p := range n.RunningStatistics() {
		place(&l.running, p)
	}
	const counterBytes = 8 * bindings.Counters
	l.training = l.bytes
	l.testing = l.training + align(counterBytes)
	l.bytes = l.testing + align(counterBytes)
	if dtype == "fp16" {
		l.lossScale = l.bytes
		l.bytes += align(4 * bindings.Scales)
	}
	return l
}

// part is a tensor of a state, or its neighbour in the momentum's range.
type part struct {
	name, dtype   string
	shape         []int
	offset, bytes int64
}

// parts are all that a state holds, in order and without a gap but padding.
func (l *layout) parts() (list []part) {
	put := func(name, dtype string, shape []int, offset int64, size int) {
		for _, n := range shape {
			size *= n
		}
		list = append(list, part{name, dtype, shape, offset, int64(size)})
	}
	for _, base := range []struct {
		suffix string
		offset int64
	}{{"", 0}, {"#momentum", l.momentum}} {
		for _, e := range l.parameters {
			put(e.Name+base.suffix, "F32", e.Shape[:], base.offset+e.offset, 4)
		}
	}
	for _, e := range l.running {
		put(e.Name, "F32", e.Shape[:], e.offset, 4)
	}
	put("#training counters", "F64", []int{bindings.Counters}, l.training, 8)
	put("#test counters", "F64", []int{bindings.Counters}, l.testing, 8)
	if l.lossScale != 0 {
		put("#loss scale", "F32", []int{bindings.Scales}, l.lossScale, 4)
	}
	return list
}

// moved is a state of this layout in another layout of the same network.
func (l *layout) moved(state []byte, to *layout) []byte {
	if l == to {
		return state
	}
	moved, there := make([]byte, to.bytes), to.parts()
	for i, p := range l.parts() {
		copy(moved[there[i].offset:], state[p.offset:p.offset+p.bytes])
	}
	return moved
}

func align(bytes int64) int64 {
	return (bytes + bindings.Alignment - 1) / bindings.Alignment * bindings.Alignment
}
