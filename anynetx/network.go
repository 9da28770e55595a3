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
	Stem       Stem        `json:"stem" yaml:"stem"`
	StemWidth  int         `json:"stem_width" yaml:"stem_width"`
	Strides    [Stages]int `json:"strides" yaml:"strides"`
	Resolution int         `json:"resolution" yaml:"resolution"` // height and width of the input
	Classes    int         `json:"classes" yaml:"classes"`
}

// Bounds of a setting.
const (
	MaxResolution = 4096
	MaxClasses    = 1 << 20
)

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
	n := work(a, s)
	n.setNames()
	return n, nil
}

// work is Build of a valid architecture and setting without names, which cost more than all the rest.
func work(a Architecture, s Setting) *Network {
	n := &Network{Architecture: a, Setting: s}
	r, stride := 3, 2
	switch s.Stem {
	case ResStemIN:
		r = 7
	case ResStemCifar:
		stride = 1
	}
	n.Stem = conv(s.Resolution, s.Resolution, 3, s.StemWidth, r, stride, 3)
	h, w, c := n.Stem.P, n.Stem.Q, n.Stem.K
	if s.Stem == ResStemIN {
		n.Pool = &Pool{H: h, W: w, C: c, P: out(h, 3, 2), Q: out(w, 3, 2)}
		h, w = n.Pool.P, n.Pool.Q
	}
	blocks := 0
	for _, stage := range a {
		blocks += stage.Depth
	}
	n.Blocks = make([]Block, 0, blocks)
	for i, stage := range a {
		inner := stage.InnerWidth()
		for j := range stage.Depth {
			stride := 1
			if j == 0 {
				stride = s.Strides[i]
			}
			b := Block{A: conv(h, w, c, inner, 1, 1, c)}
			b.B = conv(h, w, inner, inner, 3, stride, stage.GroupWidth)
			b.C = conv(b.B.P, b.B.Q, inner, stage.Width, 1, 1, inner)
			if c != stage.Width || stride != 1 {
				proj := conv(h, w, c, stage.Width, 1, stride, c)
				b.Proj = &proj
			}
			n.Blocks = append(n.Blocks, b)
			h, w, c = b.C.P, b.C.Q, stage.Width
		}
	}
	n.Head = conv(1, 1, c, s.Classes, 1, 1, c)
	n.Head.Bias = true
	return n
}

// setNames gives every module the name it has in pycls.
func (n *Network) setNames() {
	n.Stem.Name, n.Stem.BN = "stem.conv", "stem.bn"
	n.Head.Name = "head.fc"
	next := 0
	for i, stage := range n.Architecture {
		for j := range stage.Depth {
			b := &n.Blocks[next]
			next++
			b.Name = fmt.Sprintf("s%d.b%d", i+1, j+1)
			b.A.Name, b.A.BN = b.Name+".f.a", b.Name+".f.a_bn"
			b.B.Name, b.B.BN = b.Name+".f.b", b.Name+".f.b_bn"
			b.C.Name, b.C.BN = b.Name+".f.c", b.Name+".f.c_bn"
			if b.Proj != nil {
				b.Proj.Name, b.Proj.BN = b.Name+".proj", b.Name+".bn"
			}
		}
	}
}

// Validate says what is wrong with the setting.
func (s Setting) Validate() error {
	switch s.Stem {
	case ResStemIN, SimpleStemIN, ResStemCifar:
	default:
		return fmt.Errorf("stem is %q, must be %s, %s or %s", s.Stem, ResStemIN, SimpleStemIN, ResStemCifar)
	}
	if s.StemWidth < 1 || s.StemWidth > MaxWidth {
		return fmt.Errorf("stem width is %d, must be 1 to %d", s.StemWidth, MaxWidth)
	}
	if s.Resolution < 1 || s.Resolution > MaxResolution {
		return fmt.Errorf("resolution is %d, must be 1 to %d", s.Resolution, MaxResolution)
	}
	if s.Classes < 2 || s.Classes > MaxClasses {
		return fmt.Errorf("classes is %d, must be 2 to %d", s.Classes, MaxClasses)
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

func conv(h, w, c, k, r, stride, group int) Conv {
	return Conv{H: h, W: w, C: c, P: out(h, r, stride), Q: out(w, r, stride), K: k, R: r, Stride: stride, GroupWidth: group}
}

// out is the size of a map behind a filter of size r with padding r/2.
func out(size, r, stride int) int { return (size+2*(r/2)-r)/stride + 1 }
