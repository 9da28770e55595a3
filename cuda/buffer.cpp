// Memory on the device, and activations in and out: [n][h][w][c] floats on one side, padded channels of the storage type on the other.
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <new>
#include "backend.h"

uint64_t anx_cuda_buffer_bytes(const anx_buffer *b) { return b->bytes; }

namespace anx_cuda {

anx_status tensor_bytes(anx_context *c, const anx_tensor *t, uint64_t *bytes) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!t || !bytes) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "tensor_bytes: no tensor or no place for the answer");
  return anx_cuda_check_tensor(c, "tensor_bytes", t, bytes);
}

anx_status buffer_create(anx_context *c, anx_buffer **out, uint64_t bytes) {
  anx_status status = enter(c);
  if (status != ANX_OK) return status;
  if (!out) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "buffer_create: no place for the buffer");
  *out = nullptr;
  anx_buffer *b = new (std::nothrow) anx_buffer;
  if (!b) return anx_cuda_fail(c, ANX_OUT_OF_MEMORY, "buffer_create: no memory for the handle");
  b->bytes = bytes;
  void *data = nullptr;
  const cudaError_t e = cudaMalloc(&data, bytes ? bytes : 1);
  if (e != cudaSuccess) {
    delete b;
    return e == cudaErrorMemoryAllocation ? fail_memory(c, "buffer_create", bytes) : check(c, e, "buffer_create");
  }
  b->data = static_cast<char *>(data);
  status = bytes ? check(c, cudaMemsetAsync(data, 0, bytes, c->stream), "buffer_create") : ANX_OK;
  if (status == ANX_OK) *out = b;
  else buffer_destroy(c, b);
  return status;
}

void buffer_destroy(anx_context *c, anx_buffer *b) {
  if (!b) return;
  if (c && b->data && cudaSetDevice(c->device) == cudaSuccess) {
    cudaStreamSynchronize(c->stream);
    cudaFree(b->data);
  }
  delete b;
}

static anx_status check_range(anx_context *c, const char *what, const anx_buffer *b, const void *data, uint64_t offset, uint64_t bytes) {
  const anx_status status = enter(c);
  if (status != ANX_OK) return status;
  if (!b) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "%s: no buffer", what);
  if (!data && bytes) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "%s: no data", what);
  if (offset > b->bytes || bytes > b->bytes - offset)
    return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "%s: %llu bytes from %llu on reach beyond the buffer's %llu", what, (unsigned long long)bytes,
                         (unsigned long long)offset, (unsigned long long)b->bytes);
  return ANX_OK;
}

// Waits: the caller's memory is free to change, or holds the data, when a copy returns.
static anx_status copy(anx_context *c, const char *what, void *to, const void *from, uint64_t bytes, cudaMemcpyKind kind) {
  anx_status status = check(c, cudaMemcpyAsync(to, from, bytes, kind, c->stream), what);
  if (status == ANX_OK) status = check(c, cudaStreamSynchronize(c->stream), what);
  return status;
}

anx_status buffer_write(anx_context *c, anx_buffer *b, const void *data, uint64_t offset, uint64_t bytes) {
  const anx_status status = check_range(c, "buffer_write", b, data, offset, bytes);
  if (status != ANX_OK || !bytes) return status;
  c->writes++;
  return copy(c, "buffer_write", b->data + offset, data, bytes, cudaMemcpyHostToDevice);
}

anx_status buffer_read(anx_context *c, const anx_buffer *b, void *data, uint64_t offset, uint64_t bytes) {
  const anx_status status = check_range(c, "buffer_read", b, data, offset, bytes);
  if (status != ANX_OK || !bytes) return status;
  const anx_status copied = copy(c, "buffer_read", data, b->data + offset, bytes, cudaMemcpyDeviceToHost);
  return copied == ANX_OK ? check_faults(c) : copied;
}

static anx_status check_transfer(anx_context *c, const char *what, const anx_tensor *t, const anx_buffer *b, const float *nhwc, uint64_t *bytes) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!t || !b || !nhwc) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "%s: no tensor, buffer or values", what);
  const anx_status status = anx_cuda_check_tensor(c, what, t, bytes);
  if (status != ANX_OK) return status;
  if (t->layout == ANX_PLAIN && t->dtype != ANX_F32) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "%s: the tensor is not F32", what);
  return check_range(c, what, b, nhwc, t->offset, *bytes);
}

static void convert(char *to, const float *from, int32_t dtype, uint64_t i) {
  if (dtype == ANX_F32) reinterpret_cast<float *>(to)[i] = *from;
  else if (dtype == ANX_F16) reinterpret_cast<__half *>(to)[i] = __float2half_rn(*from);
  else reinterpret_cast<__nv_bfloat16 *>(to)[i] = __float2bfloat16_rn(*from);
}
static float value(const char *from, int32_t dtype, uint64_t i) {
  if (dtype == ANX_F32) return reinterpret_cast<const float *>(from)[i];
  if (dtype == ANX_F16) return __half2float(reinterpret_cast<const __half *>(from)[i]);
  return __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(from)[i]);
}

anx_status pack(anx_context *c, const anx_tensor *t, anx_buffer *b, const float *nhwc) {
  uint64_t bytes;
  const anx_status status = check_transfer(c, "pack", t, b, nhwc, &bytes);
  if (status != ANX_OK) return status;
  if (t->layout == ANX_PLAIN) return buffer_write(c, b, nhwc, t->offset, bytes);
  const uint64_t pixels = uint64_t(t->n) * t->h * t->w, stride = anx_cuda_padded(t->c);
  std::vector<char> image(bytes, 0); // all-zero bytes are zeros of every storage type
  for (uint64_t p = 0; p < pixels; p++)
    for (int32_t k = 0; k < t->c; k++) convert(image.data(), nhwc + p * uint64_t(t->c) + k, t->dtype, p * stride + uint64_t(k));
  return buffer_write(c, b, image.data(), t->offset, bytes);
}

anx_status unpack(anx_context *c, const anx_tensor *t, const anx_buffer *b, float *nhwc) {
  uint64_t bytes;
  anx_status status = check_transfer(c, "unpack", t, b, nhwc, &bytes);
  if (status != ANX_OK) return status;
  if (t->layout == ANX_PLAIN) return buffer_read(c, b, nhwc, t->offset, bytes);
  const uint64_t pixels = uint64_t(t->n) * t->h * t->w, stride = anx_cuda_padded(t->c);
  std::vector<char> image(bytes);
  if ((status = buffer_read(c, b, image.data(), t->offset, bytes)) != ANX_OK) return status;
  for (uint64_t p = 0; p < pixels; p++)
    for (int32_t k = 0; k < t->c; k++) nhwc[p * uint64_t(t->c) + k] = value(image.data(), t->dtype, p * stride + uint64_t(k));
  return ANX_OK;
}

} // namespace anx_cuda
