package runner

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"anynetx/anynetx"
)

// ForecastOptions says what a forecast is of.
type ForecastOptions struct {
	Dir     string                      // the study folder, whose finished runs are left out and learned from; "" or one that is not there: none
	Devices []string                    // as in RunOptions; empty: "cpu", unless the finished runs say otherwise
	Workers int                         // 0: as many as on Devices; without them one per core, or as many as there were GPUs
	Measure func(device string) Measure // asked of the first device
}

// Forecast is what a plan will cost: the runs that are not committed.
type Forecast struct {
	Study         string         `json:"study"`
	Architectures int            `json:"architectures"`
	Sampled       *Sampled       `json:"sampled,omitempty"`
	Tasks         []TaskForecast `json:"tasks"`
	Runs          int            `json:"runs"`
	Committed     int            `json:"committed"` // and not among Runs
	Images        int64          `json:"images"`
	Unit          string         `json:"device"`       // what DeviceHours are of: "GPU" or "core"
	DeviceHours   float64        `json:"device_hours"` // of all devices together
	EnergyKWh     *float64       `json:"energy_kwh"`   // of GPUs; null where nothing is known of it
	Workers       int            `json:"workers"`
	Hours         float64        `json:"hours"` // of all workers together working side by side
	Finish        time.Time      `json:"finish_utc"`
	DiskBytes     int64          `json:"disk_bytes"`
	MemoryBytes   int64          `json:"memory_bytes"` // of one worker with its largest run, beside its data set; 0: not known
	Basis         string         `json:"basis"`        // what the times are predicted from
}

// TaskForecast is the part of a task.
type TaskForecast struct {
	Task        string   `json:"task"`
	Dataset     string   `json:"dataset"`
	Runs        int      `json:"runs"` // at most, where a rank range is not known yet
	Known       bool     `json:"known"`
	Images      int64    `json:"images"`
	DeviceHours float64  `json:"device_hours"`
	EnergyKWh   *float64 `json:"energy_kwh"`
}

// Cost of what is not training, measured on the quick study: Parquet files of a run with a block each, and a run's journal.
const bytesPerRun = 24 << 10

// ForecastStudy says what a study will cost, before anything starts.
func ForecastStudy(p *Plan, o ForecastOptions) (*Forecast, error) {
	store := newStore(o.Dir, p)
	runs, open, err := store.openRuns()
	if err != nil {
		return nil, err
	}
	devices := []string{"cpu"}
	if len(o.Devices) > 0 {
		found, err := findGPUs(o.Devices, noProgress{})
		if err != nil {
			return nil, err
		}
		devices = found.names
		found.close()
	}
	predicted, err := store.predict(runs, open, o.Measure(devices[0]))
	if err != nil {
		return nil, err
	}
	f := &Forecast{Study: p.Name, Architectures: len(p.Architectures), Sampled: p.Sampled, Committed: len(runs) - len(open), Workers: o.Workers,
		MemoryBytes: predicted.memory, Basis: predicted.basis, Unit: "core"}
	cores := max(predicted.threads, 1) // of a worker
	if predicted.gpus > 0 {
		f.Unit, cores = "GPU", 1
	}
	if f.Workers == 0 && len(o.Devices) > 0 {
		f.Workers = workersOn(devices)
	}
	if f.Workers == 0 {
		f.Workers = cmp.Or(predicted.gpus, max(1, processors()/cores))
	}
	energy := func(hours float64) *float64 {
		if predicted.watts == 0 {
			return nil
		}
		return ptr(hours * predicted.watts / 1000)
	}
	later := 0.0 // worker hours of runs that are not known yet
	for i := range p.Tasks {
		t := &p.Tasks[i]
		tf := TaskForecast{Task: t.Name, Dataset: t.Dataset, Known: slices.ContainsFunc(runs, func(r *PlannedRun) bool { return r.Task == t })}
		var hours, parameters float64
		for _, r := range open {
			if r.Task != t {
				continue
			}
			tf.Runs++
			tf.Images += r.Images
			hours += predicted.costs.Seconds(r) / 3600
			parameters += float64(r.Member.Params)
		}
		if !tf.Known {
			mean, err := p.meanRun(t)
			if err != nil {
				return nil, err
			}
			tf.Runs = p.planned(t)
			n := float64(tf.Runs)
			tf.Images, hours, parameters = int64(n)*mean.Images, n*predicted.costs.Seconds(mean)/3600, n*float64(mean.Member.Params)
			later += hours
		}
		tf.DeviceHours, tf.EnergyKWh = hours*float64(cores), energy(hours)
		f.Tasks = append(f.Tasks, tf)
		f.Runs += tf.Runs
		f.Images += tf.Images
		f.DeviceHours += tf.DeviceHours
		f.DiskBytes += int64(tf.Runs) * bytesPerRun
		if p.KeepWeights == KeepAll || p.needs(t, StartInit) {
			f.DiskBytes += int64(4 * parameters)
		}
		if p.needs(t, StartContinue) {
			f.DiskBytes += int64(8 * parameters)
		}
	}
	f.EnergyKWh = energy(f.DeviceHours / float64(cores))
	placed := Placement{Slots: make([]SlotPlacement, f.Workers)}
	placed.schedule(open, predicted.costs)
	f.Hours = placed.Hours + later/float64(f.Workers)
	f.Finish = after(f.Hours)
	return f, nil
}

// after is the moment in so many hours.
func after(hours float64) time.Time {
	return time.Now().UTC().Add(time.Duration(3600 * hours * float64(time.Second))).Truncate(time.Second)
}

// openRuns lists the runs that are known and, of them, those that are not committed.
func (s *Store) openRuns() (all, open []*PlannedRun, err error) {
	if s.Dir == "" {
		all, err = s.Plan.Runs(nil)
		return all, all, err
	}
	m, err := newModel(s, &queue{store: s})
	if err != nil {
		return nil, nil, err
	}
	for _, r := range m.queue.runs {
		if _, done := m.rows[r.ID]; !done {
			open = append(open, r)
		}
	}
	return m.queue.runs, open, nil
}

// meanRun stands for the runs of a task whose architectures are not known: those of the middle of the population.
func (p *Plan) meanRun(t *Task) (*PlannedRun, error) {
	middle := *t
	middle.Architectures, middle.Start = Selection{IDs: []string{p.Architectures[len(p.Architectures)/2].ID}}, Start{Kind: StartScratch}
	runs, err := p.taskRuns(&middle, nil, nil, map[costKey]anynetx.Complexity{})
	if err != nil {
		return nil, err
	}
	r := runs[0]
	if t.Start.Kind == StartContinue {
		share := 1 - float64(p.Task(t.Start.Task).Epochs)/float64(t.Epochs)
		r.MACs *= share
		r.Values *= share
		r.Images = int64(float64(r.Images) * share)
	}
	return r, nil
}

// WriteText prints a forecast for people.
func (f *Forecast) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "study %s: %d architectures", f.Study, f.Architectures)
	if f.Sampled != nil {
		fmt.Fprintf(&b, " (%d candidates drawn, %.3g %% of them in the band)", f.Sampled.Drawn, 100*f.Sampled.AcceptanceRate)
	}
	fmt.Fprintf(&b, ", %d tasks, %d runs", len(f.Tasks), f.Runs+f.Committed)
	if f.Committed > 0 {
		fmt.Fprintf(&b, ", of which %d are committed; what is left:", f.Committed)
	}
	b.WriteString("\n\n")
	task, dataset := 4, 8
	for _, t := range f.Tasks {
		task, dataset = max(task, len(t.Task)), max(dataset, len(t.Dataset))
	}
	line := func(name, set string, runs, images, hours any, energy string) {
		fmt.Fprintf(&b, "%-*s  %-*s  %8v  %14v  %10v  %10s\n", task, name, dataset, set, runs, images, hours, energy)
	}
	line("task", "data set", "runs", "images", f.Unit+"-hours", "kWh")
	for _, t := range f.Tasks {
		runs := fmt.Sprint(t.Runs)
		if !t.Known {
			runs = "<= " + runs
		}
		line(t.Task, t.Dataset, runs, t.Images, amount(&t.DeviceHours), amount(t.EnergyKWh))
	}
	line("all", "", f.Runs, f.Images, amount(&f.DeviceHours), amount(f.EnergyKWh))
	fmt.Fprintf(&b, "\nabout %s with %d workers, until %s UTC; %s", DurationText(3600*f.Hours), f.Workers, f.Finish.Format("2006-01-02 15:04"), f.Basis)
	if f.EnergyKWh == nil && f.Runs > 0 {
		b.WriteString("; energy is known once runs have finished on GPUs that tell what they use")
	}
	fmt.Fprintf(&b, "; %s on disk", bytesText(f.DiskBytes))
	if f.MemoryBytes > 0 {
		fmt.Fprintf(&b, "; %s of memory a worker beside its data set", bytesText(f.MemoryBytes))
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// amount is a number with three digits, "-" for one that is not known.
func amount(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 100:
		return fmt.Sprintf("%.0f", *v)
	}
	return fmt.Sprintf("%.3g", *v)
}

func bytesText(n int64) string {
	switch v := float64(n); {
	case v >= 1e12:
		return fmt.Sprintf("%.1f TB", v/1e12)
	case v >= 1e9:
		return fmt.Sprintf("%.1f GB", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.0f MB", v/1e6)
	}
	return fmt.Sprintf("%.0f kB", float64(n)/1e3)
}
