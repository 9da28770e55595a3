package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gofrs/flock"
	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/results"
	"anynetx/runner"
)

func studyCommand() *cli.Command {
	asJSON := &cli.BoolFlag{Name: "json", Usage: "one object on standard output"}
	return &cli.Command{
		Name:  "study",
		Usage: "plan, run and watch a study: many networks on many tasks",
		Subcommands: []*cli.Command{
			{Name: "plan", Usage: "what a study would take: runs, images, hours, disk", ArgsUsage: "FILE.yaml",
				Description: "Example:\n\nanynetx study plan studies/quick.yaml\n\nNothing is trained or written. Where a data set is not here, what is on record of it is used.",
				Flags: []cli.Flag{dataFlag(), asJSON,
					&cli.IntFlag{Name: "workers", Usage: "`NUMBER` of worker processes", DefaultText: "one per core"},
					&cli.StringFlag{Name: "device", Value: "cpu", Usage: "`ID` of the device whose speed is measured for the hours"}},
				Action: studyPlan},
			{Name: "run", Usage: "run a study, or go on with it", ArgsUsage: "FILE.yaml",
				Description: "Example:\n\nanynetx study run studies/quick.yaml --out study-quick --workers 2\n\n" +
					"The folder of --out holds everything; the same command goes on with a study that was stopped, by Ctrl-C or by anything else. Additions to the\n" +
					"file are accepted; a change of what has begun is refused by name. Exit code 1 if a run failed or the study was stopped.",
				Flags: []cli.Flag{dataFlag(),
					&cli.StringFlag{Name: "out", Usage: "`FOLDER` of the study", TakesFile: true},
					&cli.IntFlag{Name: "workers", Usage: "`NUMBER` of worker processes", DefaultText: "one per core, or per GPU"},
					&cli.StringSliceFlag{Name: "devices", Usage: "`ID,...` of the devices that workers take in turn, such as cpu", DefaultText: "cpu"},
					&cli.DurationFlag{Name: "checkpoint-every", Usage: "`TIME` between checkpoints within an epoch", DefaultText: "1m0s"},
					&cli.BoolFlag{Name: "accept-library", Usage: "go on although the native library has changed since the study began"},
					&cli.StringFlag{Name: "progress", Value: runner.ProgressAuto, Usage: "`MODE` on standard error: auto, tty, plain, json, none"},
					serveFlag(),
					&cli.BoolFlag{Name: "json", Usage: "one object on standard output at the end, and progress as JSON lines on standard error"}},
				Action: studyRun},
			{Name: "status", Usage: "how far a study is", ArgsUsage: "DIR",
				Description: "Example:\n\nanynetx study status study-quick --json\nanynetx study status study-quick --serve 127.0.0.1:8080\n\n" +
					"It reads the folder alone, so it works on any machine that sees it. With --serve it shows the study in a browser until Ctrl-C, whoever works on it.",
				Flags: []cli.Flag{asJSON, serveFlag()}, Action: studyStatus},
			{Name: "compact", Usage: "put the many small files of a study's tables into few", ArgsUsage: "DIR",
				Description: "Example:\n\nanynetx study compact study-quick\n\nThe rows stay the same. Do it when the study is finished, or stopped.",
				Flags:       []cli.Flag{asJSON}, Action: studyCompact},
		},
	}
}

// oneArgument is the argument of a command that takes exactly one.
func oneArgument(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", anynetx.Inputf("%s takes %s, got %d arguments; see `anynetx %s --help`", c.Command.FullName(), what, c.NArg(), c.Command.FullName())
	}
	return c.Args().First(), nil
}

func studyPlan(c *cli.Context) error {
	file, err := oneArgument(c, "one study file")
	if err != nil {
		return err
	}
	workers := c.Int("workers")
	switch {
	case workers < 0 || workers > maxWorkers:
		return anynetx.Inputf("--workers is %d, must be 1 to %d", workers, maxWorkers)
	case workers == 0:
		workers = runtime.NumCPU()
	}
	study, err := runner.ReadStudy(file)
	if err != nil {
		return err
	}
	plan, err := runner.NewPlan(study, runner.DescribeWithoutData(study, c.String("data")))
	if err != nil {
		return err
	}
	forecast, err := runner.ForecastStudy(plan, runner.MeasureSpeed(c.String("device"), workers, 1))
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
	switch {
	case c.String("out") == "":
		return anynetx.Inputf("--out is missing: the folder that the study is to live in, such as study-quick")
	case c.Int("workers") < 0 || c.Int("workers") > maxWorkers:
		return anynetx.Inputf("--workers is %d, must be 1 to %d", c.Int("workers"), maxWorkers)
	case c.IsSet("checkpoint-every") && c.Duration("checkpoint-every") < time.Second:
		return anynetx.Inputf("--checkpoint-every is %v, must be at least 1s", c.Duration("checkpoint-every"))
	}
	mode := c.String("progress")
	if c.Bool("json") && !c.IsSet("progress") {
		mode = runner.ProgressJSON
	}
	progress, err := runner.NewProgress(c.App.ErrWriter, mode)
	if err != nil {
		return err
	}
	if c.String("serve") != "" {
		stop, err := serveBeside(c, c.String("out"), progress)
		if err != nil {
			return err
		}
		defer stop()
	}
	summary, err := runner.Run(c.Context, runner.RunOptions{StudyFile: file, Dir: c.String("out"), DataDir: c.String("data"),
		Devices: c.StringSlice("devices"), Workers: c.Int("workers"), CheckpointEvery: c.Duration("checkpoint-every"),
		AcceptLibrary: c.Bool("accept-library"), Progress: progress})
	if summary != nil {
		if c.Bool("json") {
			err = errors.Join(err, writeJSON(c.App.Writer, summary))
		} else {
			err = errors.Join(err, printSummary(c, summary))
		}
	}
	return err
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
	if _, err := runner.OpenStore(dir); err != nil {
		return err
	}
	// What a running study's coordinator holds.
	lock := flock.New(filepath.Join(dir, "lock"))
	free, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock of the study folder: %w", err)
	}
	if !free {
		return anynetx.Inputf("%s is being worked on; stop the study first (Ctrl-C there), it goes on afterwards", dir)
	}
	defer lock.Unlock()
	done, err := results.Compact(dir)
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
