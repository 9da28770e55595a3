package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/runner"
)

// failureCommands are the verbs for runs that do not go as planned.
func failureCommands() []*cli.Command {
	asJSON := func() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "one object on standard output"} }
	return []*cli.Command{
		{Name: "retry", Usage: "make failed runs open again, or use a device again", ArgsUsage: "DIR",
			Description: "Example:\n\nanynetx study retry study-quick --class oom\nanynetx study retry study-quick --device GPU-8f3c...\n\n" +
				"Runs are meant that failed with one of the classes, if --class is given, and are among those of --run, if that is. Runs that failed because they start\n" +
				"from one of them come along. What is done is never trained again. A study that is being worked on takes the runs up at once, another one when\n" +
				"`anynetx study run` goes on with it. --device takes a device into use again that was quarantined or drained.",
			Flags: []cli.Flag{
				&cli.StringSliceFlag{Name: "class", Usage: "`CLASS,...` of failure, as in column failure_class; oom is out_of_memory, nan is diverged"},
				&cli.StringSliceFlag{Name: "run", Usage: "`RUN,...` by ID"},
				&cli.StringSliceFlag{Name: "device", Usage: "`ID,...` as in the events"}, asJSON()},
			Action: studyRetry},
		{Name: "logs", Usage: "what is on record of a run: attempts, epochs in progress, events, its process's standard error", ArgsUsage: "DIR RUN",
			Description: "Example:\n\nanynetx study logs study-quick 0123456789abcdef",
			Flags:       []cli.Flag{asJSON()}, Action: studyLogs},
		{Name: "cancel", Usage: "stop a study, or end one of its runs", ArgsUsage: "DIR [RUN]",
			Description: "Example:\n\nanynetx study cancel study-quick\nanynetx study cancel study-quick 0123456789abcdef\n\n" +
				"A study stops as after Ctrl-C where it runs, on whatever machine: its runs leave checkpoints, and `anynetx study run` goes on with it. A run ends as failed,\n" +
				"class cancelled; `anynetx study retry --class cancelled` makes it open again.",
			Flags: []cli.Flag{asJSON(),
				&cli.DurationFlag{Name: "wait", Usage: "`TIME` to wait for the end; the request stands afterwards", Value: 3 * time.Minute}},
			Action: studyCancel},
	}
}

func studyRetry(c *cli.Context) error {
	dir, err := oneArgument(c, "one study folder")
	if err != nil {
		return err
	}
	o := runner.RetryOptions{Classes: c.StringSlice("class"), Runs: c.StringSlice("run"), Devices: c.StringSlice("device")}
	if len(o.Classes)+len(o.Runs)+len(o.Devices) == 0 {
		return anynetx.Inputf("say what is meant: --class, --run or --device; `anynetx study status %s` shows the classes", dir)
	}
	done, err := runner.Retry(dir, o)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, done)
	}
	for _, r := range done.Runs {
		if err := write(c.App.Writer, "run %s (task %s, architecture %s) is open again; it had failed with class %s\n", r.RunID, r.Task, r.ArchID, r.Class); err != nil {
			return err
		}
	}
	for _, device := range done.Devices {
		if err := write(c.App.Writer, "device %s may be used again\n", device); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.App.ErrWriter, "next: if nobody works on %s, anynetx study run FILE.yaml --out %s\n", dir, dir)
	return nil
}

func studyLogs(c *cli.Context) error {
	if c.NArg() != 2 {
		return anynetx.Inputf("study logs takes a study folder and a run's ID, got %d arguments; see `anynetx study logs --help`", c.NArg())
	}
	log, err := runner.ReadLog(c.Args().Get(0), c.Args().Get(1))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, log)
	}
	return log.WriteText(c.App.Writer)
}

func studyCancel(c *cli.Context) error {
	if c.NArg() != 1 && c.NArg() != 2 {
		return anynetx.Inputf("study cancel takes a study folder, and a run's ID if only that is meant; got %d arguments", c.NArg())
	}
	dir, run := c.Args().Get(0), c.Args().Get(1)
	ctx, release := context.WithTimeout(c.Context, c.Duration("wait"))
	defer release()
	what, err := "study "+dir, error(nil)
	if run == "" {
		err = runner.Cancel(ctx, dir)
	} else {
		what, err = "run "+run, runner.CancelRun(ctx, dir, run)
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			Dir   string `json:"dir"`
			RunID string `json:"run_id,omitempty"`
		}{dir, run})
	}
	return write(c.App.Writer, "%s is cancelled; nobody has it in hand\n", what)
}
