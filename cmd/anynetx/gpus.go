package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"anynetx/telemetry"
)

// gpuJSON is what the NVIDIA driver says of a GPU; null is what it or its driver cannot tell.
type gpuJSON struct {
	Index          int              `json:"index"`
	Parent         string           `json:"parent,omitempty"` // of a MIG device
	Split          bool             `json:"split,omitempty"`  // by MIG: nothing runs on the whole of it
	Driver         string           `json:"driver"`
	MemoryUsed     *int64           `json:"memory_used_bytes"`
	UtilPct        *float64         `json:"util_pct"`
	TempC          *float64         `json:"temp_c"`
	PowerW         *float64         `json:"power_w"`
	EnergyJ        *float64         `json:"energy_j"`
	SMClockMHz     *int64           `json:"sm_clock_mhz"`
	MemoryClockMHz *int64           `json:"memory_clock_mhz"`
	HeldBack       []string         `json:"held_back_by"`
	ECCErrors      *int64           `json:"uncorrected_ecc_errors"`
	RepairPending  bool             `json:"repair_pending"`
	Processes      []gpuProcessJSON `json:"processes"`
	Problem        string           `json:"problem,omitempty"`
}

type gpuProcessJSON struct {
	PID         int   `json:"pid"`
	MemoryBytes int64 `json:"memory_bytes"`
}

// listGPUs asks the NVIDIA driver, if there is one.
func listGPUs() (list []deviceJSON, problem error) {
	nvml, err := telemetry.Open("")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer nvml.Close()
	devices, problem := nvml.Devices()
	for _, d := range devices {
		g := &gpuJSON{Index: d.Index, Parent: d.Parent, Split: d.MIG, Driver: nvml.Driver, HeldBack: []string{}, Processes: []gpuProcessJSON{}}
		s, err := nvml.Look(d)
		if err != nil {
			g.Problem = err.Error()
		}
		g.MemoryUsed, g.UtilPct, g.TempC, g.PowerW, g.EnergyJ, g.SMClockMHz, g.MemoryClockMHz = s.MemoryUsed, s.UtilPct, s.TempC, s.PowerW, s.EnergyJ, s.SMClockMHz, s.MemoryClockMHz
		g.ECCErrors, g.RepairPending = s.ECCErrors, s.RepairPending
		if s.ClocksReasons != nil {
			g.HeldBack = append(g.HeldBack, telemetry.ReasonsText(*s.ClocksReasons)...)
		}
		for _, p := range s.Processes {
			g.Processes = append(g.Processes, gpuProcessJSON(p))
		}
		list = append(list, deviceJSON{ID: d.UUID, BackEnd: "cuda", Name: d.Name, MemoryBytes: d.MemoryBytes, GPU: g})
	}
	return list, problem
}

func printGPUs(w io.Writer, list []deviceJSON) error {
	g := newGrid("id", "name", ">memory", ">in use", ">load", ">temperature", ">power", ">processes", "remarks")
	for _, d := range list {
		used, remarks := "-", d.GPU.HeldBack
		if d.GPU.MemoryUsed != nil {
			used = bytesText(*d.GPU.MemoryUsed)
		}
		if d.GPU.Split {
			remarks = append(remarks, "split by MIG")
		}
		if d.GPU.ECCErrors != nil && *d.GPU.ECCErrors > 0 {
			remarks = append(remarks, counted(int(*d.GPU.ECCErrors), "uncorrected memory error"))
		}
		if d.GPU.RepairPending {
			remarks = append(remarks, "memory waits for a reset to be repaired")
		}
		if d.GPU.Problem != "" {
			remarks = append(remarks, d.GPU.Problem)
		}
		g.row(d.ID, d.Name, bytesText(d.MemoryBytes), used, figure(d.GPU.UtilPct, "%"), figure(d.GPU.TempC, "°C"), figure(d.GPU.PowerW, "W"), len(d.GPU.Processes), strings.Join(remarks, ", "))
	}
	return g.print(w)
}

func figure(v *float64, unit string) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f %s", *v, unit)
}
