package live

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// metrics is the state in Prometheus's text format.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	state, err := s.look()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	writeMetrics(w, state)
}

func writeMetrics(w io.Writer, s *state) {
	m := exposition{w, s.Study}
	m.head("anynetx_runs", "Runs of the study, by task and what became of them.")
	for _, t := range s.Tasks {
		m.value("anynetx_runs", float64(t.Done), "task", t.Task, "status", "done")
		m.value("anynetx_runs", float64(t.Failed), "task", t.Task, "status", "failed")
		m.value("anynetx_runs", float64(t.Runs-t.Done-t.Failed), "task", t.Task, "status", "open")
	}
	m.head("anynetx_runs_active", "Runs in training now.")
	m.value("anynetx_runs_active", float64(len(s.Active)))
	m.head("anynetx_runs_failed", "Failed runs, by class.")
	for _, class := range slices.Sorted(maps.Keys(s.FailureClasses)) {
		m.value("anynetx_runs_failed", float64(s.FailureClasses[class]), "class", class)
	}
	m.head("anynetx_images_per_second", "Training images per second of all devices.")
	m.value("anynetx_images_per_second", s.ImagesPerSecond)
	if s.Remaining != nil {
		m.head("anynetx_remaining_seconds", "Time that the open runs take at the rate of now.")
		m.value("anynetx_remaining_seconds", *s.Remaining)
	}
	m.head("anynetx_best_test_top1_error_percent", "Smallest top-1 test error of a task whose metric it is.")
	for _, t := range s.Tasks {
		if t.Best != nil && t.Best.Top1 != nil {
			m.value("anynetx_best_test_top1_error_percent", *t.Best.Top1, "task", t.Task)
		}
	}
	m.head("anynetx_best_test_top5_error_percent", "Smallest top-5 test error of a task whose metric it is.")
	for _, t := range s.Tasks {
		if t.Best != nil && t.Best.Top5 != nil {
			m.value("anynetx_best_test_top5_error_percent", *t.Best.Top5, "task", t.Task)
		}
	}
	m.head("anynetx_rank_correlation", "Spearman's rho of a task's errors with those of the first task, each by its metric.")
	for _, p := range s.Pairs {
		if p.Rho != nil {
			m.value("anynetx_rank_correlation", *p.Rho, "task", p.Task)
		}
	}
	for _, c := range columns {
		name := "anynetx_device_" + strings.NewReplacer("_pct", "_percent", "_per_s", "_per_second", "mem_", "memory_", "temp_c", "temperature_celsius", "power_w", "power_watts").Replace(c.name)
		headed := false
		for _, d := range s.Devices {
			values := d.Series[c.name]
			if !d.Fresh || len(values) == 0 || values[len(values)-1] == nil {
				continue
			}
			if !headed {
				m.head(name, c.help)
				headed = true
			}
			m.value(name, *values[len(values)-1], "host", d.Host, "device", d.Device)
		}
	}
}

// exposition writes gauges that all carry the study's name.
type exposition struct {
	out   io.Writer
	study string
}

func (e exposition) head(name, help string) {
	fmt.Fprintf(e.out, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (e exposition) value(name string, value float64, labels ...string) {
	fmt.Fprintf(e.out, `%s{study="%s"`, name, labelEscapes.Replace(e.study))
	for i := 0; i < len(labels); i += 2 {
		fmt.Fprintf(e.out, `,%s="%s"`, labels[i], labelEscapes.Replace(labels[i+1]))
	}
	fmt.Fprintf(e.out, "} %s\n", strconv.FormatFloat(value, 'g', -1, 64))
}
