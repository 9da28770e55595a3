package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/bindings"
	"anynetx/engine"

	"go.uber.org/goleak"
)

// The test program is its own coordinator and worker, so that they can be killed: these variables say what it is and how it behaves.
const (
	roleVariable = "ANX_RUNNER_TEST_ROLE" // coordinator or worker; worker is also the first argument
	fakeVariable = "ANX_RUNNER_TEST_FAKE" // a fakeBehaviour; empty: the real engine
	exitVariable = "ANX_RUNNER_TEST_EXIT" // the process kills itself at this point of a commit or checkpoint ...
	onceVariable = "ANX_RUNNER_TEST_ONCE" // ... unless this file exists, which it makes

	locksVariable = "ANX_RUNNER_TEST_LOCKS" // "missing": a file system without them
)

type fakeBehaviour struct {
	Step       time.Duration
	Sabotage   string
	Diverge    string // runs of this task diverge in epoch 1
	Break      string // runs of this task fail with an error
	Crash      string // runs of this task take the process down
	BreakWhile string // this file exists; empty: always
	LastWords  string // on standard error before a crash
	Dead       string // "start": the worker dies before it is ready
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "worker" && os.Getenv(roleVariable) != "" {
		os.Exit(testWorker(os.Args[2:]))
	}
	if os.Getenv(roleVariable) == "coordinator" {
		os.Exit(testCoordinator())
	}
	goleak.VerifyTestMain(m)
}

func killAt(o *WorkerOptions) {
	point := os.Getenv(exitVariable)
	if point == "" {
		return
	}
	o.Hook = func(at string) {
		if !strings.Contains(at, point) {
			return
		}
		once := os.Getenv(onceVariable)
		if f, err := os.OpenFile(once, os.O_CREATE|os.O_EXCL, 0o666); err == nil {
			f.Close()
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

func testWorker(arguments []string) int {
	var o WorkerOptions
	killAt(&o)
	if text := os.Getenv(fakeVariable); text != "" {
		var b fakeBehaviour
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			panic(err)
		}
		if b.Dead == "start" {
			fmt.Fprintln(os.Stderr, "no such device")
			return 70
		}
		o.Trainers = func(_ WorkerOptions, p *Plan) (Trainers, error) { return b.trainers(p.Seed), nil }
	}
	return workerMain(arguments, os.Stdin, os.Stdout, os.Stderr, o)
}

func (b fakeBehaviour) trainers(seed uint64) fakeTrainers {
	return fakeTrainers{seed: seed, step: b.Step, sabotage: b.Sabotage, fail: func(r *PlannedRun, p engine.Position) error {
		if p.Epoch != 1 || p.Step != 3 {
			return nil
		}
		switch r.Task.Name {
		case b.Diverge:
			return &engine.DivergedError{Epoch: 1, Step: 3, Reason: "the loss was NaN"}
		case b.Break:
			if b.BreakWhile != "" && !exists(b.BreakWhile) {
				return nil
			}
			return &bindings.Error{Status: bindings.OutOfMemory, Text: "no room"}
		case b.Crash:
			fmt.Fprintln(os.Stderr, b.LastWords)
			syscall.Kill(os.Getpid(), syscall.SIGSEGV)
			select {}
		}
		return nil
	}}
}

// testCoordinator is `study run`: study file, folder and number of workers are the arguments. Without a study file it is `study join`.
func testCoordinator() int {
	ctx, release := UntilSignal(context.Background())
	defer release()
	workers, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	progress, err := NewProgress(os.Stderr, ProgressPlain)
	if err != nil {
		panic(err)
	}
	o := RunOptions{StudyFile: os.Args[1], Dir: os.Args[2], Workers: workers, Progress: progress, DataDir: os.Getenv("ANX_RUNNER_TEST_DATA")}
	o.Join = o.StudyFile == ""
	if os.Getenv(locksVariable) == "missing" {
		o.tryLock = func(path string, _ bool) (func(), bool, error) {
			return nil, false, &os.PathError{Op: "flock", Path: path, Err: syscall.ENOLCK}
		}
	}
	if os.Getenv(fakeVariable) != "" {
		o.Describe = fakeData
		o.CheckpointEvery = 15 * time.Millisecond
	}
	if every := os.Getenv("ANX_RUNNER_TEST_EVERY"); every != "" {
		o.CheckpointEvery, _ = time.ParseDuration(every)
	}
	summary, err := Run(ctx, o)
	if summary != nil {
		json.NewEncoder(os.Stdout).Encode(summary)
	}
	if err != nil && !errors.Is(err, ErrStopped) {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	if o.Join {
		return JoinCode(err)
	}
	if err != nil {
		return 1
	}
	return 0
}
