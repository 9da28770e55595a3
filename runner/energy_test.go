package runner

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"time"

	"anynetx/telemetry/nvmltest"
)

// A device's energy is shared among the runs on it, by the moment.
func TestEnergyIsShared(t *testing.T) {
	at := func(seconds float64) time.Time { return time.Unix(1e9, 0).Add(time.Duration(seconds * 1e9)) }
	m := &meter{}
	is := func(runID string, seconds, want float64) {
		t.Helper()
		if got := m.end(runID, at(seconds)); got == nil || math.Abs(*got-want) > 1e-6 {
			t.Errorf("run %s: want %v J, not %s", runID, want, text(got))
		}
	}
	m.read(Reading{0, at(0)}, at(0))
	m.begin("unknown", at(0))
	if got := m.end("unknown", at(0.5)); got != nil {
		t.Errorf("%v J without two readings", *got)
	}
	m.begin("a", at(0.5))
	m.read(Reading{100, at(1)}, at(1))   // 100 W: a 50 J, and nobody's 50
	m.begin("b", at(1.5))                // a 0.5 s more
	m.read(Reading{300, at(2)}, at(2.5)) // 200 W; the line came late: a and b have half of a second each
	m.read(Reading{300, at(2)}, at(2.6)) // told twice
	is("a", 3, 50+200*(0.5+0.5)+200*0.25)
	m.read(Reading{400, at(3)}, at(3.5)) // 100 W: b had half of half a second, and half a second
	is("b", 4, 200*0.5+100*(0.25+0.5)+100*0.5)
}

func text(v *float64) string {
	if v == nil {
		return "nothing"
	}
	return fmt.Sprint(*v)
}

// The whole program: attempts have the energy of the device while they trained, on drivers that count it and on those that do not.
func TestEnergyOfAttempts(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, library := range []string{"new", "old"} {
		t.Run(library, func(t *testing.T) {
			t.Parallel()
			driver, dir := nvmltest.New(t), t.TempDir()
			driver.Set(0, "power_w", 200)
			environment := append(onDriver(driver, nvmltest.UUID(0), fakeBehaviour{Step: 100 * time.Millisecond, Need: 20 << 30}), "LD_LIBRARY_PATH="+filepath.Dir(nvmltest.Library(t, library)))
			runStudy(t, writeStudy(t, diskStudy), dir, 0, environment...)
			known := 0
			for _, a := range readAll[attemptRow](t, dir, "attempts") {
				if a.EnergyJ == nil { // it ended before the second reading
					continue
				}
				known++
				if *a.EnergyJ < 0.5*200**a.DeviceTime || *a.EnergyJ > 1.5*200**a.WallTime {
					t.Errorf("%.1f J in %.2f s of training, %.2f s in all, at 200 W", *a.EnergyJ, *a.DeviceTime, *a.WallTime)
				}
			}
			if known == 0 {
				t.Error("no attempt has an energy")
			}
		})
	}
}
