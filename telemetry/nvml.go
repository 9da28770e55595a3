// Package telemetry watches NVIDIA GPUs through NVML: what they are, what they do once a second, and what happens to them. A driver that is
// sick may never answer, so nothing here waits for one without end.
package telemetry

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// NVML is the driver's library in use. There is one in a process: its symbols are bound once.
type NVML struct {
	lib    nvml.Interface
	Driver string // version
	stuck  atomic.Int64
}

// Device is a GPU, or a part of one under MIG.
type Device struct {
	UUID        string
	Name        string
	Index       int    // of the GPU in the driver's order, which is that of the PCI bus
	Parent      string // UUID of the GPU that a MIG device is part of
	MIG         bool   // the GPU is split, so nothing runs on the whole of it
	MemoryBytes int64

	handle   nvml.Device
	whole    nvml.Device // the GPU's: reports are of whole GPUs
	instance uint32      // of a MIG device
}

// answerWithin is how long the driver may take to start and to list its devices.
const answerWithin = 10 * time.Second

// Open starts NVML. Where there is none the error wraps fs.ErrNotExist. An empty path is the system's library.
func Open(path string) (*NVML, error) {
	n := &NVML{lib: nvml.New(nvml.WithLibraryPath(path))}
	_, err := within(n, "nvmlInit", func() (bool, error) {
		if r := n.lib.Init(); r == nvml.ERROR_LIBRARY_NOT_FOUND {
			return false, fmt.Errorf("no NVIDIA driver: libnvidia-ml.so.1 cannot be loaded: %w", fs.ErrNotExist)
		} else if r != nvml.SUCCESS {
			return false, fmt.Errorf("the NVIDIA driver does not start: %v; try nvidia-smi", r)
		}
		if n.has("nvmlSystemGetDriverVersion") {
			n.Driver, _ = n.lib.SystemGetDriverVersion()
		}
		return true, nil
	})
	if err != nil {
		return nil, err // and nothing of it may be called: symbols that are not there end the process
	}
	return n, nil
}

// Close ends the use. What hangs in a call is left to itself.
func (n *NVML) Close() {
	if n.stuck.Load() == 0 {
		n.lib.Shutdown()
	}
}

// Stuck counts the calls that have not returned.
func (n *NVML) Stuck() int { return int(n.stuck.Load()) }

// has says whether the driver has a function. Old ones lack many, and calling one that is not there ends the process.
func (n *NVML) has(symbol string) bool { return n.lib.Extensions().LookupSymbol(symbol) == nil }

// within calls f, which is left behind if it has not returned in time.
func within[T any](n *NVML, what string, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := f()
		done <- answer{v, err}
	}()
	const parts = 100
	for range parts { // one of them is all that a pause of this process is
		select {
		case a := <-done:
			return a.value, a.err
		case <-time.After(answerWithin / parts):
		}
	}
	n.stuck.Add(1)
	var zero T
	return zero, fmt.Errorf("the NVIDIA driver has not answered %s for %v; try nvidia-smi", what, answerWithin)
}

// Devices lists the GPUs, each followed by its MIG devices. The error is of those that do not answer; the others are in the list.
func (n *NVML) Devices() ([]Device, error) {
	count, err := within(n, "when asked for the number of devices", func() (int, error) {
		count, r := n.lib.DeviceGetCount()
		if r != nvml.SUCCESS {
			return 0, fmt.Errorf("the NVIDIA driver does not count its devices: %v", r)
		}
		return count, nil
	})
	if err != nil {
		return nil, err
	}
	lists, problems := make([][]Device, count), make([]error, count)
	var asking sync.WaitGroup
	for i := range count {
		asking.Go(func() {
			lists[i], problems[i] = within(n, fmt.Sprintf("when asked what GPU %d is", i), func() ([]Device, error) {
				handle, r := n.lib.DeviceGetHandleByIndex(i)
				if r != nvml.SUCCESS {
					return nil, fmt.Errorf("GPU %d: %v", i, r)
				}
				d, err := describe(handle, i)
				if err != nil {
					return nil, err
				}
				parts := n.parts(d)
				d.MIG = len(parts) > 0
				return append([]Device{d}, parts...), nil
			})
		})
	}
	asking.Wait()
	return slices.Concat(lists...), errors.Join(problems...)
}

func describe(handle nvml.Device, index int) (Device, error) {
	d := Device{Index: index, handle: handle, whole: handle}
	var r nvml.Return
	if d.UUID, r = handle.GetUUID(); r != nvml.SUCCESS {
		return d, fmt.Errorf("GPU %d does not tell its UUID: %v", index, r)
	}
	d.Name, _ = handle.GetName()
	if m, r := handle.GetMemoryInfo(); r == nvml.SUCCESS {
		d.MemoryBytes = int64(m.Total)
	}
	return d, nil
}

// parts are the MIG devices of a GPU.
func (n *NVML) parts(gpu Device) (list []Device) {
	if !n.has("nvmlDeviceGetMigMode") || !n.has("nvmlDeviceGetMigDeviceHandleByIndex") {
		return nil
	}
	if now, _, r := gpu.handle.GetMigMode(); r != nvml.SUCCESS || now != nvml.DEVICE_MIG_ENABLE {
		return nil
	}
	most, r := gpu.handle.GetMaxMigDeviceCount()
	if r != nvml.SUCCESS {
		return nil
	}
	for i := range most {
		handle, r := gpu.handle.GetMigDeviceHandleByIndex(i)
		if r != nvml.SUCCESS {
			continue // the places that are free
		}
		d, err := describe(handle, gpu.Index)
		if err != nil {
			continue
		}
		d.Parent, d.whole = gpu.UUID, gpu.handle
		if id, r := handle.GetGpuInstanceId(); r == nvml.SUCCESS {
			d.instance = uint32(id)
		}
		list = append(list, d)
	}
	return list
}
