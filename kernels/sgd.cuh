// sgd.cuh - momentum SGD over a flat float buffer, and the scalar slots of a step.
//
// Computes   d = g unscale + decay w;  m = momentum m + d;  w -= rate (Nesterov ? d + momentum m : m);  counts values of g not finite.
//            Where unscale (scale[1], 1 without a scale) is 0 the step is skipped.
// Layout     g, w, m float [c]; counters double [8].
// Mapping    a thread per value, blocks stride over the buffer.
// Numerics   float. The count is of integers, so the order of its atomic additions does not matter.
// Cost       20 bytes a value, bound by memory; not measured on a GPU yet.
// Tests      reference/sgd.c; conformance cases sgd.
#pragma once
#include "device.cuh"

namespace anx {

struct Update {
  PerModel<const float> g, scale; // scale may be NULL
  PerModel<float> w, m;
  PerModel<double> counters; // counters[4]: values not finite
  const double *slots;
  int64_t count;
  float momentum, decay;
  int nesterov, rate_slot;
  const int *fault; // behind a fault nothing moves
};
template <class Unused> __global__ void __launch_bounds__(256) update(Update a) {
  if (*a.fault) return;
  const float rate = float(slot_of(a.slots, a.rate_slot)), unscale = a.scale ? a.scale[1] : 1.f;
  if (unscale == 0.f) return;
  int bad = 0;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < a.count; i += int64_t(gridDim.x) * 256) {
    const float g = a.g[i], w = a.w[i];
    const float d = fmaf(a.decay, w, g * unscale), moved = fmaf(a.momentum, a.m[i], d);
    bad += !(fabsf(g) <= 3.402823466e38f);
    a.m[i] = moved;
    a.w[i] = fmaf(-rate, a.nesterov ? fmaf(a.momentum, moved, d) : moved, w);
  }
  if (bad) atomicAdd(&a.counters[4], double(bad));
}

// The step's scalars reach the device as a kernel's argument: nobody waits, and a captured graph reads them from memory.
constexpr int slots_per_launch = 64;
struct SetSlots {
  double value[slots_per_launch];
  double *slots;
  int count;
};
template <class Unused> __global__ void __launch_bounds__(64) set_slots(SetSlots a) {
  if (int(threadIdx.x) < a.count) a.slots[threadIdx.x] = a.value[threadIdx.x];
}

} // namespace anx
