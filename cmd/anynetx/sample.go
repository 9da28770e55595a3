package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/results"
)

func sampleCommand() *cli.Command {
	return &cli.Command{
		Name:  "sample",
		Usage: "draw a population of architectures from a design space",
		Description: "Example, the paper's 500 networks of 360 to 400 MFLOP:\n\nanynetx sample --count 500 --seed 1 --out population.parquet\n\n" +
			"A seed gives the same population on every machine. `anynetx sample --print-space > space.yaml` gives a space file to change.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "space", Usage: "YAML `FILE` of the design space (default: the paper's AnyNetX)", TakesFile: true},
			&cli.IntFlag{Name: "count", Value: 500, Usage: "`NUMBER` of architectures"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`SEED` of the draws"},
			&cli.Uint64Flag{Name: "max-draws", Usage: "give up after `N` candidates", DefaultText: "100,000 and 1,000 per architecture"},
			&cli.StringFlag{Name: "out", Usage: "write the population to a Parquet `FILE`", TakesFile: true},
			&cli.BoolFlag{Name: "json", Usage: "an array of architectures on standard output"},
			&cli.BoolFlag{Name: "print-space", Usage: "print the paper's space file instead"},
		},
		Action: sample,
	}
}

type memberJSON struct {
	anynetx.Summary
	Index uint64 `json:"sample_index"`
}

func sample(c *cli.Context) error {
	if c.Bool("print-space") {
		return write(c.App.Writer, "%s", anynetx.DefaultSpaceYAML())
	}
	space := anynetx.DefaultSpace()
	if c.IsSet("space") {
		path := c.String("space")
		text, err := readInput("--space", path)
		if err != nil {
			return err
		}
		if space, err = anynetx.ParseSpace(text, path); err != nil {
			return err
		}
	}
	out, seed := c.String("out"), c.Uint64("seed")
	switch {
	case c.IsSet("out") && !strings.HasSuffix(out, ".parquet"):
		return anynetx.Inputf("--out is %q, its name must end in .parquet", out)
	case seed > math.MaxInt64:
		return anynetx.Inputf("--seed is %d, must be at most %d", seed, int64(math.MaxInt64))
	case c.IsSet("max-draws") && c.Uint64("max-draws") == 0:
		return anynetx.Inputf("--max-draws is 0, must be at least 1")
	}
	population, err := space.Sample(seed, c.Int("count"), c.Uint64("max-draws"))
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "%s architectures from %s candidates: %.2f %% lie in the band (%s), %s repeated\n",
		thousands(len(population.Members)), thousands(population.Drawn), 100*population.AcceptanceRate(), space.Band, thousands(population.Repeated))
	if out != "" {
		err := results.Write(out, "architectures", populationRows(population.Members, seed), nil)
		if errors.Is(err, results.ErrExists) {
			return anynetx.Inputf("--out: %s holds another population; give another name or remove it", out)
		}
		if err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		fmt.Fprintf(c.App.ErrWriter, "written to %s\n", out)
	}
	switch {
	case c.Bool("json"):
		list := make([]memberJSON, len(population.Members))
		for i, m := range population.Members {
			list[i] = memberJSON{anynetx.Summarize(m.Architecture, m.Complexity), m.Index}
		}
		return writeJSON(c.App.Writer, list)
	case out != "":
		return nil
	}
	return printPopulation(c, population.Members)
}

func printPopulation(c *cli.Context, members []anynetx.Member) error {
	g := newGrid("architecture", ">depths", ">widths", ">bottlenecks", ">group widths", ">MFLOPs", ">M parameters", ">M activations")
	for _, m := range members {
		s := anynetx.Summarize(m.Architecture, m.Complexity)
		g.row(s.ID, joinInts(s.Depths[:]), joinInts(s.Widths[:]), joinInts(s.Bottlenecks[:]), joinInts(s.GroupWidths[:]),
			fmt.Sprintf("%.1f", float64(s.FLOPs)/1e6), fmt.Sprintf("%.2f", float64(s.Params)/1e6), fmt.Sprintf("%.2f", float64(s.Activations)/1e6))
	}
	return g.print(c.App.Writer)
}

// maxInputBytes bounds a file that a person writes.
const maxInputBytes = 1 << 20

// readInput reads a file that a flag or argument names.
func readInput(flag, path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, anynetx.Inputf("%s: %s does not exist; give the path of a file", flag, path)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", flag, err)
	case info.IsDir():
		return nil, anynetx.Inputf("%s: %s is a folder; give the path of a file", flag, path)
	case info.Size() > maxInputBytes:
		return nil, anynetx.Inputf("%s: %s is larger than %s; give a file written by hand", flag, path, bytesText(maxInputBytes))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return text, nil
}
