package telemetry

import "time"

// Mean is a device over an interval.
type Mean struct {
	Seconds                float64
	UtilPct, TempC, PowerW *float64
	MemoryUsed             *int64
	MemoryTotal            *int64
	ClocksReasons          *int64 // all bits that were set at some time
}

// mean adds samples up.
type mean struct {
	begin, end        time.Time
	util, temp, power sum
	used              sum
	total, reasons    *int64
	firstJ, lastJ     *float64
	firstJAt, lastJAt time.Time
}

type sum struct {
	total float64
	n     int
}

func (s *sum) add(v float64) { s.total, s.n = s.total+v, s.n+1 }

func (s *sum) mean() *float64 {
	if s.n == 0 {
		return nil
	}
	v := s.total / float64(s.n)
	return &v
}

func (a *mean) add(s Sample) {
	if a.begin.IsZero() {
		a.begin = s.Time
	}
	a.end = s.Time
	for _, v := range []struct {
		to   *sum
		from *float64
	}{{&a.util, s.UtilPct}, {&a.temp, s.TempC}, {&a.power, s.PowerW}} {
		if v.from != nil {
			v.to.add(*v.from)
		}
	}
	if s.MemoryUsed != nil {
		a.used.add(float64(*s.MemoryUsed))
		a.total = s.MemoryTotal
	}
	if s.ClocksReasons != nil {
		bits := *s.ClocksReasons
		if a.reasons != nil {
			bits |= *a.reasons
		}
		a.reasons = &bits
	}
	if s.EnergyJ != nil {
		if a.firstJ == nil {
			a.firstJ, a.firstJAt = s.EnergyJ, s.Time
		}
		a.lastJ, a.lastJAt = s.EnergyJ, s.Time
	}
}

func (a *mean) take() (Mean, bool) {
	if a.util.n+a.temp.n+a.power.n+a.used.n == 0 {
		return Mean{}, false
	}
	v := Mean{Seconds: a.end.Sub(a.begin).Seconds(), UtilPct: a.util.mean(), TempC: a.temp.mean(), PowerW: a.power.mean(), MemoryTotal: a.total, ClocksReasons: a.reasons}
	if used := a.used.mean(); used != nil {
		bytes := int64(*used)
		v.MemoryUsed = &bytes
	}
	next := mean{begin: a.end, end: a.end}
	if a.lastJ != nil { // the counter sees what happens between samples
		if span := a.lastJAt.Sub(a.firstJAt).Seconds(); span > 0 && *a.lastJ >= *a.firstJ {
			w := (*a.lastJ - *a.firstJ) / span
			v.PowerW = &w
		}
		next.firstJ, next.firstJAt = a.lastJ, a.lastJAt
		next.lastJ, next.lastJAt = a.lastJ, a.lastJAt
	}
	*a = next
	return v, true
}
