package bindings

// #include "shim.h"
import "C"

import "fmt"

// Trace is what a profiler outside the process sees of a context.
type Trace uint32

const (
	TraceRanges Trace = 1 << iota // every run and its phases as ranges; programs run kernel by kernel, not as graphs
	TraceRecord                   // a profiler that waits to be told records
)

// Trace waits for the device and changes what is seen. A back end that no profiler sees into is an *Error with Unsupported.
func (c *Context) Trace(t Trace) error {
	if c.handle == nil {
		return invalid("trace: the context is closed")
	}
	if C.anx_shim_has_trace(c.library.api) == 0 {
		return &Error{Unsupported, fmt.Sprintf("trace: the %s back end shows a profiler nothing of its own", c.library.Name)}
	}
	return c.check(C.anx_shim_trace(c.library.api, c.handle, C.uint32_t(t)))
}
