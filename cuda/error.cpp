// Texts of failures, and what a CUDA error means to a caller.
#include <cstdarg>
#include <cstdio>
#include "backend.h"

const char *anx_cuda_op_name(int32_t kind) {
  static const char *const names[ANX_OP_KINDS] = {"input", "conv_fwd", "bn_fwd_coef", "join_fwd", "pool_fwd", "gap_fwd",
                                                  "xent",  "conv_bwd", "bn_bwd_coef", "join_bwd", "pool_bwd", "sgd",
                                                  "loss_scale"};
  return kind >= 0 && kind < ANX_OP_KINDS ? names[kind] : "unknown op";
}

static const char *dtype_name(int32_t dtype) {
  static const char *const names[] = {"f32", "f64", "i32", "u8", "f16", "bf16"};
  return dtype >= 0 && dtype <= ANX_BF16 ? names[dtype] : "unknown dtype";
}

anx_status anx_cuda_fail(anx_context *c, anx_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(c->error, sizeof c->error, format, arguments);
  va_end(arguments);
  return status;
}

anx_status anx_cuda_fail_op(anx_context *c, anx_status status, int32_t number, const anx_op *o, const char *format, ...) {
  int used;
  if (o->kind == ANX_CONV_FWD || o->kind == ANX_CONV_BWD)
    used = snprintf(c->error, sizeof c->error, "%s %d [%dx%dx%dx%d -> %dx%dx%d %dx%d/%d g=%d %s] on cuda:%d: ", anx_cuda_op_name(o->kind), number, o->n,
                    o->h, o->w, o->c, o->p, o->q, o->k, o->r, o->r, o->stride, o->group, dtype_name(o->dtype), c->device);
  else
    used = snprintf(c->error, sizeof c->error, "%s %d [%dx%dx%dx%d %s] on cuda:%d: ", anx_cuda_op_name(o->kind), number, o->n, o->h, o->w, o->c,
                    dtype_name(o->dtype), c->device);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(c->error + used, sizeof c->error - size_t(used), format, arguments);
  va_end(arguments);
  return status;
}

namespace anx_cuda {

anx_status fail_memory(anx_context *c, const char *what, uint64_t bytes) {
  size_t free = 0, total = 0;
  cudaGetLastError(); // an allocation that failed leaves the device usable
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) free = 0;
  return anx_cuda_fail(c, ANX_OUT_OF_MEMORY, "%s on cuda:%d: out of memory: wanted %.1f MiB, %.1f MiB free", what, c->device, double(bytes) / 1048576,
                       double(free) / 1048576);
}

anx_status check(anx_context *c, cudaError_t e, const char *what) {
  switch (e) {
    case cudaSuccess: return ANX_OK;
    case cudaErrorMemoryAllocation:
      cudaGetLastError();
      return anx_cuda_fail(c, ANX_OUT_OF_MEMORY, "%s on cuda:%d: out of memory", what, c->device);
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorUnknown: // no further call on this device succeeds in this process
      c->lost = true;
      return anx_cuda_fail(c, ANX_DEVICE_LOST, "%s: cuda:%d is lost to this process: %s", what, c->device, cudaGetErrorString(e));
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      cudaGetLastError();
      return anx_cuda_fail(c, ANX_UNSUPPORTED, "%s: this libanx_cuda.so has no kernels for cuda:%d, %s, that its driver can load: build it with `make cuda CUDA=%d`",
                           what, c->device, c->info.isa, c->sm < 80 || e == cudaErrorUnsupportedPtxVersion ? 11 : 13);
    default: return anx_cuda_fail(c, ANX_INTERNAL, "%s on cuda:%d: %s", what, c->device, cudaGetErrorString(e));
  }
}

} // namespace anx_cuda
