// The ceilings of a device, measured: the best of some launches of each kernel, timed by events.
#include <algorithm>
#include "ceilings.cuh"
#include "backend.h"

namespace anx_cuda {

using namespace anx;

namespace {

struct Timer {
  anx_context *context;
  cudaEvent_t begin = nullptr, end = nullptr;
  double seconds_each = 0; // for one figure
  anx_status status = ANX_OK;

  bool right(cudaError_t e) {
    if (status == ANX_OK) status = check(context, e, "ceilings");
    return status == ANX_OK;
  }
  // The shortest time of a launch, in seconds.
  double best(void (*kernel)(Ceiling), int grid, int threads, Ceiling a) {
    double least = 0, spent = 0;
    for (int i = 0; i < 3 || spent < seconds_each; i++) {
      float ms = 0;
      void *pointers[] = {&a};
      (void)pointers;
      if (!right(cudaEventRecord(begin, context->stream))) return 1;
#if defined(__CUDACC__)
      if (!right(cudaLaunchKernel(reinterpret_cast<const void *>(kernel), dim3(grid), dim3(threads), pointers, 0, context->stream))) return 1;
#else
      if (!right(host::enqueue(context->stream, reinterpret_cast<const void *>(kernel), dim3(grid), dim3(threads), 0, [=] { kernel(a); }))) return 1;
#endif
      if (!right(cudaEventRecord(end, context->stream)) || !right(cudaStreamSynchronize(context->stream))) return 1;
      if (!right(cudaEventElapsedTime(&ms, begin, end))) return 1;
      const double s = std::max(double(ms) * 1e-3, 1e-9);
      spent += s;
      if (i > 0 && (least == 0 || s < least)) least = s; // the first is cold
    }
    return least;
  }
};

} // namespace

anx_status ceilings(anx_context *c, anx_ceilings *out, double seconds) {
  anx_status status = enter(c);
  if (status != ANX_OK) return status;
  if (!out) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "ceilings: no place for the answer");
  size_t free = 0, total = 0;
  if ((status = check(c, cudaMemGetInfo(&free, &total), "ceilings")) != ANX_OK) return status;
  const uint64_t bytes = std::min<uint64_t>(uint64_t(1) << 30, free / 4) / 16 * 16; // beyond every second cache
  void *from = nullptr, *to = nullptr;
  if (cudaMalloc(&from, bytes) != cudaSuccess || cudaMalloc(&to, bytes) != cudaSuccess) {
    cudaFree(from);
    return fail_memory(c, "ceilings", 2 * bytes);
  }
  Timer t{c, nullptr, nullptr, seconds / 4};
  if (t.right(cudaEventCreate(&t.begin)) && t.right(cudaEventCreate(&t.end)) && t.right(cudaMemsetAsync(from, 0, bytes, c->stream))) {
    const int units = c->info.units;
    Ceiling a{static_cast<const uint4 *>(from), static_cast<uint4 *>(to), static_cast<float *>(to), int64_t(bytes / 16)};
    out->copy_gb_per_s = 2.0 * double(bytes) / t.best(ceiling_copy<void>, units * 8, 512, a) * 1e-9;
    out->read_gb_per_s = double(bytes) / t.best(ceiling_read<void>, units * 8, 512, a) * 1e-9;
    a.count = 20000;
    out->fma_f32_gflops = 2.0 * 8 * double(a.count) * 256 * units * 8 / t.best(ceiling_fma<void>, units * 8, 256, a) * 1e-9;
    out->dot_bf16_gflops = c->sm < 80 ? 0 : 2.0 * 8 * 2048 * double(a.count) * 8 * units * 8 / t.best(ceiling_dot<__nv_bfloat16>, units * 8, 256, a) * 1e-9;
  }
  if (t.begin) cudaEventDestroy(t.begin);
  if (t.end) cudaEventDestroy(t.end);
  cudaFree(from);
  cudaFree(to);
  return t.status;
}

} // namespace anx_cuda
