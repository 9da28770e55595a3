package runner

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"anynetx/results"
)

// Placement is where the open runs of a study would go, before anything starts: what `study run --dry-run` shows. The order is that of the
// workers, the longest first that can start; that devices are lost and that several runs share a GPU is not foreseen.
type Placement struct {
	Study     string          `json:"study"`
	Runs      int             `json:"runs"`
	Committed int             `json:"committed"`
	Unknown   int             `json:"unknown"` // runs of rank ranges that are not known yet: not placed
	Slots     []SlotPlacement `json:"slots"`
	Hours     float64         `json:"hours"` // until the last run ends
	Finish    time.Time       `json:"finish_utc"`
	EnergyKWh *float64        `json:"energy_kwh"` // at the power that the devices took so far; null where none is on record
	Basis     string          `json:"basis"`      // what the times are predicted from
}

// SlotPlacement is what one worker would train.
type SlotPlacement struct {
	Device string   `json:"device"`
	Runs   int      `json:"runs"`
	Hours  float64  `json:"hours"`
	First  []string `json:"first"` // run IDs, of the first few
}

const firstRuns = 3

// Place plans a study on devices. Times come from the runs of the folder's study that have finished, if there are enough, else from a
// measurement; nothing is trained but for that, and nothing is written.
func Place(o RunOptions, measure func(device string) Measure) (*Placement, error) {
	study, err := ReadStudy(o.StudyFile)
	if err != nil {
		return nil, err
	}
	plan, err := NewPlan(study, DescribeWithoutData(study, o.DataDir))
	if err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = noProgress{}
	}
	if len(o.Devices) == 0 {
		o.Devices = []string{"cpu"}
	}
	store := newStore(o.Dir, plan)
	c := &coordinator{RunOptions: o, store: store, queue: queue{store: store, me: identity()}}
	if err := c.openGPUs(); err != nil {
		return nil, err
	}
	defer c.gpus.close()
	if c.model, err = newModel(store, &c.queue); err != nil {
		return nil, err
	}
	p := &Placement{Study: plan.Name, Runs: c.model.total, Committed: c.model.committed(), Unknown: c.model.total - len(c.queue.runs)}
	var open []*PlannedRun
	for _, r := range c.queue.runs {
		if _, done := c.model.rows[r.ID]; !done {
			open = append(open, r)
		}
	}
	for i := range c.workers() {
		p.Slots = append(p.Slots, SlotPlacement{Device: c.Devices[i%len(c.Devices)], First: []string{}})
	}
	predicted, err := store.predict(c.queue.runs, open, measure(c.Devices[0]))
	if err != nil {
		return nil, err
	}
	p.Basis = predicted.basis
	p.schedule(open, predicted.costs)
	p.Finish = after(p.Hours)
	if predicted.watts > 0 {
		busy := 0.0
		for _, s := range p.Slots {
			busy += s.Hours
		}
		p.EnergyKWh = ptr(busy * predicted.watts / 1000)
	}
	return p, nil
}

// schedule gives each slot, whenever it is free, the longest open run whose source has ended.
func (p *Placement) schedule(open []*PlannedRun, costs CostModel) {
	open = longestFirst(open, costs)
	ends := map[*PlannedRun]float64{} // of runs that have been placed, in seconds from now
	waits := map[string]bool{}        // by ID: runs that are to be placed
	byID := map[string]*PlannedRun{}
	for _, r := range open {
		waits[r.ID], byID[r.ID] = true, r
	}
	free := make([]float64, len(p.Slots))
	ready := func(r *PlannedRun) float64 { // when its source has ended
		switch {
		case r.Source == nil || byID[r.Source.ID] == nil:
			return 0
		case waits[r.Source.ID]:
			return math.Inf(1)
		}
		return ends[byID[r.Source.ID]]
	}
	for len(open) > 0 {
		slot := 0
		for i := range free {
			if free[i] < free[slot] {
				slot = i
			}
		}
		next, soonest := -1, math.Inf(1)
		for i, r := range open {
			at := ready(r)
			soonest = min(soonest, at)
			if at <= free[slot] {
				next = i
				break
			}
		}
		if next < 0 { // all that is open waits for a source in training
			free[slot] = soonest
			continue
		}
		r := open[next]
		open = slices.Delete(open, next, next+1)
		free[slot] += costs.Seconds(r)
		ends[r] = free[slot]
		delete(waits, r.ID)
		s := &p.Slots[slot]
		s.Runs++
		s.Hours += costs.Seconds(r) / 3600
		if len(s.First) < firstRuns {
			s.First = append(s.First, r.ID)
		}
		p.Hours = max(p.Hours, free[slot]/3600)
	}
}

// power is the mean of what a device took in the folder's telemetry, in watts: of the newest files.
func (s *Store) power() (float64, bool) {
	files, err := filepath.Glob(filepath.Join(s.Dir, "telemetry", "*.parquet"))
	if err != nil {
		return 0, false
	}
	sum, n := 0.0, 0
	for _, path := range files[max(0, len(files)-8):] {
		rows, err := results.Read[telemetryRow](path, "telemetry")
		if err != nil {
			continue // a forecast does without
		}
		for _, r := range rows {
			if r.PowerW != nil {
				sum += *r.PowerW
				n++
			}
		}
	}
	return sum / float64(max(n, 1)), n > 0
}

// WriteText prints a placement for people.
func (p *Placement) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "study %s: %d runs, %d committed, %d to place", p.Study, p.Runs, p.Committed, p.Runs-p.Committed-p.Unknown)
	if p.Unknown > 0 {
		fmt.Fprintf(&b, ", %d known once the tasks that they rank are complete", p.Unknown)
	}
	width := 6
	for _, s := range p.Slots {
		width = max(width, len(s.Device))
	}
	fmt.Fprintf(&b, "\n\n%6s  %-*s  %6s  %12s  %s\n", "worker", width, "device", "runs", "time", "begins with")
	for i, s := range p.Slots {
		fmt.Fprintf(&b, "%6d  %-*s  %6d  %12s  %s\n", i, width, s.Device, s.Runs, DurationText(3600*s.Hours), strings.Join(s.First, " "))
	}
	fmt.Fprintf(&b, "\nabout %s, until %s UTC; %s", DurationText(3600*p.Hours), p.Finish.Format("2006-01-02 15:04"), p.Basis)
	if p.EnergyKWh != nil {
		fmt.Fprintf(&b, "; %.1f kWh", *p.EnergyKWh)
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}
