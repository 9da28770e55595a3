package runner

import (
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const telemetryInterval = 10 * time.Second

// sample writes a row of telemetry for each worker: the processor time and memory of its process. Devices with sensors of their own
// add theirs here.
func (c *coordinator) sample(interval time.Duration) {
	seconds := interval.Seconds()
	if seconds < 0.5 {
		return
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	total := memoryTotal()
	images := map[string]float64{} // per second, by GPU
	for _, s := range c.slots {
		if s.process == nil {
			continue
		}
		done := c.model.sessions[s].Images
		if isGPU(s.device) {
			images[s.device] += float64(done-s.images) / seconds
			s.images = done
			continue
		}
		cpu, memory, ok := usage(s.pid)
		if !ok {
			continue
		}
		row := telemetryRow{Time: now, Host: c.me.Host, Device: s.device + "/" + strconv.Itoa(s.index), Interval: seconds,
			Utilisation: ptr(100 * (cpu - s.cpu) / seconds), MemoryUsed: &memory, MemoryTotal: total, ImagesPerSec: ptr(float64(done-s.images) / seconds)}
		s.cpu, s.images = cpu, done
		if err := c.telemetry.append(row); err != nil {
			c.stop(err)
		}
	}
	c.sampleGPUs(now, images)
}

// sampleGPUs writes a row for each GPU: means of what the driver said.
func (c *coordinator) sampleGPUs(now time.Time, images map[string]float64) {
	if c.gpus == nil {
		return
	}
	means := c.gpus.monitor.Means()
	c.model.gpus = nil
	for _, uuid := range slices.Sorted(maps.Keys(means)) {
		v := means[uuid]
		row := telemetryRow{Time: now, Host: c.me.Host, Device: uuid, Interval: v.Seconds, Utilisation: v.UtilPct, MemoryUsed: v.MemoryUsed,
			MemoryTotal: v.MemoryTotal, TempC: v.TempC, PowerW: v.PowerW, Clocks: v.ClocksReasons, ImagesPerSec: ptr(images[uuid])}
		c.model.gpus = append(c.model.gpus, row)
		if err := c.telemetry.append(row); err != nil {
			c.stop(err)
			return
		}
	}
}

// memoryTotal is the machine's memory, nil where it cannot be told.
func memoryTotal() *int64 {
	if runtime.GOOS != "linux" {
		return nil
	}
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			if kib, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				return ptr(kib * 1024)
			}
		}
	}
	return nil
}
