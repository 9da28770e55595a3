package anynetx

// LayerKind is what a layer computes.
type LayerKind string

const (
	ConvLayer       LayerKind = "conv"
	BatchNormLayer  LayerKind = "batch_norm"
	MaxPoolLayer    LayerKind = "max_pool"
	GlobalPoolLayer LayerKind = "global_average_pool"
	FCLayer         LayerKind = "fully_connected"
)

// Layer is one entry of the flat list of what a network computes. ReLU and addition are left out: they have no parameters and pycls
// counts nothing for them.
type Layer struct {
	Kind       LayerKind `json:"kind"`
	Name       string    `json:"name"` // pycls's
	H          int       `json:"h"`    // input
	W          int       `json:"w"`
	C          int       `json:"c"`
	P          int       `json:"p"` // output
	Q          int       `json:"q"`
	K          int       `json:"k"`
	R          int       `json:"r"` // filter height and width; 0 if there is none
	Stride     int       `json:"stride"`
	GroupWidth int       `json:"group_width"` // 0 if there is none
}

// Complexity is counted for one image, as pycls counts.
type Complexity struct {
	FLOPs       int64 `json:"flops"`       // multiply-adds of convolutions and FC layers, plus one per FC output for its bias
	Params      int64 `json:"params"`      // weights, biases, gammas and betas
	Activations int64 `json:"activations"` // values put out by convolutions, max-pools and FC layers
}

// Complexity of one layer. The global pool and batch norms put out no activations, by pycls's convention.
func (l Layer) Complexity() Complexity {
	p, q, k := int64(l.P), int64(l.Q), int64(l.K)
	weights := int64(l.R) * int64(l.R) * int64(l.GroupWidth) * k
	switch l.Kind {
	case ConvLayer:
		return Complexity{weights * p * q, weights, k * p * q}
	case FCLayer:
		return Complexity{weights + k, weights + k, k}
	case BatchNormLayer:
		return Complexity{0, 2 * k, 0}
	case MaxPoolLayer:
		return Complexity{0, 0, k * p * q}
	}
	return Complexity{}
}

// Layers lists the network's layers in the order of the forward pass.
func (n *Network) Layers() []Layer {
	list := make([]Layer, 0, 2*len(n.Blocks)*4+8)
	n.eachLayer(func(l Layer) { list = append(list, l) })
	return list
}

// Complexity is the sum over Layers.
func (n *Network) Complexity() Complexity {
	var sum Complexity
	n.eachLayer(func(l Layer) {
		c := l.Complexity()
		sum.FLOPs += c.FLOPs
		sum.Params += c.Params
		sum.Activations += c.Activations
	})
	return sum
}

func (n *Network) eachLayer(yield func(Layer)) {
	emit := func(c *Conv) {
		l := Layer{Kind: ConvLayer, Name: c.Name, H: c.H, W: c.W, C: c.C, P: c.P, Q: c.Q, K: c.K, R: c.R, Stride: c.Stride, GroupWidth: c.GroupWidth}
		if c.Bias {
			l.Kind = FCLayer
			yield(l)
			return
		}
		yield(l)
		yield(Layer{Kind: BatchNormLayer, Name: c.BN, H: c.P, W: c.Q, C: c.K, P: c.P, Q: c.Q, K: c.K, Stride: 1})
	}
	emit(&n.Stem)
	if p := n.Pool; p != nil {
		yield(Layer{Kind: MaxPoolLayer, Name: "stem.pool", H: p.H, W: p.W, C: p.C, P: p.P, Q: p.Q, K: p.C, R: 3, Stride: 2})
	}
	for i := range n.Blocks {
		b := &n.Blocks[i]
		if b.Proj != nil {
			emit(b.Proj)
		}
		emit(&b.A)
		emit(&b.B)
		emit(&b.C)
	}
	last := n.lastConv()
	yield(Layer{Kind: GlobalPoolLayer, Name: "head.avg_pool", H: last.P, W: last.Q, C: last.K, P: 1, Q: 1, K: last.K, Stride: 1})
	emit(&n.Head)
}

// lastConv is the convolution in front of the head.
func (n *Network) lastConv() *Conv { return &n.Blocks[len(n.Blocks)-1].C }
