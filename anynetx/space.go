package anynetx

import (
	_ "embed"
	"fmt"

	"anynetx/random"
)

// Space is a law over architectures and the band of complexity that accepts them.
type Space struct {
	Depth, Width, Bottleneck, GroupWidth Law
	Compatibility                        Compatibility
	Setting                              Setting // in which Band is measured
	Band                                 Band
}

// Compatibility is the rule that makes drawn widths, bottlenecks and group widths divide each other.
type Compatibility string

// CompatibilityPycls: v = max(1, floor(w/b)), g = min(g, v), v = max(g, round(v/g) g) with half to even, w = v b.
const CompatibilityPycls Compatibility = "pycls"

// Range is closed; 0 is no bound.
type Range struct{ Low, High int64 }

// Contains says whether a value is in the range.
func (r Range) Contains(v int64) bool {
	return (r.Low == 0 || v >= r.Low) && (r.High == 0 || v <= r.High)
}

// Band bounds each count of Complexity.
type Band struct{ FLOPs, Params, Activations Range }

// Contains says whether a complexity is in the band.
func (b Band) Contains(c Complexity) bool {
	return b.FLOPs.Contains(c.FLOPs) && b.Params.Contains(c.Params) && b.Activations.Contains(c.Activations)
}

//go:embed default_space.yaml
var defaultSpace []byte

// DefaultSpaceYAML is the text of the paper's space: a file to copy and change.
func DefaultSpaceYAML() string { return string(defaultSpace) }

// DefaultSpace is the paper's.
func DefaultSpace() Space {
	s, err := ParseSpace(defaultSpace, "default_space.yaml")
	if err != nil {
		panic(err) // the file is part of the program
	}
	return s
}

// Bounds of a space, chosen so that compatibility, which widens a stage by half at most, stays within MaxWidth.
const (
	maxSpaceWidth      = 4096
	maxSpaceBottleneck = 64
	maxSpaceGroupWidth = 4096
)

type namedLaw struct {
	name    string
	law     *Law
	highest int
}

func (s *Space) laws() []namedLaw {
	return []namedLaw{
		{"depth", &s.Depth, MaxDepth}, {"width", &s.Width, maxSpaceWidth},
		{"bottleneck", &s.Bottleneck, maxSpaceBottleneck}, {"group_width", &s.GroupWidth, maxSpaceGroupWidth},
	}
}

func (l namedLaw) validate() error {
	if len(l.law.values) == 0 {
		return fmt.Errorf("%s has no law: give it one", l.name)
	}
	if high := l.law.highest(); high > l.highest {
		return fmt.Errorf("%s can be %d, must be at most %d: lower the high end of its law", l.name, high, l.highest)
	}
	return nil
}

func (r Range) validate(name string) error {
	if r.Low < 0 || r.High < 0 {
		return fmt.Errorf("band of %s is %d to %d, must not be negative (0 is no bound)", name, r.Low, r.High)
	}
	if r.High != 0 && r.Low > r.High {
		return fmt.Errorf("band of %s has low %d above high %d: swap them", name, r.Low, r.High)
	}
	return nil
}

// Validate says what makes the space impossible, naming the part of it.
func (s Space) Validate() error {
	for _, law := range s.laws() {
		if err := law.validate(); err != nil {
			return Inputf("%w", err)
		}
	}
	if s.Compatibility != CompatibilityPycls {
		return Inputf("compatibility is %q, must be %q", s.Compatibility, CompatibilityPycls)
	}
	if err := s.Setting.Validate(); err != nil {
		return Inputf("setting: %w", err)
	}
	for _, part := range s.Band.parts() {
		if err := part.validate(part.name); err != nil {
			return Inputf("%w", err)
		}
	}
	return nil
}

type bandPart struct {
	name string
	Range
	of func(Complexity) int64
}

func (b Band) parts() []bandPart {
	return []bandPart{
		{"flops", b.FLOPs, func(c Complexity) int64 { return c.FLOPs }},
		{"params", b.Params, func(c Complexity) int64 { return c.Params }},
		{"activations", b.Activations, func(c Complexity) int64 { return c.Activations }},
	}
}

func (b Band) String() string {
	text := ""
	for _, part := range b.parts() {
		switch {
		case part.Low != 0 && part.High != 0:
			text += fmt.Sprintf(", %s %d to %d", part.name, part.Low, part.High)
		case part.Low != 0:
			text += fmt.Sprintf(", %s at least %d", part.name, part.Low)
		case part.High != 0:
			text += fmt.Sprintf(", %s at most %d", part.name, part.High)
		}
	}
	if text == "" {
		return "no bounds"
	}
	return text[2:]
}

// Candidate is draw i of the space's law, made compatible: a function of seed and i alone. Number 4 k + j of stream "candidate", i
// draws depth, width, bottleneck or group width (j) of stage k.
func (s Space) Candidate(seed, i uint64) Architecture {
	stream := random.New(seed, "candidate", i)
	var a Architecture
	for k := range a {
		number := func(j int) uint64 { return stream.Uint64(uint64(4*k + j)) }
		a[k] = compatible(Stage{
			Depth: s.Depth.Draw(number(0)), Width: s.Width.Draw(number(1)),
			Bottleneck: s.Bottleneck.Draw(number(2)), GroupWidth: s.GroupWidth.Draw(number(3)),
		})
	}
	return a
}

// compatible is CompatibilityPycls.
func compatible(s Stage) Stage {
	inner := max(1, s.Width/s.Bottleneck)
	group := min(s.GroupWidth, inner)
	groups, rest := inner/group, inner%group
	if 2*rest > group || 2*rest == group && groups%2 == 1 {
		groups++
	}
	s.GroupWidth = group
	s.Width = groups * group * s.Bottleneck // at least one group, since group <= inner
	return s
}
