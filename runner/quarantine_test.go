package runner

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

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
	done := deviceRecord{Kind: recordAttempt, RunID: "z", Steps: 100}
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
