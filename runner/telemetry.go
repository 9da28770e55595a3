package runner

import (
	"os"
	"runtime"
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
	for _, s := range c.slots {
		if s.process == nil {
			continue
		}
		cpu, memory, ok := usage(s.pid)
		if !ok {
			continue
		}
		images := c.model.sessions[s].Images
		row := telemetryRow{Time: now, Host: c.me.Host, Device: s.device + "/" + strconv.Itoa(s.index), Interval: seconds,
			Utilisation: ptr(100 * (cpu - s.cpu) / seconds), MemoryUsed: &memory, MemoryTotal: total, ImagesPerSec: ptr(float64(images-s.images) / seconds)}
		s.cpu, s.images = cpu, images
		if err := c.telemetry.append(row); err != nil {
			c.stop(err)
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
