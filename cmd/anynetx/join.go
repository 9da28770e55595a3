package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/runner"
)

// workFlags are the flags of verbs that train a study here.
func workFlags() []cli.Flag {
	return []cli.Flag{dataFlag(),
		&cli.IntFlag{Name: "workers", Usage: "`NUMBER` of worker processes", DefaultText: "one per core, or per GPU"},
		devicesFlag(),
		&cli.IntFlag{Name: "group", Usage: "`NUMBER` of runs of one architecture that a GPU trains in common launches at most; 1: each for itself", DefaultText: fmt.Sprint(runner.MostGrouped)},
		&cli.DurationFlag{Name: "checkpoint-every", Usage: "`TIME` between checkpoints within an epoch", DefaultText: "1m0s"},
		&cli.BoolFlag{Name: "accept-library", Usage: "go on although the native library has changed since the study began"},
		&cli.StringFlag{Name: "progress", Value: runner.ProgressAuto, Usage: "`MODE` on standard error: auto, tty, plain, json, none"},
		&cli.BoolFlag{Name: "json", Usage: "one object on standard output at the end, and progress as JSON lines on standard error"}}
}

func devicesFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "devices", Usage: "`ID,...` of the devices that workers take in turn, such as cpu", DefaultText: "cpu"}
}

// workOptions reads workFlags.
func workOptions(c *cli.Context) (runner.RunOptions, error) {
	o := runner.RunOptions{DataDir: c.String("data"), Devices: c.StringSlice("devices"), Workers: c.Int("workers"), Group: c.Int("group"),
		CheckpointEvery: c.Duration("checkpoint-every"), AcceptLibrary: c.Bool("accept-library")}
	switch {
	case o.Workers < 0 || o.Workers > maxWorkers:
		return o, anynetx.Inputf("--workers is %d, must be 1 to %d", o.Workers, maxWorkers)
	case c.IsSet("group") && (o.Group < 1 || o.Group > runner.MostGrouped):
		return o, anynetx.Inputf("--group is %d, must be 1 to %d", o.Group, runner.MostGrouped)
	case c.IsSet("checkpoint-every") && o.CheckpointEvery < time.Second:
		return o, anynetx.Inputf("--checkpoint-every is %v, must be at least 1s", o.CheckpointEvery)
	}
	mode := c.String("progress")
	if c.Bool("json") && !c.IsSet("progress") {
		mode = runner.ProgressJSON
	}
	var err error
	o.Progress, err = runner.NewProgress(c.App.ErrWriter, mode)
	return o, err
}

func joinCommand() *cli.Command {
	return &cli.Command{Name: "join", Usage: "work on a study beside others, from any machine that sees its folder", ArgsUsage: "DIR",
		Description: "Example:\n\nanynetx study join /shared/study-quick --data /shared/data\n\n" +
			"The folder is one that `study run` or `study submit` has made. Any number of machines may join, while `study run` goes on or without it;\n" +
			"each run is trained by one of them, and counts once whatever happens. The first of the signals INT, TERM and USR1 asks for a checkpoint at the\n" +
			"next step; then the exit code is 75. Other exit codes: 0 no work is left, 1 runs failed or the study was cancelled, 2 bad usage or input,\n" +
			"69 no usable device, 70 another error, 74 the study folder cannot be used.",
		Flags: append(workFlags(), &cli.BoolFlag{Name: "requeue",
			Usage: "have Slurm queue this task again after its warning (USR1), for clusters whose RequeueExit does not hold 75"}),
		Action: studyJoin}
}

func studyJoin(c *cli.Context) error {
	dir, err := oneArgument(c, "one study folder")
	if err != nil {
		return err
	}
	o, err := workOptions(c)
	if err != nil {
		return err
	}
	ctx, release := runner.UntilSignal(context.WithoutCancel(c.Context)) // not the program's own: a second signal must not kill
	defer release()
	o.Dir, o.Join = dir, true
	summary, err := runner.Run(ctx, o)
	if summary != nil {
		err = errors.Join(err, printWork(c, summary))
	}
	if err == nil {
		return nil
	}
	code := runner.JoinCode(err)
	if c.Bool("requeue") && runner.Warned(ctx) && errors.Is(err, runner.ErrStopped) {
		if e := runner.RequeueSlurmTask(); e != nil {
			err = fmt.Errorf("%w; %w", err, e)
		}
	}
	return codedError{err, code}
}

// printWork prints what a call of runner.Run came to.
func printWork(c *cli.Context, s *runner.Summary) error {
	if c.Bool("json") {
		return writeJSON(c.App.Writer, s)
	}
	return printSummary(c, s)
}
