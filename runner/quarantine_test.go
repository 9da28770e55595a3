package runner

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"anynetx/telemetry"
)

func TestJudge(t *testing.T) {
	p := DefaultPolicy()
	failed := func(run, class string, steps int64) deviceRecord {
		return deviceRecord{Kind: recordAttempt, RunID: run, Class: class, Steps: steps}
	}
	said := func(kind telemetry.Kind, xid int64, at float64) deviceRecord {
		return deviceRecord{Kind: string(kind), XID: xid, Time: second(at)}
	}
	lost := func(run string, at float64) deviceRecord { // by the word of the back end
		return deviceRecord{Device: "GPU-0", Kind: recordAttempt, RunID: run, Class: classDevice, Steps: 1, Time: second(at)}
	}
	done := deviceRecord{Kind: recordAttempt, RunID: "z", Steps: 100}
	in := func(group string, r deviceRecord) deviceRecord { r.Group = group; return r }
	session, release := deviceRecord{Kind: recordSession}, deviceRecord{Kind: recordRelease}
	for _, c := range []struct {
		name    string
		records []deviceRecord
		device  string
		says    string
	}{
		{"nothing", nil, "", ""},
		{"three starts of three runs", []deviceRecord{failed("a", classInternal, 0), failed("b", classCrash, 0), failed("c", classInternal, 0)}, deviceDrain, "3 attempts in a row"},
		{"two starts", []deviceRecord{failed("a", classInternal, 0), failed("b", classCrash, 0)}, "", ""},
		{"one run alone is suspect itself", []deviceRecord{failed("a", classInternal, 0), failed("a", classInternal, 0), failed("a", classInternal, 0)}, "", ""},
		{"not in a row", []deviceRecord{failed("a", classInternal, 0), failed("b", classInternal, 0), done, failed("c", classInternal, 0)}, "", ""},
		{"after some steps", []deviceRecord{failed("a", classInternal, 0), failed("b", classInternal, 0), failed("c", classInternal, 1)}, "", ""},
		{"runs that diverge or need too much", []deviceRecord{failed("a", classDiverged, 0), failed("b", classMemory, 0), failed("c", classUnsupported, 0), failed("d", classSource, 0)}, "", ""},
		{"a new session puts it to the test", []deviceRecord{failed("a", classInternal, 0), failed("b", classCrash, 0), failed("c", classInternal, 0), session}, "", ""},
		{"and it fails again", []deviceRecord{failed("a", classInternal, 0), session, failed("b", classCrash, 0), failed("c", classInternal, 0), failed("a", classInternal, 0)}, deviceDrain, "3 attempts"},
		{"application XIDs", []deviceRecord{said(telemetry.XID, 31, 0), said(telemetry.XID, 13, 1), said(telemetry.XID, 31, 2), said(telemetry.XID, 31, 3)}, "", ""},
		{"fallen off the bus", []deviceRecord{said(telemetry.XID, 79, 0)}, deviceQuarantine, "xid_fatal"},
		{"and a new session does not mend it", []deviceRecord{said(telemetry.XID, 79, 0), session}, deviceQuarantine, "xid_fatal"},
		{"but a person may", []deviceRecord{said(telemetry.XID, 79, 0), release}, "", ""},
		{"lost", []deviceRecord{said(telemetry.Lost, 0, 0)}, deviceQuarantine, classGPULost},
		{"memory", []deviceRecord{said(telemetry.ECC, 0, 0)}, deviceQuarantine, classECC},
		{"a contained error", []deviceRecord{said(telemetry.XID, 94, 0)}, "", ""},
		{"a repair that waits for a reset", []deviceRecord{said(telemetry.XID, 63, 0)}, deviceDrain, "repair_pending"},
		{"an unknown XID", []deviceRecord{said(telemetry.XID, 999, 0)}, "", ""},
		{"two within an hour", []deviceRecord{said(telemetry.XID, 999, 0), said(telemetry.Suspect, 0, 3000)}, deviceQuarantine, "2 times within 60 minutes"},
		{"two within a day", []deviceRecord{said(telemetry.XID, 999, 0), said(telemetry.Suspect, 0, 20000)}, "", ""},
		{"the back end lost it twice", []deviceRecord{lost("a", 0), said(telemetry.Heard, 0, 1), lost("b", 60), said(telemetry.Heard, 0, 61)}, deviceQuarantine, "class " + classDevice},
		{"the driver has not been heard yet", []deviceRecord{lost("a", 0), said(telemetry.Heard, 0, 1), lost("b", 60), said(telemetry.Heard, 0, 59)}, "", ""},
		{"nobody heard the driver", []deviceRecord{lost("a", 0), lost("b", 60), {Kind: recordSession, Time: second(90)}}, deviceQuarantine, "class " + classDevice},
		{"programs were at fault", []deviceRecord{lost("a", 0), said(telemetry.XID, 31, 0), said(telemetry.Heard, 0, 1), said(telemetry.XID, 31, 59), lost("b", 60), said(telemetry.Heard, 0, 61)}, "", ""},
		{"programs were at fault before", []deviceRecord{said(telemetry.XID, 31, 0), lost("a", 6), said(telemetry.Heard, 0, 7), said(telemetry.XID, 31, 50), lost("b", 60), said(telemetry.Heard, 0, 61)}, deviceQuarantine, "class " + classDevice},
		{"a group is lost once", []deviceRecord{in("g", lost("a", 0)), in("g", lost("b", 0)), in("g", lost("c", 1)), said(telemetry.Heard, 0, 2)}, "", ""},
		{"and then another one", []deviceRecord{in("g", lost("a", 0)), in("g", lost("b", 0)), in("h", lost("a", 60)), said(telemetry.Heard, 0, 61)}, deviceQuarantine, "class " + classDevice},
		{"a start that failed for a whole group", []deviceRecord{in("g", failed("a", classInternal, 0)), in("g", failed("b", classInternal, 0)), in("g", failed("c", classInternal, 0))}, "", ""},
		{"and then for two more runs", []deviceRecord{in("g", failed("a", classInternal, 0)), in("g", failed("b", classInternal, 0)), failed("b", classInternal, 0), failed("a", classInternal, 0)}, deviceDrain, "3 attempts"},
		{"a run that diverges does not hide its group", []deviceRecord{in("g", failed("a", classDiverged, 9)), in("g", failed("b", classInternal, 0)), failed("c", classInternal, 0), failed("d", classInternal, 0)}, deviceDrain, "3 attempts"},
		{"others' memory", []deviceRecord{said(telemetry.ForeignMemory, 0, 0), said(telemetry.Answers, 0, 0)}, "", ""},
		{"of another boot", []deviceRecord{{Kind: string(telemetry.XID), XID: 79, Boot: "before"}}, "", ""},
		{"of this boot", []deviceRecord{{Kind: string(telemetry.XID), XID: 79, Boot: "now"}}, deviceQuarantine, "xid_fatal"},
	} {
		j := judgement{boot: "now"}
		for _, r := range c.records {
			j.add(p, r)
		}
		if j.device != c.device || !strings.Contains(j.reason, c.says) {
			t.Errorf("%s: %+v", c.name, j.verdict)
		}
	}
}

// After a failure on a GPU nobody takes the run before what the driver knew then is on record, or was not to be had for settle_s.
func TestNothingIsDecidedBeforeTheDriverWasHeard(t *testing.T) {
	store, err := openFake(t, faultStudy, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	me := identity()
	me.Device = "GPU-0"
	r := mustRuns(t, store)[0]
	taken := func(quiet *silence) bool {
		t.Helper()
		l, _, err := store.take(r, me, quiet)
		if err != nil {
			t.Fatal(err)
		}
		if l != nil {
			t.Cleanup(l.rest)
		}
		return l != nil
	}
	quiet := &silence{}
	if !taken(quiet) {
		t.Fatal("a new run is not to be had")
	}
	end := func(attempt int) time.Time {
		t.Helper()
		l := me
		l.RunID, l.Attempt, l.dir = r.ID, attempt, store.workDir(r.ID)
		row := l.row(r)
		row.Outcome, row.FailureClass, row.Ended = outcomeFailed, classDevice, time.Now().UTC()
		if err := store.endAttempt(&l, row); err != nil {
			t.Fatal(err)
		}
		return row.Ended
	}
	ended := end(1)
	for _, heard := range []time.Time{{}, ended.Add(-time.Millisecond)} {
		if !heard.IsZero() {
			if err := store.noteDevice(deviceRecord{Time: heard, Device: "GPU-0", Kind: recordHeard}); err != nil {
				t.Fatal(err)
			}
		}
		if taken(quiet) {
			t.Fatalf("the run was taken although the driver was not heard since it failed (%v)", heard)
		}
	}
	if err := store.noteDevice(deviceRecord{Time: ended, Device: "GPU-0", Kind: recordHeard}); err != nil {
		t.Fatal(err)
	}
	if !taken(quiet) {
		t.Error("the driver was heard, but the run is not to be had")
	}
	end(2)
	l := lease{dir: store.workDir(r.ID), Attempt: 2}
	long := &silence{seen: map[string]touched{"failed " + l.path(): {since: time.Now().Add(-time.Duration(store.policy.SettleSeconds * float64(time.Second)))}}}
	if taken(quiet) || !taken(long) {
		t.Error("where nobody hears the driver, settle_s is not what the next attempt waits for")
	}
}

// Several processes append to a device's record, one may be killed in the middle of a line, and no other line suffers.
func TestDeviceRecord(t *testing.T) {
	store := newStore(t.TempDir(), &Plan{})
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 50 {
				if err := store.noteDevice(deviceRecord{Device: "GPU-a/b", Kind: recordAttempt, RunID: "x", Steps: 1}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	path := filepath.Join(store.devices.folder, "GPU_a_b.jsonl")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("\n0123abcd {\"device\": \"GPU-a/b\", \"ki")
	f.Close()
	if v, err := store.judge("GPU-a/b"); err != nil || v.device != "" {
		t.Errorf("%+v %v", v, err)
	}
	if err := store.noteDevice(deviceRecord{Device: "GPU-a/b", Kind: string(telemetry.XID), XID: 79}); err != nil {
		t.Fatal(err)
	}
	if v, err := store.judge("GPU-a/b"); err != nil || v.device != deviceQuarantine {
		t.Errorf("the line behind a torn one is lost: %+v %v", v, err)
	}
	if n := len(store.devices.records["GPU-a/b"]); n != 201 {
		t.Errorf("%d records, want 201", n)
	}
	if n := len(store.devices.events()); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}
