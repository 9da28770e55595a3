package live

import (
	"cmp"
	"os"
	"slices"
	"time"

	"anynetx/analysis"
	"anynetx/runner"
)

// state is what a browser is sent of a study.
type state struct {
	*runner.StudyStatus
	Now             time.Time            `json:"now_utc"`
	ImagesPerSecond float64              `json:"images_per_s"`
	Remaining       *float64             `json:"eta_s"`
	Pairs           []pair               `json:"pairs"`
	Devices         []device             `json:"devices"`
	Events          []runner.Event       `json:"events"`
	results         []result             // sent apart, since they only grow
	position        map[string]int       // of tasks
	errors          []map[string]float64 // of a task, by architecture
}

// result is a task's position, an architecture and its error in percent.
type result struct {
	Task  int     `json:"task"`
	Arch  string  `json:"arch"`
	Error float64 `json:"error"`
}

// pair is the rank correlation of a task with the reference, the first task.
type pair struct {
	Task string   `json:"task"`
	N    int      `json:"n"`
	Rho  *float64 `json:"rho"` // null while there are too few
}

// device is a device with its last hour, as columns.
type device struct {
	Host    string                `json:"host"`
	Device  string                `json:"device"`
	Fresh   bool                  `json:"fresh"`   // reported of late
	Seconds []float64             `json:"seconds"` // before now
	Series  map[string][]*float64 `json:"series"`
}

const shownSamples = 180

func newState(v *runner.View, before *state) *state {
	now := time.Now().UTC()
	s := &state{StudyStatus: v.Status, Now: now, ImagesPerSecond: v.ImagesPerSecond, Remaining: v.Remaining, Events: slices.Clone(v.Events),
		Pairs: []pair{}, Devices: []device{}, position: map[string]int{}}
	if s.Events == nil {
		s.Events = []runner.Event{}
	}
	for i, t := range v.Status.Tasks {
		s.position[t.Task] = i
		s.errors = append(s.errors, map[string]float64{})
	}
	for _, r := range v.Results {
		s.results = append(s.results, result{s.position[r.Task], r.ArchID, r.Error})
		s.errors[s.position[r.Task]][r.ArchID] = r.Error
	}
	if before != nil && len(before.results) == len(s.results) && len(before.Pairs) == max(0, len(s.errors)-1) {
		s.Pairs = before.Pairs
	} else {
		s.correlate()
	}
	for _, h := range v.Devices {
		s.Devices = append(s.Devices, newDevice(h, now))
	}
	return s
}

// correlate compares every task with the first.
func (s *state) correlate() {
	for i, t := range s.Tasks {
		if i == 0 {
			continue
		}
		var names []string
		for arch := range s.errors[0] {
			if _, both := s.errors[i][arch]; both {
				names = append(names, arch)
			}
		}
		slices.Sort(names)
		x, y := make([]float64, len(names)), make([]float64, len(names))
		for k, arch := range names {
			x[k], y[k] = s.errors[0][arch], s.errors[i][arch]
		}
		p := pair{Task: t.Task, N: len(names)}
		if rho, err := analysis.Spearman(x, y); err == nil {
			p.Rho = &rho
		}
		s.Pairs = append(s.Pairs, p)
	}
}

func newDevice(h *runner.DeviceHistory, now time.Time) device {
	samples := h.Samples[max(0, len(h.Samples)-shownSamples):]
	last := samples[len(samples)-1]
	d := device{Host: h.Host, Device: cmp.Or(h.Device, "processors"), Fresh: now.Sub(last.Time) < time.Minute, Series: map[string][]*float64{}}
	for _, column := range columns {
		values, any := make([]*float64, len(samples)), false
		for i := range samples {
			values[i] = column.of(&samples[i])
			any = any || values[i] != nil
		}
		if any {
			d.Series[column.name] = values
		}
	}
	for _, sample := range samples {
		d.Seconds = append(d.Seconds, now.Sub(sample.Time).Seconds())
	}
	return d
}

// columns are what is drawn of a device; names are those of the table telemetry.
var columns = []struct {
	name string
	help string
	of   func(*runner.DeviceSample) *float64
}{
	{"util_pct", "Share of time with work on the device, in percent; of a worker's processor on a CPU.", func(s *runner.DeviceSample) *float64 { return s.Utilisation }},
	{"images_per_s", "Training images per second.", func(s *runner.DeviceSample) *float64 { return s.ImagesPerSec }},
	{"mem_used_bytes", "Memory in use.", func(s *runner.DeviceSample) *float64 { return number(s.MemoryUsed) }},
	{"mem_total_bytes", "Memory of the device.", func(s *runner.DeviceSample) *float64 { return number(s.MemoryTotal) }},
	{"temp_c", "Temperature in degrees Celsius.", func(s *runner.DeviceSample) *float64 { return s.TempC }},
	{"power_w", "Power in watts.", func(s *runner.DeviceSample) *float64 { return s.PowerW }},
}

func number(n *int64) *float64 {
	if n == nil {
		return nil
	}
	f := float64(*n)
	return &f
}

func hostName() string {
	if name, err := os.Hostname(); err == nil {
		return name
	}
	return "localhost"
}
