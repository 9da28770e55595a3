/* Calls through anx_api's function pointers, which cgo cannot make itself, and the loading of a shared library. */
#ifndef ANX_SHIM_H
#define ANX_SHIM_H

#include <dlfcn.h>
#include <stddef.h>
#include "anx.h"

/* The table of a shared library, or NULL with *error set to text owned by the dynamic loader (NULL: the library does not know this
 * ABI version). The library stays loaded for the life of the process. */
static inline const anx_api *anx_shim_open(const char *path, const char **error) {
  const anx_api *(*get)(uint32_t) = NULL;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  *error = NULL;
  if (!library) {
    *error = dlerror();
    return NULL;
  }
  *(void **)&get = dlsym(library, "anx_get_api");
  if (!get) {
    *error = dlerror();
    return NULL;
  }
  return get(ANX_ABI_VERSION);
}

static inline anx_status anx_shim_device_count(const anx_api *a, int32_t *count) { return a->device_count(count); }
static inline anx_status anx_shim_device_info(const anx_api *a, anx_device_info *info, int32_t device) {
  return a->device_info(info, device);
}
static inline anx_status anx_shim_context_create(const anx_api *a, anx_context **out, const anx_context_desc *desc) {
  return a->context_create(out, desc);
}
static inline void anx_shim_context_destroy(const anx_api *a, anx_context *c) { a->context_destroy(c); }
static inline const char *anx_shim_context_error(const anx_api *a, anx_context *c) { return a->context_error(c); }
static inline anx_status anx_shim_context_info(const anx_api *a, anx_context *c, anx_device_info *info) {
  return a->context_info(c, info);
}
static inline anx_status anx_shim_tensor_bytes(const anx_api *a, anx_context *c, const anx_tensor *t, uint64_t *bytes) {
  return a->tensor_bytes(c, t, bytes);
}
static inline anx_status anx_shim_buffer_create(const anx_api *a, anx_context *c, anx_buffer **out, uint64_t bytes) {
  return a->buffer_create(c, out, bytes);
}
static inline void anx_shim_buffer_destroy(const anx_api *a, anx_context *c, anx_buffer *b) { a->buffer_destroy(c, b); }
static inline anx_status anx_shim_buffer_write(const anx_api *a, anx_context *c, anx_buffer *b, const void *data, uint64_t offset,
                                               uint64_t bytes) {
  return a->buffer_write(c, b, data, offset, bytes);
}
static inline anx_status anx_shim_buffer_read(const anx_api *a, anx_context *c, const anx_buffer *b, void *data, uint64_t offset,
                                              uint64_t bytes) {
  return a->buffer_read(c, b, data, offset, bytes);
}
static inline anx_status anx_shim_pack(const anx_api *a, anx_context *c, const anx_tensor *t, anx_buffer *b, const float *nhwc) {
  return a->pack(c, t, b, nhwc);
}
static inline anx_status anx_shim_unpack(const anx_api *a, anx_context *c, const anx_tensor *t, const anx_buffer *b, float *nhwc) {
  return a->unpack(c, t, b, nhwc);
}
static inline anx_status anx_shim_program_workspace(const anx_api *a, anx_context *c, const anx_program_desc *d, uint64_t *bytes,
                                                    const anx_tensor *tensors, const anx_op *ops) {
  return a->program_workspace(c, d, bytes, tensors, ops);
}
static inline anx_status anx_shim_program_create(const anx_api *a, anx_context *c, const anx_program_desc *d, anx_program **out,
                                                 const anx_tensor *tensors, const anx_op *ops, anx_buffer *const *buffers) {
  return a->program_create(c, d, out, tensors, ops, buffers);
}
static inline void anx_shim_program_destroy(const anx_api *a, anx_context *c, anx_program *p) { a->program_destroy(c, p); }
static inline anx_status anx_shim_program_run(const anx_api *a, anx_context *c, anx_program *p, const double *slots) {
  return a->program_run(c, p, slots);
}
static inline anx_status anx_shim_synchronize(const anx_api *a, anx_context *c) { return a->synchronize(c); }
static inline anx_status anx_shim_program_profile(const anx_api *a, anx_context *c, anx_program *p, uint64_t *ns, uint64_t *runs) {
  return a->program_profile(c, p, ns, runs);
}
static inline anx_status anx_shim_program_kernels(const anx_api *a, anx_context *c, anx_program *p, const char **names) {
  return a->program_kernels ? a->program_kernels(c, p, names) : ANX_UNSUPPORTED;
}
static inline int anx_shim_has_ceilings(const anx_api *a) { return a->ceilings != NULL; }
static inline anx_status anx_shim_ceilings(const anx_api *a, anx_context *c, anx_ceilings *out, double seconds) {
  return a->ceilings(c, out, seconds);
}
static inline int anx_shim_has_trace(const anx_api *a) { return a->trace != NULL; }
static inline anx_status anx_shim_trace(const anx_api *a, anx_context *c, uint32_t flags) { return a->trace(c, flags); }

#endif
