package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"anynetx/anynetx"
	"anynetx/results"

	"go.yaml.in/yaml/v3"
)

// The rows of the tables that a study folder holds; results/schema.yaml says what the columns mean.

type architectureRow struct {
	ArchID      string `col:"arch_id"`
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
	FLOPs       int64  `col:"flops_mac"`
	Params      int64  `col:"params"`
	Activations int64  `col:"activations"`
	SampleIndex *int64 `col:"sample_index"`
	SamplerSeed *int64 `col:"sampler_seed"`
}

func (r *architectureRow) columns() (d, w, b, g [anynetx.Stages]*int64) {
	return [anynetx.Stages]*int64{&r.D1, &r.D2, &r.D3, &r.D4}, [anynetx.Stages]*int64{&r.W1, &r.W2, &r.W3, &r.W4},
		[anynetx.Stages]*int64{&r.B1, &r.B2, &r.B3, &r.B4}, [anynetx.Stages]*int64{&r.G1, &r.G2, &r.G3, &r.G4}
}

func (p *Plan) architectureRows() []architectureRow {
	rows := make([]architectureRow, len(p.Architectures))
	for i, m := range p.Architectures {
		r := &rows[i]
		*r = architectureRow{ArchID: m.ID, FLOPs: m.FLOPs, Params: m.Params, Activations: m.Activations, SampleIndex: m.SampleIndex}
		if m.SampleIndex != nil && p.Sampled != nil {
			seed := int64(p.Seed)
			r.SamplerSeed = &seed
		}
		d, w, b, g := r.columns()
		for k := range d {
			*d[k], *w[k], *b[k], *g[k] = int64(m.Depths[k]), int64(m.Widths[k]), int64(m.Bottlenecks[k]), int64(m.GroupWidths[k])
			r.DepthSum += *d[k]
			r.WidthSum += *w[k]
		}
	}
	return rows
}

// readPopulationFile reads what `anynetx sample --out` wrote, in the order of the sampler.
func readPopulationFile(path string) ([]Member, error) {
	rows, err := results.Read[architectureRow](path, "architectures")
	if err != nil {
		return nil, err
	}
	var list []Member
	seen := map[string]bool{}
	for i := range rows {
		var a anynetx.Architecture
		d, w, b, g := rows[i].columns()
		for k := range a {
			for _, v := range []int64{*d[k], *w[k], *b[k], *g[k]} {
				if v < 1 || v > 1<<20 {
					return nil, fmt.Errorf("%s: row %d: stage %d holds the number %d, which no architecture has", path, i, k+1, v)
				}
			}
			a[k] = anynetx.Stage{Depth: int(*d[k]), Width: int(*w[k]), Bottleneck: int(*b[k]), GroupWidth: int(*g[k])}
		}
		if err := a.Validate(); err != nil {
			return nil, fmt.Errorf("%s: row %d: %w", path, i, err)
		}
		if a.ID() != rows[i].ArchID || seen[a.ID()] {
			return nil, fmt.Errorf("%s: row %d: arch_id is %q, but depths, widths, bottlenecks and group widths make it %q, or the row comes twice", path, i, rows[i].ArchID, a.ID())
		}
		seen[a.ID()] = true
		c := anynetx.Complexity{FLOPs: rows[i].FLOPs, Params: rows[i].Params, Activations: rows[i].Activations}
		list = append(list, Member{anynetx.Summarize(a, c), rows[i].SampleIndex})
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s holds no architectures", path)
	}
	return list, nil
}

type taskRow struct {
	Task           string  `col:"task"`
	Position       int64   `col:"position"`
	Dataset        string  `col:"dataset"`
	Classes        int64   `col:"classes"`
	ClassNames     string  `col:"class_names"`
	TrainImages    int64   `col:"train_images"`
	TestImages     int64   `col:"test_images"`
	Resolution     int64   `col:"resolution"`
	Stem           string  `col:"stem"`
	StemWidth      int64   `col:"stem_width"`
	Strides        string  `col:"strides"`
	Epochs         int64   `col:"epochs"`
	Batch          int64   `col:"batch"`
	LearningRate   float64 `col:"lr"`
	Momentum       float64 `col:"momentum"`
	WeightDecay    float64 `col:"weight_decay"`
	Schedule       string  `col:"schedule"`
	WarmupEpochs   float64 `col:"warmup_epochs"`
	LabelSmoothing float64 `col:"label_smoothing"`
	DType          string  `col:"dtype"`
	Start          string  `col:"start"`
	SourceTask     string  `col:"source_task"`
	Metric         string  `col:"metric"`
	Seed           int64   `col:"seed"`
	RunsPlanned    *int64  `col:"runs_planned"`
	RecipeYAML     string  `col:"recipe_yaml"`
	RecipeSHA256   string  `col:"recipe_sha256"`
}

// taskRows are the tasks with the number of runs of each, as far as it is known.
func (p *Plan) taskRows(counts map[string]int) ([]taskRow, error) {
	var rows []taskRow
	for i := range p.Tasks {
		t := &p.Tasks[i]
		names, err := json.Marshal(t.ClassNames)
		if err != nil {
			return nil, err
		}
		recipe, err := yaml.Marshal(t.Recipe)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(recipe)
		row := taskRow{Task: t.Name, Position: int64(i), Dataset: t.Dataset, Classes: int64(t.Classes), ClassNames: string(names),
			TrainImages: int64(t.TrainImages), TestImages: int64(t.TestImages), Resolution: int64(t.Resolution),
			Stem: string(t.Stem), StemWidth: int64(t.StemWidth), Strides: t.stridesText(), Epochs: int64(t.Epochs),
			Batch: int64(t.Recipe.Batch), LearningRate: t.Recipe.LearningRate, Momentum: t.Recipe.Momentum,
			WeightDecay: t.Recipe.WeightDecay, Schedule: t.Recipe.Schedule, WarmupEpochs: t.Recipe.WarmupEpochs,
			LabelSmoothing: t.Recipe.LabelSmoothing, DType: t.DType, Start: t.Start.Kind, SourceTask: t.Start.Task,
			Metric: t.Metric, Seed: int64(p.Seed), RecipeYAML: string(recipe), RecipeSHA256: hex.EncodeToString(sum[:])}
		if n, known := counts[t.Name]; known {
			planned := int64(n)
			row.RunsPlanned = &planned
		}
		rows = append(rows, row)
	}
	return rows, nil
}

type runRow struct {
	RunID        string   `col:"run_id"`
	ArchID       string   `col:"arch_id"`
	Task         string   `col:"task"`
	Dataset      string   `col:"dataset"`
	Replicate    int64    `col:"replicate"`
	Status       string   `col:"status"`
	FailureClass string   `col:"failure_class"`
	Epochs       int64    `col:"epochs"`
	TestTop1     *float64 `col:"test_top1_err_pct"`
	TestTop5     *float64 `col:"test_top5_err_pct"`
	TrainTop1    *float64 `col:"train_top1_err_pct"`
	TrainTop5    *float64 `col:"train_top5_err_pct"`
	TestLoss     *float64 `col:"test_loss"`
	TrainLoss    *float64 `col:"train_loss"`
	BestEpoch    *int64   `col:"best_epoch"`
	BestTestTop1 *float64 `col:"best_test_top1_err_pct"`
}

type epochRow struct {
	RunID     string   `col:"run_id"`
	ArchID    string   `col:"arch_id"`
	Task      string   `col:"task"`
	Dataset   string   `col:"dataset"`
	Replicate int64    `col:"replicate"`
	Epoch     int64    `col:"epoch"`
	Rate      float64  `col:"lr"`
	TrainLoss *float64 `col:"train_loss"`
	TrainTop1 *float64 `col:"train_top1_err_pct"`
	TrainTop5 *float64 `col:"train_top5_err_pct"`
	TestLoss  *float64 `col:"test_loss"`
	TestTop1  *float64 `col:"test_top1_err_pct"`
	TestTop5  *float64 `col:"test_top5_err_pct"`
}

// What became of a run, and of an attempt at one.
const (
	statusDone   = "done"
	statusFailed = "failed"

	outcomeCommitted = "committed"
	outcomeFailed    = "failed"
	outcomeStopped   = "stopped"   // asked to, with a checkpoint
	outcomeLost      = "lost"      // its process ended without a word
	outcomeDuplicate = "duplicate" // another attempt took over or was first
)

type attemptRow struct {
	RunID         string    `col:"run_id" json:"run_id"`
	Attempt       int64     `col:"attempt" json:"attempt"`
	Task          string    `col:"task" json:"task"`
	Outcome       string    `col:"outcome" json:"outcome"`
	FailureClass  string    `col:"failure_class" json:"failure_class,omitempty"`
	FailureText   string    `col:"failure_text" json:"failure_text,omitempty"`
	Started       time.Time `col:"started_utc" json:"started_utc"`
	Ended         time.Time `col:"ended_utc" json:"ended_utc,omitzero"`
	WallTime      *float64  `col:"wall_time_s" json:"wall_time_s,omitempty"`
	DeviceTime    *float64  `col:"device_time_s" json:"device_time_s,omitempty"`
	RunsPerLaunch *float64  `col:"runs_per_launch" json:"runs_per_launch,omitempty"`
	EnergyJ       *float64  `col:"energy_j" json:"energy_j,omitempty"`
	Images        *int64    `col:"images" json:"images,omitempty"`
	ResumedFrom   *int64    `col:"resumed_from_step" json:"resumed_from_step,omitempty"`
	StateBytes    *int64    `col:"state_bytes" json:"state_bytes,omitempty"`
	ArenaBytes    *int64    `col:"arena_bytes" json:"arena_bytes,omitempty"`
	Backend       string    `col:"backend" json:"backend"`
	Device        string    `col:"device" json:"device"`
	DeviceName    string    `col:"device_name" json:"device_name,omitempty"`
	Host          string    `col:"host" json:"host"`
	PID           *int64    `col:"pid" json:"pid,omitempty"`
	Threads       *int64    `col:"threads" json:"threads,omitempty"`
	LibrarySHA    string    `col:"library_sha256" json:"library_sha256,omitempty"`
	GitCommit     string    `col:"git_commit" json:"git_commit,omitempty"`
	ConfigSHA     string    `col:"config_sha256" json:"config_sha256,omitempty"`

	// For decisions about the next attempt:
	Shared bool   `json:"shared,omitempty"` // other runs were on the device at some time
	Group  string `json:"group,omitempty"`  // of runs in common launches: what happens on the device happens to all of them
	Steps  int64  `json:"steps,omitempty"`  // trained
}

// Event is something that happened to a study.
type Event struct {
	Time    time.Time `col:"ts_utc" json:"ts_utc"`
	Kind    string    `col:"kind" json:"kind"`
	Host    string    `col:"host" json:"host,omitempty"`
	Device  string    `col:"gpu_uuid" json:"gpu_uuid,omitempty"`
	RunID   string    `col:"run_id" json:"run_id,omitempty"`
	Attempt *int64    `col:"attempt" json:"attempt,omitempty"`
	XID     *int64    `col:"xid" json:"xid,omitempty"`
	Text    string    `col:"text" json:"text,omitempty"`
}

type telemetryRow struct {
	Time         time.Time `col:"ts_utc" json:"ts_utc"`
	Host         string    `col:"host" json:"host"`
	Device       string    `col:"gpu_uuid" json:"gpu_uuid,omitempty"`
	Interval     float64   `col:"interval_s" json:"interval_s"`
	Utilisation  *float64  `col:"util_pct" json:"util_pct,omitempty"`
	MemoryUsed   *int64    `col:"mem_used_bytes" json:"mem_used_bytes,omitempty"`
	MemoryTotal  *int64    `col:"mem_total_bytes" json:"mem_total_bytes,omitempty"`
	TempC        *float64  `col:"temp_c" json:"temp_c,omitempty"`
	PowerW       *float64  `col:"power_w" json:"power_w,omitempty"`
	Clocks       *int64    `col:"clocks_event_reasons" json:"clocks_event_reasons,omitempty"`
	ImagesPerSec *float64  `col:"images_per_s" json:"images_per_s,omitempty"`
}

func ptr[T any](v T) *T { return &v }
