// Package anynetx is the AnyNetX design space of convolutional networks: architectures, the networks they stand for, their
// complexity, and how populations of them are sampled. It is pure: no input or output, no native code.
package anynetx

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Stages is the number of stages of a body.
const Stages = 4

// Bounds of a stage. They keep a hostile file's memory small and every count of Complexity inside 63 bits, and are far beyond any
// published network (RegNetY-128GF is 7392 wide, ResNet-200 36 deep).
const (
	MaxDepth = 128
	MaxWidth = 8192
)

// Stage is a run of equal residual bottleneck blocks.
type Stage struct {
	Depth      int // blocks
	Width      int // output channels w of each block
	Bottleneck int // b; the inner width is w / b
	GroupWidth int // channels per group of the 3x3
}

// InnerWidth is the number of channels of the 3x3.
func (s Stage) InnerWidth() int { return s.Width / s.Bottleneck }

// Architecture is a body: what pairs across data sets. Stem, strides, resolution and classes belong to a Setting.
type Architecture [Stages]Stage

// ID is a hash of depths, widths, bottlenecks and group widths, and of nothing else.
func (a Architecture) ID() string {
	sum := sha256.Sum256([]byte("anynetx architecture 1: " + a.String()))
	return hex.EncodeToString(sum[:6])
}

// String reads like "d 1-2-7-12  w 32-64-160-384  b 1-1-1-1  g 16-16-16-16".
func (a Architecture) String() string {
	join := func(field func(Stage) int) string {
		parts := make([]string, Stages)
		for i, s := range a {
			parts[i] = fmt.Sprint(field(s))
		}
		return strings.Join(parts, "-")
	}
	return fmt.Sprintf("d %s  w %s  b %s  g %s",
		join(func(s Stage) int { return s.Depth }), join(func(s Stage) int { return s.Width }),
		join(func(s Stage) int { return s.Bottleneck }), join(func(s Stage) int { return s.GroupWidth }))
}

// Validate says what makes the architecture impossible to build, naming the stage.
func (a Architecture) Validate() error {
	for i, s := range a {
		switch {
		case s.Depth < 1 || s.Depth > MaxDepth:
			return fmt.Errorf("stage %d: depth is %d, must be 1 to %d", i+1, s.Depth, MaxDepth)
		case s.Width < 1 || s.Width > MaxWidth:
			return fmt.Errorf("stage %d: width is %d, must be 1 to %d", i+1, s.Width, MaxWidth)
		case s.Bottleneck < 1:
			return fmt.Errorf("stage %d: bottleneck ratio is %d, must be at least 1", i+1, s.Bottleneck)
		case s.GroupWidth < 1:
			return fmt.Errorf("stage %d: group width is %d, must be at least 1", i+1, s.GroupWidth)
		case s.Width%s.Bottleneck != 0:
			return fmt.Errorf("stage %d: width %d is not a multiple of bottleneck ratio %d", i+1, s.Width, s.Bottleneck)
		case s.InnerWidth()%s.GroupWidth != 0:
			return fmt.Errorf("stage %d: inner width %d is not a multiple of group width %d", i+1, s.InnerWidth(), s.GroupWidth)
		}
	}
	return nil
}
