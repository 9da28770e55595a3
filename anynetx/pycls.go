package anynetx

import (
	"fmt"
	"strconv"
	"strings"
)

// Pycls is the network as a configuration file that pycls loads. Its sizes, and so the complexity pycls prints, are this network's;
// the recipe is left to pycls's defaults. Bottleneck ratios become multipliers, 1/b.
func (n *Network) Pycls() string {
	a, s, c := n.Architecture, n.Setting, n.Complexity()
	list := func(field func(Stage) string) string {
		var parts []string
		for _, stage := range a {
			parts = append(parts, field(stage))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	whole := func(field func(Stage) int) string {
		return list(func(stage Stage) string { return strconv.Itoa(field(stage)) })
	}
	multiplier := func(stage Stage) string {
		text := strconv.FormatFloat(1/float64(stage.Bottleneck), 'f', -1, 64)
		if !strings.Contains(text, ".") {
			text += ".0" // as pycls writes it: YAML then reads a float
		}
		return text
	}
	var out strings.Builder
	fmt.Fprintf(&out, "# anynetx %s: %d FLOPs, %d parameters, %d activations\n", a.ID(), c.FLOPs, c.Params, c.Activations)
	fmt.Fprintf(&out, "MODEL:\n  TYPE: anynet\n  NUM_CLASSES: %d\n", s.Classes)
	fmt.Fprintf(&out, "ANYNET:\n  STEM_TYPE: %s\n  STEM_W: %d\n  BLOCK_TYPE: res_bottleneck_block\n", s.Stem, s.StemWidth)
	fmt.Fprintf(&out, "  DEPTHS: %s\n", whole(func(stage Stage) int { return stage.Depth }))
	fmt.Fprintf(&out, "  WIDTHS: %s\n", whole(func(stage Stage) int { return stage.Width }))
	fmt.Fprintf(&out, "  STRIDES: [%s]\n", strings.ReplaceAll(strings.Trim(fmt.Sprint(s.Strides), "[]"), " ", ", "))
	fmt.Fprintf(&out, "  BOT_MULS: %s\n", list(multiplier))
	fmt.Fprintf(&out, "  GROUP_WS: %s\n", whole(func(stage Stage) int { return stage.GroupWidth }))
	fmt.Fprintf(&out, "TRAIN:\n  IM_SIZE: %d\n", s.Resolution)
	// pycls resizes test images to this before it crops to TRAIN.IM_SIZE: its 256 for 224, kept in proportion.
	fmt.Fprintf(&out, "TEST:\n  IM_SIZE: %d\n", testSize(s))
	return out.String()
}

// testSize is 8/7 of the resolution where a test crop is taken from a larger image; the small-image stem has none.
func testSize(s Setting) int {
	if s.Stem == ResStemCifar {
		return s.Resolution
	}
	return (s.Resolution*8 + 3) / 7
}

// Summary is an architecture and its complexity in the form of the command line's JSON.
type Summary struct {
	ID          string      `json:"id"`
	Depths      [Stages]int `json:"depths"`
	Widths      [Stages]int `json:"widths"`
	Bottlenecks [Stages]int `json:"bottlenecks"`
	GroupWidths [Stages]int `json:"group_widths"`
	Complexity
}

// Summarize puts an architecture and its complexity in that form.
func Summarize(a Architecture, c Complexity) Summary {
	s := Summary{ID: a.ID(), Complexity: c}
	for i, stage := range a {
		s.Depths[i], s.Widths[i], s.Bottlenecks[i], s.GroupWidths[i] = stage.Depth, stage.Width, stage.Bottleneck, stage.GroupWidth
	}
	return s
}

// Architecture is the architecture summarised.
func (s Summary) Architecture() Architecture {
	var a Architecture
	for i := range a {
		a[i] = Stage{s.Depths[i], s.Widths[i], s.Bottlenecks[i], s.GroupWidths[i]}
	}
	return a
}
