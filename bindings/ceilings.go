package bindings

// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// Ceilings is what a device could do at best, measured: anx_ceilings.
type Ceilings struct {
	FMAF32GFLOPs  float64 `json:"fma_f32_gflops"`  // 2 per fused multiply-add
	DotBF16GFLOPs float64 `json:"dot_bf16_gflops"` // 0: the device has no such instruction
	CopyGBPerS    float64 `json:"copy_gb_per_s"`   // read and written
	ReadGBPerS    float64 `json:"read_gb_per_s"`
}

// Ceilings measures the context's device with its instruction set and threads for about so many seconds. A back end that cannot is an
// *Error with Unsupported.
func (c *Context) Ceilings(seconds float64) (Ceilings, error) {
	if c.handle == nil {
		return Ceilings{}, invalid("ceilings: the context is closed")
	}
	if C.anx_shim_has_ceilings(c.library.api) == 0 {
		return Ceilings{}, &Error{Unsupported, fmt.Sprintf("ceilings: the %s back end does not measure them", c.library.Name)}
	}
	var out Ceilings
	err := c.check(C.anx_shim_ceilings(c.library.api, c.handle, (*C.anx_ceilings)(unsafe.Pointer(&out)), C.double(seconds)))
	return out, err
}

// OpTime is where time went: an op of a program with its nanoseconds and runs, and its kernels where they have names.
type OpTime struct {
	Op       Op
	NS, Runs uint64
	Kernels  string
}

// Profile is Program.Profile of every program open on the context, ops that did not run left out: where a trainer's time goes, seen from
// outside. Ops of one program are in order.
func (c *Context) Profile() ([]OpTime, error) {
	var list []OpTime
	for p := range c.programs {
		ns, runs, err := p.Profile()
		if err != nil {
			return nil, err
		}
		kernels, err := p.Kernels()
		if err != nil {
			return nil, err
		}
		for i, op := range p.records {
			if runs[i] == 0 {
				continue
			}
			t := OpTime{Op: op, NS: ns[i], Runs: runs[i]}
			if kernels != nil {
				t.Kernels = kernels[i]
			}
			list = append(list, t)
		}
	}
	return list, nil
}
