package runner

import (
	"cmp"
	"fmt"
	"time"
)

// packing finds out how many lanes at a time a device does most work with. It tries one more, measures, and goes back if that did not pay.
// Work is what runs were predicted to take, so that the work of different runs, and of groups, can be compared.
type packing struct {
	window time.Duration // of a measurement; 0: half a minute
	most   int           // lanes at a time; 0: 8

	now    int             // lanes at a time
	rates  map[int]measure // by lanes at a time
	looked time.Time       // the last time
	began  time.Time       // of the measurement under way
	before float64         // work done then
}

type measure struct {
	rate float64 // work a second
	at   time.Time
}

const (
	worthIt    = 1.05             // one run more must raise the rate so much
	staysValid = 30 * time.Minute // a rate; runs and neighbours change
	missedLook = 2 * time.Second  // between two looks: the machine, or the coordinator, stood still, and nothing was measured
)

func (p *packing) models() int { return max(p.now, 1) }

// observe is told, about once a second, how many runs are in training and how much work the device has done so far. It says why, if the
// number of runs changes.
func (p *packing) observe(now time.Time, training int, work float64) (reason string, changed bool) {
	if p.rates == nil {
		p.rates = map[int]measure{}
	}
	p.now = p.models()
	window := cmp.Or(p.window, 30*time.Second)
	gap := now.Sub(p.looked)
	p.looked = now
	if training != p.now || gap > missedLook { // only full lanes are measured, and no time in which nobody looked
		p.began = time.Time{}
		return "", false
	}
	if p.began.IsZero() {
		p.began, p.before = now, work
	}
	seconds := now.Sub(p.began).Seconds()
	if seconds < window.Seconds() {
		return "", false
	}
	p.rates[p.now] = measure{(work - p.before) / seconds, now}
	p.began, p.before = now, work
	next, reason := decidePacking(p.now, p.limit(), p.valid(now))
	if next == p.now {
		return "", false
	}
	p.now, p.began = next, time.Time{}
	return reason, true
}

func (p *packing) limit() int {
	if p.most == 0 {
		return 8
	}
	return p.most
}

// valid are the rates that are not too old.
func (p *packing) valid(now time.Time) map[int]float64 {
	rates := map[int]float64{}
	for n, m := range p.rates {
		if now.Sub(m.at) < staysValid {
			rates[n] = m.rate
		}
	}
	return rates
}

// decidePacking says how many lanes at a time follow on so many, whose rate is known.
func decidePacking(now, most int, rates map[int]float64) (int, string) {
	if fewer, known := rates[now-1]; known && rates[now] < worthIt*fewer {
		return now - 1, fmt.Sprintf("%d lanes at a time do %.2f times the work of %d: not worth it", now, rates[now]/fewer, now-1)
	}
	more, known := rates[now+1]
	switch {
	case now >= most || rates[now] <= 0:
		return now, ""
	case !known:
		return now + 1, fmt.Sprintf("%d lanes at a time are tried", now+1)
	case more >= worthIt*rates[now]:
		return now + 1, fmt.Sprintf("%d lanes at a time do %.2f times the work of %d", now+1, more/rates[now], now)
	}
	return now, ""
}
