package anynetx

import (
	"testing"

	"pgregory.net/rapid"
)

func build(t interface{ Fatal(...any) }, a Architecture, s Setting) *Network {
	n, err := Build(a, s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestComplexityIsWhatPyclsPublishes(t *testing.T) {
	var file struct {
		Published []struct {
			Name      string
			Stages    goldenStages
			Setting   Setting
			Published goldenCounts
		}
		Small []struct {
			Stages     goldenStages
			Setting    Setting
			Complexity goldenCounts
		}
	}
	golden(t, "complexity.json", &file)
	if len(file.Published) < 18 || len(file.Small) < 36 {
		t.Fatalf("complexity.json holds %d and %d networks", len(file.Published), len(file.Small))
	}
	for _, c := range file.Published {
		if got, want := build(t, c.Stages.architecture(), c.Setting).Complexity(), c.Published.complexity(); got != want {
			t.Errorf("%s: %+v, pycls publishes %+v", c.Name, got, want)
		}
	}
	for _, c := range file.Small {
		if got, want := build(t, c.Stages.architecture(), c.Setting).Complexity(), c.Complexity.complexity(); got != want {
			t.Errorf("%v in %+v: %+v, the script has %+v", c.Stages, c.Setting, got, want)
		}
	}
}

func TestIssueNetworks(t *testing.T) {
	// The two that must not depend on any file: dev/model_complexity.json of pycls at 5719de6.
	x400 := Architecture{{1, 32, 1, 16}, {2, 64, 1, 16}, {7, 160, 1, 16}, {12, 384, 1, 16}}
	simple := Setting{SimpleStemIN, 32, [Stages]int{2, 2, 2, 2}, 224, 1000}
	if got, want := build(t, x400, simple).Complexity(), (Complexity{397678568, 5157512, 3143272}); got != want {
		t.Errorf("RegNetX-400MF: %+v, want %+v", got, want)
	}
	r50 := Architecture{{3, 256, 4, 64}, {4, 512, 4, 128}, {6, 1024, 4, 256}, {3, 2048, 4, 512}}
	imagenet := DefaultSetting()
	imagenet.StemWidth = 64
	if got, want := build(t, r50, imagenet).Complexity(), (Complexity{4089185256, 25557032, 11315688}); got != want {
		t.Errorf("ResNet-50: %+v, want %+v", got, want)
	}
}

// The list that is counted is the list that is trained: shapes chain, and parameters are those of Parameters.
func TestLayersChain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, s := drawArchitecture(t), drawSetting(t)
		n := build(t, a, s)
		params := int64(0)
		for _, p := range n.Parameters() {
			params += int64(p.Count())
		}
		if got := n.Complexity().Params; got != params {
			t.Fatalf("complexity counts %d parameters, Parameters has %d", got, params)
		}
		h, w, c := s.Resolution, s.Resolution, 3
		var blockH, blockW, blockC int // input of the block at hand
		for _, l := range n.Layers() {
			last := l.Name[len(l.Name)-2:]
			if last == "oj" || last == ".a" && (n.block(l.Name).Proj == nil) {
				blockH, blockW, blockC = h, w, c
			}
			if last == ".a" { // the projection in front of it, if any, has the same input
				h, w, c = blockH, blockW, blockC
			}
			if l.H != h || l.W != w || l.C != c {
				t.Fatalf("%s takes %dx%dx%d, but %dx%dx%d arrives", l.Name, l.H, l.W, l.C, h, w, c)
			}
			if l.R > 0 && l.P != (l.H+2*(l.R/2)-l.R)/l.Stride+1 {
				t.Fatalf("%s: %d rows from %d with filter %d stride %d", l.Name, l.P, l.H, l.R, l.Stride)
			}
			h, w, c = l.P, l.Q, l.K
		}
		if c != s.Classes || h != 1 || w != 1 {
			t.Fatalf("the network ends in %dx%dx%d", h, w, c)
		}
	})
}

func (n *Network) block(layer string) *Block {
	for i := range n.Blocks {
		if n.Blocks[i].A.Name == layer {
			return &n.Blocks[i]
		}
	}
	return nil
}

// The largest legal network: its counts must fit int64. Both sides in floating point, from the formula of a bottleneck's blocks.
func TestComplexityCannotOverflow(t *testing.T) {
	big := Stage{MaxDepth, MaxWidth, 1, MaxWidth}
	s := Setting{ResStemCifar, MaxWidth, [Stages]int{1, 1, 1, 1}, MaxResolution, MaxClasses}
	c := build(t, Architecture{big, big, big, big}, s).Complexity()
	w, map2, blocks := float64(MaxWidth), float64(MaxResolution)*MaxResolution, float64(Stages*MaxDepth)
	want := (27*w+11*w*w*blocks)*map2 + (w+1)*MaxClasses
	if got := float64(c.FLOPs); got < 0.999999*want || got > 1.000001*want {
		t.Errorf("FLOPs %g, want %g", got, want)
	}
	if c.Params <= 0 || c.Activations <= 0 {
		t.Errorf("overflow: %+v", c)
	}
}

func TestSettingAndArchitectureBounds(t *testing.T) {
	good, s := Architecture{{1, 8, 1, 1}, {1, 8, 1, 1}, {1, 8, 1, 1}, {1, 8, 1, 1}}, DefaultSetting()
	for name, change := range map[string]func(*Architecture, *Setting){
		"stage 2: depth is 0":                        func(a *Architecture, _ *Setting) { a[1].Depth = 0 },
		"stage 2: depth is 129":                      func(a *Architecture, _ *Setting) { a[1].Depth = 129 },
		"stage 1: width is 8193":                     func(a *Architecture, _ *Setting) { a[0].Width = 8193 },
		"stage 4: bottleneck ratio is -1":            func(a *Architecture, _ *Setting) { a[3].Bottleneck = -1 },
		"stage 3: width 8 is not a multiple":         func(a *Architecture, _ *Setting) { a[2].Bottleneck = 3 },
		"stage 3: inner width 8 is not a multiple":   func(a *Architecture, _ *Setting) { a[2].GroupWidth = 3 },
		"stage 1: group width is 0":                  func(a *Architecture, _ *Setting) { a[0].GroupWidth = 0 },
		`stem is "x"`:                                func(_ *Architecture, s *Setting) { s.Stem = "x" },
		"stem width is 0":                            func(_ *Architecture, s *Setting) { s.StemWidth = 0 },
		"resolution is 4097":                         func(_ *Architecture, s *Setting) { s.Resolution = 4097 },
		"classes is 1,":                              func(_ *Architecture, s *Setting) { s.Classes = 1 },
		"stride of stage 2 is 3":                     func(_ *Architecture, s *Setting) { s.Strides[1] = 3 },
		"stride of stage 4 is 0, must be 1 or 2":     func(_ *Architecture, s *Setting) { s.Strides[3] = 0 },
		"stage 1: inner width 8 is not a multiple o": func(a *Architecture, _ *Setting) { a[0].GroupWidth = 16 },
	} {
		a, s := good, s
		change(&a, &s)
		if _, err := Build(a, s); err == nil || !contains(err, name) {
			t.Errorf("error %v, want %q", err, name)
		}
	}
}
