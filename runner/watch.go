package runner

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"anynetx/results"
)

// Watcher follows a study from the files of its folder alone: on any machine that sees them, whoever works on it. It reads each file
// once and journals from where it stopped, so that looking every second costs little. It is for one goroutine.
type Watcher struct {
	dir   string
	store *Store
	plan  time.Time // when plan.json was written
	queue *queue
	model *model

	known    map[string]bool // runs in results
	results  []RunResult
	journals map[string]int64 // bytes read, by path
	tables   map[string]bool  // Parquet files read, by path
	devices  map[string]*DeviceHistory
	events   []Event
}

// View is a study at a moment.
type View struct {
	Status          *StudyStatus
	Results         []RunResult // done, replicate 0, in the order of being seen: only ever appended to
	ImagesPerSecond float64     // of all devices that reported within the last minute
	Remaining       *float64    // seconds, at this rate; nil where there is none
	Devices         []*DeviceHistory
	Events          []Event // the newest, oldest first
}

// RunResult is the error of one architecture on one task.
type RunResult struct {
	Task   string
	ArchID string
	Error  float64 // percent, by the task's metric
}

// DeviceHistory is what a device reported of late, oldest first.
type DeviceHistory struct {
	Host    string         `json:"host"`
	Device  string         `json:"device"`
	Samples []DeviceSample `json:"samples"`
}

// DeviceSample is a row of telemetry.
type DeviceSample = telemetryRow

const (
	watchedTime   = time.Hour       // of telemetry that a view holds
	watchedEvents = 60              // events that a view holds
	freshFor      = 1 * time.Minute // a device that reported longer ago does not count as working
)

// NewWatcher follows the study of a folder, which need not be there yet.
func NewWatcher(dir string) *Watcher { return &Watcher{dir: dir} }

// open reads the plan, which grows when the study file does.
func (w *Watcher) open() error {
	info, err := os.Stat(filepath.Join(w.dir, "plan.json"))
	if err == nil && w.store != nil && info.ModTime().Equal(w.plan) {
		return nil
	}
	store, err := OpenStore(w.dir)
	if err != nil {
		return err
	}
	if info != nil {
		w.plan = info.ModTime()
	}
	w.store, w.queue = store, &queue{store: store, me: identity()}
	w.known, w.results = map[string]bool{}, nil
	w.journals, w.tables, w.devices, w.events = map[string]int64{}, map[string]bool{}, map[string]*DeviceHistory{}, nil
	w.model, err = newModel(store, w.queue)
	return err
}

// Look reads what is new. The view shares memory with the watcher: it is good until the next Look.
func (w *Watcher) Look() (*View, error) {
	if err := w.open(); err != nil {
		return nil, err
	}
	if err := w.model.refresh(); err != nil {
		return nil, err
	}
	status, err := w.model.status()
	if err != nil {
		return nil, err
	}
	for _, r := range w.queue.runs {
		e, ok := w.model.rows[r.ID]
		if !ok || e.Status != statusDone || w.known[r.ID] { // what has failed may be tried again
			continue
		}
		w.known[r.ID] = true
		if value, known := e.Percent(); known && r.Replicate == 0 {
			w.results = append(w.results, RunResult{r.Task.Name, r.Member.ID, value})
		}
	}
	if err := w.follow(); err != nil {
		return nil, err
	}
	v := &View{Status: status, Results: w.results, Devices: w.recent(time.Now()), Events: w.events}
	v.ImagesPerSecond = rate(v.Devices, time.Now())
	v.Remaining = w.remaining(status, v.ImagesPerSecond)
	return v, nil
}

// follow reads the new rows of telemetry and events, in journals and in what has become Parquet. A row may come by both ways.
func (w *Watcher) follow() error {
	paths, err := filepath.Glob(filepath.Join(w.dir, "work", "journals", "*.jsonl"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		data, err := readFrom(path, w.journals[path])
		if err != nil {
			continue // it has just become Parquet
		}
		_, good := journalLines(data)
		w.journals[path] += int64(good)
		switch table, _, _ := strings.Cut(filepath.Base(path), "-"); table {
		case "telemetry":
			w.sampled(readJournal[telemetryRow](data))
		case "events":
			w.happened(readJournal[Event](data))
		}
	}
	since := time.Now().Add(-watchedTime)
	samples, err := newRows[telemetryRow](w, "telemetry", since)
	if err != nil {
		return err
	}
	events, err := newRows[Event](w, "events", since)
	if err != nil {
		return err
	}
	w.sampled(samples)
	w.happened(events)
	w.events = w.events[max(0, len(w.events)-watchedEvents):]
	return nil
}

// newRows reads the Parquet files of a table that were not read yet, but for those that are old.
func newRows[T any](w *Watcher, table string, since time.Time) (rows []T, err error) {
	paths, err := results.Files(w.dir, table)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if w.tables[path] {
			continue
		}
		w.tables[path] = true
		if info, err := os.Stat(path); err != nil || info.ModTime().Before(since) {
			continue
		}
		more, err := results.Read[T](path, table)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func (w *Watcher) sampled(rows []telemetryRow) {
	for _, row := range rows {
		key := row.Host + " " + row.Device
		h := w.devices[key]
		if h == nil {
			h = &DeviceHistory{Host: row.Host, Device: row.Device}
			w.devices[key] = h
		}
		at, known := slices.BinarySearchFunc(h.Samples, row.Time, func(s telemetryRow, t time.Time) int { return s.Time.Compare(t) })
		if !known {
			h.Samples = slices.Insert(h.Samples, at, row)
		}
	}
}

func (w *Watcher) happened(events []Event) {
	for _, e := range events {
		at, known := slices.BinarySearchFunc(w.events, e, func(a, b Event) int {
			return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Text, b.Text))
		})
		if !known {
			w.events = slices.Insert(w.events, at, e)
		}
	}
}

// recent are the devices that reported within the watched time, by name.
func (w *Watcher) recent(now time.Time) []*DeviceHistory {
	list := []*DeviceHistory{}
	for key, h := range w.devices {
		old := 0
		for old < len(h.Samples) && now.Sub(h.Samples[old].Time) > watchedTime {
			old++
		}
		if h.Samples = h.Samples[old:]; len(h.Samples) == 0 {
			delete(w.devices, key)
			continue
		}
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b *DeviceHistory) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(len(a.Device), len(b.Device)), cmp.Compare(a.Device, b.Device))
	})
	return list
}

func rate(devices []*DeviceHistory, now time.Time) float64 {
	sum := 0.0
	for _, h := range devices {
		if last := h.Samples[len(h.Samples)-1]; last.ImagesPerSec != nil && now.Sub(last.Time) < freshFor {
			sum += *last.ImagesPerSec
		}
	}
	return sum
}

// remaining is the time that the open runs take at the rate of now, in multiply-adds: images of large networks take longer.
func (w *Watcher) remaining(s *StudyStatus, imagesPerSecond float64) *float64 {
	share := map[string]float64{}
	for _, a := range s.Active {
		share[a.RunID] = float64(a.Epoch) / float64(max(a.Epochs, 1))
	}
	var macs, images float64 // of the runs in progress: what the rate is the rate of
	left := w.model.macsLeft()
	for _, r := range w.queue.runs {
		if done, active := share[r.ID]; active {
			macs += r.MACs
			images += float64(r.Images)
			left -= r.MACs * done
		}
	}
	if images == 0 || imagesPerSecond == 0 {
		return nil
	}
	return ptr(max(0, left) / (imagesPerSecond * macs / images))
}
