package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
)

func describeCommand() *cli.Command {
	return &cli.Command{
		Name:  "describe",
		Usage: "what a network is made of and what it costs",
		Description: "Example, RegNetX-400MF:\n\n" +
			"anynetx describe --depths 1,2,7,12 --widths 32,64,160,384 --group-widths 16,16,16,16 --strides 2,2,2,2 --stem simple_stem_in\n\n" +
			"FLOPs are multiply-adds of one image; activations are the outputs of convolutions, max-pool and FC layer, as pycls counts them.",
		Flags: append(networkFlags(false),
			&cli.StringFlag{Name: "format", Value: "text", Usage: "`FORMAT`: text, json, or pycls (YAML that pycls loads)"},
			&cli.BoolFlag{Name: "json", Usage: "the same as --format json"},
			&cli.BoolFlag{Name: "layers", Usage: "every layer with its shapes and cost"}),
		Action: describe,
	}
}

type descriptionJSON struct {
	anynetx.Summary
	Stem       anynetx.Stem `json:"stem"`
	StemWidth  int          `json:"stem_width"`
	Strides    []int        `json:"strides"`
	Resolution int          `json:"resolution"`
	Classes    int          `json:"classes"`
	Layers     []layerJSON  `json:"layers,omitempty"`
}

type layerJSON struct {
	anynetx.Layer
	anynetx.Complexity
}

func describe(c *cli.Context) error {
	format := c.String("format")
	if c.Bool("json") {
		if c.IsSet("format") && format != "json" {
			return anynetx.Inputf("--json and --format %s exclude each other: give one of them", format)
		}
		format = "json"
	}
	if format != "text" && format != "json" && format != "pycls" {
		return anynetx.Inputf("--format is %q, must be text, json or pycls", format)
	}
	n, err := networkOf(c)
	if err != nil {
		return err
	}
	switch format {
	case "json":
		s := n.Setting
		d := descriptionJSON{Summary: anynetx.Summarize(n.Architecture, n.Complexity()),
			Stem: s.Stem, StemWidth: s.StemWidth, Strides: s.Strides[:], Resolution: s.Resolution, Classes: s.Classes}
		if c.Bool("layers") {
			for _, l := range n.Layers() {
				d.Layers = append(d.Layers, layerJSON{l, l.Complexity()})
			}
		}
		return writeJSON(c.App.Writer, d)
	case "pycls":
		return write(c.App.Writer, "%s", n.Pycls())
	}
	return describeText(c, n)
}

func describeText(c *cli.Context, n *anynetx.Network) error {
	w, s, cost := c.App.Writer, n.Setting, n.Complexity()
	if err := pairs(w,
		[2]string{"architecture", n.Architecture.ID()},
		[2]string{"stem", fmt.Sprintf("%s, %d channels", s.Stem, s.StemWidth)},
		[2]string{"input", fmt.Sprintf("%d x %d pixels, %d classes", s.Resolution, s.Resolution, s.Classes)},
		[2]string{"FLOPs", fmt.Sprintf("%s multiply-adds per image (%s)", si(float64(cost.FLOPs)), thousands(cost.FLOPs))},
		[2]string{"parameters", si(float64(cost.Params)) + " (" + thousands(cost.Params) + ")"},
		[2]string{"activations", fmt.Sprintf("%s per image (%s)", si(float64(cost.Activations)), thousands(cost.Activations))},
	); err != nil {
		return err
	}
	if err := write(w, "\n"); err != nil {
		return err
	}
	stages := newGrid(">stage", ">depth", ">width", ">bottleneck", ">group width", ">groups", ">stride", ">input", ">output", ">MFLOPs", ">share")
	shares := stageShares(n)
	h, block := 0, 0
	for i, st := range n.Architecture {
		h = n.Blocks[block].A.H
		last := n.Blocks[block+st.Depth-1].C
		block += st.Depth
		stages.row(i+1, st.Depth, st.Width, st.Bottleneck, st.GroupWidth, st.InnerWidth()/st.GroupWidth, s.Strides[i],
			fmt.Sprintf("%d px", h), fmt.Sprintf("%d px", last.P),
			fmt.Sprintf("%.2f", float64(shares[i])/1e6), fmt.Sprintf("%.1f %%", 100*float64(shares[i])/float64(cost.FLOPs)))
	}
	if err := stages.print(w); err != nil || !c.Bool("layers") {
		return err
	}
	if err := write(w, "\n"); err != nil {
		return err
	}
	layers := newGrid("layer", "kind", ">input", ">output", ">filter", ">stride", ">group width", ">MFLOPs", ">parameters", ">activations")
	for _, l := range n.Layers() {
		lc := l.Complexity()
		filter, group := "", ""
		if l.R > 0 {
			filter = fmt.Sprintf("%dx%d", l.R, l.R)
		}
		if l.GroupWidth > 0 {
			group = fmt.Sprint(l.GroupWidth)
		}
		layers.row(l.Name, strings.ReplaceAll(string(l.Kind), "_", " "), fmt.Sprintf("%dx%dx%d", l.H, l.W, l.C), fmt.Sprintf("%dx%dx%d", l.P, l.Q, l.K),
			filter, l.Stride, group, fmt.Sprintf("%.3f", float64(lc.FLOPs)/1e6), thousands(lc.Params), thousands(lc.Activations))
	}
	layers.total("total", "", "", "", "", "", "", fmt.Sprintf("%.3f", float64(cost.FLOPs)/1e6), thousands(cost.Params), thousands(cost.Activations))
	return layers.print(w)
}

// stageShares are the multiply-adds of each stage's blocks.
func stageShares(n *anynetx.Network) [anynetx.Stages]int64 {
	var shares [anynetx.Stages]int64
	for _, l := range n.Layers() {
		for i := range shares {
			if strings.HasPrefix(l.Name, fmt.Sprintf("s%d.", i+1)) {
				shares[i] += l.Complexity().FLOPs
			}
		}
	}
	return shares
}
