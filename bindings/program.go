package bindings

// #cgo noescape anx_shim_program_run
// #cgo nocallback anx_shim_program_run
// #include "shim.h"
import "C"

import (
	"math"
	"unsafe"
)

// Program is a list of ops bound to buffers. It belongs to its context and is as little safe for concurrent use.
type Program struct {
	context *Context
	handle  *C.anx_program
	buffers []*Buffer
	records []Op
	slots   int
}

// Workspace checks every record of a program and tells the memory it needs beside its buffers.
func (c *Context) Workspace(d ProgramDesc) (int64, error) {
	if c.handle == nil {
		return 0, invalid("program_workspace: the context is closed")
	}
	buffers := int32(0)
	for _, t := range d.Tensors {
		if t.Buffer < math.MaxInt32 {
			buffers = max(buffers, t.Buffer+1)
		}
	}
	desc, err := programDesc(d, int(buffers))
	if err != nil {
		return 0, err
	}
	var bytes C.uint64_t
	err = c.check(C.anx_shim_program_workspace(c.library.api, c.handle, &desc, &bytes, cTensors(d), cOps(d)))
	return int64(bytes), err
}

// NewProgram checks a program and binds it to buffers: Tensor.Buffer is a position in buffers.
func (c *Context) NewProgram(d ProgramDesc, buffers []*Buffer) (*Program, error) {
	if c.handle == nil {
		return nil, invalid("program_create: the context is closed")
	}
	handles := make([]*C.anx_buffer, len(buffers))
	for i, b := range buffers {
		if err := c.owns("program_create", b); err != nil {
			return nil, err
		}
		handles[i] = b.handle
	}
	desc, err := programDesc(d, len(buffers))
	if err != nil {
		return nil, err
	}
	var handle *C.anx_program
	if err := c.check(C.anx_shim_program_create(c.library.api, c.handle, &desc, &handle, cTensors(d), cOps(d), unsafe.SliceData(handles))); err != nil {
		return nil, err
	}
	p := &Program{c, handle, append([]*Buffer(nil), buffers...), append([]Op(nil), d.Ops...), d.Slots}
	c.programs[p] = struct{}{}
	return p, nil
}

// Run runs every op once, in order. On a device that works asynchronously it returns before they are done.
func (p *Program) Run(slots []float64) error {
	if p.handle == nil {
		return invalid("program_run: the program is closed")
	}
	if len(slots) != p.slots {
		return invalid("program_run: %d slots given, the program has %d", len(slots), p.slots)
	}
	c := p.context
	if status := C.anx_shim_program_run(c.library.api, c.handle, p.handle, (*C.double)(unsafe.SliceData(slots))); status != C.ANX_OK {
		return c.check(status)
	}
	return nil
}

// Profile gives nanoseconds and runs of each op since the last call; the first call starts the clocks.
func (p *Program) Profile() (ns, runs []uint64, err error) {
	if p.handle == nil {
		return nil, nil, invalid("program_profile: the program is closed")
	}
	ns, runs = make([]uint64, len(p.records)), make([]uint64, len(p.records))
	c := p.context
	err = c.check(C.anx_shim_program_profile(c.library.api, c.handle, p.handle, (*C.uint64_t)(unsafe.SliceData(ns)), (*C.uint64_t)(unsafe.SliceData(runs))))
	if err != nil {
		return nil, nil, err
	}
	return ns, runs, nil
}

// Kernels names the kernels of each op, joined by " + "; nil where the back end has no names for them.
func (p *Program) Kernels() ([]string, error) {
	if p.handle == nil {
		return nil, invalid("program_kernels: the program is closed")
	}
	c, texts := p.context, make([]*C.char, max(1, len(p.records)))
	status := C.anx_shim_program_kernels(c.library.api, c.handle, p.handle, unsafe.SliceData(texts))
	if status == C.ANX_UNSUPPORTED {
		return nil, nil
	}
	if err := c.check(status); err != nil {
		return nil, err
	}
	names := make([]string, len(p.records))
	for i := range names {
		names[i] = C.GoString(texts[i])
	}
	return names, nil
}

// Close frees the program; its buffers stay. Closing twice does nothing.
func (p *Program) Close() {
	if p.handle == nil {
		return
	}
	C.anx_shim_program_destroy(p.context.library.api, p.context.handle, p.handle)
	p.handle = nil
	delete(p.context.programs, p)
}

func programDesc(d ProgramDesc, buffers int) (C.anx_program_desc, error) {
	if max(len(d.Tensors), len(d.Ops), buffers, d.Slots) > math.MaxInt32 || d.Slots < 0 {
		return C.anx_program_desc{}, invalid("program: %d tensors, %d ops, %d buffers and %d slots are not possible", len(d.Tensors), len(d.Ops), buffers, d.Slots)
	}
	return C.anx_program_desc{
		tensors: C.int32_t(len(d.Tensors)), ops: C.int32_t(len(d.Ops)), buffers: C.int32_t(buffers), slots: C.int32_t(d.Slots),
	}, nil
}

func cTensors(d ProgramDesc) *C.anx_tensor {
	return (*C.anx_tensor)(unsafe.Pointer(unsafe.SliceData(d.Tensors)))
}

func cOps(d ProgramDesc) *C.anx_op { return (*C.anx_op)(unsafe.Pointer(unsafe.SliceData(d.Ops))) }
