package runner

import (
	"bytes"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"anynetx/telemetry"

	"go.yaml.in/yaml/v3"
)

//go:embed policy.yaml
var policyYAML []byte

// Policy says what follows from a failure: policy.yaml, with what a study file overrides. Its decisions are functions of what is on record
// of a run's attempts and of the devices, so every process comes to the same one, and comes to it again when more is known.
type Policy struct {
	Attempts           int              `yaml:"attempts" json:"attempts"`
	Lost               int              `yaml:"lost" json:"lost"`
	SettleSeconds      float64          `yaml:"settle_s" json:"settle_s"`
	ElsewhereSeconds   float64          `yaml:"elsewhere_s" json:"elsewhere_s"`
	Classes            map[string]Rule  `yaml:"classes" json:"classes"`
	UnknownXID         string           `yaml:"unknown_xid" json:"unknown_xid"`
	XIDs               map[int64]string `yaml:"xids" json:"xids"`
	EchoXIDs           []int64          `yaml:"echo_xids" json:"echo_xids"`
	ApplicationDevices int              `yaml:"application_devices" json:"application_devices"`
	Suspicions         int              `yaml:"suspicions" json:"suspicions"`
	SuspectSeconds     float64          `yaml:"suspect_s" json:"suspect_s"`
	Starts             int              `yaml:"starts" json:"starts"`
	Hang               HangLimits       `yaml:"hang" json:"hang"`
	Raise              float64          `yaml:"raise" json:"raise"`
}

// Rule is what follows from a class of failure.
type Rule struct {
	Run    string `yaml:"run" json:"run"`
	Device string `yaml:"device" json:"device,omitempty"` // "": keep
	Free   bool   `yaml:"free" json:"free,omitempty"`
}

// HangLimits say when a run without a step hangs.
type HangLimits struct {
	Factor       float64 `yaml:"factor" json:"factor"`
	FloorSeconds float64 `yaml:"floor_s" json:"floor_s"`
	StartSeconds float64 `yaml:"start_s" json:"start_s"`
}

// What becomes of a run, and of a device.
const (
	runFails     = "fail"
	runRetry     = "retry"
	runElsewhere = "elsewhere"
	runAlone     = "alone"

	deviceKeep       = "keep"
	deviceSuspect    = "suspect"
	deviceDrain      = "drain"
	deviceQuarantine = "quarantine"
)

// DefaultPolicy is policy.yaml.
func DefaultPolicy() *Policy {
	p := &Policy{}
	reader := yaml.NewDecoder(bytes.NewReader(policyYAML))
	reader.KnownFields(true)
	if err := reader.Decode(p); err != nil {
		panic(fmt.Sprintf("policy.yaml: %v", err)) // part of the program; a test reads it
	}
	return p
}

// readPolicy is the default with what a study file says of failures.
func readPolicy(n *yaml.Node) (*Policy, error) {
	p := DefaultPolicy()
	classes := maps.Clone(p.Classes)
	if err := decode(n, "failures", p); err != nil {
		return nil, err
	}
	if err := p.validate(classes); err != nil {
		return nil, at(n, "failures: %v", err)
	}
	return p, nil
}

func (p *Policy) validate(known map[string]Rule) error {
	names := strings.Join(slices.Sorted(maps.Keys(known)), ", ")
	for name, r := range p.Classes {
		switch {
		case known[name].Run == "":
			return fmt.Errorf("%q is no class of failure; known are %s", name, names)
		case !slices.Contains([]string{runFails, runRetry, runElsewhere, runAlone}, r.Run):
			return fmt.Errorf("class %s: run is %q, must be fail, retry, elsewhere or alone", name, r.Run)
		case !slices.Contains([]string{"", deviceKeep, deviceSuspect, deviceDrain, deviceQuarantine}, r.Device):
			return fmt.Errorf("class %s: device is %q, must be keep, suspect, drain or quarantine", name, r.Device)
		}
	}
	for xid, name := range p.XIDs {
		if known[name].Run == "" {
			return fmt.Errorf("XID %d: %q is no class of failure; known are %s", xid, name, names)
		}
	}
	if known[p.UnknownXID].Run == "" {
		return fmt.Errorf("unknown_xid: %q is no class of failure; known are %s", p.UnknownXID, names)
	}
	for _, v := range []struct {
		name       string
		value, low float64
	}{
		{"attempts", float64(p.Attempts), 1}, {"lost", float64(p.Lost), 1}, {"settle_s", p.SettleSeconds, 0}, {"elsewhere_s", p.ElsewhereSeconds, 0},
		{"application_devices", float64(p.ApplicationDevices), 1}, {"suspicions", float64(p.Suspicions), 1}, {"suspect_s", p.SuspectSeconds, 0},
		{"starts", float64(p.Starts), 1}, {"hang.factor", p.Hang.Factor, 2}, {"hang.floor_s", p.Hang.FloorSeconds, 0}, {"hang.start_s", p.Hang.StartSeconds, 0},
		{"raise", p.Raise, 1},
	} {
		if !(v.value >= v.low) {
			return fmt.Errorf("%s is %v, must be at least %v", v.name, v.value, v.low)
		}
	}
	return nil
}

// pastAttempt is what a decision needs to know of an attempt that has ended.
type pastAttempt struct {
	Device       string // deviceKey
	Outcome      string
	Class        string
	Started      time.Time
	Ended        time.Time // of a lost one its last sign of life
	Shared       bool      // other runs were on the device
	Grouped      bool      // ... in the same launches
	Checkpointed bool      // it left a checkpoint
}

// Decision is what becomes of a run, and why.
type Decision struct {
	Run    string   // runFails, runRetry, runElsewhere, runAlone; "" when nothing speaks against an ordinary attempt
	Class  string   // of the last failure
	Reason string   // in words
	Avoid  []string // devices that it should keep off
	Alone  bool     // nothing may be beside it on the device
}

// classOf is what a device's event means for the runs on it.
func (p *Policy) classOf(e telemetry.Event) string {
	switch e.Kind {
	case telemetry.XID:
		if class, ok := p.XIDs[e.XID]; ok {
			return class
		}
		return p.UnknownXID
	case telemetry.ECC:
		return classECC
	case telemetry.Lost:
		return classGPULost
	case telemetry.Suspect:
		return classUnresponsive
	case telemetry.ForeignMemory:
		return classForeign
	}
	return ""
}

// severity orders what devices are treated to.
var severity = map[string]int{"": 0, deviceKeep: 0, deviceSuspect: 1, deviceDrain: 2, deviceQuarantine: 3}

// cause is the class of an attempt's failure, with the event of its device that explains it, if one does: of several the gravest, and the
// first of these.
func (p *Policy) cause(a pastAttempt, events []telemetry.Event) (string, *telemetry.Event) {
	switch a.Class {
	case classDiverged, classSource, classCancelled, classUnsupported:
		return a.Class, nil // of its own making
	}
	settle := time.Duration(p.SettleSeconds * float64(time.Second))
	var best *telemetry.Event
	for i := range events {
		e := &events[i]
		class := p.classOf(*e)
		if e.Device != a.Device || class == "" || e.Time.Before(a.Started) || e.Time.After(a.Ended.Add(settle)) || (class == classForeign) != (a.Class == classMemory) {
			continue
		}
		if a.Class == classHung && p.echo(*e) { // of our own kill
			continue
		}
		if best == nil || p.outweighs(*e, *best) {
			best = e
		}
	}
	if best == nil {
		return a.Class, nil
	}
	return p.classOf(*best), best
}

// echo says whether an event is an XID that mostly follows from something else.
func (p *Policy) echo(e telemetry.Event) bool {
	return e.Kind == telemetry.XID && slices.Contains(p.EchoXIDs, e.XID)
}

// outweighs says whether an event explains a failure better than another one before it.
func (p *Policy) outweighs(e, other telemetry.Event) bool {
	if p.echo(e) != p.echo(other) && e.Time.Sub(other.Time).Abs() <= time.Duration(p.SettleSeconds*float64(time.Second)) {
		return p.echo(other)
	}
	return severity[p.Classes[p.classOf(e)].Device] > severity[p.Classes[p.classOf(other)].Device]
}

// decide says what becomes of a run after these attempts.
func (p *Policy) decide(attempts []pastAttempt, events []telemetry.Event) Decision {
	var d Decision
	spent, lost := 0, 0
	blamed := map[int64][]string{} // devices by application XID
	for i, a := range attempts {
		if a.Outcome != outcomeFailed && a.Outcome != outcomeLost {
			lost = 0
			continue
		}
		class, event := p.cause(a, events)
		if class == classFolder || class == classInput { // not the run's, and not the device's
			continue
		}
		if class == "" { // its process vanished, and nobody knows why
			if a.Checkpointed {
				lost = 0
			} else if lost++; lost >= p.Lost {
				return Decision{Run: runFails, Class: classCrash, Reason: fmt.Sprintf("%d processes in a row vanished before its first checkpoint", lost)}
			}
			continue
		}
		rule := p.Classes[class]
		because := fmt.Sprintf("attempt %d failed on %s, class %s", i+1, a.Device, class)
		if event != nil {
			because += " (" + event.Text + ")"
		}
		d.Run, d.Class = rule.Run, class
		free := rule.Free || class == classCrash && a.Shared // one of several in the process took all of them down ...
		free = free || a.Grouped && rule.Run != runFails     // ... or one of several in the launch
		if !free {
			spent++
		}
		switch {
		case class == classApplication && event != nil && !a.Shared:
			if !slices.Contains(blamed[event.XID], a.Device) {
				blamed[event.XID] = append(blamed[event.XID], a.Device)
			}
			if n := len(blamed[event.XID]); n >= p.ApplicationDevices {
				return Decision{Run: runFails, Class: class, Reason: fmt.Sprintf("XID %d on %s: the run is at fault", event.XID, strings.Join(blamed[event.XID], " and "))}
			}
		case a.Grouped && !rule.Free, a.Shared && (class == classApplication || class == classCrash): // which of the runs there it was, only one that is alone can show
			d.Alone = true
		case rule.Run == runAlone:
			if d.Alone || !a.Shared { // it was alone: the device is too small
				d.Run = runElsewhere
			}
			d.Alone = true
		}
		if d.Run == runElsewhere && !slices.Contains(d.Avoid, a.Device) {
			d.Avoid = append(d.Avoid, a.Device)
		}
		switch {
		case rule.Run == runFails:
			return Decision{Run: runFails, Class: class, Reason: because + ", which would happen again"}
		case spent >= p.Attempts:
			return Decision{Run: runFails, Class: class, Reason: fmt.Sprintf("%s; that was failure %d of %d", because, spent, p.Attempts)}
		}
		d.Reason = because + "; it is tried again"
		if len(d.Avoid) > 0 {
			d.Reason += ", not on " + strings.Join(d.Avoid, " or ")
		}
		if d.Alone {
			d.Reason += ", with nothing beside it"
		}
		if free {
			d.Reason += "; it may not be at fault, so this spends no attempt"
		}
	}
	return d
}

// footprint is the memory that a run is given on a device: what it planned, or more if runs of its kind ran out of memory with less.
func (p *Policy) footprint(planned int64, ranOut []int64) int64 {
	need := planned
	for _, bytes := range ranOut {
		need = max(need, int64(p.Raise*float64(bytes)))
	}
	return need
}
