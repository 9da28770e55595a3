package bindings

// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// Context is one device (and, on a CPU, its threads) in use. A context with its buffers and programs is not safe for concurrent use:
// one goroutine at a time. Close it when done; no finalizer does.
type Context struct {
	library  *Library
	handle   *C.anx_context
	info     DeviceInfo
	buffers  map[*Buffer]struct{}
	programs map[*Program]struct{}
}

// NewContext takes a device into use. An ISA the machine lacks is an *Error with Unsupported.
func (l *Library) NewContext(options ContextOptions) (*Context, error) {
	desc := C.anx_context_desc{device: C.int32_t(options.Device), threads: C.int32_t(max(options.Threads, 1))}
	if len(options.ISA) >= len(desc.isa) {
		return nil, &Error{Unsupported, fmt.Sprintf("the %s back end has no instruction set %q", l.Name, options.ISA)}
	}
	for i := range len(options.ISA) {
		desc.isa[i] = C.char(options.ISA[i])
	}
	var handle *C.anx_context
	if status := C.anx_shim_context_create(l.api, &handle, &desc); status != C.ANX_OK {
		text := fmt.Sprintf("the %s back end cannot make a context on device %d", l.Name, options.Device)
		if handle != nil {
			text = C.GoString(C.anx_shim_context_error(l.api, handle))
			C.anx_shim_context_destroy(l.api, handle)
		}
		return nil, &Error{Status(status), text}
	}
	c := &Context{library: l, handle: handle, buffers: map[*Buffer]struct{}{}, programs: map[*Program]struct{}{}}
	var info C.anx_device_info
	if err := c.check(C.anx_shim_context_info(l.api, handle, &info)); err != nil {
		c.Close()
		return nil, err
	}
	c.info = deviceInfo(&info)
	return c, nil
}

// Library is the back end the context belongs to.
func (c *Context) Library() *Library { return c.library }

// Info describes the device and instruction set in use.
func (c *Context) Info() DeviceInfo { return c.info }

// Close gives the device back, with the programs and buffers still open on it. Closing twice does nothing.
func (c *Context) Close() {
	if c.handle == nil {
		return
	}
	for p := range c.programs {
		p.Close()
	}
	for b := range c.buffers {
		b.Close()
	}
	C.anx_shim_context_destroy(c.library.api, c.handle)
	c.handle = nil
}

// TensorBytes is the memory a tensor takes in this back end, which for activations is the back end's own affair.
func (c *Context) TensorBytes(t Tensor) (int64, error) {
	if c.handle == nil {
		return 0, invalid("tensor_bytes: the context is closed")
	}
	var bytes C.uint64_t
	err := c.check(C.anx_shim_tensor_bytes(c.library.api, c.handle, (*C.anx_tensor)(unsafe.Pointer(&t)), &bytes))
	return int64(bytes), err
}

// Pack writes values in order [n][h][w][c] to an activation tensor (or a plain F32 one) in b.
func (c *Context) Pack(t Tensor, b *Buffer, nhwc []float32) error {
	if err := c.checkTransfer("pack", t, b, len(nhwc)); err != nil {
		return err
	}
	return c.check(C.anx_shim_pack(c.library.api, c.handle, (*C.anx_tensor)(unsafe.Pointer(&t)), b.handle, (*C.float)(unsafe.SliceData(nhwc))))
}

// Unpack reads an activation tensor (or a plain F32 one) in b into nhwc, in order [n][h][w][c].
func (c *Context) Unpack(t Tensor, b *Buffer, nhwc []float32) error {
	if err := c.checkTransfer("unpack", t, b, len(nhwc)); err != nil {
		return err
	}
	return c.check(C.anx_shim_unpack(c.library.api, c.handle, (*C.anx_tensor)(unsafe.Pointer(&t)), b.handle, (*C.float)(unsafe.SliceData(nhwc))))
}

func (c *Context) checkTransfer(what string, t Tensor, b *Buffer, values int) error {
	if err := c.owns(what, b); err != nil {
		return err
	}
	if min(t.N, t.H, t.W, t.C) < 1 || values != t.Elements() {
		return invalid("%s: %d values given for a tensor of shape %d x %d x %d x %d", what, values, t.N, t.H, t.W, t.C)
	}
	return nil
}

// Synchronize waits until everything started on the device is done. Buffer.Read and Context.Unpack do not need it.
func (c *Context) Synchronize() error {
	if c.handle == nil {
		return invalid("synchronize: the context is closed")
	}
	return c.check(C.anx_shim_synchronize(c.library.api, c.handle))
}

// owns is an error if c or b is closed or they do not belong together.
func (c *Context) owns(what string, b *Buffer) error {
	switch {
	case c.handle == nil:
		return invalid("%s: the context is closed", what)
	case b == nil || b.handle == nil:
		return invalid("%s: the buffer is closed", what)
	case b.context != c:
		return invalid("%s: the buffer belongs to another context", what)
	}
	return nil
}

func (c *Context) check(status C.anx_status) error {
	if status == C.ANX_OK {
		return nil
	}
	return &Error{Status(status), C.GoString(C.anx_shim_context_error(c.library.api, c.handle))}
}
