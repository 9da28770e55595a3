package engine

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"anynetx/anynetx"
)

// Weights are a network's parameters and running statistics by pycls's names.
type Weights struct {
	Tensors []WeightTensor
	// Batches is how many training steps made them: PyTorch's num_batches_tracked.
	Batches int64
	// Metadata goes into the file's header.
	Metadata map[string]string
}

// WeightTensor is one of them. Shape is [K R R g] of a filter, whose Values lie in that order; [K C] of the head; [K] of vectors.
type WeightTensor struct {
	Name   string
	Shape  []int
	Values []float32
}

// Weights reads parameters and running statistics from the device.
func (t *Trainer) Weights() (*Weights, error) {
	state, err := t.readState()
	if err != nil {
		return nil, err
	}
	w := &Weights{Batches: int64(t.epoch*t.steps + t.step), Metadata: map[string]string{
		"format":       "pt", // some readers of the format ask for it
		"architecture": t.config.Network.Architecture.ID(),
		"network":      t.config.Network.Architecture.String(),
		"task":         t.config.Task,
	}}
	for _, list := range [][]entry{t.saved.parameters, t.saved.running} {
		for _, e := range list {
			values := make([]float32, e.Count())
			for i := range values {
				values[i] = math.Float32frombits(binary.LittleEndian.Uint32(state[e.offset+4*int64(i):]))
			}
			w.Tensors = append(w.Tensors, WeightTensor{e.Name, weightShape(e.Parameter), values})
		}
	}
	return w, nil
}

// WriteWeights writes the weights as a safetensors file.
func (t *Trainer) WriteWeights(out io.Writer) error {
	w, err := t.Weights()
	if err != nil {
		return err
	}
	return w.WriteSafetensors(out)
}

func weightShape(p anynetx.Parameter) []int {
	switch p.Kind {
	case anynetx.ConvWeight:
		return append([]int(nil), p.Shape[:]...)
	case anynetx.FCWeight:
		return []int{p.Shape[0], p.Shape[3]}
	}
	return []int{p.Shape[3]}
}

// copyTo finds a parameter's values.
func (w *Weights) copyTo(values []float32, p anynetx.Parameter) error {
	for _, t := range w.Tensors {
		if t.Name != p.Name {
			continue
		}
		if want := weightShape(p); fmt.Sprint(t.Shape) != fmt.Sprint(want) {
			return anynetx.Inputf("the weights to start from: %s has shape %v, and this network's is %v; architecture and stem must be the same", p.Name, t.Shape, want)
		}
		copy(values, t.Values)
		return nil
	}
	return anynetx.Inputf("the weights to start from have no tensor %s; they must be of the same architecture and stem", p.Name)
}

// swapFilter copies a filter between [K][R][R][g], anynetx's order, and [K][g][R][R], PyTorch's.
func swapFilter(dst, src []float32, shape []int, toPyTorch bool) {
	k, taps, g := shape[0], shape[1]*shape[2], shape[3]
	for i := range k {
		base := i * taps * g
		for tap := range taps {
			for c := range g {
				if ours, theirs := base+tap*g+c, base+c*taps+tap; toPyTorch {
					dst[theirs] = src[ours]
				} else {
					dst[ours] = src[theirs]
				}
			}
		}
	}
}

func isRunningMean(name string) bool { return strings.HasSuffix(name, ".running_mean") }
