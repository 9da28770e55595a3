package runner

import (
	"cmp"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"
)

// A worker is one process on one device. It trains several runs at a time when its orders say so, each with a context of its own on the
// device; what they share is the device, not each other's numbers.

// Orders are a line from the coordinator to a worker: the whole of what it may do from now on.
type Orders struct {
	Models      int       `json:"models"`                 // runs at a time
	MemoryBytes int64     `json:"memory_bytes,omitempty"` // of the device, for all of them; 0: no limit is known
	ExtraBytes  int64     `json:"extra_bytes,omitempty"`  // that each was seen to take beyond its plan
	Exclusive   bool      `json:"exclusive,omitempty"`    // nobody else uses the device, so a run that fits nowhere may try it alone
	Costs       CostModel `json:"costs,omitzero"`         // by which the longest run goes first
}

// fits says whether a run that needs so many bytes may start beside those that need the given ones.
func (o Orders) fits(need int64, beside []int64) bool {
	if len(beside) >= o.Models {
		return false
	}
	if o.MemoryBytes <= 0 {
		return o.MemoryBytes == 0
	}
	total := need + o.ExtraBytes
	for _, n := range beside {
		total += n + o.ExtraBytes
	}
	return total <= o.MemoryBytes || o.Exclusive && len(beside) == 0
}

// lanes are the runs that a worker has in hand.
type lanes struct {
	w       *worker
	orders  Orders
	active  map[string]*inTraining
	plans   map[string]int64 // memo of what runs need
	idle    []Trainers       // opened and not in use
	planner Trainers         // for plans only: a context is not for two at a time
	held    *offer           // leased, to start when the device is free
	alone   bool             // what is in training wants no other beside it
	open    int              // attempts without an end

	trained chan trained
	ended   chan error // one for each attempt
}

type inTraining struct {
	run    *PlannedRun
	shared *atomic.Bool // others were in training with it
}

// trained says that a run no longer needs its place on the device; the commit of one that is done follows while the next run trains.
type trained struct {
	runID    string
	trainers Trainers
}

// loop leases runs and trains them until there are none, or until it is told to stop.
func (w *worker) loop() (err error) {
	l := &lanes{w: w, orders: Orders{Models: 1}, active: map[string]*inTraining{}, plans: map[string]int64{}, idle: []Trainers{w.trainers},
		trained: make(chan trained), ended: make(chan error)}
	defer func() { err = l.close(err) }()
	if w.Ordered {
		if err := l.wait(nil); err != nil {
			return err
		}
	}
	const shortest = 20 * time.Millisecond
	for pause := shortest; !w.stopping(); {
		if v, err := w.store.judge(w.me.deviceKey()); err != nil || v.device != "" {
			return cmp.Or(err, error(closedError{v}))
		}
		if l.held == nil && !l.alone && len(l.active) < l.orders.Models {
			begin := time.Now()
			o, err := w.queue.next(l.fits)
			if err != nil {
				return err
			}
			looked := time.Since(begin)
			switch {
			case o.lease != nil:
				pause, l.held = shortest, &o
			case l.open == 0 && !o.waiting:
				return nil
			default:
				if len(l.active) == 0 {
					w.send(Message{Kind: "waiting"})
				}
				if err := l.wait(time.After(pause)); err != nil {
					return err
				}
				pause = min(2*pause, max(time.Second, 20*looked)) // looks are cheap here, dear on a network file system
				continue
			}
		}
		if l.held != nil && (len(l.active) == 0 || !l.held.decision.Alone) {
			if err := l.start(); err != nil {
				return err
			}
			continue
		}
		if err := l.wait(nil); err != nil {
			return err
		}
	}
	return ErrStopped
}

// wait takes one piece of news. The error is one that the worker cannot go on after.
func (l *lanes) wait(timeout <-chan time.Time) error {
	select {
	case t := <-l.trained:
		delete(l.active, t.runID)
		l.idle, l.alone = append(l.idle, t.trainers), false
	case err := <-l.ended:
		l.open--
		return err
	case l.orders = <-l.w.orders:
		l.w.queue.order(l.orders.Costs)
	case <-l.w.stop:
	case <-timeout:
	}
	return nil
}

// start trains the run that is held.
func (l *lanes) start() error {
	o := *l.held
	if !o.trains() { // nothing else is started before it is committed, so it shares no process
		l.held = nil
		return l.w.attempt(o, nil, new(atomic.Bool), func() {})
	}
	var t Trainers
	if n := len(l.idle); n > 0 {
		t, l.idle = l.idle[n-1], l.idle[:n-1]
	} else {
		var err error
		if t, err = l.w.openTrainers(); err != nil {
			return err
		}
	}
	l.held, l.alone = nil, o.decision.Alone
	shared := new(atomic.Bool)
	for _, other := range l.active {
		shared.Store(true)
		other.shared.Store(true)
	}
	l.active[o.run.ID] = &inTraining{o.run, shared}
	l.w.meter.begin(o.run.ID, time.Now())
	l.open++
	if l.orders.MemoryBytes != 0 {
		o.bytes = l.need(o.run)
	}
	go func() {
		l.ended <- l.w.attempt(o, t, shared, func() { l.trained <- trained{o.run.ID, t} })
	}()
	return nil
}

// close asks the runs in training for a checkpoint, waits for them and gives the device back.
func (l *lanes) close(err error) error {
	l.w.halt()
	if l.held != nil {
		row := l.held.lease.row(l.held.run)
		row.Outcome, row.Ended = outcomeStopped, time.Now().UTC()
		err = errors.Join(err, l.w.store.endAttempt(l.held.lease, row))
	}
	for l.open > 0 {
		select {
		case t := <-l.trained:
			l.idle = append(l.idle, t.trainers)
		case e := <-l.ended:
			l.open--
			if e != nil && errors.Is(err, ErrStopped) {
				err = nil // that it was asked to stop is not what to say first
			}
			err = errors.Join(err, e)
		}
	}
	if l.planner != nil {
		l.planner.Close()
	}
	for _, t := range l.idle {
		t.Close()
	}
	return err
}

// fits says whether a run may start beside those in training.
func (l *lanes) fits(r *PlannedRun) bool {
	if l.orders.MemoryBytes == 0 {
		return true
	}
	var beside []int64
	for _, a := range l.active {
		beside = append(beside, l.need(a.run))
	}
	return l.orders.fits(l.need(r), beside)
}

// need is what a run will take on the device by its plan and by what became of its like; 0 if the plan fails, which the run's attempt
// will report.
func (l *lanes) need(r *PlannedRun) int64 {
	n, err := l.w.store.footprint(r, l.plan(r))
	if err != nil {
		return 0
	}
	return n
}

func (l *lanes) plan(r *PlannedRun) int64 {
	if n, ok := l.plans[r.ID]; ok {
		return n
	}
	if l.planner == nil {
		var err error
		if l.planner, err = l.w.openTrainers(); err != nil {
			return 0
		}
	}
	n, err := l.planner.Need(r)
	if err != nil {
		n = 0
	}
	l.plans[r.ID] = n
	return n
}

// hear takes a line from the coordinator: orders, of which only the last count, or a reading.
func (w *worker) hear(line []byte) {
	r := Reading{}
	if json.Unmarshal(line, &r) == nil && !r.At.IsZero() {
		w.meter.read(r, time.Now())
		return
	}
	o := Orders{}
	if json.Unmarshal(line, &o) != nil || o.Models < 1 {
		return
	}
	select {
	case <-w.orders:
	default:
	}
	w.orders <- o
}
