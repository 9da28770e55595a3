package runner

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"anynetx/anynetx"
	"anynetx/telemetry"
)

// gpuWatch is what a coordinator knows of the GPUs that it has work done on, by the word of the driver.
type gpuWatch struct {
	foundGPUs
	monitor *telemetry.Monitor
	extra   map[string]int64 // bytes that a lane was seen to take beyond its plan, by device name
	foreign map[string]bool  // devices that others were seen on
}

// isGPU says whether a device is one by UUID.
func isGPU(device string) bool {
	return strings.HasPrefix(device, "GPU-") || strings.HasPrefix(device, "MIG-")
}

// onGPU says whether a device is one by any name.
func onGPU(device string) bool { return isGPU(device) || strings.HasPrefix(device, "cuda") }

// openGPUs finds the coordinator's GPUs and begins to watch them.
func (c *coordinator) openGPUs() error {
	if c.DeviceEvents != nil {
		return nil // somebody else watches
	}
	found, err := findGPUs(c.Devices, c.Progress)
	if err != nil || found.nvml == nil {
		return err
	}
	c.Devices = found.names
	c.gpus = &gpuWatch{foundGPUs: found, monitor: found.nvml.Watch(found.gpus, telemetry.Options{}), extra: map[string]int64{}, foreign: map[string]bool{}}
	c.DeviceEvents, c.AskDevice = c.gpus.monitor.Events(), c.gpus.monitor.Ask
	return nil
}

// foundGPUs is what the driver says of the devices that were asked for.
type foundGPUs struct {
	names []string           // of all devices, GPUs by UUID
	gpus  []telemetry.Device // those that are GPUs
	nvml  *telemetry.NVML    // nil: no driver, or no GPU is asked for
}

// findGPUs replaces "cuda" (all GPUs) and "cuda:1" by UUIDs, which the driver, CUDA and the results agree on. Without a driver what is not
// asked for by UUID is left to the back end.
func findGPUs(devices []string, progress Progress) (foundGPUs, error) {
	wanted := func(d string) bool { return isGPU(d) || d == "cuda" || strings.HasPrefix(d, "cuda:") }
	none := foundGPUs{names: devices}
	if !slices.ContainsFunc(devices, wanted) {
		return none, nil
	}
	nvml, err := telemetry.Open("")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !slices.ContainsFunc(devices, isGPU) {
			return none, nil
		}
		return none, anynetx.Inputf("--devices %s: %w", strings.Join(devices, ","), err)
	}
	found, err := nvml.Devices()
	if err != nil {
		progress.Note(err.Error()) // of the others there may be enough
	}
	visible, limited := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	if limited {
		if found, err = visibleDevices(visible, found); err != nil {
			nvml.Close()
			return none, err
		}
	}
	result := foundGPUs{nvml: nvml}
	for _, name := range devices {
		if !wanted(name) {
			result.names = append(result.names, name)
			continue
		}
		list, err := chooseGPUs(name, found)
		if err != nil {
			nvml.Close()
			return none, err
		}
		for _, d := range list {
			if !slices.Contains(result.names, d.UUID) {
				result.names, result.gpus = append(result.names, d.UUID), append(result.gpus, d)
			}
		}
	}
	return result, nil
}

func (f foundGPUs) close() {
	if f.nvml != nil {
		f.nvml.Close()
	}
}

func (g *gpuWatch) close() {
	if g != nil {
		g.monitor.Close()
		g.foundGPUs.close()
	}
}

// usable are the devices that something can run on: a GPU that MIG has split is none.
func usable(list []telemetry.Device) []telemetry.Device {
	return slices.DeleteFunc(slices.Clone(list), func(d telemetry.Device) bool { return d.MIG })
}

// chooseGPUs finds what a name stands for: a UUID or the unique beginning of one, "cuda" for all, "cuda:1" by the order of the PCI bus.
func chooseGPUs(name string, found []telemetry.Device) ([]telemetry.Device, error) {
	list := usable(found)
	if name == "cuda" && len(list) > 0 {
		return list, nil
	}
	var matches []telemetry.Device
	if number, ok := strings.CutPrefix(name, "cuda:"); ok {
		if i, err := strconv.Atoi(number); err == nil && i >= 0 && i < len(list) {
			matches = list[i : i+1]
		}
	} else {
		for _, d := range list {
			if strings.HasPrefix(d.UUID, name) {
				matches = append(matches, d)
			}
		}
	}
	if len(matches) == 1 {
		return matches, nil
	}
	var there []string
	for i, d := range list {
		there = append(there, fmt.Sprintf("cuda:%d is %s (%s)", i, d.UUID, d.Name))
	}
	switch {
	case len(there) == 0:
		return nil, anynetx.Inputf("device %s: the driver shows no GPU; `anynetx devices` shows what there is", name)
	case len(matches) > 1:
		return nil, anynetx.Inputf("device %s: %d GPUs begin like that; give more of the UUID: %s", name, len(matches), strings.Join(there, ", "))
	}
	return nil, anynetx.Inputf("there is no device %s; there are: %s", name, strings.Join(there, ", "))
}

// visibleDevices are those that CUDA_VISIBLE_DEVICES leaves, in its order.
func visibleDevices(visible string, found []telemetry.Device) ([]telemetry.Device, error) {
	var list []telemetry.Device
	for name := range strings.SplitSeq(visible, ",") {
		name = strings.TrimSpace(name)
		if name == "" || name == "-1" || name == "NoDevFiles" {
			break // as CUDA reads it
		}
		if _, err := strconv.Atoi(name); err == nil {
			name = "cuda:" + name
		}
		d, err := chooseGPUs(name, found)
		if err != nil {
			return nil, anynetx.Inputf("CUDA_VISIBLE_DEVICES=%s: %w", visible, err)
		}
		list = append(list, d...)
	}
	return list, nil
}

// share is how the memory of a device is divided: what its worker has, what others have, and what is left for the worker's runs.
type share struct{ own, foreign, budget int64 }

// divide reads a sample.
func divide(s *telemetry.Sample, pid int) (share, bool) {
	if s == nil || s.MemoryUsed == nil || s.MemoryTotal == nil {
		return share{}, false
	}
	var d share
	for _, p := range s.Processes {
		if p.PID == pid {
			d.own += p.MemoryBytes
		} else {
			d.foreign += p.MemoryBytes
		}
	}
	const margin, step = 256 << 20, 64 << 20 // of what the driver takes when it pleases; small changes are none
	d.budget = (*s.MemoryTotal - (*s.MemoryUsed - d.own) - margin) / step * step
	if d.budget <= 0 {
		d.budget = -1 // nothing at all, which 0 does not say
	}
	return d, true
}

// noticeable is how much memory of others is worth an event.
const noticeable = 64 << 20

// direct gives the workers their orders, once a second and when a worker has just started.
func (c *coordinator) direct(now time.Time) {
	sees := cmp.Or(c.timing.sees, 3*time.Second)
	var states map[string]telemetry.State
	if c.gpus != nil {
		states = c.gpus.monitor.States()
	}
	for _, s := range c.slots {
		if _, watched := states[s.device]; !watched && s.process != nil {
			s.give(Orders{Models: 1, Group: c.grouping(s), Costs: c.costs.of(s.name)})
			continue
		}
		state, ok := states[s.device]
		if !ok || s.process == nil || state.Lost || state.Latest == nil {
			continue
		}
		d, ok := divide(state.Latest, s.pid)
		o := Orders{Models: s.packing.models(), Group: c.grouping(s), Costs: c.costs.of(s.name)}
		if ok {
			if s.orders.Models == 0 { // nothing has been placed there yet
				s.baseline = d.foreign
			}
			if d.own == 0 && s.training() > 0 && state.Latest.Time.Sub(s.settled) > sees {
				// The driver names processes by numbers that are not ours, as in a container: what has come since is the worker's.
				d.own = max(0, d.foreign-s.baseline)
				d.foreign -= d.own
				d.budget += d.own
			}
			c.notice(s.device, d)
			if planned, n := s.planned(); n > 0 && d.own > 0 && state.Latest.Time.Sub(s.settled) > sees {
				c.gpus.extra[state.Name] = max(c.gpus.extra[state.Name], (d.own-planned)/int64(n))
			}
			o.MemoryBytes, o.ExtraBytes, o.Exclusive = d.budget, c.gpus.extra[state.Name], d.foreign < noticeable
		}
		if text, changed := s.packing.observe(now, s.training(), s.work); changed {
			o.Models = s.packing.models()
			event := happened(c.me, "packing", "%s", text)
			event.Device = s.device
			c.events.append(event)
		}
		s.give(o)
		if state.Latest.TellsEnergy() {
			s.tell(Reading{state.UsedJ, state.Latest.Time.UTC()})
		}
	}
}

// grouping is how many runs may train in common launches on a device. Processors step them in turn: nothing is gained there.
func (c *coordinator) grouping(s *slot) int {
	if !onGPU(s.device) {
		return 0
	}
	return cmp.Or(c.Group, MostGrouped)
}

// gpuTiming is how long things take on a GPU; zero is the default.
type gpuTiming struct {
	window time.Duration // in which work is measured: half a minute
	sees   time.Duration // until the driver sees a process, and its memory, come and go: three seconds
}

// notice makes an event of others that come to a device, or go.
func (c *coordinator) notice(device string, d share) {
	there := d.foreign >= noticeable
	if there == c.gpus.foreign[device] {
		return
	}
	c.gpus.foreign[device] = there
	if there {
		c.deviceEvent(telemetry.Event{Time: time.Now(), Device: device, Kind: telemetry.ForeignMemory,
			Text: fmt.Sprintf("processes of others hold %s of memory; nothing is placed on it", bytesText(d.foreign))})
	}
}

// planned is what the runs in training were planned to take, and in how many lanes they are.
func (s *slot) planned() (bytes int64, lanes int) {
	there := map[string]bool{}
	for id := range s.runs {
		if !s.trained[id] {
			bytes += s.needs[id]
			there[cmp.Or(s.groups[id], id)] = true
		}
	}
	return bytes, len(there)
}

func (s *slot) training() int {
	_, n := s.planned()
	return n
}

// give tells a worker its orders, if they have changed.
func (s *slot) give(o Orders) {
	if o != s.orders {
		s.orders = o
		s.tell(o)
	}
}

// tell writes a line to a worker. One that does not read, because it is stopped, is no reason to wait.
func (s *slot) tell(line any) {
	if f, ok := s.stdin.(interface{ SetWriteDeadline(time.Time) error }); ok {
		f.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	}
	json.NewEncoder(s.stdin).Encode(line)
}

// told keeps what a worker's message says of the device.
func (c *coordinator) told(s *slot, m *Message) {
	g := c.model.running[m.RunID]
	switch m.Kind {
	case "ready":
		s.name = m.Text
	case "start":
		s.needs[m.RunID], s.groups[m.RunID], s.settled = m.Bytes, m.Group, time.Now()
	case "progress", "epoch":
		if g != nil && g.slot == s && g.first >= 0 {
			s.work += (m.Share - g.message.Share) * c.unit.Seconds(g.run)
		}
	case "trained":
		s.settled = time.Now()
	case "end":
		if g != nil && m.Outcome == outcomeCommitted {
			c.costs.add(s.name, g.run, m.Seconds)
		}
	}
}
