package runner

import (
	"os"
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
	recent []observation
	total  int
	model  CostModel
	fitted int // total then
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

// learn reads what attempts of this study took: a sample of them, since there may be thousands.
func (s *Store) learn(runs []*PlannedRun) (learned, error) {
	l := learned{}
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
		if os.IsNotExist(err) {
			continue // compacted meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, a := range rows[max(0, len(rows)-kept):] {
			if r := byID[a.RunID]; r != nil && a.Outcome == outcomeCommitted && a.ResumedFrom == nil && a.DeviceTime != nil {
				l.add(a.DeviceName, r, *a.DeviceTime)
			}
		}
	}
	return l, nil
}
