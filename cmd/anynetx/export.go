package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/engine"
)

func exportCommand() *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "the final weights of a run, for other programs",
		ArgsUsage: "RUN",
		Description: "Example:\n\nanynetx export 3f1c8a90d2b4e657 --format safetensors --study study-quick --out best.safetensors\n\n" +
			"RUN is a run_id of the table runs, or the beginning of one; without --study the folders here are searched. Names and order of\n" +
			"dimensions are those of pycls, so that its load_state_dict takes the file; `anynetx describe --format pycls` gives its configuration.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "safetensors", Usage: "`FORMAT`: safetensors"},
			&cli.StringFlag{Name: "study", Usage: "`FOLDER` of the study that the run belongs to", TakesFile: true},
			&cli.StringFlag{Name: "out", Usage: "new `FILE`; - is standard output", DefaultText: "RUN.safetensors", TakesFile: true}},
		Action: export,
	}
}

func export(c *cli.Context) error {
	if c.NArg() != 1 {
		return anynetx.Inputf("export takes one run, got %d; see `anynetx export --help`", c.NArg())
	}
	if f := c.String("format"); f != "safetensors" {
		return anynetx.Inputf("--format is %q, must be safetensors", f)
	}
	source, err := findWeights(c.Args().First(), c.String("study"))
	if err != nil {
		return err
	}
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	weights, err := engine.ReadSafetensors(in)
	if err != nil {
		return fmt.Errorf("%s: %w; remove it and train the run again", source, err)
	}
	out := c.String("out")
	switch out {
	case "-":
		return weights.WriteSafetensors(c.App.Writer)
	case "":
		out = filepath.Base(source)
	}
	err = writeNew(out, weights.WriteSafetensors)
	if errors.Is(err, os.ErrExist) {
		return anynetx.Inputf("--out: %s exists already; give another name", out)
	}
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return write(c.App.Writer, "%s\n", out)
}

// writeNew makes a file that did not exist; if it fails none is left.
func writeNew(path string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f), f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return err
	}
	return nil
}

// findWeights is the file of a run's final weights: of the study, or of the studies in the folder the program runs in.
func findWeights(run, study string) (string, error) {
	if folder, id := filepath.Split(filepath.Clean(run)); folder != "" && study == "" { // study-quick/3f1c8a90d2b4e657
		study, run = filepath.Clean(folder), id
	}
	if run == "" || strings.ContainsAny(run, `*?[\/`) {
		return "", anynetx.Inputf("%q cannot be a run's ID: it is a run_id of the table runs", run)
	}
	folders := []string{study}
	if study == "" {
		folders = []string{".", "*"}
	} else if info, err := os.Stat(study); err != nil || !info.IsDir() {
		return "", anynetx.Inputf("--study: there is no folder %s; give the folder of a study", study)
	}
	var found []string
	for _, folder := range folders {
		paths, err := filepath.Glob(filepath.Join(folder, "weights", run+"*.safetensors"))
		if err != nil {
			return "", anynetx.Inputf("--study: %s: %w", folder, err)
		}
		found = append(found, paths...)
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", anynetx.Inputf("%d runs begin with %s (%s ...): give more of the ID, or --study", len(found), run, found[0])
	case study == "":
		return "", anynetx.Inputf("no study here has the weights of a run %s: give its folder by --study", run)
	}
	return "", anynetx.Inputf("%s has no weights of a run %s: it may not be done yet, or the study keeps only the weights that it needs (keep_weights)", study, run)
}
