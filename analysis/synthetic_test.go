package analysis

import (
	"fmt"
	"math"

	"path/filepath"
	"testing"
	"time"

	"anynetx/random"
	"anynetx/results"
)

// synthetic is a study whose truth is known: each architecture has a quality shared by all tasks, each task mixes it with one of its own.
type synthetic struct {
	architectures int
	tasks         []syntheticTask
	replicated    int // architectures with three replicates on each task
	seed          uint64
}

type syntheticTask struct {
	name      string
	classes   int
	shared    float64 // correlation of the task's true quality with the shared one
	noise     float64 // standard deviation of training, where that between architectures is 1
	metric    string
	ties      float64 // errors are rounded to this, 0 for not
	constant  bool
	failEvery int // every so manieth run failed, 0 for none
	missing   int // the last so many architectures are not trained yet
	names     string
}

func quick() synthetic {
	return synthetic{architectures: 40, replicated: 8, seed: 1, tasks: []syntheticTask{
		{name: "fashion-10", classes: 10, shared: 1, noise: 0.3}, {name: "fashion-5", classes: 5, shared: 0.9, noise: 0.4}, {name: "fashion-2", classes: 2, shared: 0.3, noise: 0.6}}}
}

// write leaves a study folder as the runner does.
func (s synthetic) write(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "study")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	meta := map[string]string{results.MetaStudy: "synthetic"}
	normal := func(i int, parts ...any) float64 { return random.New(s.seed, parts...).Normal(uint64(i)) }
	var archs []results.Row
	for i := range s.architectures {
		row := results.Row{"arch_id": archID(i), "flops_mac": 2_000_000 + 1000*i, "params": 100_000 + i, "activations": 50_000, "sample_index": i, "sampler_seed": 1}
		depth, width := 0, 0
		for k := 1; k <= 4; k++ {
			// Better architectures (low quality number) are deeper and wider.
			d := 1 + int(random.New(s.seed, "d").Below(uint64(4*i+k), 4)) + max(0, int(2-normal(i, "quality")))
			w := 8 * (1 + int(random.New(s.seed, "w").Below(uint64(4*i+k), 16)))
			depth, width = depth+d, width+w
			row[fmt.Sprint("d", k)], row[fmt.Sprint("w", k)], row[fmt.Sprint("b", k)], row[fmt.Sprint("g", k)] = d, w, 1, 8
		}
		row["depth_sum"], row["width_sum"] = depth, width
		archs = append(archs, row)
	}
	check(results.Write(filepath.Join(dir, "architectures.parquet"), "architectures", archs, meta))
	var tasks []results.Row
	for p, task := range s.tasks {
		row := results.Row{"task": task.name, "position": p, "dataset": "d" + fmt.Sprint(p), "classes": task.classes, "train_images": 4000, "test_images": 2000,
			"resolution": 28, "stem": "simple_stem_in", "stem_width": 16, "strides": "1-2-2-2", "epochs": 4, "batch": 64, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-5,
			"schedule": "cosine", "warmup_epochs": 1.0, "label_smoothing": 0.0, "dtype": "float32", "start": "scratch", "seed": 1, "runs_planned": s.architectures + 2*s.replicated}
		if task.metric != "" {
			row["metric"] = task.metric
		}
		if task.names != "" {
			row["class_names"] = task.names
		}
		tasks = append(tasks, row)
	}
	check(results.Write(filepath.Join(dir, "tasks.parquet"), "tasks", tasks, meta))
	for p, task := range s.tasks {
		var runs []results.Row
		for i := range s.architectures - task.missing {
			quality := task.shared*normal(i, "quality") + math.Sqrt(1-task.shared*task.shared)*normal(i, "own", task.name)
			replicates := 1
			if i < s.replicated {
				replicates = 3
			}
			for r := range replicates {
				id := fmt.Sprintf("%02d%04d%d", p, i, r)
				row := results.Row{"run_id": id, "arch_id": archID(i), "task": task.name, "dataset": "d" + fmt.Sprint(p), "replicate": r, "epochs": 4}
				if task.failEvery > 0 && i%task.failEvery == 0 {
					row["status"], row["failure_class"] = "failed", "diverged"
				} else {
					e := 20 + 3*(quality+task.noise*normal(3*i+r, "noise", task.name))
					if task.ties > 0 {
						e = task.ties * math.Round(e/task.ties)
					}
					if task.constant {
						e = 25
					}
					e = min(100, max(0, e))
					row["status"], row["test_top1_err_pct"], row["train_top1_err_pct"] = "done", e, e/2
					if task.classes > 5 {
						row["test_top5_err_pct"] = e / 4
					}
				}
				runs = append(runs, row)
			}
		}
		if len(runs) > 0 { // compacted files: as good as one file per run, which the tests of results cover
			path, err := results.Path(dir, "runs", "d"+fmt.Sprint(p), "compacted")
			check(err)
			check(results.Write(path, "runs", runs, meta))
		}
	}
	path, err := results.Path(dir, "attempts", "", "one")
	check(err)
	check(results.Write(path, "attempts", []results.Row{{"run_id": "000000", "attempt": 1, "task": "t", "outcome": "committed", "started_utc": time.Unix(1, 0), "backend": "cpu",
		"device": "cpu:0", "device_name": "a processor", "host": "h", "library_sha256": "1234567890abcdef", "git_commit": "abcdef", "device_time_s": 3600.0}}, nil))
	return dir
}

func archID(i int) string { return fmt.Sprintf("%06x%06x", i*7919%0xffffff, i) }
