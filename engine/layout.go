package engine

import (
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
type layout struct {
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

func newLayout(n *anynetx.Network, dtype string) *layout {
	l := &layout{byName: map[string]int64{}}
	place := func(list *[]entry, p anynetx.Parameter) {
		*list = append(*list, entry{p, l.bytes})
		l.byName[p.Name] = l.bytes
		l.bytes = align(l.bytes + 4*int64(p.Count()))
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

func align(bytes int64) int64 {
	return (bytes + bindings.Alignment - 1) / bindings.Alignment * bindings.Alignment
}
