package anynetx

import "fmt"

// Stem is what stands in front of the body, named as in pycls.
type Stem string

const (
	ResStemIN    Stem = "res_stem_in"    // 7x7 stride 2, BN, ReLU, 3x3 stride 2 max-pool
	SimpleStemIN Stem = "simple_stem_in" // 3x3 stride 2, BN, ReLU
	ResStemCifar Stem = "res_stem_cifar" // 3x3 stride 1, BN, ReLU
)

// Setting is what a task adds to an architecture to make it a network.
type Setting struct {
	Stem       Stem
	StemWidth  int
	Strides    [Stages]int
	Resolution int // height and width of the input
	Classes    int
}

// DefaultSetting is the paper's: ImageNet.
func DefaultSetting() Setting {
	return Setting{Stem: ResStemIN, StemWidth: 32, Strides: [Stages]int{1, 2, 2, 2}, Resolution: 224, Classes: 1000}
}

// Conv is a square convolution with padding R/2, followed by a batch norm unless it has a bias.
type Conv struct {
	Name       string // pycls's, of the module: "s1.b1.f.a"; parameters add ".weight" and ".bias"
	BN         string // pycls's name of the batch norm behind it; "" if Bias
	H, W, C    int    // input
	P, Q, K    int    // output
	R          int    // filter height and width
	Stride     int
	GroupWidth int // input channels per group; dense: C
	Bias       bool
}

// Block is Y = ReLU(C(B(A(X))) + X), or with Proj in place of the last X; BN after each convolution, ReLU after A and B.
type Block struct {
	Name    string // "s1.b1"
	A, B, C Conv
	Proj    *Conv // where the shape changes
}

// Pool is the stem's 3x3 stride 2 padding 1 max-pool.
type Pool struct{ H, W, C, P, Q int }

// Network is an architecture in a setting, with every shape worked out; what is trained, counted and exported.
type Network struct {
	Architecture Architecture
	Setting      Setting
	Stem         Conv
	Pool         *Pool // nil if the stem has none
	Blocks       []Block
	Head         Conv // the fully connected layer, a 1x1 convolution with bias behind the global average pool
}

// Build works out the network of an architecture in a setting.
func Build(a Architecture, s Setting) (*Network, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	n := &Network{Architecture: a, Setting: s}
	r, stride := 3, 2
	switch s.Stem {
	case ResStemIN:
		r = 7
	case ResStemCifar:
		stride = 1
	}
	n.Stem = conv("stem.conv", "stem.bn", s.Resolution, s.Resolution, 3, s.StemWidth, r, stride, 3)
	h, w, c := n.Stem.P, n.Stem.Q, n.Stem.K
	if s.Stem == ResStemIN {
		n.Pool = &Pool{H: h, W: w, C: c, P: out(h, 3, 2), Q: out(w, 3, 2)}
		h, w = n.Pool.P, n.Pool.Q
	}
	for i, stage := range a {
		inner := stage.InnerWidth()
		for j := range stage.Depth {
			stride := 1
			if j == 0 {
				stride = s.Strides[i]
			}
			name := fmt.Sprintf("s%d.b%d", i+1, j+1)
			b := Block{Name: name}
			b.A = conv(name+".f.a", name+".f.a_bn", h, w, c, inner, 1, 1, c)
			b.B = conv(name+".f.b", name+".f.b_bn", h, w, inner, inner, 3, stride, stage.GroupWidth)
			b.C = conv(name+".f.c", name+".f.c_bn", b.B.P, b.B.Q, inner, stage.Width, 1, 1, inner)
			if c != stage.Width || stride != 1 {
				proj := conv(name+".proj", name+".bn", h, w, c, stage.Width, 1, stride, c)
				b.Proj = &proj
			}
			n.Blocks = append(n.Blocks, b)
			h, w, c = b.C.P, b.C.Q, stage.Width
		}
	}
	n.Head = conv("head.fc", "", 1, 1, c, s.Classes, 1, 1, c)
	n.Head.Bias = true
	return n, nil
}

// Validate says what is wrong with the setting.
func (s Setting) Validate() error {
	switch s.Stem {
	case ResStemIN, SimpleStemIN, ResStemCifar:
	default:
		return fmt.Errorf("stem is %q, must be %s, %s or %s", s.Stem, ResStemIN, SimpleStemIN, ResStemCifar)
	}
	if s.StemWidth < 1 {
		return fmt.Errorf("stem width is %d, must be at least 1", s.StemWidth)
	}
	if s.Resolution < 1 || s.Resolution > 4096 {
		return fmt.Errorf("resolution is %d, must be 1 to 4096", s.Resolution)
	}
	if s.Classes < 2 {
		return fmt.Errorf("classes is %d, must be at least 2", s.Classes)
	}
	for i, stride := range s.Strides {
		if stride != 1 && stride != 2 {
			return fmt.Errorf("stride of stage %d is %d, must be 1 or 2", i+1, stride)
		}
	}
	return nil
}

// Convs lists every convolution in the order of the forward pass (a block: Proj, A, B, C, as pycls constructs them).
func (n *Network) Convs() []*Conv {
	list := []*Conv{&n.Stem}
	for i := range n.Blocks {
		b := &n.Blocks[i]
		if b.Proj != nil {
			list = append(list, b.Proj)
		}
		list = append(list, &b.A, &b.B, &b.C)
	}
	return append(list, &n.Head)
}

func conv(name, bn string, h, w, c, k, r, stride, group int) Conv {
	return Conv{Name: name, BN: bn, H: h, W: w, C: c, P: out(h, r, stride), Q: out(w, r, stride), K: k, R: r, Stride: stride, GroupWidth: group}
}

// out is the size of a map behind a filter of size r with padding r/2.
func out(size, r, stride int) int { return (size+2*(r/2)-r)/stride + 1 }
