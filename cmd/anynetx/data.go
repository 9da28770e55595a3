package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/datasets"
)

func dataFlag() cli.Flag {
	return &cli.StringFlag{Name: "data", Value: "data", Usage: "`FOLDER` of data sets, looked in before the places of the system's packages", TakesFile: true}
}

func dataCommand() *cli.Command {
	asJSON := &cli.BoolFlag{Name: "json", Usage: "JSON on standard output"}
	return &cli.Command{
		Name:  "data",
		Usage: "data sets: what there is, whether it is sound, where it comes from",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "the data sets that are known, and which of them are here",
				Description: "Example:\n\nanynetx data list --data /srv/data",
				Flags:       []cli.Flag{dataFlag(), asJSON}, Action: dataList},
			{Name: "info", Usage: "sizes, classes, images per class and statistics of a data set", ArgsUsage: "NAME",
				Description: "Example:\n\nanynetx data info fashion-mnist",
				Flags:       []cli.Flag{dataFlag(), asJSON}, Action: dataInfo},
			{Name: "verify", Usage: "read every file and hold it against the checksums on record", ArgsUsage: "NAME...",
				Description: "Example:\n\nanynetx data verify fashion-mnist cifar10 --data /srv/data",
				Flags:       []cli.Flag{dataFlag(), asJSON}, Action: dataVerify},
			{Name: "fetch", Usage: "download a data set, unless it is here, and check it", ArgsUsage: "NAME...",
				Description: "Example:\n\nanynetx data fetch fashion-mnist --data /srv/data\n\nNothing takes its name before its SHA-256 is the one on record; over https only.",
				Flags:       []cli.Flag{dataFlag(), &cli.StringFlag{Name: "study", Usage: "the data sets of a study `FILE`", TakesFile: true}}, Action: dataFetch},
			{Name: "prepare", Usage: "turn a folder of images into a data set", ArgsUsage: "FOLDER",
				Description: "Example:\n\nanynetx data prepare photos --name photos --size 64\n\n" +
					"FOLDER holds train/<class>/ and test/<class>/ (or val/<class>/) with PNG and JPEG files, or just <class>/.",
				Flags: []cli.Flag{dataFlag(), asJSON,
					&cli.StringFlag{Name: "name", Usage: "`NAME` of the data set (default: the folder's)"},
					&cli.IntFlag{Name: "size", Usage: "images become `PIXELS` high and wide; must be given", DefaultText: "none"},
					&cli.IntFlag{Name: "test-percent", Value: 10, Usage: "`PERCENT` of each class set aside for test, where there is no test folder"},
					&cli.BoolFlag{Name: "skip-bad", Usage: "leave out images that cannot be read instead of failing"}},
				Action: dataPrepare},
		},
	}
}

type dataJSON struct {
	datasets.Spec
	Here    bool   `json:"here"`
	Problem string `json:"problem,omitempty"` // why not, or why what is here cannot be used
}

func dataList(c *cli.Context) error {
	dir := c.String("data")
	list := []dataJSON{}
	for _, spec := range datasets.List() {
		d := dataJSON{Spec: spec, Here: true}
		if _, err := datasets.Open(spec.Name, dir); err != nil {
			d.Here, d.Problem = false, err.Error()
		}
		list = append(list, d)
	}
	for _, name := range preparedSets(dir) {
		d := dataJSON{Spec: datasets.Spec{Name: name, Title: "prepared from images", Format: "packed"}, Here: true}
		set, err := datasets.Open(name, dir)
		if err != nil {
			d.Here, d.Problem = false, err.Error()
		} else {
			d.H, d.W, d.C, d.Classes = set.H, set.W, set.C, set.Classes
			d.TrainImages, d.TestImages = len(set.Train.Labels), len(set.Test.Labels)
		}
		list = append(list, d)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, list)
	}
	g := newGrid("name", "what", ">classes", ">train", ">test", ">pixels", ">channels", "here")
	for _, d := range list {
		here := "yes"
		if !d.Here {
			here = "no"
		}
		g.row(d.Name, d.Title, len(d.Classes), thousands(d.TrainImages), thousands(d.TestImages), fmt.Sprintf("%dx%d", d.H, d.W), d.C, here)
	}
	if err := g.print(c.App.Writer); err != nil {
		return err
	}
	if slices.ContainsFunc(list, func(d dataJSON) bool { return !d.Here }) {
		fmt.Fprintln(c.App.ErrWriter, "`anynetx data info NAME` says why one is not here, `anynetx data fetch NAME` downloads it")
	}
	return nil
}

// preparedSets are the names of packed data sets in a data folder and its folders.
func preparedSets(dir string) []string {
	var names []string
	for _, pattern := range []string{"*", filepath.Join("*", "*")} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern+datasets.PackedSuffix))
		if err != nil {
			continue // the folder's name is no pattern: then none is listed, but each can still be opened by its name
		}
		for _, p := range paths {
			names = append(names, strings.TrimSuffix(filepath.Base(p), datasets.PackedSuffix))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func dataInfo(c *cli.Context) error {
	if c.NArg() != 1 {
		return anynetx.Inputf("data info takes the name of one data set, got %d; `anynetx data list` shows them", c.NArg())
	}
	info, err := datasets.ReadInfo(c.Args().First(), c.String("data"))
	if err != nil {
		return err
	}
	w := c.App.Writer
	if c.Bool("json") {
		return writeJSON(w, info)
	}
	list := func(values []float64) string {
		var parts []string
		for _, v := range values {
			parts = append(parts, fmt.Sprintf("%.4f", v))
		}
		return strings.Join(parts, ", ")
	}
	rows := [][2]string{{"name", info.Name}}
	for _, r := range [][2]string{{"what", info.Title}, {"source", info.Source}, {"licence", info.Licence}} {
		if r[1] != "" {
			rows = append(rows, r)
		}
	}
	rows = append(rows,
		[2]string{"folder", info.Folder},
		[2]string{"images", fmt.Sprintf("%s to train, %s to test", thousands(info.TrainImages), thousands(info.TestImages))},
		[2]string{"size", fmt.Sprintf("%d x %d pixels, %s", info.H, info.W, map[int]string{1: "grey", 3: "colour"}[info.C])},
		[2]string{"mean", list(info.Mean)},
		[2]string{"deviation", list(info.Std)},
		[2]string{"SHA-256", info.Digest + " (of pixels, labels and class names)"})
	if info.Split != "" {
		rows = append(rows, [2]string{"split", info.Split})
	}
	if info.Skipped > 0 {
		rows = append(rows, [2]string{"left out", thousands(info.Skipped) + " images that could not be read"})
	}
	if err := pairs(w, rows...); err != nil {
		return err
	}
	if err := write(w, "\n"); err != nil {
		return err
	}
	g := newGrid(">label", "class", ">train", ">test")
	for i, class := range info.Classes {
		g.row(i, class, thousands(info.TrainPerClass[i]), thousands(info.TestPerClass[i]))
	}
	return g.print(w)
}

type verdictJSON struct {
	Name    string              `json:"name"`
	Sound   bool                `json:"sound"`
	Problem string              `json:"problem,omitempty"`
	Files   []datasets.FileInfo `json:"files"`
}

func dataVerify(c *cli.Context) error {
	if c.NArg() == 0 {
		return anynetx.Inputf("data verify takes the names of data sets; `anynetx data list` shows them")
	}
	list, sound := []verdictJSON{}, true
	for _, name := range c.Args().Slice() {
		files, err := datasets.Verify(name, c.String("data"))
		v := verdictJSON{Name: name, Sound: err == nil, Files: files}
		if v.Files == nil {
			v.Files = []datasets.FileInfo{}
		}
		if err != nil {
			v.Problem, sound = err.Error(), false
			fmt.Fprintf(c.App.ErrWriter, "anynetx: %v\n", err)
		}
		list = append(list, v)
	}
	if c.Bool("json") {
		if err := writeJSON(c.App.Writer, list); err != nil {
			return err
		}
	} else {
		g := newGrid("data set", "file", ">bytes", "verdict")
		for _, v := range list {
			for _, f := range v.Files {
				g.row(v.Name, f.Path, thousands(f.Bytes), f.Verdict)
			}
			if len(v.Files) == 0 {
				g.row(v.Name, "", "", "not found")
			}
		}
		if err := g.print(c.App.Writer); err != nil {
			return err
		}
	}
	if !sound {
		return errUnsound
	}
	return nil
}

func dataPrepare(c *cli.Context) error {
	if c.NArg() != 1 {
		return anynetx.Inputf("data prepare takes one folder of images, got %d; see `anynetx data prepare --help`", c.NArg())
	}
	if !c.IsSet("size") {
		return anynetx.Inputf("--size is missing: the height and width in pixels that images shall get, such as 64")
	}
	source := filepath.Clean(c.Args().First())
	name := c.String("name")
	if !c.IsSet("name") {
		absolute, err := filepath.Abs(source)
		if err != nil {
			return err
		}
		name = strings.ToLower(filepath.Base(absolute))
	}
	made, err := datasets.Prepare(datasets.Preparation{Source: source, Destination: c.String("data"), Name: name,
		Size: c.Int("size"), TestPercent: c.Int("test-percent"), SkipBad: c.Bool("skip-bad")})
	if err != nil {
		return err
	}
	for _, bad := range made.Bad {
		fmt.Fprintf(c.App.ErrWriter, "left out: %s\n", bad)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, made)
	}
	return pairs(c.App.Writer,
		[2]string{"written to", made.Path},
		[2]string{"images", fmt.Sprintf("%s to train, %s to test, %d classes", thousands(made.TrainImages), thousands(made.TestImages), len(made.Classes))},
		[2]string{"split", made.Split},
		[2]string{"left out", fmt.Sprintf("%d images that could not be read, %d other files", len(made.Bad), made.Ignored)})
}
