package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"anynetx/telemetry"
)

// A device's record is work/devices/<device>.jsonl: what its driver said of it, and how the attempts on it ended. Whoever knows appends a
// line; whether the device may be used, and what explains a run's failure, everybody concludes from the same lines.

// deviceRecord is a line of it.
type deviceRecord struct {
	Time    time.Time `json:"ts_utc"`
	Boot    string    `json:"boot,omitempty"` // of the host: what a reboot mends is forgotten with it
	Device  string    `json:"device"`         // deviceKey
	Kind    string    `json:"kind"`           // of a telemetry.Event, or one of the following
	XID     int64     `json:"xid,omitempty"`
	Text    string    `json:"text,omitempty"`
	RunID   string    `json:"run_id,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Group   string    `json:"group,omitempty"` // of the attempt
	Class   string    `json:"class,omitempty"` // of the attempt's failure; "" if it did not fail
	Steps   int64     `json:"steps,omitempty"` // that the attempt trained
	Model   string    `json:"model,omitempty"` // footprintKey of a run that ran out of memory ...
	Bytes   int64     `json:"bytes,omitempty"` // ... and what it had planned to take
}

const (
	recordAttempt = "attempt" // at a run, ended
	recordMemory  = "memory"  // a run has run out of it
	recordSession = "session" // a coordinator begins: failed starts so far are forgotten, since what made them fail may be mended
	recordRelease = "release" // a person takes the device into use again
	recordHeard   = string(telemetry.Heard)
)

// deviceKey names a device in the whole study: GPUs by their UUID, others by host and number.
func deviceKey(host, device string) string {
	if strings.HasPrefix(device, "GPU-") || strings.HasPrefix(device, "MIG-") {
		return device
	}
	return host + "/" + device
}

func (l *lease) deviceKey() string { return deviceKey(l.Host, l.Device) }

// footprintKey is what runs have in common that need the same memory.
func (r *PlannedRun) footprintKey() string {
	return fmt.Sprintf("%s batch %d, %d px, %s, stem %s %d, strides %v", r.Member.ID, r.Task.Recipe.Batch, r.Task.Resolution, r.Task.DType, r.Task.Stem, r.Task.StemWidth, r.Task.Strides)
}

// noteDevice appends to a device's record.
func (s *Store) noteDevice(r deviceRecord) error {
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r.Time = r.Time.UTC()
	r.Boot, _, _ = strings.Cut(machine(), " ")
	if err := os.MkdirAll(s.devices.folder, 0o777); err != nil {
		return diskError(err)
	}
	return appendLine(filepath.Join(s.devices.folder, plainName(r.Device)+".jsonl"), r)
}

// appendLine adds a record to a file that several processes write. A line feed goes first, so that a torn line before this one does not
// take it along; it is one write, so that lines do not mix.
func appendLine(path string, record any) error {
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return diskError(err)
	}
	_, err = f.Write(fmt.Appendf(nil, "\n%08x %s\n", crc32.Checksum(text, castagnoli), text))
	return diskError(errors.Join(err, f.Close()))
}

// deviceLog reads the records of all devices, each line once.
type deviceLog struct {
	folder  string
	mu      sync.Mutex
	read    map[string]int64 // bytes of each file that are done with
	records map[string][]deviceRecord
	judged  map[string]*judgement
	heard   map[string]time.Time // until when the driver has been heard of a device

	outOfMemory []deviceRecord
}

// refresh reads what is new. The caller holds mu, as for all that follows.
func (d *deviceLog) refresh() error {
	entries, err := os.ReadDir(d.folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return diskError(err)
	}
	if d.read == nil {
		d.read, d.records, d.heard = map[string]int64{}, map[string][]deviceRecord{}, map[string]time.Time{}
	}
	for _, e := range entries {
		path := filepath.Join(d.folder, e.Name())
		if info, err := e.Info(); err != nil || info.Size() <= d.read[path] || !strings.HasSuffix(path, ".jsonl") {
			continue
		}
		data, err := readFrom(path, d.read[path])
		if err != nil {
			return diskError(err)
		}
		data = data[:bytes.LastIndexByte(data, '\n')+1] // the rest is being written
		d.read[path] += int64(len(data))
		for line := range lines(data) {
			var r deviceRecord
			if records, _ := journalLines(line); len(records) == 1 && json.Unmarshal(records[0], &r) == nil {
				d.records[r.Device] = append(d.records[r.Device], r)
				if r.Model != "" {
					d.outOfMemory = append(d.outOfMemory, r)
				}
				if r.Kind == recordHeard && r.Time.After(d.heard[r.Device]) {
					d.heard[r.Device] = r.Time
				}
			}
		}
	}
	return nil
}

func readFrom(path string, offset int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// events are what drivers said of their devices.
func (d *deviceLog) events() (list []telemetry.Event) {
	for _, records := range d.records {
		for _, r := range records {
			if !slices.Contains([]string{recordAttempt, recordMemory, recordSession, recordRelease, recordHeard}, r.Kind) {
				list = append(list, telemetry.Event{Time: r.Time, Device: r.Device, Kind: telemetry.Kind(r.Kind), XID: r.XID, Text: r.Text})
			}
		}
	}
	slices.SortFunc(list, func(a, b telemetry.Event) int { return a.Time.Compare(b.Time) })
	return list
}

// footprint is the memory that a run is given on a device, from what it plans and from what became of runs of its kind.
func (s *Store) footprint(r *PlannedRun, planned int64) (int64, error) {
	ranOut, err := s.ranOut(r)
	return s.policy.footprint(planned, ranOut), err
}

// ranOut are the plans with which runs of this kind ran out of memory. One such is enough: they have the device for themselves from then on.
func (s *Store) ranOut(r *PlannedRun) (plans []int64, err error) {
	d := &s.devices
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refresh(); err != nil {
		return nil, err
	}
	for _, record := range d.outOfMemory {
		if record.Model == r.footprintKey() {
			plans = append(plans, record.Bytes)
		}
	}
	return plans, nil
}

// verdict says whether a device may be used.
type verdict struct {
	device string // "" (in use), deviceDrain or deviceQuarantine
	reason string
}

// judgement comes to the verdict on a device, record by record. Other boots of its host are over.
type judgement struct {
	verdict
	boot      string
	read      int             // records
	starts    int             // that failed, in a row ...
	runs      map[string]bool // ... of these
	failed    string          // group and class of the last attempt that failed in a group: the others fail with it
	suspected []time.Time
	unheard   []deviceRecord // attempts that speak against the device, unless the driver explains them otherwise
	said      time.Time      // when the driver last said what may explain one
}

func (j *judgement) forget() { j.starts, j.runs = 0, nil }

// worse is a verdict that holds unless there is a graver one.
func (j *judgement) worse(device, format string, args ...any) {
	if severity[device] > severity[j.device] {
		j.verdict = verdict{device, fmt.Sprintf(format, args...)}
	}
}

func (j *judgement) add(p *Policy, r deviceRecord) {
	if r.Boot != "" && j.boot != "" && r.Boot != j.boot {
		return
	}
	class := r.Class
	switch r.Kind {
	case recordRelease:
		j.forget()
		j.verdict, j.suspected, j.unheard = verdict{}, nil, nil
		return
	case recordHeard:
		j.settle(p, r.Time)
		return
	case recordSession: // nobody is heard of any more about what was before
		j.settle(p, r.Time)
		j.forget()
		if j.device == deviceDrain && strings.HasSuffix(j.reason, failedStart) {
			j.verdict = verdict{}
		}
		return
	case recordAttempt:
		if r.Group != "" && class != "" {
			if again := j.failed == r.Group+class; again {
				return
			}
			j.failed = r.Group + class
		}
		switch {
		case class == "" && r.Steps == 0, class == classDiverged, class == classSource, class == classCancelled, class == classFolder, class == classInput,
			class == classMemory, class == classUnsupported, class == classForeign: // says nothing of the device
		case r.Steps > 0:
			j.forget()
		default:
			if j.runs == nil {
				j.runs = map[string]bool{}
			}
			j.starts++
			j.runs[r.RunID] = true
			if j.starts >= p.Starts && len(j.runs) >= 2 {
				j.worse(deviceDrain, "%d attempts in a row, the last of class %s%s%s", j.starts, class, with(r.Text), failedStart)
			}
		}
		if isGPU(r.Device) && p.Classes[class].Device != "" {
			j.unheard = append(j.unheard, r)
			return
		}
	default:
		class = p.classOf(telemetry.Event{Kind: telemetry.Kind(r.Kind), XID: r.XID})
		if class != "" && class != classForeign {
			j.said = r.Time
		}
	}
	j.count(p, class, r)
}

// settle counts the attempts that ended until a time against the device, but for those that the driver has explained: what it said counts
// itself.
func (j *judgement) settle(p *Policy, until time.Time) {
	j.unheard = slices.DeleteFunc(j.unheard, func(r deviceRecord) bool {
		if r.Time.After(until) {
			return false
		}
		if r.Time.Sub(j.said).Abs().Seconds() > p.SettleSeconds {
			j.count(p, r.Class, r)
		}
		return true
	})
}

// count does to the device what follows from a class of failure.
func (j *judgement) count(p *Policy, class string, r deviceRecord) {
	what := "class " + class + with(r.Text)
	switch p.Classes[class].Device {
	case deviceQuarantine, deviceDrain:
		j.worse(p.Classes[class].Device, "%s", what)
	case deviceSuspect:
		j.suspected = slices.DeleteFunc(append(j.suspected, r.Time), func(t time.Time) bool { return r.Time.Sub(t).Seconds() > p.SuspectSeconds })
		if len(j.suspected) >= p.Suspicions {
			j.worse(deviceQuarantine, "suspect %d times within %.0f minutes, at last of %s", len(j.suspected), p.SuspectSeconds/60, what)
		}
	}
}

// failedStart ends the reason of a verdict that a new coordinator puts to the test again.
const failedStart = ", failed on this device before their first step"

// judge comes to the verdict on a device of this host from all that is on record.
func (s *Store) judge(device string) (verdict, error) {
	d := &s.devices
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refresh(); err != nil {
		return verdict{}, err
	}
	j := d.judged[device]
	if j == nil {
		if d.judged == nil {
			d.judged = map[string]*judgement{}
		}
		j = &judgement{}
		j.boot, _, _ = strings.Cut(machine(), " ")
		d.judged[device] = j
	}
	for _, r := range d.records[device][j.read:] {
		j.add(s.policy, r)
		j.read++
	}
	return j.verdict, nil
}

// learnMemory notes what a run had planned to take when it ran out of memory.
func (s *Store) learnMemory(r *PlannedRun, l *lease, t Trainers) error {
	bytes, err := t.Need(r)
	if err != nil {
		bytes = 0 // by its plan nothing is known, and the attempt's own error says why
	}
	return s.noteDevice(deviceRecord{Device: l.deviceKey(), Kind: recordMemory, RunID: r.ID, Attempt: l.Attempt, Model: r.footprintKey(), Bytes: bytes})
}

// aftermath puts the end of an attempt on its device's record.
func (s *Store) aftermath(r *PlannedRun, l *lease, row *attemptRow) error {
	if row.Outcome != outcomeFailed && row.Outcome != outcomeCommitted {
		return nil
	}
	return s.noteDevice(deviceRecord{Device: l.deviceKey(), Kind: recordAttempt, RunID: r.ID, Attempt: l.Attempt, Group: row.Group, Class: row.FailureClass, Steps: row.Steps, Text: row.FailureText})
}

// settled says whether a decision may be made after these attempts: the last one has not failed on a GPU, or what the driver knew of it then is
// on record, or settle_s have passed by our own clock.
func (s *Store) settled(attempts []attemptState, quiet *silence) (bool, error) {
	if len(attempts) == 0 {
		return true, nil
	}
	last := &attempts[len(attempts)-1]
	if last.end == nil || last.end.Outcome != outcomeFailed || !isGPU(last.lease.Device) {
		return true, nil
	}
	d := &s.devices
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refresh(); err != nil {
		return false, err
	}
	return !d.heard[last.lease.Device].Before(last.end.Ended) || quiet.knownFor("failed "+last.lease.path()).Seconds() >= s.policy.SettleSeconds, nil
}

// closedError says that a worker's device is not to be used any more.
type closedError struct{ verdict }

func (e closedError) Error() string { return "the device is not used any more: " + e.reason }

// past is what decisions need to know of attempts; those without an end are left out.
func past(attempts []attemptState) (list []pastAttempt) {
	for _, a := range attempts {
		if a.end == nil {
			continue
		}
		p := pastAttempt{Device: a.lease.deviceKey(), Outcome: a.end.Outcome, Class: a.end.FailureClass, Started: a.lease.Taken, Ended: a.end.Ended,
			Shared: a.end.Shared, Grouped: a.end.Group != "", Checkpointed: len(checkpoints(a.lease.folder())) > 0}
		if p.Ended.IsZero() {
			p.Ended = p.Started
			if a.end.WallTime != nil {
				p.Ended = p.Started.Add(time.Duration(*a.end.WallTime * float64(time.Second)))
			}
		}
		list = append(list, p)
	}
	return list
}

// decide says what becomes of a run after the attempts at it.
func (s *Store) decide(attempts []attemptState) (Decision, error) {
	list := past(attempts)
	if !slices.ContainsFunc(list, func(a pastAttempt) bool { return a.Outcome == outcomeFailed || a.Outcome == outcomeLost }) {
		return Decision{}, nil
	}
	s.devices.mu.Lock()
	defer s.devices.mu.Unlock()
	if err := s.devices.refresh(); err != nil {
		return Decision{}, err
	}
	return s.policy.decide(list, s.devices.events()), nil
}
