package telemetry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Options of Watch; zero is the default.
type Options struct {
	Interval time.Duration // between samples: a second
	Deadline time.Duration // for a call to the driver, then the device is suspect: five seconds
}

// Monitor watches devices until it is closed: a goroutine samples each, one more waits for what the driver reports.
type Monitor struct {
	n       *NVML
	o       Options
	events  chan Event
	done    chan struct{}
	waiting sync.WaitGroup

	mu      sync.Mutex
	set     nvml.EventSet // of reports, that devices are registered with
	callers []*caller
	states  map[string]*State
	means   map[string]*mean
	open    []*question
	deaf    bool      // nobody waits for reports
	looked  time.Time // for calls that do not return
}

// question is what Ask waits for: that the driver was asked for reports after it, and for a sample of the device.
type question struct {
	device            string
	asked             time.Time
	reported, sampled bool
}

// State is what is known of a device.
type State struct {
	Device
	Latest  *Sample
	UsedJ   float64 // energy since the watch began: by the device's counter, else its power times the time
	Suspect bool    // a call has not returned
	Lost    bool

	reports nvml.EventSet // that the driver was asked to put the device's reports into
}

// caller is a goroutine that calls the driver.
type caller struct {
	device  string // "": the one that waits for reports
	what    string // "": no call is under way
	since   time.Time
	suspect bool
	done    bool
}

// Watch begins to watch devices.
func (n *NVML) Watch(devices []Device, o Options) *Monitor {
	if o.Interval == 0 {
		o.Interval = time.Second
	}
	if o.Deadline == 0 {
		o.Deadline = 5 * time.Second
	}
	m := &Monitor{n: n, o: o, events: make(chan Event, 256), done: make(chan struct{}), states: map[string]*State{}, means: map[string]*mean{}}
	m.set = n.newSet()
	for _, d := range devices {
		m.states[d.UUID], m.means[d.UUID] = &State{Device: d}, &mean{}
		c := &caller{device: d.UUID}
		m.callers = append(m.callers, c)
	}
	listener := &caller{}
	m.callers = append(m.callers, listener)
	for i, d := range devices { // not before all of them are known
		go m.sample(d, m.callers[i])
	}
	go m.listen(devices, listener)
	m.waiting.Add(1)
	go m.watchCalls()
	return m
}

// Events are what happens to the devices. Nobody who watches them waits for a reader: what does not fit is dropped, oldest first.
func (m *Monitor) Events() <-chan Event { return m.events }

// Ask has an event of kind Heard follow when all that the driver knows of a device by now is among the events. A driver that does not answer
// leaves the question open.
func (m *Monitor) Ask(device string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.states[device]
	m.open = append(m.open, &question{device: device, asked: time.Now(), reported: m.deaf, sampled: s == nil || s.Lost})
	m.answer()
}

// questions are those that are open now. A caller may answer them by a call to the driver that begins after this.
func (m *Monitor) questions() []*question {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.open)
}

// audible are those of them that waiting for a set of reports answers: not those of a device whose reports the driver was not asked for yet.
func (m *Monitor) audible(list []*question, set nvml.EventSet) (some []*question) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, q := range list {
		if s := m.states[q.device]; s == nil || s.Lost || s.reports == set {
			some = append(some, q)
		}
	}
	return some
}

// answer emits what has been answered; the caller holds mu.
func (m *Monitor) answer() {
	m.open = slices.DeleteFunc(m.open, func(q *question) bool {
		if q.reported && q.sampled {
			m.emit(Event{Time: q.asked, Device: q.device, Kind: Heard})
			return true
		}
		return false
	})
}

// reported says that the driver had nothing more to report when these questions were open.
func (m *Monitor) reported(list []*question) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, q := range list {
		q.reported = true
	}
	m.answer()
}

// States are what is known of the devices.
func (m *Monitor) States() map[string]State {
	m.mu.Lock()
	defer m.mu.Unlock()
	copied := map[string]State{}
	for uuid, s := range m.states {
		copied[uuid] = *s
	}
	return copied
}

// Close ends the watch. A goroutine whose call has not returned is left behind, and stays counted.
func (m *Monitor) Close() {
	close(m.done)
	m.waiting.Wait()
	for deadline := time.Now().Add(m.o.Deadline); ; time.Sleep(5 * time.Millisecond) {
		m.mu.Lock()
		busy := 0
		for _, c := range m.callers {
			if !c.done && !c.suspect {
				busy++
			}
		}
		m.mu.Unlock()
		if busy == 0 || time.Now().After(deadline) {
			return
		}
	}
}

func (m *Monitor) closed() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// emit sends an event; the caller holds mu.
func (m *Monitor) emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	for {
		select {
		case m.events <- e:
			return
		default:
		}
		select {
		case <-m.events:
		default:
		}
	}
}

// calling returns what a caller announces its calls with.
func (m *Monitor) calling(c *caller) func(string) {
	return func(what string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		c.what, c.since = what, time.Now()
		if what == "" && c.suspect {
			c.suspect = false
			m.n.stuck.Add(-1)
			if s := m.states[c.device]; s != nil {
				s.Suspect = false
				m.emit(Event{Device: c.device, Kind: Answers, Text: "the driver answers again"})
			}
		}
	}
}

// watchCalls finds the calls that do not return.
func (m *Monitor) watchCalls() {
	defer m.waiting.Done()
	tick := time.NewTicker(min(m.o.Deadline/4, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-m.done:
			return
		case now := <-tick.C:
			m.overdue(now)
		}
	}
}

// overdue takes the devices of calls that do not return for suspect. Time in which this process did not run either counts against no call.
func (m *Monitor) overdue(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	paused := now.Sub(m.looked)
	if m.looked.IsZero() || paused < m.o.Deadline/2 {
		paused = 0
	}
	m.looked = now
	for _, c := range m.callers {
		if c.since = c.since.Add(paused); c.since.After(now) { // it began behind the pause
			c.since = now
		}
		if c.what == "" || c.suspect || now.Sub(c.since) < m.o.Deadline {
			continue
		}
		c.suspect = true
		m.n.stuck.Add(1)
		if s := m.states[c.device]; s != nil {
			s.Suspect = true
			m.emit(Event{Device: c.device, Kind: Suspect, Text: fmt.Sprintf("the driver has not answered %s for %v", c.what, m.o.Deadline)})
		}
	}
}

// ended says that a caller's goroutine is over.
func (m *Monitor) ended(c *caller) {
	m.mu.Lock()
	c.done = true
	m.mu.Unlock()
}

// sample is the goroutine of a device.
func (m *Monitor) sample(d Device, c *caller) {
	defer m.ended(c)
	r := &reader{n: m.n, d: d, calling: m.calling(c), has: map[string]bool{}, every: 30 * m.o.Interval}
	tick := time.NewTicker(m.o.Interval)
	defer tick.Stop()
	var before *int64 // errors of memory
	var set nvml.EventSet
	for {
		set = m.register(r, set)
		open := m.questions()
		s, lost := r.sample()
		m.mu.Lock()
		for _, q := range open {
			q.sampled = q.sampled || q.device == d.UUID
		}
		state := m.states[d.UUID]
		if lost {
			state.Lost = true
			m.emit(Event{Device: d.UUID, Kind: Lost, Text: "the driver has lost the device; it needs a reset or a reboot"})
			m.answer()
			m.mu.Unlock()
			return
		}
		state.UsedJ += energyBetween(state.Latest, &s)
		state.Latest = &s
		m.means[d.UUID].add(s)
		if s.ECCErrors != nil {
			if before != nil && *s.ECCErrors > *before {
				m.emit(Event{Device: d.UUID, Kind: ECC, Text: fmt.Sprintf("%d uncorrected memory errors, %d more than before", *s.ECCErrors, *s.ECCErrors-*before)})
			}
			before = s.ECCErrors
		}
		m.answer()
		m.mu.Unlock()
		select {
		case <-m.done:
			return
		case <-tick.C:
		}
	}
}

// energyBetween is what a device used between two samples, in joules; 0 where it does not tell.
func energyBetween(before, now *Sample) float64 {
	switch {
	case before == nil:
	case before.EnergyJ != nil && now.EnergyJ != nil && *now.EnergyJ >= *before.EnergyJ:
		return *now.EnergyJ - *before.EnergyJ
	case now.PowerW != nil:
		return *now.PowerW * now.Time.Sub(before.Time).Seconds()
	}
	return 0
}

// listen is the goroutine that waits for what the driver reports. A set of reports ends with the first device that is lost; sets are not
// freed, since a call that hangs may still hold one.
func (m *Monitor) listen(devices []Device, c *caller) {
	defer m.ended(c)
	defer func() {
		m.mu.Lock()
		m.deaf = true
		open := slices.Clone(m.open)
		m.mu.Unlock()
		m.reported(open)
	}()
	calling := m.calling(c)
	for m.set != nil && !m.closed() { // nobody else writes it
		set := m.set
		for r := nvml.Return(nvml.ERROR_TIMEOUT); (r == nvml.SUCCESS || r == nvml.ERROR_TIMEOUT) && !m.closed(); {
			var e nvml.EventData
			open, patience := m.questions(), min(m.o.Deadline/2, 500*time.Millisecond)
			if len(open) > 0 {
				patience /= 10
			}
			open = m.audible(open, set)
			calling("nvmlEventSetWait")
			e, r = set.Wait(uint32(patience / time.Millisecond))
			calling("")
			if r == nvml.SUCCESS {
				m.report(devices, e)
			} else {
				m.reported(open)
			}
		}
		select {
		case <-m.done:
			return
		case <-time.After(m.o.Interval):
		}
		calling("nvmlEventSetCreate")
		set = m.n.newSet()
		calling("")
		m.mu.Lock()
		m.set = set
		m.mu.Unlock()
	}
}

// newSet makes a set of reports; nil where the driver has none.
func (n *NVML) newSet() nvml.EventSet {
	if !n.has("nvmlEventSetCreate") || !n.has("nvmlDeviceRegisterEvents") {
		return nil
	}
	set, _ := within(n, "nvmlEventSetCreate", func() (nvml.EventSet, error) {
		set, r := n.lib.EventSetCreate()
		if r != nvml.SUCCESS {
			return nil, errors.New("no set")
		}
		return set, nil
	})
	return set
}

// register asks for a device's reports, in its own goroutine since even that may hang.
func (m *Monitor) register(r *reader, before nvml.EventSet) nvml.EventSet {
	m.mu.Lock()
	set := m.set
	m.mu.Unlock()
	if set == nil || set == before {
		return set
	}
	var types uint64
	if ok, _ := r.call("nvmlDeviceGetSupportedEventTypes", func() (x nvml.Return) { types, x = r.d.whole.GetSupportedEventTypes(); return x }); ok {
		r.call("nvmlDeviceRegisterEvents", func() nvml.Return {
			return r.d.whole.RegisterEvents(types&(nvml.EventTypeXidCriticalError|nvml.EventTypeDoubleBitEccError), set)
		})
	}
	m.mu.Lock()
	m.states[r.d.UUID].reports = set
	m.mu.Unlock()
	return set
}

// wholeGPU is the instance of a report that concerns all MIG devices of a GPU.
const wholeGPU = 0xFFFFFFFF

// report makes an event of what the driver says, one for each watched device that it concerns.
func (m *Monitor) report(devices []Device, e nvml.EventData) {
	event := Event{Kind: ECC, Text: "double-bit memory error"}
	if e.EventType == nvml.EventTypeXidCriticalError {
		event = Event{Kind: XID, XID: int64(e.EventData), Text: fmt.Sprintf("XID %d", e.EventData)}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range devices {
		if d.whole == e.Device && (d.Parent == "" || e.GpuInstanceId == wholeGPU || e.GpuInstanceId == d.instance) {
			event.Device = d.UUID
			m.emit(event)
		}
	}
}

// Means are the devices since the last call. Devices without a sample since then are left out.
func (m *Monitor) Means() map[string]Mean {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := map[string]Mean{}
	for uuid := range maps.Keys(m.means) {
		if v, ok := m.means[uuid].take(); ok {
			list[uuid] = v
		}
	}
	return list
}
