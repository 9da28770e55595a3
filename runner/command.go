package runner

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"anynetx/anynetx"
)

// Exit codes of a worker and of `study join`, by sysexits where there is a word for it; a batch system may requeue on exitStopped.
const (
	exitDone    = 0
	exitRuns    = 1 // the study is complete, but runs failed; or it was cancelled
	exitInput   = 2
	exitDevice  = 69 // EX_UNAVAILABLE
	exitFailed  = 70 // EX_SOFTWARE
	exitFolder  = 74 // EX_IOERR
	exitStopped = 75 // EX_TEMPFAIL
)

// WorkerMain is the verb `worker`: what the coordinator, or a batch system, starts. It returns the exit code. The arguments go before o.
func WorkerMain(arguments []string, stdin io.Reader, stdout, stderr io.Writer, o WorkerOptions) int {
	flags := flag.NewFlagSet("anynetx worker", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.StudyDir, "study", "", "study `folder`")
	flags.StringVar(&o.DataDir, "data", "", "`folder` of data sets")
	flags.StringVar(&o.Device, "device", "cpu", "`device`, such as cpu or cuda:0")
	flags.StringVar(&o.UUID, "uuid", "", "`UUID` of the device, for leases and results")
	flags.IntVar(&o.Slot, "slot", 0, "`number` of the slot, for messages")
	flags.IntVar(&o.Threads, "threads", 1, "`threads` of the back end")
	flags.DurationVar(&o.CheckpointEvery, "checkpoint-every", time.Minute, "`time` between checkpoints within an epoch")
	flags.BoolVar(&o.AcceptLibrary, "accept-library", false, "go on although the native library has changed since the study began")
	flags.BoolVar(&o.Elsewhere, "elsewhere", false, "other devices work on the study: leave them a run that failed here")
	flags.BoolVar(&o.Ordered, "ordered", false, "start nothing before the first orders on standard input")
	attached := flags.Bool("attached", false, "stop when standard input ends; messages go to standard output, marks of attempts to standard error")
	if err := flags.Parse(arguments); err != nil {
		return exitInput
	}
	o.Only = flags.Args()
	if o.StudyDir == "" {
		fmt.Fprintln(stderr, "anynetx worker: --study is missing: give it the study folder")
		return exitInput
	}
	if *attached {
		o.Stdin, o.Stdout, o.Stderr = stdin, stdout, stderr
	}
	// A coordinator that is gone must not kill us by its closed pipe before the checkpoint is written.
	signal.Ignore(syscall.SIGPIPE)
	ctx, release := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGHUP)
	defer release()
	err := Work(ctx, o)
	code := exitCode(err)
	if code == exitDone || code == exitStopped {
		return code
	}
	fmt.Fprintln(stderr, "anynetx worker:", err)
	if o.Stdout != nil {
		(&worker{WorkerOptions: o}).send(Message{Kind: "fatal", Text: err.Error(), Class: classify(err), UserInput: code == exitInput})
	}
	return code
}

func exitCode(err error) int {
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, ErrStopped):
		return exitStopped
	case errors.Is(err, anynetx.ErrInput):
		return exitInput
	case errors.Is(err, errStudyFolder):
		return exitFolder
	case classify(err) == classDevice, errors.As(err, new(closedError)):
		return exitDevice
	}
	return exitFailed
}

// commitOfBuild is the commit that the program was built from, as far as the Go tool noted it.
func commitOfBuild() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
