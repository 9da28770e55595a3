package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"anynetx/results"
	"anynetx/telemetry"
)

// Faults of devices and workers, of the whole program with fake trainers: what is promised of each is in docs/failures.md.

// firstArchitecture is the ID of the smallest member of faultStudy.
var firstArchitecture = func() string {
	s, err := ParseStudy([]byte(faultStudy), "faults.yaml")
	if err != nil {
		panic(err)
	}
	return s.Population.List[0].ID()
}()

// gpus are the names of fake devices.
func gpus(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("GPU-%d", i))
	}
	return list
}

func devicesAre(list []string) string { return devicesVariable + "=" + strings.Join(list, ",") }

func readAll[T any](t *testing.T, dir, table string) []T {
	t.Helper()
	rows, err := results.ReadTable[T](dir, table)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// kinds counts events.
func kinds(t *testing.T, dir string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, e := range readAll[Event](t, dir, "events") {
		counts[e.Kind]++
	}
	return counts
}

// eventually waits for a condition that must come true, on the slowest of machines.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	const limit = 2 * time.Minute
	for waited, last := time.Duration(0), time.Now(); !condition(); {
		time.Sleep(2 * time.Millisecond)
		waited += min(time.Since(last), time.Second) // a machine that is stopped for a minute has waited for one moment
		if last = time.Now(); waited > limit {
			t.Fatalf("%s did not come true in %v", what, limit)
		}
	}
}

// hold is for fakeBehaviour.Hold: until it is let go, hardly anything gets on.
func hold(t *testing.T) (file string, letGo func()) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "hold")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	return file, func() { os.Remove(file) }
}

// active waits until so many runs are in hand, and lists them. Their workers have said so to their coordinators: an attempt has a folder only
// behind that, and a worker that dies between its lease and its word is nobody's crash.
func active(t *testing.T, dir string, n int) (list []ActiveRun) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d runs are in hand", n), func() bool {
		s, err := Status(dir)
		if err != nil {
			return false
		}
		list = s.Active
		silent := func(a ActiveRun) bool {
			return !exists((&lease{dir: filepath.Join(dir, "work", a.RunID), Attempt: a.Attempt}).folder())
		}
		return len(list) == n && !slices.ContainsFunc(list, silent)
	})
	return list
}

// eventsSoFar are those that are in journals yet.
func eventsSoFar(t *testing.T, dir string) (list []Event) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "work", "journals", "events-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, _ := os.ReadFile(path)
		list = append(list, readJournal[Event](data)...)
	}
	return list
}

// A GPU falls off the bus: it is quarantined at once, its runs finish elsewhere without spending attempts, the others go on.
func TestLostGPU(t *testing.T) {
	// One attempt only: a failure that counted would be final.
	study := writeStudy(t, faultStudy+"failures: {attempts: 1}\n")
	want := undisturbed(t, study, 2, behaviour(fast))
	for _, control := range []bool{false, true} {
		dir, driver := t.TempDir(), filepath.Join(t.TempDir(), "driver")
		file, letGo := hold(t)
		c := startStudy(t, study, dir, 4, behaviour(fakeBehaviour{Step: 2 * time.Millisecond, Hold: file}), devicesAre(gpus(4)), driverVariable+"="+driver)
		list := active(t, dir, 4)
		victim := list[slices.IndexFunc(list, func(a ActiveRun) bool { return a.Device == "GPU-3" })]
		began := time.Now()
		if control { // the same death without a word of the driver
			syscall.Kill(victim.PID, syscall.SIGSEGV)
		} else {
			driverSays(driver, telemetry.Event{Time: began, Device: "GPU-3", Kind: telemetry.XID, XID: 79, Text: "XID 79: GPU has fallen off the bus"})
			driverSays(driver, telemetry.Event{Time: began, Device: "GPU-3", Kind: telemetry.Lost, Text: "GPU is lost"})
		}
		eventually(t, "the end of the lost GPU's worker", func() bool { _, alive := processStart(victim.PID); return !alive })
		gone := time.Now()
		t.Logf("the lost GPU's worker was gone %v after the event", gone.Sub(began))
		letGo()
		err := c.Wait()
		s := c.summary(t)
		if control {
			if err == nil || s.Failed == 0 || s.FailureClasses[classCrash] == 0 {
				t.Errorf("control: a crash spends the only attempt, but %v %+v", err, s)
			}
			continue
		}
		if err == nil || !strings.Contains(c.err.String(), "taken out of use") || s.Done != faultRuns || s.Failed != 0 || len(s.Closed) != 1 || !strings.Contains(s.Closed["GPU-3"], "XID 79") {
			t.Errorf("%v %+v\n%s", err, s, c.err.String())
		}
		sameBytes(t, want, dir)
		tidy(t, dir, faultRuns)
		on3 := 0
		for _, a := range readAll[attemptRow](t, dir, "attempts") {
			if a.Device == "GPU-3" && a.Started.After(gone) {
				t.Errorf("an attempt began on the lost GPU: %+v", a)
			}
			if a.RunID == victim.RunID {
				on3++
			}
		}
		if n := kinds(t, dir); n[deviceQuarantine] != 1 || n["xid"] != 1 || n["lost"] != 1 || on3 < 2 {
			t.Errorf("events %v, %d attempts of the run that was on it", n, on3)
		}
	}
}

// The same XID of an application on two devices: the run is at fault and fails, the devices stay, however many runs are, and however long after
// the failure the driver says so.
func TestApplicationXID(t *testing.T) {
	study := writeStudy(t, faultStudy+"failures: {settle_s: 100}\n") // it is the driver that must be waited for
	for name, c := range map[string]struct {
		b     fakeBehaviour
		delay string
		runs  int
	}{
		"one run":        {fakeBehaviour{XIDArch: firstArchitecture}, "0s", 1},
		"all runs":       {fakeBehaviour{}, "0s", 4},
		"a slow driver":  {fakeBehaviour{XIDArch: firstArchitecture}, "500ms", 1},
		"slow, all runs": {fakeBehaviour{}, "100ms", 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testApplicationXID(t, study, c.b, c.delay, c.runs)
		})
	}
}

func testApplicationXID(t *testing.T, study string, b fakeBehaviour, delay string, faulty int) {
	dir, driver := t.TempDir(), filepath.Join(t.TempDir(), "driver")
	b.Step, b.XIDTask, b.XID, b.Events = 2*time.Millisecond, "tuned", 31, driver
	c := startStudy(t, study, dir, 3, behaviour(b), devicesAre(gpus(3)), driverVariable+"="+driver, delayVariable+"="+delay)
	if err := c.Wait(); err == nil {
		t.Error("a study with failed runs ended with exit code 0")
	}
	s := c.summary(t)
	if !s.Complete || s.FailureClasses[classApplication] != faulty || s.Failed != faulty || len(s.Closed) != 0 {
		t.Fatalf("%+v\n%s", s, c.err.String())
	}
	devices := map[string][]string{}
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		if a.Task == "tuned" && a.FailureClass == classDevice {
			devices[a.RunID] = append(devices[a.RunID], a.Device)
		}
	}
	for id, list := range devices {
		if len(list) != 2 || list[0] == list[1] {
			t.Errorf("run %s failed on %v, want two devices", id, list)
		}
	}
	if n := kinds(t, dir); len(devices) != faulty || n["xid"] != 2*faulty || n[deviceQuarantine]+n[deviceDrain] != 0 {
		t.Errorf("%v, events %v", devices, n)
	}
}

// A run that makes no progress is killed with its whole process group and finished elsewhere; one that is slow is not.
func TestHang(t *testing.T) {
	study := writeStudy(t, faultStudy+"failures: {hang: {factor: 4, floor_s: 8, start_s: 600}}\n") // what a busy machine does not do to others
	want := undisturbed(t, study, 2, behaviour(fast))
	// Each step of the slow run takes as long as the floor; only a machine that stops for ten seconds makes it hang.
	b := fakeBehaviour{Step: 2 * time.Millisecond, Hang: "tuned", Slow: firstArchitecture, SlowStep: time.Second / 2}
	short := strings.Replace(faultStudy, "epochs: 3,", "epochs: 1,", 1) // ten steps
	slow := writeStudy(t, short[:strings.Index(short, ", classes: 6")]+", architectures: {first: 1}}\nfailures: {hang: {factor: 20, floor_s: 0.5, start_s: 600}}\n")
	for name, c := range map[string]struct {
		study string
		hangs bool
	}{"hang": {study, true}, "slow": {slow, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := b
			b.Child = filepath.Join(t.TempDir(), "child")
			if c.hangs {
				b.Slow = ""
			}
			runStudy(t, c.study, dir, 2, behaviour(b), devicesAre(gpus(2)))
			n := kinds(t, dir)
			if !c.hangs {
				if n["hang"] != 0 {
					t.Errorf("a slow run was killed: %v", n)
				}
				return
			}
			sameBytes(t, want, dir)
			tidy(t, dir, faultRuns)
			text, err := os.ReadFile(b.Child)
			if err != nil {
				t.Fatal(err)
			}
			child, err := strconv.Atoi(string(text))
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the end of the hanging worker's child", func() bool { _, alive := processStart(child); return !alive })
			var hung []attemptRow
			for _, a := range readAll[attemptRow](t, dir, "attempts") {
				if a.FailureClass == classHung {
					hung = append(hung, a)
				}
			}
			if n["hang"] != 1 || len(hung) != 1 || n["decision"] == 0 {
				t.Fatalf("%d attempts hung, events %v", len(hung), n)
			}
			for _, a := range readAll[attemptRow](t, dir, "attempts") {
				if a.RunID == hung[0].RunID && a.Outcome == outcomeCommitted && a.Device == hung[0].Device {
					t.Errorf("the run was finished on %s, where it had hung", a.Device)
				}
			}
		})
	}
}

// A device on which every start fails wastes three attempts of the study, not more.
func TestBlackHole(t *testing.T) {
	study := writeStudy(t, faultStudy)
	want := undisturbed(t, study, 2, behaviour(fast))
	for _, starts := range []int{3, 1000} {
		dir := t.TempDir()
		elsewhere := 60
		if starts == 1000 {
			elsewhere = 0 // what the breaker prevents: the fastest to fail takes whatever is open
		}
		study := writeStudy(t, fmt.Sprintf("%sfailures: {starts: %d, elsewhere_s: %d}\n", faultStudy, starts, elsewhere))
		file, letGo := hold(t) // three runs are in hand elsewhere, three of the first task are left
		c := startStudy(t, study, dir, 4, behaviour(fakeBehaviour{Step: 2 * time.Millisecond, BlackHole: "GPU-2", Hold: file}), devicesAre(gpus(4)))
		eventually(t, "the black hole has had its fill", func() bool {
			store, err := OpenStore(dir)
			if err != nil {
				return false
			}
			v, err := store.judge("GPU-2")
			return err == nil && (v.device == deviceDrain || len(store.devices.records["GPU-2"]) > 2*3) // a failure is a record, and so is the driver's answer
		})
		letGo()
		err := c.Wait()
		wasted := 0
		for _, a := range readAll[attemptRow](t, dir, "attempts") {
			if a.Device == "GPU-2" {
				wasted++
			}
		}
		s := c.summary(t)
		if starts == 1000 { // the control: without the breaker it takes whatever it can
			if wasted <= 3 {
				t.Errorf("control: only %d attempts went to the black hole without a breaker", wasted)
			}
			continue
		}
		sameBytes(t, want, dir)
		if err == nil || wasted != 3 || s.Done != faultRuns || s.Failed != 0 || !strings.Contains(s.Closed["GPU-2"], "3 attempts in a row") || !strings.Contains(c.err.String(), "GPU-2") {
			t.Errorf("%d attempts were wasted, %v %+v\n%s", wasted, err, s, c.err.String())
		}
		if n := kinds(t, dir); n[deviceDrain] != 1 || n["decision"] != 3 {
			t.Errorf("events %v", n)
		}
		// Run again, the complete study is complete, and says nothing of devices.
		if s := runStudy(t, study, dir, 4, behaviour(fast), devicesAre(gpus(4))); !s.Complete || len(s.Closed) != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// A worker that is stopped (SIGSTOP) and taken for dead by another machine wakes up when its run was given away: it loses the fence, and
// its result counts for nothing.
func TestStoppedWorkerLosesTheFence(t *testing.T) {
	text := faultStudy[:strings.Index(faultStudy, "  - {name: tuned")] + "failures: {hang: {start_s: 1000, floor_s: 1000}}\n" // nobody here gives it up
	study := writeStudy(t, text)
	want := undisturbed(t, study, 1, behaviour(fast))
	dir, child := t.TempDir(), filepath.Join(t.TempDir(), "stopped")
	c := startStudy(t, study, dir, 1, behaviour(fakeBehaviour{Step: 2 * time.Millisecond, Stop: "first", Child: child}))
	stopped := 0
	eventually(t, "a worker that has stopped itself", func() bool {
		for _, pid := range workersOf(c.Process.Pid) {
			if f, ok := processStat(pid); ok && f[0] == "T" && exists(child) {
				stopped = pid
			}
		}
		return stopped != 0
	})
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	var given *PlannedRun
	for _, r := range mustRuns(t, store) {
		if list, err := readAttempts(store.workDir(r.ID)); err == nil && len(list) > 0 && list[0].end == nil {
			given = r
		}
	}
	if given == nil {
		t.Fatal("the stopped worker has no run in hand")
	}
	// Another machine, which has seen the lease untouched for longer than foreignSilence, by its own clock.
	other := &worker{store: store, me: lease{Host: "other", Machine: "another", PID: os.Getpid(), Device: "fake:0", Backend: "fake"}, stop: make(chan struct{})}
	other.trainers = fast.trainers(store.Plan.Seed)
	other.where, other.CheckpointEvery = other.trainers.Provenance(), time.Hour
	other.events = store.record("events", other.me)
	path := (&lease{dir: store.workDir(given.ID), Attempt: 1}).path()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	quiet := &silence{seen: map[string]touched{
		path:           {info.ModTime(), time.Now().Add(-foreignSilence - time.Second)},
		"dead " + path: {since: time.Now().Add(-obituary - time.Second)}}}
	if l, _, err := store.take(given, other.me, &silence{}); err != nil || l != nil {
		t.Fatalf("control: a silent lease was taken at first sight: %+v %v", l, err)
	}
	l, earlier, err := store.take(given, other.me, quiet)
	if err != nil || l == nil || l.Attempt != 2 {
		t.Fatalf("%+v %v", l, err)
	}
	if err := other.attempt(offer{run: given, lease: l, earlier: earlier}, &lane{trainers: other.trainers}, func() {}); err != nil {
		t.Fatal(err)
	}
	if err := other.events.Close(); err != nil {
		t.Fatal(err)
	}
	before := bytesOf(t, dir)
	if err := syscall.Kill(stopped, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, c.err.String())
	}
	sameBytes(t, want, dir)
	tidy(t, dir, 6)
	for name, data := range before {
		if string(want[name]) != string(data) {
			t.Errorf("%s was not what an undisturbed study commits", name)
		}
	}
	var outcomes []string
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		if a.RunID == given.ID {
			outcomes = append(outcomes, a.Outcome)
		}
	}
	if !slices.Equal(outcomes, []string{outcomeLost, outcomeCommitted}) {
		t.Errorf("the run's attempts ended %v", outcomes)
	}
}
