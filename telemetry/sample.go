package telemetry

import (
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Sample is a device at a moment. What a device or its driver cannot tell is nil.
type Sample struct {
	Time           time.Time
	UtilPct        *float64
	MemoryUsed     *int64
	MemoryTotal    *int64
	TempC          *float64
	PowerW         *float64
	EnergyJ        *float64 // since the driver was loaded
	SMClockMHz     *int64
	MemoryClockMHz *int64
	ClocksReasons  *int64 // NVML's bits of why clocks are low
	ECCErrors      *int64 // uncorrected, since the driver was loaded
	RepairPending  bool   // memory waits to be retired or remapped, which a reset does
	Processes      []Process
}

// TellsEnergy says whether the device tells what it uses.
func (s *Sample) TellsEnergy() bool { return s.EnergyJ != nil || s.PowerW != nil }

// Process uses a device.
type Process struct {
	PID         int
	MemoryBytes int64
}

// ReasonsText names the bits of ClocksReasons that say that a device is held back.
func ReasonsText(bits int64) (list []string) {
	for _, b := range []struct {
		bit  int64
		name string
	}{{nvml.ClocksEventReasonSwPowerCap, "power limit"}, {nvml.ClocksThrottleReasonHwSlowdown, "hardware slowdown"}, {nvml.ClocksEventReasonSwThermalSlowdown, "heat"},
		{nvml.ClocksThrottleReasonHwThermalSlowdown, "heat (hardware)"}, {nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, "power brake"}} {
		if bits&b.bit != 0 {
			list = append(list, b.name)
		}
	}
	return list
}

// reader samples one device. Each call to the driver is announced, so that another goroutine can tell how long it takes.
type reader struct {
	n       *NVML
	d       Device
	calling func(what string) // "": back
	has     map[string]bool
	every   time.Duration // between looks at what changes slowly
	slow    time.Time     // the last one
	old     Sample        // what it found
}

// call makes a call if the driver has the function, and says whether it went well.
func (r *reader) call(symbol string, f func() nvml.Return) (bool, nvml.Return) {
	known, looked := r.has[symbol]
	if !looked {
		known = r.n.has(symbol)
		r.has[symbol] = known
	}
	if !known {
		return false, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	r.calling(symbol)
	defer r.calling("")
	result := f()
	return result == nvml.SUCCESS, result
}

// sample looks at the device; lost says that the driver has given it up.
func (r *reader) sample() (s Sample, lost bool) {
	h := r.d.handle
	get := func(symbol string, f func() nvml.Return) bool {
		if lost {
			return false
		}
		ok, result := r.call(symbol, f)
		lost = result == nvml.ERROR_GPU_IS_LOST
		return ok
	}
	var memory nvml.Memory
	var use nvml.Utilization
	var small uint32
	var large uint64
	if get("nvmlDeviceGetMemoryInfo", func() (x nvml.Return) { memory, x = h.GetMemoryInfo(); return x }) {
		s.MemoryUsed, s.MemoryTotal = number[int64](memory.Used), number[int64](memory.Total)
	}
	if get("nvmlDeviceGetUtilizationRates", func() (x nvml.Return) { use, x = h.GetUtilizationRates(); return x }) {
		s.UtilPct = number[float64](use.Gpu)
	}
	if get("nvmlDeviceGetTemperature", func() (x nvml.Return) { small, x = h.GetTemperature(nvml.TEMPERATURE_GPU); return x }) {
		s.TempC = number[float64](small)
	}
	if get("nvmlDeviceGetPowerUsage", func() (x nvml.Return) { small, x = h.GetPowerUsage(); return x }) {
		w := float64(small) / 1000
		s.PowerW = &w
	}
	s.Time = time.Now() // energy changes fastest
	if get("nvmlDeviceGetTotalEnergyConsumption", func() (x nvml.Return) { large, x = h.GetTotalEnergyConsumption(); return x }) {
		j := float64(large) / 1000
		s.EnergyJ = &j
	}
	if get("nvmlDeviceGetClockInfo", func() (x nvml.Return) { small, x = h.GetClockInfo(nvml.CLOCK_SM); return x }) {
		s.SMClockMHz = number[int64](small)
	}
	if get("nvmlDeviceGetClockInfo", func() (x nvml.Return) { small, x = h.GetClockInfo(nvml.CLOCK_MEM); return x }) {
		s.MemoryClockMHz = number[int64](small)
	}
	if get("nvmlDeviceGetCurrentClocksEventReasons", func() (x nvml.Return) { large, x = h.GetCurrentClocksEventReasons(); return x }) ||
		!r.has["nvmlDeviceGetCurrentClocksEventReasons"] && get("nvmlDeviceGetCurrentClocksThrottleReasons", func() (x nvml.Return) { large, x = h.GetCurrentClocksThrottleReasons(); return x }) {
		s.ClocksReasons = number[int64](large)
	}
	var processes []nvml.ProcessInfo
	for _, version := range []string{"_v3", "_v2", ""} { // the binding takes the newest that is there
		if symbol := "nvmlDeviceGetComputeRunningProcesses" + version; r.n.has(symbol) {
			if get(symbol, func() (x nvml.Return) { processes, x = h.GetComputeRunningProcesses(); return x }) {
				for _, p := range processes {
					used := int64(p.UsedGpuMemory)
					if p.UsedGpuMemory == ^uint64(0) { // not told
						used = 0
					}
					s.Processes = append(s.Processes, Process{int(p.Pid), used})
				}
			}
			break
		}
	}
	if time.Since(r.slow) >= r.every {
		r.slow = time.Now()
		r.old = Sample{}
		if get("nvmlDeviceGetTotalEccErrors", func() (x nvml.Return) {
			large, x = h.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
			return x
		}) {
			r.old.ECCErrors = number[int64](large)
		}
		var pending nvml.EnableState
		if get("nvmlDeviceGetRetiredPagesPendingStatus", func() (x nvml.Return) { pending, x = h.GetRetiredPagesPendingStatus(); return x }) {
			r.old.RepairPending = pending == nvml.FEATURE_ENABLED
		}
		var remap bool
		if get("nvmlDeviceGetRemappedRows", func() (x nvml.Return) { _, _, remap, _, x = h.GetRemappedRows(); return x }) {
			r.old.RepairPending = r.old.RepairPending || remap
		}
	}
	s.ECCErrors, s.RepairPending = r.old.ECCErrors, r.old.RepairPending
	return s, lost
}

func number[T int64 | float64, F uint32 | uint64](v F) *T {
	t := T(v)
	return &t
}

// Look samples a device once.
func (n *NVML) Look(d Device) (Sample, error) {
	return within(n, "when asked how "+d.UUID+" is", func() (Sample, error) {
		s, _ := (&reader{n: n, d: d, calling: func(string) {}, has: map[string]bool{}}).sample()
		return s, nil
	})
}
