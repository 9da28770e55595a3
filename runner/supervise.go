package runner

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"anynetx/telemetry"
)

// What the coordinator does about workers that hang and devices that fail.

// session lets the devices of this host, and those it was given by name, try again if all that speaks against them is starts that failed.
func (c *coordinator) session() error {
	d := &c.store.devices
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refresh(); err != nil {
		return err
	}
	for key := range d.records {
		if strings.HasPrefix(key, c.me.Host+"/") || slices.Contains(c.Devices, key) {
			if err := c.store.noteDevice(deviceRecord{Device: key, Kind: recordSession}); err != nil {
				return err
			}
		}
	}
	return nil
}

// otherDevices says whether a run may be left to another device than a slot's.
func (c *coordinator) otherDevices(s *slot) bool {
	return c.Join || slices.ContainsFunc(c.slots, func(o *slot) bool { return o.device != s.device && o.closed == "" })
}

// ask has the driver say what it knows of the GPU on which an attempt has just failed: until then nothing is decided about the run (settled).
func (c *coordinator) ask(s *slot) {
	switch key := s.deviceKey(c.me.Host); {
	case !isGPU(key):
	case c.AskDevice != nil:
		c.AskDevice(key)
	default: // it never says anything
		c.deviceEvent(telemetry.Event{Time: time.Now(), Device: key, Kind: telemetry.Heard})
	}
}

// deviceEvent takes what the driver said of a device.
func (c *coordinator) deviceEvent(e telemetry.Event) {
	event := happened(c.me, string(e.Kind), "%s", e.Text)
	event.Device, event.Time = e.Device, e.Time.UTC().Truncate(time.Microsecond)
	record := deviceRecord{Time: e.Time, Device: e.Device, Kind: string(e.Kind), Text: e.Text}
	if e.Kind == telemetry.XID {
		event.XID, record.XID = ptr(e.XID), e.XID
	}
	err := c.store.noteDevice(record)
	if e.Kind != telemetry.Heard {
		err = errors.Join(err, c.events.append(event))
	}
	if err != nil {
		c.stop(err)
		return
	}
	for _, s := range c.slots {
		if s.deviceKey(c.me.Host) == e.Device {
			c.judge(s)
		}
	}
}

func (s *slot) deviceKey(host string) string {
	if s.key != "" {
		return s.key
	}
	return deviceKey(host, s.device)
}

// judge closes a slot whose device is not to be used any more.
func (c *coordinator) judge(s *slot) {
	if s.closed != "" {
		return
	}
	key := s.deviceKey(c.me.Host)
	v, err := c.store.judge(key)
	if err != nil {
		c.stop(err)
		return
	}
	if v.device == "" {
		return
	}
	again := false // another slot of the device has said it
	for _, o := range c.slots {
		again = again || o.closed != "" && o.deviceKey(c.me.Host) == key
	}
	s.closed, s.again = v.reason, time.Time{}
	if !again {
		event := happened(c.me, v.device, "device %s: %s", key, v.reason)
		event.Device = key
		c.events.append(event)
		c.Progress.Note(fmt.Sprintf("device %s is not used any more: %s", key, v.reason))
	}
	if v.device == deviceQuarantine {
		s.kill()
	}
}

// kill ends a worker with all processes of its group, stopped ones too.
func (s *slot) kill() {
	if s.process != nil {
		syscall.Kill(-s.process.Pid, syscall.SIGKILL)
	}
}

// supervise looks after workers and devices, once a second.
func (c *coordinator) supervise(now time.Time) {
	for _, h := range c.watchdog.overdue(now) {
		if _, known := h.slot.hung[h.runID]; known || h.slot.process == nil {
			continue
		}
		h.slot.hung[h.runID] = h.reason
		for id := range h.slot.runs { // which of a group it was only one that is alone can show
			group := h.slot.groups[id]
			if _, known := h.slot.hung[id]; !known && group != "" && group == h.slot.groups[h.runID] && !h.slot.trained[id] {
				h.slot.hung[id] = fmt.Sprintf("run %s, in its launches: %s", h.runID, h.reason)
			}
		}
		event := happened(c.me, "hang", "run %s: %s; worker %d is killed", h.runID, h.reason, h.slot.index)
		event.RunID, event.Device = h.runID, h.slot.deviceKey(c.me.Host)
		c.events.append(event)
		h.slot.kill()
	}
	for _, s := range c.slots {
		c.judge(s)
	}
}

// closedDevices are the devices of this call that are not used any more, with the reasons.
func (c *coordinator) closedDevices() map[string]string {
	list := map[string]string{}
	for _, s := range c.slots {
		if s.closed != "" {
			list[s.deviceKey(c.me.Host)] = s.closed
		}
	}
	return list
}

// ErrClosedDevices says that devices were taken out of use on the way.
var ErrClosedDevices = errors.New("devices were taken out of use")

func closedText(closed map[string]string) error {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(closed)) {
		parts = append(parts, key+" ("+closed[key]+")")
	}
	return fmt.Errorf("%w: %s; mend them, then `anynetx study retry DIR --device ID` takes one into use again", ErrClosedDevices, strings.Join(parts, ", "))
}
