/* Contexts, buffers, and activations in and out. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reference.h"

anx_status ref_device_count(int32_t *count) {
  if (!count) return ANX_INVALID_ARGUMENT;
  *count = 1;
  return ANX_OK;
}

anx_status ref_device_info(anx_device_info *info, int32_t device) {
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (!info || device != 0) return ANX_INVALID_ARGUMENT;
  memset(info, 0, sizeof *info);
  strcpy(info->name, "reference loops in double precision");
  strcpy(info->model, "reference");
  strcpy(info->isa, "portable");
  info->units = 1;
  info->vector_images = 1;
  info->memory_bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
  return ANX_OK;
}

anx_status ref_context_create(anx_context **out, const anx_context_desc *desc) {
  anx_context *c;
  if (!out) return ANX_INVALID_ARGUMENT;
  *out = c = calloc(1, sizeof *c);
  if (!c) return ANX_OUT_OF_MEMORY;
  if (!desc) return ref_fail(c, ANX_INVALID_ARGUMENT, "context_create: no descriptor");
  if (desc->device != 0)
    return ref_fail(c, ANX_INVALID_ARGUMENT, "context_create: device %d of the reference back end, which has device 0 only", desc->device);
  if (desc->threads < 1) return ref_fail(c, ANX_INVALID_ARGUMENT, "context_create: %d threads; at least 1 is needed", desc->threads);
  if (!memchr(desc->isa, 0, sizeof desc->isa))
    return ref_fail(c, ANX_INVALID_ARGUMENT, "context_create: the name of the instruction set does not end");
  if (desc->isa[0] && strcmp(desc->isa, "portable"))
    return ref_fail(c, ANX_UNSUPPORTED, "context_create: instruction set \"%s\"; the reference back end has \"portable\" only", desc->isa);
  return ANX_OK;
}

void ref_context_destroy(anx_context *c) { free(c); }

const char *ref_context_error(const anx_context *c) { return c ? c->error : "no context"; }

anx_status ref_context_info(anx_context *c, anx_device_info *info) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!info) return ref_fail(c, ANX_INVALID_ARGUMENT, "context_info: no place for the answer");
  return ref_device_info(info, 0);
}

anx_status ref_tensor_bytes(anx_context *c, const anx_tensor *t, uint64_t *bytes) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!t || !bytes) return ref_fail(c, ANX_INVALID_ARGUMENT, "tensor_bytes: no tensor or no place for the answer");
  return ref_check_tensor(c, "tensor_bytes", t, bytes);
}

anx_status ref_buffer_create(anx_context *c, anx_buffer **out, uint64_t bytes) {
  anx_buffer *b;
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!out) return ref_fail(c, ANX_INVALID_ARGUMENT, "buffer_create: no place for the buffer");
  *out = NULL;
  b = malloc(sizeof *b);
  if (b) {
    b->bytes = bytes;
    b->data = bytes <= SIZE_MAX / 2 ? calloc(bytes ? bytes : 1, 1) : NULL;
  }
  if (!b || !b->data) {
    free(b);
    return ref_fail(c, ANX_OUT_OF_MEMORY, "buffer_create: no memory for %llu bytes", (unsigned long long)bytes);
  }
  *out = b;
  return ANX_OK;
}

void ref_buffer_destroy(anx_context *c, anx_buffer *b) {
  (void)c;
  if (b) free(b->data);
  free(b);
}

static anx_status check_range(anx_context *c, const char *what, const anx_buffer *b, const void *data, uint64_t offset, uint64_t bytes) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!b) return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: no buffer", what);
  if (!data && bytes) return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: no data", what);
  if (offset > b->bytes || bytes > b->bytes - offset)
    return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: %llu bytes from %llu on reach beyond the buffer's %llu", what, (unsigned long long)bytes,
                    (unsigned long long)offset, (unsigned long long)b->bytes);
  return ANX_OK;
}

anx_status ref_buffer_write(anx_context *c, anx_buffer *b, const void *data, uint64_t offset, uint64_t bytes) {
  anx_status status = check_range(c, "buffer_write", b, data, offset, bytes);
  if (status == ANX_OK && bytes) memcpy(b->data + offset, data, bytes);
  return status;
}

anx_status ref_buffer_read(anx_context *c, const anx_buffer *b, void *data, uint64_t offset, uint64_t bytes) {
  anx_status status = check_range(c, "buffer_read", b, data, offset, bytes);
  if (status == ANX_OK && bytes) memcpy(data, b->data + offset, bytes);
  return status;
}

/* The tensor must lie in the buffer and hold floats, or be an activation; its memory is in nhwc's own order. */
static anx_status check_transfer(anx_context *c, const char *what, const anx_tensor *t, const anx_buffer *b, const float *nhwc,
                                 uint64_t *bytes) {
  anx_status status;
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!t || !b || !nhwc) return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: no tensor, buffer or values", what);
  status = ref_check_tensor(c, what, t, bytes);
  if (status != ANX_OK) return status;
  if (t->dtype != ANX_F32 && t->layout != ANX_ACTIVATION) return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: the tensor is not F32", what);
  return check_range(c, what, b, nhwc, t->offset, *bytes);
}

static uint64_t elements(const anx_tensor *t) { return (uint64_t)t->n * (uint64_t)t->h * (uint64_t)t->w * (uint64_t)t->c; }

anx_status ref_pack(anx_context *c, const anx_tensor *t, anx_buffer *b, const float *nhwc) {
  uint64_t bytes;
  anx_status status = check_transfer(c, "pack", t, b, nhwc, &bytes);
  if (status != ANX_OK) return status;
  if (t->dtype == ANX_F32)
    memcpy(b->data + t->offset, nhwc, bytes);
  else
    for (uint64_t i = 0; i < elements(t); i++) {
      const float value = ref_rounded(t->dtype, nhwc[i]);
      ref_narrow(b->data + t->offset + 2 * i, &value, t->dtype, 1);
    }
  return ANX_OK;
}

anx_status ref_unpack(anx_context *c, const anx_tensor *t, const anx_buffer *b, float *nhwc) {
  uint64_t bytes;
  anx_status status = check_transfer(c, "unpack", t, b, nhwc, &bytes);
  if (status != ANX_OK) return status;
  if (t->dtype == ANX_F32)
    memcpy(nhwc, b->data + t->offset, bytes);
  else
    ref_widen(nhwc, b->data + t->offset, t->dtype, elements(t));
  return ANX_OK;
}

anx_status ref_synchronize(anx_context *c) { return c ? ANX_OK : ANX_INVALID_ARGUMENT; }
