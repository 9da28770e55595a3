package telemetry

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"anynetx/telemetry/nvmltest"
)

// A process has one NVML, so each test is a process of its own, on the driver that its variable names.
const driverVariable = "ANX_TELEMETRY_TEST_DRIVER"

// alone runs the test in a process of its own and returns false there.
func alone(t *testing.T, driver string) (parent bool) {
	t.Helper()
	if os.Getenv(driverVariable) != "" {
		return false
	}
	c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	c.Env = append(os.Environ(), driverVariable+"="+driver)
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return true
}

func open(t *testing.T) (*NVML, *nvmltest.Driver, []Device) {
	t.Helper()
	driver := nvmltest.New(t)
	t.Setenv("ANX_FAKE_NVML", driver.Path)
	n, err := Open(os.Getenv(driverVariable))
	if err != nil {
		t.Fatal(err)
	}
	devices, err := n.Devices()
	if err != nil {
		t.Fatal(err)
	}
	return n, driver, devices
}

// quick samples often, and takes no call of a busy machine for one that hangs.
var quick = Options{Interval: 20 * time.Millisecond, Deadline: 20 * time.Second}

// until waits for something that must come.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for waited, last := time.Duration(0), time.Now(); !f(); {
		time.Sleep(5 * time.Millisecond)
		waited += min(time.Since(last), time.Second) // a machine that is stopped for a minute has waited for one moment
		if last = time.Now(); waited > 30*time.Second {
			t.Fatal("it does not come: " + what)
		}
	}
}

func next(t *testing.T, m *Monitor) (e Event) {
	t.Helper()
	until(t, "an event", func() bool {
		select {
		case e = <-m.Events():
			return true
		default:
			return false
		}
	})
	return e
}

func TestNoDriver(t *testing.T) {
	if alone(t, t.TempDir()+"/libnvidia-ml.so.1") {
		return
	}
	if _, err := Open(os.Getenv(driverVariable)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v", err)
	}
}

func TestSamples(t *testing.T) {
	if alone(t, nvmltest.Library(t, "new")) {
		return
	}
	n, driver, devices := open(t)
	defer n.Close()
	if len(devices) != 8 || devices[3].UUID != nvmltest.UUID(3) || devices[3].Name != "Fake V100" || devices[3].MemoryBytes != 32<<30 || n.Driver != "580.00" {
		t.Fatalf("%+v %q", devices, n.Driver)
	}
	for key, v := range map[string]int64{"util": 70, "temp": 61, "power_w": 250, "reasons": 4, "ecc": 2, "pending": 1, "proc:4711": 1000} {
		driver.Set(3, key, v)
	}
	s, err := n.Look(devices[3])
	if err != nil {
		t.Fatal(err)
	}
	if *s.UtilPct != 70 || *s.TempC != 61 || *s.PowerW != 250 || *s.ClocksReasons != 4 || *s.ECCErrors != 2 || !s.RepairPending || *s.SMClockMHz != 1380 ||
		*s.MemoryClockMHz != 877 || *s.MemoryUsed != 1300<<20 || *s.EnergyJ <= 0 || len(s.Processes) != 1 || s.Processes[0] != (Process{4711, 1000 << 20}) {
		t.Errorf("%+v", s)
	}
	if text := strings.Join(ReasonsText(4), ", "); text != "power limit" {
		t.Errorf("bit 4 is %q", text)
	}
	// More than one process: the list is asked for again with more room.
	driver.Set(3, "proc:4712", 500)
	driver.Set(3, "proc:4713", 500)
	if s, err = n.Look(devices[3]); err != nil || len(s.Processes) != 3 {
		t.Errorf("%+v %v", s.Processes, err)
	}
	m := n.Watch(devices[3:4], quick)
	defer m.Close()
	until(t, "a mean", func() bool { v, ok := m.Means()[nvmltest.UUID(3)]; return ok && v.Seconds > 0 })
	driver.Set(3, "temp", 71)
	until(t, "a mean of what is new", func() bool {
		v, ok := m.Means()[nvmltest.UUID(3)]
		return ok && *v.TempC == 71 && *v.UtilPct == 70 && *v.PowerW > 150 && *v.PowerW < 350 && *v.MemoryUsed == 2300<<20
	})
}

// A driver without newer functions must not take the process down: calling one of them would.
func TestOldDriver(t *testing.T) {
	if alone(t, nvmltest.Library(t, "old")) {
		return
	}
	n, _, devices := open(t)
	defer n.Close()
	s, err := n.Look(devices[0])
	if err != nil || s.EnergyJ != nil || s.ClocksReasons != nil || s.TempC == nil || *s.TempC != 40 {
		t.Errorf("%+v %v", s, err)
	}
}

func TestMIG(t *testing.T) {
	if alone(t, nvmltest.Library(t, "new")) {
		return
	}
	driver := nvmltest.New(t)
	driver.Set(0, "count", 2)
	driver.Set(1, "mig", 2)
	t.Setenv("ANX_FAKE_NVML", driver.Path)
	n, err := Open(os.Getenv(driverVariable))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	devices, err := n.Devices()
	if err != nil || len(devices) != 4 || devices[0].MIG || !devices[1].MIG || devices[3].Parent != devices[1].UUID || !strings.HasPrefix(devices[3].UUID, "MIG-") || devices[3].MemoryBytes != 8<<30 {
		t.Fatalf("%+v %v", devices, err)
	}
	m := n.Watch(devices[2:], quick)
	defer m.Close()
	until(t, "samples", func() bool { return m.States()[devices[2].UUID].Latest != nil })
	driver.XID(1, 43) // of the whole GPU, so of both parts
	a, b := next(t, m), next(t, m)
	if a.XID != 43 || b.XID != 43 || a.Device != devices[2].UUID || b.Device != devices[3].UUID {
		t.Errorf("%v, %v", a, b)
	}
}

func TestEvents(t *testing.T) {
	if alone(t, nvmltest.Library(t, "new")) {
		return
	}
	n, driver, devices := open(t)
	defer n.Close()
	m := n.Watch(devices, quick)
	defer m.Close()
	// The same XID twice is two events.
	for range 2 {
		driver.XID(5, 31)
		if e := next(t, m); e.Kind != XID || e.XID != 31 || e.Device != nvmltest.UUID(5) {
			t.Errorf("%+v", e)
		}
	}
	until(t, "a sample", func() bool { return m.States()[nvmltest.UUID(6)].Latest != nil })
	driver.Set(6, "ecc", 3)
	if e := next(t, m); e.Kind != ECC || e.Device != nvmltest.UUID(6) || !strings.HasPrefix(e.Text, "3 uncorrected") {
		t.Errorf("%+v", e)
	}
	// A device falls off the bus; afterwards the others are still listened to.
	driver.XID(3, 79)
	driver.Set(3, "lost", 1)
	kinds := map[Kind]Event{}
	for range 2 {
		e := next(t, m)
		kinds[e.Kind] = e
	}
	if kinds[XID].XID != 79 || kinds[XID].Device != nvmltest.UUID(3) || kinds[Lost].Device != nvmltest.UUID(3) || !m.States()[nvmltest.UUID(3)].Lost {
		t.Errorf("%+v", kinds)
	}
	driver.XID(1, 13)
	if e := next(t, m); e.XID != 13 || e.Device != nvmltest.UUID(1) {
		t.Errorf("%+v", e)
	}
}

// A call that never returns makes its device suspect and stops nothing else.
func TestACallThatDoesNotReturn(t *testing.T) {
	if alone(t, nvmltest.Library(t, "new")) {
		return
	}
	n, driver, devices := open(t)
	m := n.Watch(devices, Options{Interval: 20 * time.Millisecond, Deadline: 3 * time.Second})
	driver.Set(4, "hang", 1)
	if e := next(t, m); e.Kind != Suspect || e.Device != nvmltest.UUID(4) || !strings.Contains(e.Text, "nvmlDevice") {
		t.Errorf("%+v", e)
	}
	if n.Stuck() != 1 || !m.States()[nvmltest.UUID(4)].Suspect {
		t.Errorf("%d calls are stuck, %+v", n.Stuck(), m.States()[nvmltest.UUID(4)])
	}
	driver.Set(2, "temp", 66)
	until(t, "the others are sampled", func() bool { s := m.States()[nvmltest.UUID(2)].Latest; return s != nil && *s.TempC == 66 })
	driver.XID(2, 8)
	if e := next(t, m); e.XID != 8 {
		t.Errorf("%+v", e)
	}
	driver.Set(4, "hang", 0)
	if e := next(t, m); e.Kind != Answers || e.Device != nvmltest.UUID(4) || n.Stuck() != 0 {
		t.Errorf("%+v, %d stuck", e, n.Stuck())
	}
	// One that hangs for good is left behind.
	driver.Set(4, "hang", 1)
	if e := next(t, m); e.Kind != Suspect {
		t.Errorf("%+v", e)
	}
	m.Close() // without the call, which never returns
	n.Close()
	if n.Stuck() != 1 {
		t.Errorf("closed with %d calls stuck", n.Stuck())
	}
}

// A process that is stopped for a minute, with a call under way, takes no device for suspect; a call that it then sees hang it does.
func TestAPauseIsNobodysCall(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(1e9, 0).Add(time.Duration(seconds) * time.Second) }
	m := &Monitor{n: &NVML{}, o: Options{Deadline: 5 * time.Second}, events: make(chan Event, 9), states: map[string]*State{"a": {}},
		callers: []*caller{{device: "a", what: "nvmlCall", since: at(0)}}}
	look := func(seconds, events int) {
		t.Helper()
		if m.overdue(at(seconds)); len(m.events) != events {
			t.Errorf("after %d s, of which it was stopped for 60, there are %d events, want %d", seconds, len(m.events), events)
		}
	}
	for second := range 3 {
		look(second, 0)
	}
	m.callers = append(m.callers, &caller{device: "b", what: "nvmlCall", since: at(62)}) // right behind the pause
	m.states["b"] = &State{}
	for second, events := range []int{0, 0, 0, 1, 1, 2, 2} {
		look(62+second, events)
	}
}

// What the driver knew when it was asked comes before the answer, of an old driver, a lost device and one that nobody watches too.
func TestAsk(t *testing.T)            { testAsk(t, "new") }
func TestAskAnOldDriver(t *testing.T) { testAsk(t, "old") }

func testAsk(t *testing.T, library string) {
	if alone(t, nvmltest.Library(t, library)) {
		return
	}
	n, driver, devices := open(t)
	defer n.Close()
	driver.Set(2, "hang", 1) // the first question comes before the driver can be asked for the device's reports
	m := n.Watch(devices, quick)
	defer m.Close()
	for i := range 20 {
		driver.XID(2, int64(100+i))
		begin := time.Now()
		m.Ask(devices[2].UUID)
		if i == 0 {
			time.Sleep(300 * time.Millisecond)
			driver.Set(2, "hang", 0)
		}
		if e := next(t, m); e.Kind != XID || e.XID != int64(100+i) {
			t.Errorf("question %d: before the answer came %+v", i, e)
		}
		if e := next(t, m); e.Kind != Heard || e.Device != devices[2].UUID || e.Time.Before(begin) || e.Time.After(time.Now()) {
			t.Errorf("question %d: %+v", i, e)
		}
	}
	driver.Set(3, "lost", 1)
	for range 2 {
		m.Ask(devices[3].UUID)
	}
	var got []Kind
	for range 3 {
		got = append(got, next(t, m).Kind)
	}
	if !slices.Equal(got, []Kind{Lost, Heard, Heard}) {
		t.Errorf("of a lost device: %v", got)
	}
	m.Ask("GPU-of-others")
	if e := next(t, m); e.Kind != Heard {
		t.Errorf("%+v", e)
	}
}

// What a device has used, by its counter and, on an old driver, by its power.
func TestEnergyByCounter(t *testing.T) { testEnergy(t, "new") }
func TestEnergyByPower(t *testing.T)   { testEnergy(t, "old") }

func testEnergy(t *testing.T, library string) {
	if alone(t, nvmltest.Library(t, library)) {
		return
	}
	n, driver, devices := open(t)
	defer n.Close()
	driver.Set(0, "power_w", 250)
	m := n.Watch(devices[:1], quick)
	defer m.Close()
	state := func() State { return m.States()[devices[0].UUID] }
	until(t, "a use", func() bool { return state().UsedJ > 0 })
	before := state()
	seen := time.Now()
	if counts := before.Latest.EnergyJ != nil; counts != (library == "new") || !before.Latest.TellsEnergy() {
		t.Errorf("%+v", before.Latest)
	}
	until(t, "a second", func() bool { return state().Latest.Time.Sub(seen) > time.Second })
	after := state()
	// A counter is read behind the sample's time and before the sample is seen.
	used, least, most := after.UsedJ-before.UsedJ, 250*after.Latest.Time.Sub(seen).Seconds(), 250*time.Since(before.Latest.Time).Seconds()
	if used < 0.9*least || used > 1.1*most {
		t.Errorf("a device of 250 W is seen to use %.1f J where it used %.1f to %.1f", used, least, most)
	}
}

func TestEnergyBetween(t *testing.T) {
	at := func(seconds int64, joules, watts float64) *Sample {
		s := &Sample{Time: time.Unix(seconds, 0)}
		if joules > 0 {
			s.EnergyJ = &joules
		}
		if watts > 0 {
			s.PowerW = &watts
		}
		return s
	}
	for _, c := range []struct {
		before, now *Sample
		want        float64
	}{
		{nil, at(10, 5000, 100), 0},
		{at(10, 5000, 100), at(12, 5150, 100), 150},
		{at(10, 5000, 100), at(12, 30, 100), 200}, // the driver was loaded anew
		{at(10, 0, 100), at(12, 9e9, 50), 100},    // the counter has only just answered
		{at(10, 0, 0), at(12, 0, 0), 0},
	} {
		if got := energyBetween(c.before, c.now); got != c.want {
			t.Errorf("from %+v to %+v: %v J, want %v", c.before, c.now, got, c.want)
		}
	}
}
