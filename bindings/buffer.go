package bindings

// #include "shim.h"
import "C"

import "unsafe"

// Buffer is memory of a device. It belongs to its context and is as little safe for concurrent use.
type Buffer struct {
	context *Context
	handle  *C.anx_buffer
	bytes   int64
}

// NewBuffer makes a buffer of zeros.
func (c *Context) NewBuffer(bytes int64) (*Buffer, error) {
	if c.handle == nil {
		return nil, invalid("buffer_create: the context is closed")
	}
	if bytes < 0 {
		return nil, invalid("buffer_create: %d bytes asked for", bytes)
	}
	var handle *C.anx_buffer
	if err := c.check(C.anx_shim_buffer_create(c.library.api, c.handle, &handle, C.uint64_t(bytes))); err != nil {
		return nil, err
	}
	b := &Buffer{c, handle, bytes}
	c.buffers[b] = struct{}{}
	return b, nil
}

// Size is the buffer's size in bytes.
func (b *Buffer) Size() int64 { return b.bytes }

// Write copies data to the device, starting at byte offset.
func (b *Buffer) Write(offset int64, data []byte) error {
	if err := b.checkRange("buffer_write", offset, len(data)); err != nil {
		return err
	}
	c := b.context
	return c.check(C.anx_shim_buffer_write(c.library.api, c.handle, b.handle, unsafe.Pointer(unsafe.SliceData(data)), C.uint64_t(offset), C.uint64_t(len(data))))
}

// Read copies len(data) bytes from the device, starting at byte offset, once the programs started before are done.
func (b *Buffer) Read(offset int64, data []byte) error {
	if err := b.checkRange("buffer_read", offset, len(data)); err != nil {
		return err
	}
	c := b.context
	return c.check(C.anx_shim_buffer_read(c.library.api, c.handle, b.handle, unsafe.Pointer(unsafe.SliceData(data)), C.uint64_t(offset), C.uint64_t(len(data))))
}

func (b *Buffer) checkRange(what string, offset int64, bytes int) error {
	if b.handle == nil {
		return invalid("%s: the buffer is closed", what)
	}
	if offset < 0 || offset > b.bytes-int64(bytes) {
		return invalid("%s: bytes %d to %d of a buffer of %d bytes", what, offset, offset+int64(bytes), b.bytes)
	}
	return nil
}

// Close frees the memory, after the programs bound to it, which are closed too. Closing twice does nothing.
func (b *Buffer) Close() {
	if b.handle == nil {
		return
	}
	for p := range b.context.programs {
		for _, bound := range p.buffers {
			if bound == b {
				p.Close()
				break
			}
		}
	}
	C.anx_shim_buffer_destroy(b.context.library.api, b.context.handle, b.handle)
	b.handle = nil
	delete(b.context.buffers, b)
}
