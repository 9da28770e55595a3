package runner

import (
	"slices"
	"strings"
	"testing"
	"time"

	"anynetx/telemetry"
)

func TestPolicyIsSound(t *testing.T) {
	p := DefaultPolicy()
	if err := p.validate(p.Classes); err != nil {
		t.Fatal(err)
	}
	for _, class := range []string{classDiverged, classSource, classCancelled, classUnsupported, classMemory, classHung, classCrash, classDevice, classInternal,
		classApplication, classECC, classGPULost, classUnresponsive, classForeign} {
		if p.Classes[class].Run == "" {
			t.Errorf("policy.yaml has no class %s", class)
		}
	}
}

// What the numbers of XIDs do, as ecosystem's table has it.
func TestXIDs(t *testing.T) {
	p := DefaultPolicy()
	for class, xids := range map[string][]int64{
		classApplication: {8, 13, 31, 43, 45, 68}, "xid_contained": {94}, "repair_pending": {63}, "xid_suspect": {62, 92, 109, 1, 999},
		"xid_fatal": {46, 48, 64, 74, 79, 95, 119, 120, 154},
	} {
		for _, xid := range xids {
			if got := p.classOf(telemetry.Event{Kind: telemetry.XID, XID: xid}); got != class {
				t.Errorf("XID %d is of class %s, want %s", xid, got, class)
			}
		}
	}
}

var policyEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func second(n float64) time.Time {
	return policyEpoch.Add(time.Duration(n * float64(time.Second)))
}

// failedOn is an attempt that began at a second and failed 10 seconds later.
func failedOn(device, class string, start float64) pastAttempt {
	return pastAttempt{Device: device, Outcome: outcomeFailed, Class: class, Started: second(start), Ended: second(start + 10)}
}

func lostOn(device string, start float64, checkpointed bool) pastAttempt {
	return pastAttempt{Device: device, Outcome: outcomeLost, Started: second(start), Ended: second(start + 10), Checkpointed: checkpointed}
}

func shared(a pastAttempt) pastAttempt {
	a.Shared = true
	return a
}

func inGroup(a pastAttempt) pastAttempt {
	a.Shared, a.Grouped = true, true
	return a
}

func xid(device string, number int64, at float64) telemetry.Event {
	return telemetry.Event{Device: device, Kind: telemetry.XID, XID: number, Time: second(at), Text: "XID"}
}

func on(device string, kind telemetry.Kind, at float64) telemetry.Event {
	return telemetry.Event{Device: device, Kind: kind, Time: second(at), Text: string(kind)}
}

func TestDecide(t *testing.T) {
	p := DefaultPolicy()
	many := func(n int, f func(i int) pastAttempt) (list []pastAttempt) {
		for i := range n {
			list = append(list, f(i))
		}
		return list
	}
	for _, c := range []struct {
		name     string
		attempts []pastAttempt
		events   []telemetry.Event
		run      string
		class    string
		avoid    []string
		alone    bool
		says     string
	}{
		{name: "nothing yet"},
		{name: "stopped on request", attempts: []pastAttempt{{Device: "A", Outcome: outcomeStopped}}},
		{name: "vanished", attempts: []pastAttempt{lostOn("A", 0, false)}},
		{name: "vanished 20 times without a checkpoint", attempts: many(20, func(i int) pastAttempt { return lostOn("A", float64(i), false) }), run: runFails, class: classCrash, says: "20 processes"},
		{name: "vanished 30 times, but it gets on", attempts: many(30, func(i int) pastAttempt { return lostOn("A", float64(i), i == 15) })},
		{name: "diverged", attempts: []pastAttempt{failedOn("A", classDiverged, 0)}, run: runFails, class: classDiverged, says: "happen again"},
		{name: "diverged under an XID", attempts: []pastAttempt{failedOn("A", classDiverged, 0)}, events: []telemetry.Event{xid("A", 31, 5)}, run: runFails, class: classDiverged},
		{name: "crashed", attempts: []pastAttempt{failedOn("A", classCrash, 0)}, run: runElsewhere, class: classCrash, avoid: []string{"A"}, says: "not on A"},
		{name: "crashed beside others", attempts: many(5, func(i int) pastAttempt { return shared(failedOn("A", classCrash, float64(i))) }), run: runElsewhere, class: classCrash, avoid: []string{"A"}, alone: true, says: "spends no attempt"},
		{name: "hung twice", attempts: []pastAttempt{failedOn("A", classHung, 0), failedOn("B", classHung, 20)}, run: runElsewhere, class: classHung, avoid: []string{"A", "B"}},
		{name: "hung three times", attempts: []pastAttempt{failedOn("A", classHung, 0), failedOn("B", classHung, 20), failedOn("A", classHung, 40)}, run: runFails, class: classHung, says: "failure 3 of 3"},
		{name: "hung in a group", attempts: []pastAttempt{inGroup(failedOn("A", classHung, 0))}, run: runElsewhere, class: classHung, avoid: []string{"A"}, alone: true, says: "spends no attempt"},
		{name: "and then by itself", attempts: []pastAttempt{inGroup(failedOn("A", classHung, 0)), failedOn("B", classHung, 20), failedOn("A", classHung, 40), failedOn("A", classHung, 60)}, run: runFails, class: classHung, says: "failure 3 of 3"},
		{name: "diverged in a group", attempts: []pastAttempt{inGroup(failedOn("A", classDiverged, 0))}, run: runFails, class: classDiverged, says: "happen again"},
		{name: "a contained error in a group", attempts: []pastAttempt{inGroup(failedOn("A", classDevice, 0))}, events: []telemetry.Event{xid("A", 94, 9)}, run: runRetry, class: "xid_contained"},
		{name: "hung, and the echo of our kill", attempts: []pastAttempt{failedOn("A", classHung, 0)}, events: []telemetry.Event{xid("A", 45, 11)}, run: runElsewhere, class: classHung, avoid: []string{"A"}},
		{name: "a full disk is nobody's failure", attempts: many(5, func(i int) pastAttempt { return failedOn("A", classFolder, float64(i)) })},

		{name: "out of memory beside others", attempts: []pastAttempt{shared(failedOn("A", classMemory, 0))}, run: runAlone, class: classMemory, alone: true, says: "nothing beside it"},
		{name: "out of memory alone", attempts: []pastAttempt{failedOn("A", classMemory, 0)}, run: runElsewhere, class: classMemory, avoid: []string{"A"}, alone: true},
		{name: "out of memory three times", attempts: []pastAttempt{shared(failedOn("A", classMemory, 0)), failedOn("A", classMemory, 20), failedOn("B", classMemory, 40)}, run: runFails, class: classMemory},
		{name: "out of memory by others' doing", attempts: many(4, func(i int) pastAttempt { return failedOn("A", classMemory, 0) }), events: []telemetry.Event{on("A", telemetry.ForeignMemory, 3)},
			run: runElsewhere, class: classForeign, avoid: []string{"A"}, says: "spends no attempt"},
		{name: "foreign memory and another failure", attempts: []pastAttempt{failedOn("A", classInternal, 0)}, events: []telemetry.Event{on("A", telemetry.ForeignMemory, 3)}, run: runElsewhere, class: classInternal, avoid: []string{"A"}},

		{name: "application XID", attempts: []pastAttempt{failedOn("A", classDevice, 0)}, events: []telemetry.Event{xid("A", 31, 9)}, run: runElsewhere, class: classApplication, avoid: []string{"A"}},
		{name: "the same on two devices", attempts: []pastAttempt{failedOn("A", classDevice, 0), failedOn("B", classInternal, 20)}, events: []telemetry.Event{xid("A", 31, 9), xid("B", 31, 31)},
			run: runFails, class: classApplication, says: "XID 31 on A and B"},
		{name: "twice on one device is no proof", attempts: []pastAttempt{failedOn("A", classDevice, 0), failedOn("A", classDevice, 20)}, events: []telemetry.Event{xid("A", 31, 9), xid("A", 31, 29)},
			run: runElsewhere, class: classApplication, avoid: []string{"A"}},
		{name: "two numbers on two devices", attempts: []pastAttempt{failedOn("A", classDevice, 0), failedOn("B", classDevice, 20)}, events: []telemetry.Event{xid("A", 31, 9), xid("B", 13, 29)},
			run: runElsewhere, class: classApplication, avoid: []string{"A", "B"}},
		{name: "beside others it is not proven", attempts: []pastAttempt{shared(failedOn("A", classDevice, 0)), shared(failedOn("B", classDevice, 20))}, events: []telemetry.Event{xid("A", 31, 9), xid("B", 31, 29)},
			run: runElsewhere, class: classApplication, avoid: []string{"A", "B"}, alone: true},
		{name: "an XID long after", attempts: []pastAttempt{failedOn("A", classInternal, 0)}, events: []telemetry.Event{xid("A", 31, 16)}, run: runElsewhere, class: classInternal, avoid: []string{"A"}},
		{name: "an XID before", attempts: []pastAttempt{failedOn("A", classInternal, 5)}, events: []telemetry.Event{xid("A", 31, 4)}, run: runElsewhere, class: classInternal, avoid: []string{"A"}},
		{name: "an XID of another device", attempts: []pastAttempt{failedOn("A", classInternal, 0)}, events: []telemetry.Event{xid("B", 31, 4)}, run: runElsewhere, class: classInternal, avoid: []string{"A"}},
		{name: "an echo", attempts: []pastAttempt{failedOn("A", classInternal, 0)}, events: []telemetry.Event{xid("A", 45, 8), xid("A", 79, 9)}, run: runElsewhere, class: "xid_fatal", avoid: []string{"A"}},
		{name: "45 alone", attempts: []pastAttempt{failedOn("A", classInternal, 0)}, events: []telemetry.Event{xid("A", 45, 2), xid("A", 13, 9)}, run: runElsewhere, class: classApplication, avoid: []string{"A"}},

		{name: "a contained error", attempts: []pastAttempt{failedOn("A", classDevice, 0)}, events: []telemetry.Event{xid("A", 94, 9)}, run: runRetry, class: "xid_contained"},
		{name: "fatal XIDs spend nothing", attempts: []pastAttempt{lostOn("A", 0, false), lostOn("B", 20, false), lostOn("C", 40, false), failedOn("D", classHung, 60)},
			events: []telemetry.Event{xid("A", 79, 9), xid("B", 48, 29), on("C", telemetry.Lost, 50)}, run: runElsewhere, class: classHung, avoid: []string{"A", "B", "C", "D"}},
		{name: "the gravest explains", attempts: []pastAttempt{failedOn("A", classDevice, 0)}, events: []telemetry.Event{xid("A", 31, 3), xid("A", 79, 4)}, run: runElsewhere, class: "xid_fatal", avoid: []string{"A"}},
		{name: "no answer from the driver", attempts: []pastAttempt{failedOn("A", classHung, 0)}, events: []telemetry.Event{on("A", telemetry.Suspect, 3)}, run: runElsewhere, class: classUnresponsive, avoid: []string{"A"}},
	} {
		d := p.decide(c.attempts, c.events)
		if d.Run != c.run || d.Class != c.class || !slices.Equal(d.Avoid, c.avoid) || d.Alone != c.alone || !strings.Contains(d.Reason, c.says) || (d.Reason == "") != (d.Run == "") {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
}

func TestFootprint(t *testing.T) {
	p := DefaultPolicy()
	if got := p.footprint(100, nil); got != 100 {
		t.Errorf("a run that never ran out of memory is given %d bytes", got)
	}
	if got := p.footprint(100, []int64{100, 90}); got != 130 {
		t.Errorf("a run that ran out with 100 bytes is given %d", got)
	}
	if got := p.footprint(500, []int64{100}); got != 500 {
		t.Errorf("%d bytes are given to a run that plans 500", got)
	}
}

func TestPolicyInStudyFile(t *testing.T) {
	s, err := ParseStudy([]byte(faultStudy+"failures: {attempts: 7, classes: {hung: {run: fail}}, xids: {94: xid_fatal}, hang: {factor: 9}}\n"), "x.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := s.Failures
	if p.Attempts != 7 || p.Classes[classHung].Run != runFails || p.Classes[classMemory].Run != runAlone || p.XIDs[94] != "xid_fatal" || p.XIDs[79] != "xid_fatal" ||
		p.Hang.Factor != 9 || p.Hang.FloorSeconds != DefaultPolicy().Hang.FloorSeconds {
		t.Errorf("%+v", p)
	}
	for text, says := range map[string]string{
		"{attempts: 0}":                                 "attempts is 0, must be at least 1",
		"{atempts: 2}":                                  `did you mean "attempts"`,
		"{classes: {hang: {run: fail}}}":                `"hang" is no class of failure`,
		"{classes: {hung: {run: never}}}":               `run is "never"`,
		"{classes: {hung: {device: scrap, run: fail}}}": `device is "scrap"`,
		"{xids: {94: bad}}":                             `XID 94: "bad" is no class`,
		"{hang: {factor: .nan}}":                        "hang.factor is NaN",
	} {
		_, err := ParseStudy([]byte(faultStudy+"failures: "+text+"\n"), "x.yaml")
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "x.yaml:") {
			t.Errorf("%s: %v; want %q", text, err, says)
		}
	}
}
