// loss_scale.cuh - dynamic loss scaling: what the gradients of a step say about the scale of the next.
//
// Computes   reference/loss_scale.c: counts values of g that are not finite, then moves the scale.
// Layout     g float [count]; partial int [blocks][8]; scale float [4] (scale, 1/scale or 0, steps, skipped); counters double [8].
// Mapping    a thread per value, blocks stride over the buffer, a count per warp; then one warp adds them up.
// Numerics   counts are integers, scales powers of 2.
// Cost       4 bytes a value, bound by memory; not measured on a GPU yet.
// Tests      reference/loss_scale.c; conformance cases loss_scale.
#pragma once
#include "device.cuh"

namespace anx {

struct LossScale {
  PerModel<const float> g;
  PerModel<int> partial;
  PerModel<float> scale;
  PerModel<double> counters; // counters[4]: values not finite
  int64_t count;
  int blocks;
  float steps, largest;
  const int *fault; // behind a fault nothing moves
};

template <class Unused> __global__ void __launch_bounds__(256) count_not_finite(LossScale a) {
  int bad = 0;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < a.count; i += int64_t(gridDim.x) * 256) bad += !(fabsf(a.g[i]) <= 3.402823466e38f);
  bad = warp_sum(bad);
  if (threadIdx.x % 32 == 0) a.partial[blockIdx.x * 8 + threadIdx.x / 32] = bad;
}

template <class Unused> __global__ void __launch_bounds__(32) move_loss_scale(LossScale a) {
  if (*a.fault) return;
  int bad = 0;
  for (int i = threadIdx.x; i < a.blocks * 8; i += 32) bad += a.partial[i];
  bad = warp_sum(bad);
  if (threadIdx.x) return;
  const float now = a.scale[0];
  if (!bad) {
    a.scale[1] = 1.f / now;
    const float steps = a.scale[2] + 1.f;
    a.scale[2] = steps < a.steps ? steps : 0.f;
    if (!(steps < a.steps)) a.scale[0] = fminf(2.f * now, a.largest);
    return;
  }
  a.scale[1] = 0.f;
  a.scale[2] = 0.f;
  a.scale[3] += 1.f;
  if (now > 1.f) a.scale[0] = fmaxf(now / 2.f, 1.f);
  else a.counters[4] += double(bad);
}

} // namespace anx
