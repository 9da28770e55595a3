package anynetx

import (
	"fmt"
	"math"

	"anynetx/random"
)

// ParameterKind says what a parameter is, and so how it starts and whether it decays.
type ParameterKind int

const (
	ConvWeight ParameterKind = iota
	FCWeight
	FCBias
	BNGamma
	BNBeta
	RunningMean     // not trained
	RunningVariance // not trained
)

var kindNames = [...]string{"conv weight", "fc weight", "fc bias", "bn gamma", "bn beta", "running mean", "running variance"}

func (k ParameterKind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("ParameterKind(%d)", int(k))
	}
	return kindNames[k]
}

// Parameter is one tensor of a network's state.
type Parameter struct {
	Name  string // pycls's: "s1.b1.f.a.weight", "s1.b1.f.a_bn.bias", "s1.b1.f.a_bn.running_mean"
	Shape [4]int // K R R g of a filter; vectors are 1 1 1 K
	Kind  ParameterKind
	// Decay is false for batch norm's gamma and beta, which a recipe may exempt from weight decay (pycls by default decays them too).
	Decay bool
	// LastGamma marks the gamma of the last batch norm of a residual branch, which a recipe may start at zero.
	LastGamma bool
}

// Count is the number of values.
func (p Parameter) Count() int { return p.Shape[0] * p.Shape[1] * p.Shape[2] * p.Shape[3] }

// Parameters lists what is trained, in pycls's order: for each of Convs its weight, then its bias, or gamma and beta of its batch norm.
func (n *Network) Parameters() []Parameter {
	var list []Parameter
	for _, c := range n.Convs() {
		weight := Parameter{Name: c.Name + ".weight", Shape: [4]int{c.K, c.R, c.R, c.GroupWidth}, Kind: ConvWeight, Decay: true}
		vector := [4]int{1, 1, 1, c.K}
		if c.Bias { // only the head has one
			weight.Kind = FCWeight
			list = append(list, weight, Parameter{Name: c.Name + ".bias", Shape: vector, Kind: FCBias, Decay: true})
			continue
		}
		list = append(list, weight,
			Parameter{Name: c.BN + ".weight", Shape: vector, Kind: BNGamma},
			Parameter{Name: c.BN + ".bias", Shape: vector, Kind: BNBeta})
	}
	last := map[string]bool{}
	for i := range n.Blocks {
		last[n.Blocks[i].C.BN+".weight"] = true
	}
	for i := range list {
		list[i].LastGamma = last[list[i].Name]
	}
	return list
}

// RunningStatistics lists what batch norms carry beside their parameters: mean and variance of each, in the order of Convs.
func (n *Network) RunningStatistics() []Parameter {
	var list []Parameter
	for _, c := range n.Convs() {
		if c.BN != "" {
			shape := [4]int{1, 1, 1, c.K}
			list = append(list,
				Parameter{Name: c.BN + ".running_mean", Shape: shape, Kind: RunningMean},
				Parameter{Name: c.BN + ".running_var", Shape: shape, Kind: RunningVariance})
		}
	}
	return list
}

// StandardDeviation is that of the normal law the parameter starts from; 0 if it starts from a constant. Convolutions have He's with
// fan-out R R K: as in pycls, groups do not reduce it.
func (p Parameter) StandardDeviation() float64 {
	switch p.Kind {
	case ConvWeight:
		return math.Sqrt(2 / float64(p.Shape[0]*p.Shape[1]*p.Shape[2]))
	case FCWeight:
		return 0.01
	}
	return 0
}

// Fill writes the initial values to dst, which has Count values. Value i is a function of the stream, the parameter's name and i, so
// parameters can be filled in any order. With zeroLastGamma every block starts as its shortcut.
func (p Parameter) Fill(dst []float32, s random.Stream, zeroLastGamma bool) {
	if len(dst) != p.Count() {
		panic(fmt.Sprintf("anynetx: %s has %d values, not the %d given", p.Name, p.Count(), len(dst)))
	}
	if deviation := p.StandardDeviation(); deviation != 0 {
		own := random.New(s.Uint64(0), "initial value", p.Name)
		for i := range dst {
			dst[i] = float32(deviation * own.Normal(uint64(i)))
		}
		return
	}
	value := float32(0)
	if p.Kind == RunningVariance || p.Kind == BNGamma && !(p.LastGamma && zeroLastGamma) {
		value = 1
	}
	for i := range dst {
		dst[i] = value
	}
}
