// Command anynetx samples populations of convolutional networks, trains them on many data sets and analyses how their order
// changes from one data set to another.
//
// Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 bad usage or input.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/runner"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" { // a process of a running study; it has flags, signals and exit codes of its own
		os.Exit(runner.WorkerMain(os.Args[2:], os.Stdin, os.Stdout, os.Stderr, runner.WorkerOptions{}))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

// run is the whole program: args[0] is its name.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	arranged, err := arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, arranged)
	}
	var coded codedError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &coded):
		fmt.Fprintf(stderr, "anynetx: %v\n", err)
		return coded.code
	case errors.Is(err, errReported):
		return exitFailed
	case errors.Is(err, errUnsound):
		return exitUsage
	case errors.Is(err, anynetx.ErrInput):
		fmt.Fprintf(stderr, "anynetx: %v\n", err)
		return exitUsage
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintln(stderr, "anynetx: stopped by a signal")
		return exitFailed
	default:
		fmt.Fprintf(stderr, "anynetx: %v\n", err)
		return exitFailed
	}
}

// errReported ends the program with exit code 1 when the output has said already what failed.
var errReported = errors.New("failed, as reported")

// errUnsound is the same for what a person gave: exit code 2.
var errUnsound = errors.New("bad input, as reported")

// codedError ends the program with an exit code that a batch system acts on.
type codedError struct {
	error
	code int
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:            "anynetx",
		HelpName:        "anynetx",
		Usage:           "train a population of networks on many data sets, and see what stays true",
		UsageText:       "anynetx VERB [arguments and flags, in any order]",
		Description:     "Exit codes: 0 done, 1 failed, 2 bad usage or input. Results go to standard output, all else to standard error.\n`anynetx VERB --help` explains a verb and shows an example.",
		Writer:          stdout,
		ErrWriter:       stderr,
		HideVersion:     true,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {},
		Flags:           []cli.Flag{&cli.BoolFlag{Name: "version", Usage: "the same as the verb version"}},
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				return printVersion(c)
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			sampleCommand(), describeCommand(), trainCommand(), studyCommand(), analyzeCommand(), exportCommand(),
			dataCommand(), devicesCommand(), benchCommand(), doctorCommand(), versionCommand(),
		},
	}
	app.OnUsageError = usageError
	prepare(app.Commands)
	return app
}

// prepare gives every command what all of them share.
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = usageError
		c.HideHelpCommand = true
		for _, f := range c.Flags {
			if b, ok := f.(*cli.BoolFlag); ok && !b.Value {
				b.DisableDefaultText = true
			}
		}
		prepare(c.Subcommands)
	}
}

// usageError turns what the flag package says into our words; unknown flags never come this far, arrange has refused them.
func usageError(c *cli.Context, err error, _ bool) error {
	text := err.Error()
	if value, rest, ok := strings.Cut(strings.TrimPrefix(text, "invalid value "), " for flag -"); ok {
		name, why, _ := strings.Cut(rest, ": ")
		switch {
		case strings.Contains(why, "out of range") || strings.Contains(why, "value out of range"):
			why = "out of range"
		case strings.Contains(why, "parse error") || strings.Contains(why, "invalid syntax"):
			why = "not a number"
		}
		text = fmt.Sprintf("--%s is %s: %s", name, value, why)
	}
	return anynetx.Inputf("%s; see `%s --help`", text, strings.TrimSpace("anynetx "+c.Command.FullName()))
}
