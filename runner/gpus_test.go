package runner

import (
	"strings"
	"testing"
	"time"

	"anynetx/telemetry/nvmltest"
)

// The whole program on GPUs that a fake driver shows, through the real NVML binding; the trainings are fake.

func uuids(n int) (list []string) {
	for i := range n {
		list = append(list, nvmltest.UUID(i))
	}
	return list
}

func onDriver(d *nvmltest.Driver, devices string, b fakeBehaviour) []string {
	return append(d.Environment(), devicesVariable+"="+devices, behaviour(b), "ANX_RUNNER_TEST_EVERY=200ms")
}

// attemptsOn counts attempts by device.
func attemptsOn(t *testing.T, dir string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, a := range readAll[attemptRow](t, dir, "attempts") {
		counts[a.Device]++
	}
	return counts
}

func TestGPUs(t *testing.T) {
	study, dir := writeStudy(t, faultStudy), t.TempDir()
	want := undisturbed(t, study, 2, behaviour(fast))
	driver := nvmltest.New(t)
	driver.Set(0, "count", 3)
	driver.Set(0, "temp", 50)
	driver.Set(0, "power_w", 200)
	driver.Set(2, "proc:999999999", 31<<10) // somebody else has nearly all of it
	file, letGo := hold(t)
	p := startStudy(t, study, dir, 0, onDriver(driver, "cuda", fakeBehaviour{Step: 10 * time.Millisecond, Need: 2 << 30, Hold: file})...)
	active(t, dir, 2)
	letGo()
	if err := p.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, p.err.String())
	}
	s := p.summary(t)
	if !s.Complete || s.Done != faultRuns {
		t.Fatalf("%+v", s)
	}
	sameBytes(t, want, dir)
	tidy(t, dir, faultRuns)
	on := attemptsOn(t, dir)
	if on[nvmltest.UUID(0)] == 0 || on[nvmltest.UUID(1)] == 0 || on[nvmltest.UUID(0)]+on[nvmltest.UUID(1)] != faultRuns {
		t.Errorf("attempts by device: %v", on)
	}
	if kinds(t, dir)["foreign_memory"] != 1 {
		t.Errorf("events: %v", kinds(t, dir))
	}
	seen := map[string]bool{}
	for _, r := range readAll[telemetryRow](t, dir, "telemetry") {
		seen[r.Device] = true
		if r.Device == nvmltest.UUID(0) && (*r.TempC != 50 || *r.PowerW < 150 || *r.PowerW > 250 || *r.MemoryTotal != 32<<30 || r.ImagesPerSec == nil) {
			t.Errorf("%+v", r)
		}
	}
	if len(seen) != 3 {
		t.Errorf("telemetry of %v", seen)
	}
}

func TestWrongGPUs(t *testing.T) {
	driver := nvmltest.New(t)
	driver.Set(0, "count", 2)
	for _, c := range []struct {
		devices string
		env     []string
		says    string
	}{
		{"GPU-12345", driver.Environment(), "there is no device GPU-12345; there are: cuda:0 is " + nvmltest.UUID(0) + " (Fake V100), cuda:1 is " + nvmltest.UUID(1)},
		{nvmltest.UUID(0), []string{"LD_LIBRARY_PATH=" + t.TempDir(), "ANX_FAKE_NVML=none"}, "no NVIDIA driver"},
	} {
		p := startStudy(t, writeStudy(t, faultStudy), t.TempDir(), 0, append(c.env, devicesVariable+"="+c.devices, behaviour(fast))...)
		if err := p.Wait(); err == nil || !strings.Contains(p.err.String(), c.says) {
			t.Errorf("%s: %v: %s", c.devices, err, p.err.String())
		}
	}
}

// A GPU falls off the bus: XID 79, then every call to it fails. Its runs finish elsewhere.
func TestLostGPUByTheDriver(t *testing.T) {
	study, dir := writeStudy(t, faultStudy+"failures: {attempts: 1}\n"), t.TempDir()
	want := undisturbed(t, study, 2, behaviour(fast))
	driver := nvmltest.New(t)
	file, letGo := hold(t)
	p := startStudy(t, study, dir, 0, onDriver(driver, strings.Join(uuids(3), ","), fakeBehaviour{Step: 2 * time.Millisecond, Hold: file})...)
	active(t, dir, 3)
	driver.XID(1, 79)
	driver.Set(1, "lost", 1)
	eventually(t, "both were noticed", func() bool {
		seen := map[string]bool{}
		for _, e := range eventsSoFar(t, dir) {
			seen[e.Kind] = true
		}
		return seen["xid"] && seen["lost"]
	})
	letGo()
	if err := p.Wait(); err == nil || !strings.Contains(p.err.String(), ErrClosedDevices.Error()) {
		t.Errorf("%v\n%s", err, p.err.String())
	}
	if s := p.summary(t); !s.Complete || s.Done != faultRuns {
		t.Fatalf("%+v\n%s", s, p.err.String())
	}
	sameBytes(t, want, dir)
	events := kinds(t, dir)
	if events["xid"] != 1 || events["lost"] != 1 || events[deviceQuarantine] != 1 {
		t.Errorf("events: %v", events)
	}
}

// The driver stops answering about one GPU: work goes on, on that one too until the policy has had enough of it.
func TestADriverThatDoesNotAnswer(t *testing.T) {
	study, dir := writeStudy(t, faultStudy), t.TempDir()
	driver := nvmltest.New(t)
	driver.Set(1, "hang", 1)
	p := startStudy(t, study, dir, 0, onDriver(driver, nvmltest.UUID(0)+","+nvmltest.UUID(2), fakeBehaviour{Step: 20 * time.Millisecond})...)
	eventually(t, "work", func() bool { s, err := Status(dir); return err == nil && s.Done > 0 })
	driver.Set(2, "hang", 1)
	if err := p.Wait(); err != nil {
		t.Errorf("%v\n%s", err, p.err.String())
	}
	if s := p.summary(t); !s.Complete || s.Done != faultRuns {
		t.Fatalf("%+v", s)
	}
}
