package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/runner"
)

func studyCommand() *cli.Command {
	asJSON := &cli.BoolFlag{Name: "json", Usage: "one object on standard output"}
	return &cli.Command{
		Name:  "study",
		Usage: "plan, run and watch a study: many networks on many tasks",
		Subcommands: append([]*cli.Command{
			{Name: "plan", Usage: "what a study would take: runs, GPU-hours or core-hours, energy, finish time, disk", ArgsUsage: "FILE.yaml",
				Description: "Example:\n\nanynetx study plan studies/quick.yaml\n\nNothing is trained or written. Where a data set is not here, what is on record of it is used. Times and energy are learned from the\n" +
					"finished runs of --out, if there are enough; else times are measured on the first of --devices for a second, and energy is not known. Packing and failures are not foreseen.",
				Flags: []cli.Flag{dataFlag(), asJSON,
					&cli.StringFlag{Name: "out", Usage: "`FOLDER` of the study, if it has begun: what is finished is left out, and teaches what the rest takes", TakesFile: true},
					&cli.IntFlag{Name: "workers", Usage: "`NUMBER` of worker processes", DefaultText: "one per core, or per GPU"},
					devicesFlag()},
				Action: studyPlan},
			{Name: "run", Usage: "run a study, or go on with it", ArgsUsage: "FILE.yaml",
				Description: "Example:\n\nanynetx study run studies/quick.yaml --out study-quick --workers 2\n\n" +
					"The folder of --out holds everything; the same command goes on with a study that was stopped, by Ctrl-C or by anything else. Additions to the\n" +
					"file are accepted; a change of what has begun is refused by name. Exit code 1 if a run failed or the study was stopped.",
				Flags: append([]cli.Flag{outFlag(), serveFlag(),
					&cli.BoolFlag{Name: "dry-run", Usage: "show which worker would train what, and until when; nothing is started or written"}}, workFlags()...),
				Action: studyRun},
			joinCommand(), submitCommand(),
			{Name: "status", Usage: "how far a study is", ArgsUsage: "DIR",
				Description: "Example:\n\nanynetx study status study-quick --json\nanynetx study status study-quick --serve 127.0.0.1:8080\n\n" +
					"It reads the folder alone, so it works on any machine that sees it. With --serve it shows the study in a browser until Ctrl-C, whoever works on it.",
				Flags: []cli.Flag{asJSON, serveFlag()}, Action: studyStatus},
			{Name: "compact", Usage: "put the many small files of a study's tables into few", ArgsUsage: "DIR",
				Description: "Example:\n\nanynetx study compact study-quick\n\nThe rows stay the same. Do it when the study is finished, or stopped.\n" +
					"A study that an earlier version began may hold files with and without columns that have come since. `status` and `analyze` read both; readers that\n" +
					"take all files of a glob to have the columns of the first, such as DuckDB, need this first: afterwards every file has the columns of today.",
				Flags: []cli.Flag{asJSON}, Action: studyCompact},
		}, failureCommands()...),
	}
}

func outFlag() cli.Flag {
	return &cli.StringFlag{Name: "out", Usage: "`FOLDER` of the study", TakesFile: true}
}

// outFolder is the folder of --out.
func outFolder(c *cli.Context) (string, error) {
	if c.String("out") == "" {
		return "", anynetx.Inputf("--out is missing: the folder that the study is to live in, such as study-quick")
	}
	return c.String("out"), nil
}

// oneArgument is the argument of a command that takes exactly one.
func oneArgument(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", anynetx.Inputf("%s takes %s, got %d arguments; see `%s --help`", c.Command.HelpName, what, c.NArg(), c.Command.HelpName)
	}
	return c.Args().First(), nil
}

func studyPlan(c *cli.Context) error {
	file, err := oneArgument(c, "one study file")
	if err != nil {
		return err
	}
	workers := c.Int("workers")
	if workers < 0 || workers > maxWorkers {
		return anynetx.Inputf("--workers is %d, must be 1 to %d", workers, maxWorkers)
	}
	study, err := runner.ReadStudy(file)
	if err != nil {
		return err
	}
	plan, err := runner.NewPlan(study, runner.DescribeWithoutData(study, c.String("data")))
	if err != nil {
		return err
	}
	forecast, err := runner.ForecastStudy(plan, runner.ForecastOptions{Dir: c.String("out"), Devices: c.StringSlice("devices"), Workers: workers, Measure: measureSpeed})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, forecast)
	}
	return forecast.WriteText(c.App.Writer)
}

func studyStatus(c *cli.Context) error {
	dir, err := oneArgument(c, "one study folder")
	if err != nil {
		return err
	}
	status, err := runner.Status(dir)
	if err != nil {
		return err
	}
	if c.String("serve") != "" {
		return serveStudy(c, dir)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, status)
	}
	return status.WriteText(c.App.Writer)
}

const maxWorkers = 1024

func studyRun(c *cli.Context) error {
	file, err := oneArgument(c, "one study file")
	if err != nil {
		return err
	}
	o, err := workOptions(c)
	if err != nil {
		return err
	}
	o.StudyFile = file
	if o.Dir, err = outFolder(c); err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return studyDryRun(c, o)
	}
	if c.String("serve") != "" {
		stop, err := serveBeside(c, o.Dir, o.Progress)
		if err != nil {
			return err
		}
		defer stop()
	}
	summary, err := runner.Run(c.Context, o)
	if summary != nil {
		err = errors.Join(err, printWork(c, summary))
	}
	return err
}

func measureSpeed(device string) runner.Measure { return runner.MeasureSpeed(device, 1) }

func studyDryRun(c *cli.Context, o runner.RunOptions) error {
	p, err := runner.Place(o, measureSpeed)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, p)
	}
	return p.WriteText(c.App.Writer)
}

func printSummary(c *cli.Context, s *runner.Summary) error {
	runs := fmt.Sprintf("%s of %s done", thousands(s.Done), thousands(s.Runs))
	if s.Failed > 0 {
		runs += fmt.Sprintf(", %s failed", thousands(s.Failed))
	}
	if s.Earlier > 0 {
		runs += fmt.Sprintf(" (%s of them earlier)", thousands(s.Earlier))
	}
	rows := [][2]string{{"study", s.Study}, {"folder", s.Dir}, {"runs", runs}}
	if s.Images > 0 {
		rows = append(rows, [2]string{"time", fmt.Sprintf("%s, %s images/s", durationText(time.Duration(s.Seconds*float64(time.Second))), thousands(int64(float64(s.Images)/s.Seconds)))})
	}
	if err := pairs(c.App.Writer, rows...); err != nil {
		return err
	}
	if s.Complete {
		fmt.Fprintf(c.App.ErrWriter, "next: anynetx analyze %s\n", s.Dir)
	}
	return nil
}

func studyCompact(c *cli.Context) error {
	dir, err := oneArgument(c, "one study folder")
	if err != nil {
		return err
	}
	done, err := runner.Compact(dir)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			Folders int   `json:"folders"`
			Files   int   `json:"files"`
			Rows    int64 `json:"rows"`
		}{done.Folders, done.Files, done.Rows})
	}
	return write(c.App.Writer, "%s of %s became %s\n", counted(done.Files, "file"), counted(int(done.Rows), "row"), counted(done.Folders, "file"))
}
