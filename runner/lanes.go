package runner

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A worker is one process on one device, with as many lanes as its orders say: contexts of their own on the device, which share the device and
// not each other's numbers. In a lane one run trains at a time, or a group of runs in common launches (group.go).

// Orders are a line from the coordinator to a worker: the whole of what it may do from now on.
type Orders struct {
	Models      int       `json:"models"`                 // lanes at a time
	Group       int       `json:"group,omitempty"`        // runs of one architecture that may train in a lane together; 0: one
	MemoryBytes int64     `json:"memory_bytes,omitempty"` // of the device, for all lanes; 0: no limit is known
	ExtraBytes  int64     `json:"extra_bytes,omitempty"`  // that a lane was seen to take beyond its plan
	Exclusive   bool      `json:"exclusive,omitempty"`    // nobody else uses the device, so a run that fits nowhere may try it alone
	Costs       CostModel `json:"costs,omitzero"`         // by which the longest run goes first
}

// fits says whether a lane that needs so many bytes may start beside those that need the given ones.
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
	active  []*lane
	plans   map[string]int64 // memo of what runs and groups need
	groups  map[string]int   // of runs of a kind that did not all find room in a group: how many did
	idle    []Trainers       // opened and not in use
	planner Trainers         // for plans only: a context is not for two at a time
	held    []offer          // leased, to start together when the device is free
	alone   bool             // what is in training wants no other beside it
	refused bool             // a lane could not be opened
	open    int              // attempts without an end

	trained chan *lane // a run no longer needs its place on the device; the commit of one that is done follows while the next one trains
	ended   chan error // one for each attempt
}

// lane is a run, or a group of runs, on its way in a context of the device.
type lane struct {
	trainers Trainers
	group    *group // nil: one run
	runs     []*PlannedRun
	training int         // of them
	shared   atomic.Bool // others were on the device with a run
	clock    sharedClock

	mu  sync.Mutex
	end float64 // seconds that the end of an epoch of one of them may take
}

// name is that of the group, "" where there is none.
func (n *lane) name() string {
	if n.group == nil {
		return ""
	}
	return n.group.name()
}

// trains is where the lane's runs are opened.
func (n *lane) trains() Trainers {
	if n.group == nil {
		return n.trainers
	}
	return n.group
}

// expect is told how long the end of an epoch of one of the lane's runs may take, and says how long a run may wait for the ends of the others.
func (n *lane) expect(end float64) float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.end = max(n.end, end)
	return n.end * float64(max(0, len(n.runs)-1))
}

// sharedClock shares time among those that a lane is for, at any moment in equal parts.
type sharedClock struct {
	mu   sync.Mutex
	here int
	last time.Time
	part float64 // seconds that have fallen to one who was there all the time
}

func (c *sharedClock) pass(change int) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.here > 0 {
		c.part += now.Sub(c.last).Seconds() / float64(c.here)
	}
	c.last, c.here = now, c.here+change
	return c.part
}

// loop leases runs and trains them until there are none, or until it is told to stop.
func (w *worker) loop() (err error) {
	l := &lanes{w: w, orders: Orders{Models: 1}, plans: map[string]int64{}, groups: map[string]int{}, idle: []Trainers{w.trainers},
		trained: make(chan *lane), ended: make(chan error)}
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
		if len(l.held) == 0 && !l.alone && len(l.active) < l.orders.Models {
			begin := time.Now()
			o, err := w.queue.next(l.fits)
			if err != nil {
				return err
			}
			looked := time.Since(begin)
			switch {
			case o.lease != nil:
				pause, l.held = shortest, []offer{o}
				if err := l.gather(); err != nil {
					return err
				}
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
		if len(l.held) > 0 && (len(l.active) == 0 || !l.held[0].decision.Alone) {
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
	case n := <-l.trained:
		l.left(n)
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

// gather leases those that train in common launches with the run that is held.
func (l *lanes) gather() error {
	leader := l.held[0]
	if l.orders.Group < 2 || !leader.groups() {
		return nil
	}
	most := l.orders.Group
	if n, known := l.groups[leader.run.footprintKey()]; known {
		most = min(most, n)
	}
	room := l.orders
	room.Exclusive = false // a group is never larger than what is known to fit
	runs, values := []*PlannedRun{leader.run}, leader.run.stepValues()
	return l.w.queue.fellows(leader.run, func(r *PlannedRun) bool {
		if len(runs) >= most || values+r.stepValues() > filled {
			return false
		}
		if l.orders.MemoryBytes == 0 {
			return true
		}
		bytes := l.need(append(runs, r)...)
		return bytes > 0 && room.fits(bytes, l.beside())
	}, func(o offer) {
		l.held, runs, values = append(l.held, o), append(runs, o.run), values+o.run.stepValues()
	})
}

// start trains what is held.
func (l *lanes) start() error {
	offers := l.held
	if !offers[0].trains() { // nothing else is started before it is committed, so it shares no process
		l.held = nil
		return l.w.attempt(offers[0], &lane{}, func() {})
	}
	n := &lane{training: len(offers)}
	if last := len(l.idle) - 1; last >= 0 {
		n.trainers, l.idle = l.idle[last], l.idle[:last]
	} else {
		var err error
		n.trainers, err = l.w.openTrainers()
		if err != nil && classify(err) != classDevice && len(l.active) > 0 { // a lane that is in use has what this one lacks
			if !l.refused {
				l.refused = true
				l.w.events.append(happened(l.w.me, "no_lane", "a lane cannot be opened, so its run waits for one in use: %v", err))
			}
			return l.wait(nil)
		}
		if err != nil {
			return err // what is held is given back
		}
	}
	l.held = nil
	if len(offers) > 1 {
		n.group = newGroup(l.w, n.trainers, offers)
	}
	l.alone = offers[0].decision.Alone
	n.shared.Store(len(offers)+len(l.active) > 1)
	for _, other := range l.active {
		other.shared.Store(true)
	}
	l.active = append(l.active, n)
	for _, o := range offers {
		n.runs = append(n.runs, o.run)
		l.w.meter.begin(o.run.ID, time.Now())
	}
	bytes := int64(0)
	if l.orders.MemoryBytes != 0 {
		bytes = l.need(n.runs...)
	}
	for _, o := range offers {
		o.bytes = bytes / int64(len(offers))
		l.open++
		go func() {
			l.ended <- l.w.attempt(o, n, func() { l.trained <- n })
		}()
	}
	return nil
}

// left takes note that a run of a lane needs the device no more. The last one leaves the lane to others.
func (l *lanes) left(n *lane) {
	if n.training--; n.training > 0 {
		return
	}
	if n.group != nil {
		if size := n.group.size(); 0 < size && size < len(n.runs) {
			l.groups[n.runs[0].footprintKey()] = size
		}
		n.group.close()
	}
	l.active = slices.DeleteFunc(l.active, func(o *lane) bool { return o == n })
	l.idle, l.alone = append(l.idle, n.trainers), false
}

// close asks the runs in training for a checkpoint, waits for them and gives the device back.
func (l *lanes) close(err error) error {
	l.w.halt()
	for _, o := range l.held {
		err = errors.Join(err, l.w.store.giveBack(o))
	}
	for l.open > 0 {
		select {
		case n := <-l.trained:
			l.left(n)
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
	return l.orders.fits(l.need(r), l.beside())
}

// beside is what the lanes in training need: a group until its last run has trained.
func (l *lanes) beside() (list []int64) {
	for _, n := range l.active {
		list = append(list, l.need(n.runs...))
	}
	return list
}

// need is what a run, or a group, will take on the device by its plan and by what became of its like; 0 if the plan fails, which the run's
// attempt will report.
func (l *lanes) need(runs ...*PlannedRun) int64 {
	n, err := l.w.store.footprint(runs[0], l.plan(runs))
	if err != nil {
		return 0
	}
	return n
}

func (l *lanes) plan(runs []*PlannedRun) int64 {
	key := ""
	for _, r := range runs {
		key += r.ID
	}
	if n, ok := l.plans[key]; ok {
		return n
	}
	if l.planner == nil {
		var err error
		if l.planner, err = l.w.openTrainers(); err != nil {
			return 0
		}
	}
	n, err := l.planner.Need(runs...)
	if err != nil {
		n = 0
	}
	l.plans[key] = n
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
