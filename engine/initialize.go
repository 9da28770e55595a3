package engine

import (
	"fmt"
	"io"
	"strings"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// Initialize gives the weights their first values, from the stream "init" of the run.
func (t *Trainer) Initialize() error { return t.initialize(nil, false) }

// InitializeFrom starts from trained weights of the same architecture: all but the head, or with it if asked for; running statistics too.
// A head that is not taken starts as in Initialize. It is an input error if a tensor is missing or of another shape.
func (t *Trainer) InitializeFrom(w *Weights, head bool) error { return t.initialize(w, head) }

func (t *Trainer) initialize(w *Weights, head bool) error {
	if t.config.StartEpoch != 0 {
		return fmt.Errorf("the run starts with epoch %d, so it goes on from another run's state: call ContinueFrom", t.config.StartEpoch)
	}
	stream := t.stream("init")
	state := make([]byte, t.saved.bytes)
	headName := t.config.Network.Head.Name + "."
	for _, list := range [][]entry{t.saved.parameters, t.saved.running} {
		for _, e := range list {
			values := make([]float32, e.Count())
			if w != nil && (head || !strings.HasPrefix(e.Name, headName)) {
				if err := w.copyTo(values, e.Parameter); err != nil {
					return err
				}
			} else {
				e.Fill(values, stream, t.config.Recipe.ZeroInitLastGamma)
			}
			copy(state[e.offset:], bindings.Bytes(values))
		}
	}
	if at := t.saved.lossScale; at != 0 {
		copy(state[at:], bindings.Bytes([]float32{firstScale}))
	}
	return t.setState(state, t.config.StartEpoch, 0)
}

// ContinueFrom takes weights, momentum and running statistics from the checkpoint of another run of the same network, whose last epoch
// stands right before this run's StartEpoch. Recipe, schedule and data may be others.
func (t *Trainer) ContinueFrom(r io.Reader) error {
	header, state, _, err := readCheckpoint(r, t.saved)
	if err != nil {
		return err
	}
	if a := t.config.Network.Architecture.ID(); header.Architecture != a {
		return anynetx.Inputf("the state to continue from is of architecture %s, and this run's is %s", header.Architecture, a)
	}
	if header.Epoch != t.config.StartEpoch || header.Step != 0 {
		return anynetx.Inputf("the state to continue from stands at epoch %d, step %d, and this run starts with epoch %d; give it as the run's first epoch",
			header.Epoch, header.Step, t.config.StartEpoch)
	}
	return t.setState(state, header.Epoch, 0)
}

// setState writes a whole state, as a checkpoint has it, and takes its position.
func (t *Trainer) setState(state []byte, epoch, step int) error {
	if err := t.write(0, t.saved.moved(state, t.layout)); err != nil {
		t.ready = false
		return err
	}
	t.epoch, t.step, t.ready = epoch, step, true
	return nil
}

// readState reads the whole state, as a checkpoint has it.
func (t *Trainer) readState() ([]byte, error) {
	if !t.ready {
		return nil, fmt.Errorf("the trainer has no weights yet: call Initialize or ReadCheckpoint first")
	}
	state := make([]byte, t.layout.bytes)
	if err := t.read(0, state); err != nil {
		return nil, err
	}
	return t.layout.moved(state, t.saved), nil
}
