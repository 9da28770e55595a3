package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"anynetx/results"
)

// CostModel predicts how long a run takes on a device: arithmetic and the traffic of activations each at a rate. The zero model compares
// runs by their multiply-adds.
type CostModel struct {
	PerMAC   float64 `json:"s_per_mac"`
	PerValue float64 `json:"s_per_value"`
}

// Seconds of a run from its start to its end.
func (c CostModel) Seconds(r *PlannedRun) float64 {
	if c == (CostModel{}) {
		return r.MACs
	}
	return c.PerMAC*r.MACs + c.PerValue*r.Values
}

// observation is how long a run took on a device.
type observation struct {
	macs, values, seconds float64
}

// learned is what finished runs have taught of devices, by the device's name.
type learned map[string]*experience

type experience struct {
	recent  []observation
	total   int
	model   CostModel
	fitted  int // total then
	gpus    map[string]bool
	threads int     // of a worker
	joules  float64 // that runs used, as far as they know ...
	powered float64 // ... in so many seconds of theirs
}

// enough observations make a prediction; of more than kept the oldest are forgotten.
const (
	enough = 8
	kept   = 256
)

func (l learned) add(device string, r *PlannedRun, seconds float64) {
	if seconds <= 0 || r.MACs <= 0 {
		return
	}
	e := l[device]
	if e == nil {
		e = &experience{}
		l[device] = e
	}
	e.total++
	e.recent = append(e.recent, observation{r.MACs, r.Values, seconds})
	e.recent = e.recent[max(0, len(e.recent)-kept):]
}

// of a device: the zero model if too little is known of it. It changes with a tenth more of observations, since each change sorts queues.
func (l learned) of(device string) CostModel {
	e := l[device]
	if e == nil || e.total < enough {
		return CostModel{}
	}
	if e.fitted == 0 || 10*(e.total-e.fitted) >= e.fitted {
		e.model, e.fitted = fitCosts(e.recent), e.total
	}
	return e.model
}

// fitCosts finds the two rates with the least squares of relative errors; neither is negative.
func fitCosts(list []observation) CostModel {
	var mm, mv, vv, m1, v1 float64
	for _, o := range list {
		m, v := o.macs/o.seconds, o.values/o.seconds
		mm, mv, vv, m1, v1 = mm+m*m, mv+m*v, vv+v*v, m1+m, v1+v
	}
	var best CostModel
	if d := mm*vv - mv*mv; d > 1e-9*mm*vv {
		best = CostModel{(m1*vv - v1*mv) / d, (v1*mm - m1*mv) / d}
	}
	switch {
	case best.PerMAC > 0 && best.PerValue > 0:
		return best
	case vv > 0 && v1*v1/vv > m1*m1/mm: // what explains more, alone
		return CostModel{PerValue: v1 / vv}
	}
	return CostModel{PerMAC: m1 / mm}
}

// hear takes what an attempt says of its device beside the time.
func (e *experience) hear(a *attemptRow) {
	if a.Backend == "cuda" {
		if e.gpus == nil {
			e.gpus = map[string]bool{}
		}
		e.gpus[a.Device] = true
	}
	if a.Threads != nil {
		e.threads = int(*a.Threads)
	}
	if a.EnergyJ != nil {
		e.joules, e.powered = e.joules+*a.EnergyJ, e.powered+*a.DeviceTime
	}
}

// prediction is what runs will take.
type prediction struct {
	costs   CostModel
	watts   float64 // that the device uses for a run while it trains; 0: not known
	gpus    int     // that there were; 0: processors
	threads int     // of a worker
	memory  int64   // of a worker; 0: not known
	basis   string  // what it rests on
}

// predict says what open runs will take: by the device that most of the finished runs were on, or by a measurement.
func (s *Store) predict(runs, open []*PlannedRun, measure Measure) (prediction, error) {
	if len(open) == 0 {
		return prediction{costs: CostModel{PerMAC: 1}, basis: "nothing is left to do"}, nil
	}
	known, err := s.learn(runs)
	if err != nil {
		return prediction{}, err
	}
	name, e := "", &experience{}
	for device, o := range known {
		if o.total > e.total || o.total == e.total && device < name {
			name, e = device, o
		}
	}
	p := prediction{costs: known.of(name), gpus: len(e.gpus), threads: e.threads}
	if p.costs == (CostModel{}) {
		speed, err := measure(s.Plan, longestFirst(open, CostModel{}))
		if err != nil {
			return prediction{}, err
		}
		return prediction{costs: CostModel{PerMAC: 1 / speed.MACsPerSecond}, memory: speed.MemoryBytes, gpus: speed.GPUs,
			basis: fmt.Sprintf("measured on %s for a moment: %.3g G multiply-adds a second and worker", speed.Device, speed.MACsPerSecond/1e9)}, nil
	}
	p.basis = fmt.Sprintf("learned from %d runs that finished on %s", e.total, name)
	if e.powered > 0 {
		p.watts = e.joules / e.powered
		p.basis += fmt.Sprintf(", with %.0f W", p.watts)
	} else if watts, ok := s.power(); ok {
		p.watts = watts
		p.basis += fmt.Sprintf(", with %.0f W by telemetry", p.watts)
	}
	return p, nil
}

// learn reads what attempts of this study took: a sample of them, since there may be thousands.
func (s *Store) learn(runs []*PlannedRun) (learned, error) {
	l := learned{}
	if s.Dir == "" {
		return l, nil
	}
	byID := map[string]*PlannedRun{}
	for _, r := range runs {
		byID[r.ID] = r
	}
	files, err := filepath.Glob(filepath.Join(s.Dir, "attempts", "*.parquet"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	step := max(1, len(files)/kept)
	for i := 0; i < len(files); i += step {
		rows, err := results.Read[attemptRow](files[i], "attempts")
		if errors.Is(err, fs.ErrNotExist) {
			continue // compacted meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, a := range rows[max(0, len(rows)-kept):] {
			if r := byID[a.RunID]; r != nil && a.Outcome == outcomeCommitted && a.ResumedFrom == nil && a.DeviceTime != nil {
				l.add(a.DeviceName, r, *a.DeviceTime)
				if e := l[a.DeviceName]; e != nil {
					e.hear(&a)
				}
			}
		}
	}
	return l, nil
}
