// Package conformance holds the cases of every op, once: correctness against the reference back end, gradients, same bits over
// instruction sets and threads, malformed records and benchmarks all take them from here.
//
// A case is a small program over tensors with given contents. Bind puts it on a device with guard bytes around every tensor, Run runs
// it, Collect checks the guards and the inputs and reads the outputs, Compare judges them against another back end's.
package conformance

import (
	"fmt"

	"anynetx/bindings"
)

// Case is a program with the contents of its tensors.
type Case struct {
	Name    string
	Family  string // the op it is about, or "program"
	Tensors []Tensor
	Ops     []bindings.Op
	Slots   []float64
	// Every mask comes from an input: rounding between the ops flips none, so 16-bit results compare element by element.
	MasksGiven bool
}

// Tensor is a tensor of a case. The place in memory is Bind's affair.
type Tensor struct {
	bindings.Tensor
	Name    string
	Data    []byte  // before the run, in plain order; nil: filled with NaN, so that what nobody wrote shows
	Output  bool    // read and compared after the run; an input must not change
	Terms   int     // of an output: how many products or values one element sums up
	Slack   float64 // factor on the tolerance where the formula cancels; 0 counts as 1
	Private bool    // between the program's ops: neither compared nor checked
	NaNs    bool    // NaNs are right, if both back ends have them at the same places
}

// Images is the batch of the case's activations; a back end needs it to be a multiple of DeviceInfo.VectorImages.
func (c *Case) Images() int {
	for _, t := range c.Tensors {
		if t.Layout == bindings.Activation {
			return int(t.N)
		}
	}
	return 0
}

// Unfit says why a device cannot take the case at all; "" if it can.
func (c *Case) Unfit(info bindings.DeviceInfo) string {
	if v := info.VectorImages; v > 1 && c.Images()%v != 0 {
		return fmt.Sprintf("a batch of %d: %s needs a multiple of %d", c.Images(), info.Model, v)
	}
	return ""
}

// MACs is how many multiply-adds the convolutions of the case do; 0 for the other ops.
func (c *Case) MACs() int64 {
	total := int64(0)
	for _, op := range c.Ops {
		one := int64(op.N) * int64(op.P) * int64(op.Q) * int64(op.K) * int64(op.R) * int64(op.R) * int64(op.Group)
		switch op.Kind {
		case bindings.ConvFwd:
			total += one
		case bindings.ConvBwd:
			total += one
			if op.Out[0] >= 0 {
				total += one
			}
		}
	}
	return total
}

// Cases is every case, in a fixed order with fixed contents.
func Cases() []Case {
	var all []Case
	for _, family := range [][]Case{inputCases(), convCases(), batchNormCases(), joinCases(), poolCases(), gapCases(), xentCases(), sgdCases(), lossScaleCases(), programCases(), fusedCases()} {
		all = append(all, family...)
	}
	return all
}
