package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/bindings"
	"anynetx/engine"
	"anynetx/telemetry"
	"anynetx/telemetry/nvmltest"

	"go.uber.org/goleak"
)

// The test program is its own coordinator and worker, so that they can be killed: these variables say what it is and how it behaves.
const (
	roleVariable    = "ANX_RUNNER_TEST_ROLE"    // coordinator or worker; worker is also the first argument
	fakeVariable    = "ANX_RUNNER_TEST_FAKE"    // a fakeBehaviour; empty: the real engine
	exitVariable    = "ANX_RUNNER_TEST_EXIT"    // the process kills itself at this point of a commit or checkpoint ...
	devicesVariable = "ANX_RUNNER_TEST_DEVICES" // GPU-0,GPU-1 ...
	driverVariable  = "ANX_RUNNER_TEST_DRIVER"  // file of what a driver says, see driverSays ...
	delayVariable   = "ANX_RUNNER_TEST_DELAY"   // ... so long after the file has it
	onceVariable    = "ANX_RUNNER_TEST_ONCE"    // ... unless this file exists, which it makes

	locksVariable  = "ANX_RUNNER_TEST_LOCKS"  // "missing": a file system without them
	timingVariable = "ANX_RUNNER_TEST_TIMING" // a gpuTiming: window,sees
	groupVariable  = "ANX_RUNNER_TEST_GROUP"  // RunOptions.Group; empty: 1
	holdVariable   = "ANX_RUNNER_TEST_HOLD"   // fakeBehaviour.Hold, and the same of the real engine
)

type fakeBehaviour struct {
	Need       int64 // bytes of a run on the device
	Step       time.Duration
	Sabotage   string
	Diverge    string // runs of this task diverge in epoch 1
	Break      string // runs of this task fail with an error
	Crash      string // runs of this task take the process down
	BreakWhile string // this file exists; empty: always
	LastWords  string // on standard error before a crash
	BlackHole  string // the device on which nothing can start
	XIDTask    string // its runs cause this XID wherever they are ...
	XIDArch    string // ... those of this architecture, or all ...
	XID        int64
	Events     string // ... and the driver says so in this file
	Hang       string // the first run of this task to come so far hangs, with a child in its process group
	Child      string // file for the child's process number
	Slow       string // architecture whose steps take SlowStep
	SlowStep   time.Duration
	Stop       string // the first run of this task to come so far stops its own process by SIGSTOP
	Hold       string // while this file is there a step takes seconds: tests decide when work goes on, see hold ...
	HoldTask   string // ... of this task, or of all
	Device     string `json:"-"` // of the worker
	Dead       string // "start": the worker dies before it is ready; "idle": right behind that
	Crowd      string // file of a crowd, whose trainings have steps by Law
	Law        float64
	Takes      int64 // MiB that each of a crowd takes by the word of the driver
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
	o.Hook = func(at string) error {
		if !strings.Contains(at, point) {
			return nil
		}
		once := os.Getenv(onceVariable)
		if f, err := os.OpenFile(once, os.O_CREATE|os.O_EXCL, 0o666); err == nil {
			f.Close()
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
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
		if b.Dead == "idle" {
			fmt.Println(`{"kind":"ready"}`)
			fmt.Fprintln(os.Stderr, "no such device")
			return 70
		}
		together := &crowd{file: b.Crowd, step: b.Step, law: b.Law, mib: b.Takes, driver: nvmltest.Driver{Path: os.Getenv("ANX_FAKE_NVML")}}
		if b.Crowd != "" {
			b.Step = 0
		}
		b.Hold = cmp.Or(b.Hold, os.Getenv(holdVariable))
		o.Trainers = func(o WorkerOptions, p *Plan) (Trainers, error) {
			b := b
			b.Device = cmp.Or(o.UUID, o.Device)
			if b.Crowd != "" {
				return crowdedTrainers{b.trainers(p.Seed), together}, nil
			}
			return b.trainers(p.Seed), nil
		}
	}
	if file := os.Getenv(holdVariable); file != "" && o.Trainers == nil {
		o.Trainers = func(o WorkerOptions, p *Plan) (Trainers, error) {
			t, err := OpenEngine(o, p)
			return heldTrainers{t, file}, err
		}
	}
	return WorkerMain(arguments, os.Stdin, os.Stdout, os.Stderr, o)
}

// heldTrainers are real ones whose trainings hold on as fakeBehaviour.Hold has fake ones do.
type heldTrainers struct {
	Trainers
	file string
}

type heldTraining struct {
	Training
	file string
}

func (h heldTrainers) Open(r *PlannedRun) (Training, error) {
	t, err := h.Trainers.Open(r)
	return heldTraining{t, h.file}, err
}

func (h heldTraining) Step() error {
	holdOn(h.file, h.Position())
	return h.Training.Step()
}

// holdOn waits while the file is there: for a second at a run's first step, so that a request to stop is soon obeyed, for a second longer at
// each that follows, and for ten at most. So a run of thirty steps lasts for longer than any test waits.
func holdOn(file string, at engine.Position) {
	const tick = 5 * time.Millisecond
	longest := time.Second * time.Duration(min(10, at.Epoch*at.StepsPerEpoch+at.Step+1))
	for waited := time.Duration(0); exists(file) && waited < longest; waited += tick { // not by the clock, which goes on while the machine stands still
		time.Sleep(tick)
	}
}

func (b fakeBehaviour) trainers(seed uint64) fakeTrainers {
	device := ""
	if strings.HasPrefix(b.Device, "GPU-") {
		device = b.Device
	}
	return fakeTrainers{seed: seed, need: b.Need, device: device, step: b.Step, sabotage: b.Sabotage, fail: func(r *PlannedRun, p engine.Position) error {
		if b.BlackHole != "" && device == b.BlackHole {
			return errors.New("an illegal instruction was encountered")
		}
		if b.Hold != "" && (b.HoldTask == "" || b.HoldTask == r.Task.Name) {
			holdOn(b.Hold, p)
		}
		if b.Slow != "" && r.Member.ID == b.Slow {
			time.Sleep(b.SlowStep)
		}
		if p.Epoch != 1 || p.Step != 3 {
			return nil
		}
		if b.XIDTask == r.Task.Name && (b.XIDArch == "" || b.XIDArch == r.Member.ID) {
			driverSays(b.Events, telemetry.Event{Time: time.Now(), Device: device, Kind: telemetry.XID, XID: b.XID, Text: fmt.Sprintf("XID %d", b.XID)})
			return &bindings.Error{Status: bindings.DeviceLost, Text: "an illegal memory access was encountered"}
		}
		switch r.Task.Name {
		case b.Hang:
			if first(b.Child) {
				child := exec.Command("sleep", "1000")
				if err := child.Start(); err != nil {
					panic(err)
				}
				os.WriteFile(b.Child, []byte(strconv.Itoa(child.Process.Pid)), 0o666)
				select {}
			}
		case b.Stop:
			if first(b.Child) {
				syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			}
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

// first says whether this process is the first to ask.
func first(path string) bool {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o666)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// driverSays writes what followDriver reads.
func driverSays(path string, e telemetry.Event) {
	if err := appendLine(path, e); err != nil {
		panic(err)
	}
}

// followDriver passes on what the fake driver says, and answers questions as telemetry.Monitor.Ask does.
func followDriver(ctx context.Context, path string) (<-chan telemetry.Event, func(device string)) {
	events, asked := make(chan telemetry.Event), make(chan telemetry.Event, 1000)
	delay, _ := time.ParseDuration(os.Getenv(delayVariable))
	go func() {
		defer close(events)
		var open []telemetry.Event // questions that were there before the file is read
		for done := 0; ; {
			for len(asked) > 0 {
				open = append(open, <-asked)
			}
			data, _ := os.ReadFile(path)
			var all []telemetry.Event
			for line := range lines(data) {
				all = append(all, readJournal[telemetry.Event](line)...)
			}
			if len(all) > done {
				time.Sleep(delay)
			}
			for _, e := range append(all[done:], open...) {
				select {
				case events <- e:
				case <-ctx.Done():
					return
				}
			}
			done, open = len(all), nil
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return events, func(device string) { asked <- telemetry.Event{Time: time.Now(), Device: device, Kind: telemetry.Heard} }
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
	o.Join, o.Group = o.StudyFile == "", 1
	if text := os.Getenv(groupVariable); text != "" {
		o.Group, _ = strconv.Atoi(text)
	}
	if os.Getenv(locksVariable) == "missing" {
		o.tryLock = func(path string, _ bool) (func(), bool, error) {
			return nil, false, &os.PathError{Op: "flock", Path: path, Err: syscall.ENOLCK}
		}
	}
	if text := os.Getenv(devicesVariable); text != "" {
		o.Devices = strings.Split(text, ",")
		if os.Getenv("ANX_FAKE_NVML") == "" {
			o.DeviceEvents = make(chan telemetry.Event) // these devices have no driver
		}
	}
	if window, sees, ok := strings.Cut(os.Getenv(timingVariable), ","); ok {
		o.timing.window, _ = time.ParseDuration(window)
		o.timing.sees, _ = time.ParseDuration(sees)
	}
	if path := os.Getenv(driverVariable); path != "" {
		o.DeviceEvents, o.AskDevice = followDriver(ctx, path)
	}
	if os.Getenv(fakeVariable) != "" {
		o.Describe = fakeData
		o.CheckpointEvery = 15 * time.Millisecond
	}
	if every := os.Getenv("ANX_RUNNER_TEST_EVERY"); every != "" {
		o.CheckpointEvery, _ = time.ParseDuration(every)
	}
	summary, err := Run(ctx, o)
	if path := os.Getenv(usageVariable); path != "" {
		writeUsage(path)
	}
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
