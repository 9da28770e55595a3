package runner

import (
	"sync"
	"time"
)

// Reading is a line from the coordinator to a worker beside its orders: what the device has used, by the word of the driver.
type Reading struct {
	EnergyJ float64   `json:"energy_j"` // since the coordinator began to watch
	At      time.Time `json:"at_utc"`
}

// meter shares the energy of a device among the runs that are in training on it: at any moment in equal parts, since the device does not
// tell them apart. What it uses while nothing is in training, or for processes of others while something is, is not told apart either:
// the first belongs to no run, the second to those in training.
type meter struct {
	mu    sync.Mutex
	runs  map[string]*metered
	last  Reading
	power float64 // watts, over the last interval between readings; 0: not known yet
	now   time.Time
}

// metered is a run in training.
type metered struct {
	joules  float64 // up to the last reading
	seconds float64 // its part of the time since
}

// pass shares the time up to now.
func (m *meter) pass(now time.Time) {
	for _, r := range m.runs {
		r.seconds += now.Sub(m.now).Seconds() / float64(len(m.runs))
	}
	m.now = now
}

func (m *meter) begin(runID string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass(now)
	if m.runs == nil {
		m.runs = map[string]*metered{}
	}
	m.runs[runID] = &metered{}
}

// read takes a reading.
func (m *meter) read(r Reading, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass(now)
	if seconds := r.At.Sub(m.last.At).Seconds(); !m.last.At.IsZero() && seconds > 0 {
		m.power = (r.EnergyJ - m.last.EnergyJ) / seconds
		for _, run := range m.runs {
			run.joules += run.seconds * m.power
			run.seconds = 0
		}
	}
	m.last = r
}

// end says what a run used; nil if that is not known.
func (m *meter) end(runID string, now time.Time) *float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass(now)
	r := m.runs[runID]
	delete(m.runs, runID)
	if r == nil || m.power <= 0 {
		return nil
	}
	return ptr(r.joules + r.seconds*m.power)
}
