// Devices and contexts.
#include <cstdio>
#include <cstring>
#include <new>
#include "backend.h"
#include "cudnn.h"

namespace anx_cuda {

anx_status device_count(int32_t *count) {
  if (!count) return ANX_INVALID_ARGUMENT;
  int n = 0;
  const cudaError_t e = cudaGetDeviceCount(&n);
  cudaGetLastError();
  *count = e == cudaSuccess ? n : 0;
  return e == cudaSuccess || e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver ? ANX_OK : ANX_INTERNAL;
}

static cudaError_t describe(anx_device_info *info, int *sm, size_t *shared_bytes, int device) {
  cudaDeviceProp p;
  const cudaError_t e = cudaGetDeviceProperties(&p, device);
  if (e != cudaSuccess) {
    cudaGetLastError();
    return e;
  }
  memset(info, 0, sizeof *info);
  snprintf(info->name, sizeof info->name, "%.120s", p.name);
  // The same bits need the same number of multiprocessors too: it decides how sums over pixels are split.
  snprintf(info->model, sizeof info->model, "sm_%d%d-%d", p.major, p.minor, p.multiProcessorCount);
  snprintf(info->isa, sizeof info->isa, "sm_%d%d", p.major, p.minor);
  info->units = p.multiProcessorCount;
  info->vector_images = 1;
  info->memory_bytes = p.totalGlobalMem;
  if (sm) *sm = 10 * p.major + p.minor;
  if (shared_bytes) *shared_bytes = p.sharedMemPerBlockOptin;
  return cudaSuccess;
}

anx_status device_info(anx_device_info *info, int32_t device) {
  int32_t count = 0;
  if (!info || device_count(&count) != ANX_OK || device < 0 || device >= count) return ANX_INVALID_ARGUMENT;
  return describe(info, nullptr, nullptr, device) == cudaSuccess ? ANX_OK : ANX_INTERNAL;
}

anx_status context_create(anx_context **out, const anx_context_desc *desc) {
  if (!out) return ANX_INVALID_ARGUMENT;
  anx_context *c = *out = new (std::nothrow) anx_context;
  if (!c) return ANX_OUT_OF_MEMORY;
  if (!desc) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "context_create: no descriptor");
  if (desc->threads < 1) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "context_create: %d threads; at least 1 is needed", desc->threads);
  if (!memchr(desc->isa, 0, sizeof desc->isa)) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "context_create: the name of the instruction set does not end");
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (counted == cudaErrorInsufficientDriver) {
    int driver = 0, library = 0;
    cudaDriverGetVersion(&driver); // 0: there is none
    cudaRuntimeGetVersion(&library);
    if (!driver) return anx_cuda_fail(c, ANX_UNSUPPORTED, "context_create: this machine has no NVIDIA driver; install one to use its GPUs");
    return anx_cuda_fail(c, ANX_UNSUPPORTED, "context_create: the driver knows CUDA up to %d.%d and libanx_cuda.so needs %d.%d: install a newer driver%s", driver / 1000,
                         driver % 1000 / 10, library / 1000, library % 1000 / 10, library >= 12000 ? ", or build the library with `make cuda CUDA=11`" : "");
  }
  if (counted != cudaSuccess || count == 0)
    return anx_cuda_fail(c, ANX_UNSUPPORTED, "context_create: no CUDA device: %s", cudaGetErrorString(counted == cudaSuccess ? cudaErrorNoDevice : counted));
  if (desc->device < 0 || desc->device >= count)
    return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "context_create: device %d of a machine with %d CUDA devices", desc->device, count);
  c->device = desc->device;
  anx_status status = check(c, describe(&c->info, &c->sm, &c->shared_bytes, desc->device), "context_create");
  if (status != ANX_OK) return status;
  if (c->sm < 70) return anx_cuda_fail(c, ANX_UNSUPPORTED, "context_create: %s is %s; sm_70 or later is needed", c->info.name, c->info.isa);
  if (desc->isa[0] && strcmp(desc->isa, c->info.isa))
    return anx_cuda_fail(c, ANX_UNSUPPORTED, "context_create: \"%s\"; cuda:%d is %s", desc->isa, c->device, c->info.isa);
  if ((status = check(c, cudaSetDevice(c->device), "context_create")) != ANX_OK) return status;
  if ((status = check(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "context_create")) != ANX_OK) return status;
  const int device_sm = c->sm;
  if ((status = check(c, compiled_for(&c->sm), "context_create")) != ANX_OK) return status;
  const auto append = [&](const std::string &title) { // other bits, and a result that says where they are from
    const auto to = [&](char *text, size_t room) { snprintf(text + strlen(text), room - strlen(text), ", %s", title.c_str()); };
    to(c->info.name, sizeof c->info.name);
    to(c->info.model, sizeof c->info.model);
  };
  if (device_sm >= 80 && c->sm < 80) append("code for sm_70");
  std::string wrong;
  c->cudnn = Cudnn::from_environment(c->sm, c->stream, &wrong);
  if (!wrong.empty()) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "context_create: %s", wrong.c_str());
  if (const std::string title = c->cudnn ? c->cudnn->title() : ""; !title.empty()) append(title);
  return ANX_OK;
}

void context_destroy(anx_context *c) {
  if (!c) return;
  if (c->stream && cudaSetDevice(c->device) == cudaSuccess) {
    cudaStreamSynchronize(c->stream);
    cudaStreamDestroy(c->stream);
  }
  forget_trace(c);
  delete c;
}

const char *context_error(const anx_context *c) { return c ? c->error : "no context"; }

anx_status context_info(anx_context *c, anx_device_info *info) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!info) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "context_info: no place for the answer");
  *info = c->info;
  return ANX_OK;
}

anx_status enter(anx_context *c) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (c->lost) return anx_cuda_fail(c, ANX_DEVICE_LOST, "cuda:%d was lost to this process before; start another process", c->device);
  return check(c, cudaSetDevice(c->device), "cudaSetDevice");
}

anx_status synchronize(anx_context *c) {
  anx_status status = enter(c);
  if (status == ANX_OK) status = check(c, cudaStreamSynchronize(c->stream), "synchronize");
  return status == ANX_OK ? check_faults(c) : status;
}

} // namespace anx_cuda
