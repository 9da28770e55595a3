package runner

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"anynetx/anynetx"
)

// stopSignals ask for a checkpoint at the next step and an end: Ctrl-C, a batch system's notice (Slurm's pre-emption, time limit and
// scancel send SIGCONT and SIGTERM), and its warning ahead of the time limit (SIGUSR1).
var stopSignals = []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGHUP}

type stopSignal struct{ os.Signal }

func (s stopSignal) Error() string { return "asked to stop by the signal " + s.Signal.String() }

// Warned says that a context ended by the warning of a batch system ahead of a time limit: the work should be queued again.
func Warned(ctx context.Context) bool {
	var s stopSignal
	return errors.As(context.Cause(ctx), &s) && s.Signal == syscall.SIGUSR1
}

// UntilSignal ends when one of the stopSignals comes. Batch systems send several: the first counts, none of them kills, until release.
func UntilSignal(parent context.Context) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, stopSignals...)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			cancel(stopSignal{s})
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// JoinCode is the exit code of a process that joined a study, by sysexits where there is a word for it: what a batch system may act on.
func JoinCode(err error) int {
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, ErrStopped):
		return exitStopped
	case errors.Is(err, errStudyFolder):
		return exitFolder
	case errors.Is(err, anynetx.ErrInput):
		return exitInput
	case errors.Is(err, ErrFailedRuns), errors.Is(err, ErrCancelled):
		return exitRuns
	case errors.Is(err, errNoWorker), errors.Is(err, ErrClosedDevices):
		return exitDevice
	}
	return exitFailed
}

// processors are those that are ours. Slurm says it, since not every cluster binds processes to what they were given.
func processors() int {
	if n, err := strconv.Atoi(os.Getenv("SLURM_CPUS_PER_TASK")); err == nil && n > 0 {
		return min(n, runtime.NumCPU())
	}
	return runtime.NumCPU()
}
