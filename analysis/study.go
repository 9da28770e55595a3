// Package analysis answers, from the Parquet tables of a study folder alone, whether the ranking of architectures on one task carries over
// to another: rank correlations with intervals and the ceiling that the noise of training sets, figures, tables and a report.
package analysis

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"anynetx/anynetx"
	"anynetx/results"
)

// Study is what the analysis knows of a study folder.
type Study struct {
	Name          string
	Dir           string
	Architectures []Architecture // in the order of the sampler
	Tasks         []Task         // the reference first, then in the order of the study file
	Provenance    Provenance
}

// Architecture is a row of architectures with its place in Study.Architectures.
type Architecture struct {
	ID                            string
	Depths, Widths                [anynetx.Stages]int64
	Bottlenecks, GroupWidths      [anynetx.Stages]int64
	DepthSum, WidthSum            int64
	FLOPsMAC, Params, Activations int64
}

// Task is a task with the errors that its finished runs reached.
type Task struct {
	Name, Dataset, Metric, DType   string // Metric is top1 or top5
	Classes, TrainImages           int64
	TestImages, Resolution, Epochs int64
	ClassNames                     []string
	Planned, Done, Failed          int         // runs
	Errors                         [][]float64 // of each architecture: by replicate, only finished ones; percent
	First                          []float64   // of each architecture: replicate 0; NaN where not finished
	Failures                       map[string]int
}

// Missing is the runs of the plan that are neither done nor failed.
func (t *Task) Missing() int { return max(0, t.Planned-t.Done-t.Failed) }

// Provenance is what attempts say about where results came from.
type Provenance struct {
	Devices, Libraries, Commits []string
	DeviceSeconds               float64
	Attempts                    int
	SchemaVersion               int
}

type architectureRow struct {
	ID          string `col:"arch_id"`
	D1          int64  `col:"d1"`
	D2          int64  `col:"d2"`
	D3          int64  `col:"d3"`
	D4          int64  `col:"d4"`
	W1          int64  `col:"w1"`
	W2          int64  `col:"w2"`
	W3          int64  `col:"w3"`
	W4          int64  `col:"w4"`
	B1          int64  `col:"b1"`
	B2          int64  `col:"b2"`
	B3          int64  `col:"b3"`
	B4          int64  `col:"b4"`
	G1          int64  `col:"g1"`
	G2          int64  `col:"g2"`
	G3          int64  `col:"g3"`
	G4          int64  `col:"g4"`
	DepthSum    int64  `col:"depth_sum"`
	WidthSum    int64  `col:"width_sum"`
	FLOPsMAC    int64  `col:"flops_mac"`
	Params      int64  `col:"params"`
	Activations int64  `col:"activations"`
	Index       *int64 `col:"sample_index"`
}

type taskRow struct {
	Name        string `col:"task"`
	Position    int64  `col:"position"`
	Dataset     string `col:"dataset"`
	Classes     int64  `col:"classes"`
	ClassNames  string `col:"class_names"`
	TrainImages int64  `col:"train_images"`
	TestImages  int64  `col:"test_images"`
	Resolution  int64  `col:"resolution"`
	Epochs      int64  `col:"epochs"`
	DType       string `col:"dtype"`
	Metric      string `col:"metric"`
	Planned     *int64 `col:"runs_planned"`
}

type runRow struct {
	ID        string  `col:"run_id"`
	Arch      string  `col:"arch_id"`
	Task      string  `col:"task"`
	Replicate int64   `col:"replicate"`
	Status    string  `col:"status"`
	Failure   string  `col:"failure_class"`
	Top1      float64 `col:"test_top1_err_pct"`
	Top5      float64 `col:"test_top5_err_pct"`
}

type attemptRow struct {
	Backend string   `col:"backend"`
	Device  string   `col:"device_name"`
	Library string   `col:"library_sha256"`
	Commit  string   `col:"git_commit"`
	Seconds *float64 `col:"device_time_s"`
	Wall    *float64 `col:"wall_time_s"`
}

// Load reads a study folder. A file that cannot be read ends it with an error that names the file: an answer from a part of the results that
// nobody chose would be worse than none. Results that are not there yet are counted as missing.
func Load(dir, reference, metric string) (*Study, error) {
	if metric != "" && metric != "top1" && metric != "top5" {
		return nil, anynetx.Inputf("metric %q is not known: use top1 or top5", metric)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, anynetx.Inputf("%s is not a folder: give the folder that `anynetx study run` wrote", dir)
	}
	s := &Study{Dir: dir, Name: filepath.Base(filepath.Clean(dir))}
	s.Provenance.SchemaVersion = results.Tables().Version
	if err := s.loadArchitectures(); err != nil {
		return nil, err
	}
	if err := s.loadTasks(metric); err != nil {
		return nil, err
	}
	if err := s.loadRuns(); err != nil {
		return nil, err
	}
	if err := s.loadProvenance(); err != nil {
		return nil, err
	}
	if err := s.order(reference); err != nil {
		return nil, err
	}
	s.showNames()
	return s, nil
}

// required reads a table that every study has from its start.
func required[T any](dir, table string) ([]T, error) {
	rows, err := results.ReadTable[T](dir, table)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		path := filepath.Join(dir, table+".parquet")
		if _, err := os.Stat(path); err != nil {
			return nil, anynetx.Inputf("%s is missing (%w): is %s the folder of a study that was started with `anynetx study run`?", path, fs.ErrNotExist, dir)
		}
		return nil, anynetx.Inputf("%s has no rows: there is nothing to analyse before a study has one", path)
	}
	return rows, nil
}

func (s *Study) loadArchitectures() error {
	rows, err := required[architectureRow](s.Dir, "architectures")
	if err != nil {
		return err
	}
	slices.SortStableFunc(rows, func(a, b architectureRow) int { return cmp.Compare(index(a), index(b)) })
	for _, r := range rows {
		s.Architectures = append(s.Architectures, Architecture{ID: r.ID,
			Depths: [anynetx.Stages]int64{r.D1, r.D2, r.D3, r.D4}, Widths: [anynetx.Stages]int64{r.W1, r.W2, r.W3, r.W4},
			Bottlenecks: [anynetx.Stages]int64{r.B1, r.B2, r.B3, r.B4}, GroupWidths: [anynetx.Stages]int64{r.G1, r.G2, r.G3, r.G4},
			DepthSum: r.DepthSum, WidthSum: r.WidthSum, FLOPsMAC: r.FLOPsMAC, Params: r.Params, Activations: r.Activations})
	}
	return nil
}

// index puts architectures that were given before those that were sampled.
func index(r architectureRow) int64 {
	if r.Index == nil {
		return -1
	}
	return *r.Index
}

func (s *Study) loadTasks(metric string) error {
	rows, err := required[taskRow](s.Dir, "tasks")
	if err != nil {
		return err
	}
	if meta, err := results.Metadata(filepath.Join(s.Dir, "tasks.parquet"), "tasks"); err == nil && meta[results.MetaStudy] != "" {
		s.Name = meta[results.MetaStudy]
	}
	slices.SortStableFunc(rows, func(a, b taskRow) int { return cmp.Compare(a.Position, b.Position) })
	for _, r := range rows {
		t := Task{Name: r.Name, Dataset: r.Dataset, Classes: r.Classes, TrainImages: r.TrainImages, TestImages: r.TestImages,
			Resolution: r.Resolution, Epochs: r.Epochs, DType: r.DType, Failures: map[string]int{},
			Errors: make([][]float64, len(s.Architectures)), First: make([]float64, len(s.Architectures))}
		t.Metric = cmp.Or(metric, r.Metric, "top1")
		if r.Classes <= 5 {
			t.Metric = "top1" // five guesses are right by themselves
		}
		if r.Planned != nil {
			t.Planned = int(*r.Planned)
		}
		if json.Unmarshal([]byte(r.ClassNames), &t.ClassNames) != nil {
			t.ClassNames = nil // names are decoration
		}
		for i := range t.First {
			t.First[i] = nan
		}
		s.Tasks = append(s.Tasks, t)
	}
	return nil
}

func (s *Study) loadRuns() error {
	rows, err := results.ReadTable[runRow](s.Dir, "runs")
	if err != nil {
		return err
	}
	slices.SortStableFunc(rows, func(a, b runRow) int { return cmp.Compare(a.Replicate, b.Replicate) })
	architectures, tasks := map[string]int{}, map[string]*Task{}
	for i, a := range s.Architectures {
		architectures[a.ID] = i
	}
	for i := range s.Tasks {
		tasks[s.Tasks[i].Name] = &s.Tasks[i]
	}
	type cell struct {
		arch, task string
		replicate  int64
	}
	seen := map[cell]string{}
	for _, r := range rows {
		t, a := tasks[r.Task], 0
		var ok bool
		if a, ok = architectures[r.Arch]; !ok || t == nil {
			return fmt.Errorf("run %s in %s is of task %q and architecture %s, and tasks.parquet or architectures.parquet lacks it: "+
				"bring back the file that belongs to these runs, or move the run's file out of the study", r.ID, filepath.Join(s.Dir, "runs"), r.Task, r.Arch)
		}
		c := cell{r.Arch, r.Task, r.Replicate}
		if other, twice := seen[c]; twice {
			return fmt.Errorf("runs %s and %s in %s are both replicate %d of architecture %s on task %s: two studies were mixed; move the files of one out",
				other, r.ID, filepath.Join(s.Dir, "runs"), r.Replicate, r.Arch, r.Task)
		}
		seen[c] = r.ID
		value := r.Top1
		if t.Metric == "top5" {
			value = r.Top5
		}
		switch {
		case r.Status != "done":
			t.Failed++
			t.Failures[cmp.Or(r.Failure, "unknown")]++
		case value != value:
			t.Failed++
			t.Failures["no "+t.Metric+" error recorded"]++
		default:
			t.Done++
			t.Errors[a] = append(t.Errors[a], value)
			if r.Replicate == 0 {
				t.First[a] = value
			}
		}
	}
	for i := range s.Tasks {
		if t := &s.Tasks[i]; t.Planned == 0 {
			t.Planned = max(len(s.Architectures), t.Done+t.Failed)
		}
	}
	return nil
}

func (s *Study) loadProvenance() error {
	rows, err := results.ReadTable[attemptRow](s.Dir, "attempts")
	if err != nil {
		return err
	}
	p := &s.Provenance
	add := func(list *[]string, v string) {
		if v != "" && !slices.Contains(*list, v) {
			*list = append(*list, v)
		}
	}
	for _, r := range rows {
		p.Attempts++
		device := r.Backend
		if r.Device != "" {
			device += ": " + r.Device
		}
		add(&p.Devices, device)
		add(&p.Libraries, r.Library)
		add(&p.Commits, r.Commit)
		if r.Seconds != nil {
			p.DeviceSeconds += *r.Seconds
		} else if r.Wall != nil {
			p.DeviceSeconds += *r.Wall
		}
	}
	slices.Sort(p.Devices)
	slices.Sort(p.Libraries)
	slices.Sort(p.Commits)
	return nil
}

// showNames makes all names fit to be shown: they come from files that anybody may have written.
func (s *Study) showNames() {
	s.Name = visible(s.Name)
	for i := range s.Tasks {
		t := &s.Tasks[i]
		t.Name, t.Dataset = visible(t.Name), visible(t.Dataset)
		for k := range t.ClassNames {
			t.ClassNames[k] = visible(t.ClassNames[k])
		}
		failures := map[string]int{}
		for class, n := range t.Failures {
			failures[visible(class)] += n
		}
		t.Failures = failures
	}
	for i := range s.Architectures {
		s.Architectures[i].ID = visible(s.Architectures[i].ID)
	}
	for _, list := range [][]string{s.Provenance.Devices, s.Provenance.Libraries, s.Provenance.Commits} {
		for i := range list {
			list[i] = visible(list[i])
		}
	}
}

// order puts the reference task first: the one named, or that with most classes, as ImageNet is in the paper.
func (s *Study) order(reference string) error {
	best := -1
	for i, t := range s.Tasks {
		switch {
		case reference != "" && t.Name == reference:
			best = i
		case reference == "" && (best < 0 || t.Classes > s.Tasks[best].Classes):
			best = i
		}
	}
	if best < 0 {
		names := make([]string, len(s.Tasks))
		for i, t := range s.Tasks {
			names[i] = t.Name
		}
		return anynetx.Inputf("there is no task %q to refer to; the study's tasks are %q", reference, names)
	}
	t := s.Tasks[best]
	s.Tasks = slices.Insert(slices.Delete(s.Tasks, best, best+1), 0, t)
	return nil
}

// Partial says in words what is missing, or nothing.
func (s *Study) Partial() string {
	planned, done, failed := s.Counts()
	if done == planned && failed == 0 {
		return ""
	}
	text := fmt.Sprintf("partial: %d of %d runs are done", done, planned)
	if failed > 0 {
		text += fmt.Sprintf(", %d failed", failed)
	}
	if missing := planned - done - failed; missing > 0 {
		text += fmt.Sprintf(", %d have not finished yet", missing)
	}
	return text
}

// Counts is the runs of all tasks.
func (s *Study) Counts() (planned, done, failed int) {
	for i := range s.Tasks {
		t := &s.Tasks[i]
		planned, done, failed = planned+t.Done+t.Failed+t.Missing(), done+t.Done, failed+t.Failed
	}
	return planned, done, failed
}
