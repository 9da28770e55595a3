// ceilings.cuh - what a device could do at best: copies, reads, fused multiply-adds, bf16 products. The figures that fractions are of.
//
// Computes   copy: to = from; read: the sum of from, kept by one store a thread; fma, dot: independent chains in registers.
// Layout     from, to: uint4 [count]; sink: a float per thread.
// Mapping    grid-stride; chains: 8 per thread (fma) or per warp (dot).
// Numerics   results are kept only so that nothing is optimized away.
// Cost       this is the cost.
// Tests      ceilings in bench/GPU_TODO.md; figures must lie below the maker's.
#pragma once
#include "instructions.cuh"

namespace anx {

struct Ceiling {
  const uint4 *from;
  uint4 *to;
  float *sink;
  int64_t count; // vectors; or rounds of the chains
};

template <class Unused> __global__ void __launch_bounds__(512) ceiling_copy(Ceiling a) {
  for (int64_t i = int64_t(blockIdx.x) * 512 + threadIdx.x; i < a.count; i += int64_t(gridDim.x) * 512) a.to[i] = a.from[i];
}

template <class Unused> __global__ void __launch_bounds__(512) ceiling_read(Ceiling a) {
  uint32_t sum = 0;
  for (int64_t i = int64_t(blockIdx.x) * 512 + threadIdx.x; i < a.count; i += int64_t(gridDim.x) * 512) {
    const uint4 v = a.from[i];
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) a.sink[0] = float(sum);
}

template <class Unused> __global__ void __launch_bounds__(256) ceiling_fma(Ceiling a) {
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = float(threadIdx.x + i);
  for (int64_t r = 0; r < a.count; r++)
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = fmaf(v[i], 0.999f, 0.001f);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += v[i];
  if (sum == 12345.f) a.sink[0] = sum;
}

// 8 products m16n8k16 a round and warp: 8 * 2048 multiply-adds.
template <class T> __global__ void __launch_bounds__(256) ceiling_dot(Ceiling a) {
  float acc[8][4] = {};
  const uint32_t af[4] = {threadIdx.x, 1, 2, 3}, bf[2] = {threadIdx.x, 5};
  for (int64_t r = 0; r < a.count; r++)
#pragma unroll
    for (int i = 0; i < 8; i++) mma_k16<T>(acc[i], af, bf);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += acc[i][0] + acc[i][1] + acc[i][2] + acc[i][3];
  if (sum == 12345.f) a.sink[0] = sum;
}

} // namespace anx
